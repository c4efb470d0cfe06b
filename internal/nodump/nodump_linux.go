package nodump

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Set makes the kernel write no core file of this process and lets no other process without privileges attach to it
// or read its memory. Call it first thing in main, before any secret is read. What the process starts later may dump
// core again: the kernel resets the flag when a program is executed, though not the limit.
func Set() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid dumps of memory: %w", err)
	}
	return nil
}
