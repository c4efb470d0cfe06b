package sshd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxConnections bounds the connections on the Unix socket.
const maxConnections = 64

// Listen makes the Unix socket at path, mode 0600; "@name" is an abstract one. A leftover of an earlier run is
// replaced, but neither a file of another kind nor the socket of a server that still answers.
func Listen(ctx context.Context, path string) (net.Listener, error) {
	if strings.HasPrefix(path, "@") {
		var lc net.ListenConfig
		l, err := lc.Listen(ctx, "unix", path)
		if err != nil {
			return nil, fmt.Errorf("listen on ssh socket: %w", err)
		}
		return l, nil
	}
	if err := removeStale(ctx, path); err != nil {
		return nil, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of ssh socket: %w", err)
	}
	// Born in a private directory, the socket is never open to others, whatever the umask is.
	private, err := os.MkdirTemp(dir, ".ssh-")
	if err != nil {
		return nil, fmt.Errorf("listen on ssh socket: %w", err)
	}
	born := filepath.Join(private, "s")
	defer func() {
		// Holds at most our own socket, and that only after a failure.
		_ = os.RemoveAll(private)
	}()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: born, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen on ssh socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(born, 0o600)
	if err == nil {
		err = os.Rename(born, path)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on ssh socket: %w", err)
	}
	return &socket{UnixListener: l, path: path}, nil
}

// socket removes its file when it is closed.
type socket struct {
	*net.UnixListener
	path string
	once sync.Once
}

func (s *socket) Close() error {
	err := s.UnixListener.Close()
	s.once.Do(func() {
		if removeErr := os.Remove(s.path); err == nil && !errors.Is(removeErr, os.ErrNotExist) {
			err = removeErr
		}
	})
	return err
}

func removeStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at ssh socket: %w", err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("ssh socket: %s exists and is not a socket; remove it or choose another path", path)
	}
	d := net.Dialer{Timeout: time.Second}
	if c, err := d.DialContext(ctx, "unix", path); err == nil {
		c.Close()
		return fmt.Errorf("ssh socket: %s is in use by another server", path)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove old ssh socket: %w", err)
	}
	return nil
}

// Serve serves connections on l, each from our own user or root, until ctx ends. It closes l.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var group sync.WaitGroup
	defer group.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	slots := make(chan struct{}, maxConnections)
	for {
		slots <- struct{}{}
		nc, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on ssh socket: %w", err)
		}
		group.Go(func() {
			defer func() { <-slots }()
			defer nc.Close()
			if err := checkPeer(nc); err != nil {
				s.o.Log.Warn("ssh connection refused", "error", err)
				return
			}
			if err := s.ServeConn(ctx, nc); err != nil {
				s.o.Log.Debug("ssh connection ended", "error", err)
			}
		})
	}
}

// checkPeer refuses other users, whom an abstract socket has no file mode against.
func checkPeer(nc net.Conn) error {
	c, ok := nc.(syscall.Conn)
	if !ok {
		return errors.New("peer is unknown")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at peer: %w", err)
	}
	var peer *unix.Ucred
	var failed error
	if err := raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("look at peer: %w", err)
	}
	if failed != nil {
		return fmt.Errorf("look at peer: %w", failed)
	}
	if peer.Uid != 0 && int(peer.Uid) != os.Getuid() {
		return fmt.Errorf("peer is user %d", peer.Uid)
	}
	return nil
}
