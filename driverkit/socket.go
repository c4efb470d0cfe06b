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
// is an error and stays. In a pod the directory may be a volume's that its containers share, see checkDir; a directory
// below it is better. Connections of other users than root, our own and allowed are closed at once.
func Listen(ctx context.Context, path string, allowed []uint32, logger *slog.Logger) (net.Listener, error) {
	switch {
	case path == "":
		return nil, errors.New("no socket path given")
	case len(path) > MaxSocketPath:
		return nil, fmt.Errorf("socket path %s has %d bytes, the limit is %d: choose a shorter one", path, len(path), MaxSocketPath)
	}
	shared, err := checkDir(filepath.Dir(path), inPod(os.LookupEnv))
	if err != nil {
		return nil, err
	}
	if shared && len(allowed) > 0 {
		return nil, fmt.Errorf("socket directory %s is shared: to let other users connect, choose a path below it, such as %s",
			filepath.Dir(path), filepath.Join(filepath.Dir(path), "driver", filepath.Base(path)))
	}
	if err := clearStale(ctx, path); err != nil {
		return nil, err
	}
	lis, err := (&net.ListenConfig{Control: restrict}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	// It was bound with mode 0600. In a shared folder the path may mean another file by now.
	if len(allowed) > 0 {
		if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // the check of the peer decides who is served
			return nil, errors.Join(fmt.Errorf("open socket to others: %w", err), lis.Close())
		}
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

// inPod tells that this is a container of a Kubernetes pod, whose file system nobody but the pod's containers reaches.
func inPod(lookup func(string) (string, bool)) bool {
	host, ok := lookup("KUBERNETES_SERVICE_HOST")
	return ok && host != ""
}

// checkDir creates dir or checks that no other user than root and ours could swap what is in it. The one exception is
// the folder of a volume that the containers of a pod share: it belongs to root, is a mount of its own, and is open to
// everybody or to the pod's group. There another user could remove a socket; serving in its place is what the gateway's
// check of the peer prevents. shared tells that the folder is such a one.
func checkDir(dir string, pod bool) (shared bool, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("create socket directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return false, fmt.Errorf("inspect socket directory: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return false, fmt.Errorf("inspect socket directory %s: no owner known", dir)
	}
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return false, fmt.Errorf("socket directory %s belongs to another user (uid %d): choose one of your own", dir, st.Uid)
	}
	if info.Mode().Perm()&0o022 == 0 || info.Mode()&fs.ModeSticky != 0 {
		return false, nil
	}
	if pod && st.Uid == 0 && isMount(dir) {
		return true, nil
	}
	return false, fmt.Errorf("socket directory %s is writable by others (mode %04o): make it 0700", dir, info.Mode().Perm())
}

// isMount tells whether something is mounted at a folder. What the kernel cannot tell counts as no.
func isMount(dir string) bool {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_NO_AUTOMOUNT, 0, &st); err != nil {
		return false
	}
	return st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT != 0 && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
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
