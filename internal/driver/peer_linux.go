package driver

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// maxSocketPath is the size of sun_path without its closing NUL.
const maxSocketPath = 107

// peerUID returns the user that the process on the other end had when it began to listen.
func peerUID(nc net.Conn) (uint32, error) {
	uc, ok := nc.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return cred.Uid, nil
}

func ownUID() uint32 { return uint32(os.Geteuid()) }
