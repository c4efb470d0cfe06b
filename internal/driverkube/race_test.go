//go:build linux && race

package driverkube_test

import "runtime"

// races is how many races were found in this process.
func races() int { return runtime.RaceErrors() }
