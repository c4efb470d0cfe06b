//go:build linux

package sandboxinit

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/procfs"
)

// endAll kills every other process of the sandbox and reaps it. In a PID namespace one call reaches them all;
// otherwise they are found below this process, where orphans come to as well.
//
// Each killed process is reaped here sooner or later, and after each that was reaped the search is repeated:
// what a process forked while it was being killed is found then.
func endAll(namespaced bool) error {
	for {
		if namespaced {
			if err := unix.Kill(-1, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill processes: %w", err)
			}
		} else if err := killBelow(os.Getpid()); err != nil {
			return err
		}
		_, err := unix.Wait4(-1, nil, 0, nil)
		switch {
		case err == nil, errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ECHILD):
			return nil
		default:
			return fmt.Errorf("reap processes: %w", err)
		}
	}
}

func killBelow(pid int) error {
	table, err := procfs.Read()
	if err != nil {
		return err
	}
	for _, p := range table.Below(pid) {
		if err := unix.Kill(p.PID, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("kill process %d: %w", p.PID, err)
		}
	}
	return nil
}
