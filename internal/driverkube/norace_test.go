//go:build linux && !race

package driverkube_test

// races is how many races were found in this process: nobody looked.
func races() int { return 0 }
