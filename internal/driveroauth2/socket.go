package driveroauth2

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// serveOptions says where to listen and who may connect.
type serveOptions struct {
	socket string
	// uids may connect, besides the driver's own user and root.
	uids   []uint32
	logger *slog.Logger
}

// serve answers gRPC on the socket until ctx ends, then finishes the calls in progress and removes the socket.
func serve(ctx context.Context, opts serveOptions, register func(grpc.ServiceRegistrar)) error {
	lis, err := listen(ctx, opts)
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.MaxRecvMsgSize(64<<10), grpc.MaxConcurrentStreams(1024), grpc.ConnectionTimeout(10*time.Second))
	register(srv)
	hs := health.NewServer()
	healthpb.RegisterHealthServer(srv, hs)
	hs.SetServingStatus(WireService, healthpb.HealthCheckResponse_SERVING)

	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	opts.logger.Info("serving", "socket", opts.socket)
	select {
	case err := <-done:
		return fmt.Errorf("serve %s: %w", opts.socket, err)
	case <-ctx.Done():
	}
	hs.Shutdown()
	force := time.AfterFunc(5*time.Second, srv.Stop)
	defer force.Stop()
	srv.GracefulStop()
	return <-done
}

// listen makes the socket: mode 0600, in a directory that is created 0700. A socket that nobody answers on is
// left from a driver that was killed and is replaced; anything else at the path is an error and stays.
func listen(ctx context.Context, opts serveOptions) (net.Listener, error) {
	if err := os.MkdirAll(filepath.Dir(opts.socket), 0o700); err != nil {
		return nil, fmt.Errorf("create socket directory: %w", err)
	}
	if err := clearStale(ctx, opts.socket); err != nil {
		return nil, err
	}
	lis, err := (&net.ListenConfig{}).Listen(ctx, "unix", opts.socket)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", opts.socket, err)
	}
	mode := os.FileMode(0o600)
	if len(opts.uids) > 0 {
		// Another user has to open it; the peer check below decides who is served.
		mode = 0o666
	}
	if err := os.Chmod(opts.socket, mode); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket: %w", err), lis.Close())
	}
	allowed := append([]uint32{0, uint32(os.Getuid())}, opts.uids...) //nolint:gosec // user ids are not negative
	return &checkedListener{Listener: lis, allowed: allowed, logger: opts.logger}, nil
}

func clearStale(ctx context.Context, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("inspect socket path: %w", err)
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket: remove it or choose another --socket", path)
	}
	dial, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(dial, "unix", path)
	if err == nil {
		return errors.Join(fmt.Errorf("another process serves %s: stop it or choose another --socket", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("probe socket left at %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}

// checkedListener hands out only connections of allowed users.
type checkedListener struct {
	net.Listener
	allowed []uint32
	logger  *slog.Logger
}

func (l *checkedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(conn)
		if err == nil && slices.Contains(l.allowed, uid) {
			return conn, nil
		}
		l.logger.Warn("connection refused", "uid", uid, "error", err, "remedy", "run the gateway as this user, or start the driver with --allow-uid")
		if err := conn.Close(); err != nil {
			l.logger.Debug("close refused connection", "error", err)
		}
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
