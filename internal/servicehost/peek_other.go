//go:build !unix

package servicehost

import "net"

// peek knows no way to look at a byte without taking it.
func peek(net.Conn) (byte, bool) { return 0, false }
