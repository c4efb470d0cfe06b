//go:build linux

package driverkit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// MaxSocketPath is the longest path, in bytes, that a Unix socket can be bound to.
const MaxSocketPath = 107

// Listen binds a Unix socket at path: mode 0600, in a directory that is created 0700 if absent. A socket of
// our own that nobody answers on was left by a driver that was killed and is replaced; anything else at path
// is an error and stays. Connections of other users than root, our own and allowed are closed at once.
func Listen(ctx context.Context, path string, allowed []uint32, logger *slog.Logger) (net.Listener, error) {
	switch {
	case path == "":
		return nil, errors.New("no socket path given")
	case len(path) > MaxSocketPath:
		return nil, fmt.Errorf("socket path %s has %d bytes, the limit is %d: choose a shorter one", path, len(path), MaxSocketPath)
	}
	if err := checkDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	lis, err := (&net.ListenConfig{Control: restrict}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	mode := fs.FileMode(0o600)
	if len(allowed) > 0 {
		mode = 0o666
	}
	if err := os.Chmod(path, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket: %w", err), lis.Close())
	}
	uids := append([]uint32{0, uint32(os.Geteuid())}, allowed...)
	return &checkedListener{Listener: lis, uids: uids, logger: logger}, nil
}

// restrict gives the socket its mode before it is bound: bind takes the mode of the socket's own inode.
func restrict(_, _ string, raw syscall.RawConn) error {
	var chmodErr error
	if err := raw.Control(func(fd uintptr) { chmodErr = unix.Fchmod(int(fd), 0o600) }); err != nil {
		return err
	}
	return chmodErr
}

// checkDir creates dir or checks that no other user than root and ours could swap what is in it.
func checkDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create socket directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("inspect socket directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("inspect socket directory %s: no owner known", dir)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("socket directory %s belongs to another user (uid %d): choose one of your own", dir, st.Uid)
	}
	if info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("socket directory %s is writable by others (mode %04o): make it 0700", dir, info.Mode().Perm())
	}
	return nil
}

func clearStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("inspect socket path: %w", err)
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: remove it or choose another path", path)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("socket %s belongs to another user: remove it or choose another path", path)
	}
	dial, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(dial, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("another process serves %s: stop it or choose another path", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("probe socket left at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}

// checkedListener hands out only connections of the listed users.
type checkedListener struct {
	net.Listener
	uids   []uint32
	logger *slog.Logger
}

func (l *checkedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && slices.Contains(l.uids, uid) {
			return conn, nil
		}
		l.logger.Warn("connection refused", "uid", uid, "error", err, "next", "run the gateway as the driver's user or allow its uid")
		conn.Close()
	}
}

func peerUID(conn net.Conn) (uint32, error) {
	uc, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("no unix connection")
	}
	raw, err := uc.SyscallConn()
	if err != nil {
		return 0, fmt.Errorf("open connection for inspection: %w", err)
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return 0, fmt.Errorf("inspect connection: %w", err)
	}
	if credErr != nil {
		return 0, fmt.Errorf("read peer credentials: %w", credErr)
	}
	return cred.Uid, nil
}
