//go:build !unix

package cli

import (
	"context"
	"os"

	"sallyport.dev/sallyport/internal/cli/forward"
)

// reporter has nobody to tell: there are no forwards in the background here.
func reporter(uint, func(error) (string, string)) func(error) { return func(error) {} }

func (a *app) forwardAside(context.Context, gatewayRef, forward.Entry) error {
	return usagef("--background does not work on this system: leave the forward in the foreground")
}

// endProcess ends a process.
func endProcess(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}
