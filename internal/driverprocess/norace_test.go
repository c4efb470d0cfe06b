//go:build linux && !race

package driverprocess_test

// races is how many races were found in this process: nobody looked.
func races() int { return 0 }
