//go:build unix

package servicehost

import (
	"errors"
	"net"
	"syscall"
)

// peek returns the first byte that a connection will read, and leaves it there. It waits until the connection's deadline.
func peek(c net.Conn) (byte, bool) {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var first [1]byte
	n := 0
	err = raw.Read(func(fd uintptr) bool {
		for {
			var seen error
			n, _, seen = syscall.Recvfrom(int(fd), first[:], syscall.MSG_PEEK)
			if !errors.Is(seen, syscall.EINTR) {
				return !errors.Is(seen, syscall.EAGAIN)
			}
		}
	})
	return first[0], err == nil && n == 1
}
