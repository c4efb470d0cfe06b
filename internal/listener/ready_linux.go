package listener

import (
	"errors"
	"syscall"
)

// waits tells that a socket can be read only when it is readable.
const waits = true

var errWouldBlock error = syscall.EAGAIN

// readNow reads from a socket that does not block. It is syscall's Read, as in package net: the race detector knows
// this one's order of reads and writes, and not that of golang.org/x/sys/unix beside it.
func readNow(fd uintptr, p []byte) (int, error) {
	for {
		n, err := syscall.Read(int(fd), p)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}
