//go:build !linux

package driver

import (
	"errors"
	"net"
	"os"
)

// maxSocketPath is the shortest limit among Unix systems.
const maxSocketPath = 103

// peerUID fails: drivers are served on Linux, and a peer that cannot be checked is not trusted.
func peerUID(net.Conn) (uint32, error) {
	return 0, errors.New("this system has no check of a socket's server")
}

func ownUID() uint32 { return uint32(os.Geteuid()) }
