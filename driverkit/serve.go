package driverkit

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
)

// Defaults for Options left zero.
const (
	DefaultMaxMessageBytes = 4 << 20
	DefaultStopTimeout     = 5 * time.Second
)

// Options says where a driver listens and whom it serves. Socket and Logger are required.
type Options struct {
	// Socket is the path to listen on. Its directory is created with mode 0700 if it is absent.
	Socket string
	Logger *slog.Logger
	// AllowedUIDs may connect besides root and the driver's own user. With any, the socket's mode is 0666 and
	// the check of the peer alone decides.
	AllowedUIDs []uint32
	// MaxMessageBytes bounds a received message; 0 means DefaultMaxMessageBytes.
	MaxMessageBytes int
	// StopTimeout is how long calls in progress may take to end once ctx is done; 0 means DefaultStopTimeout.
	StopTimeout time.Duration
}

// Serve listens on opts.Socket, has register add the driver's services and serves them until ctx is done. Then
// the contexts of open streams are cancelled, other calls may finish within opts.StopTimeout, and the socket
// is removed. It returns nil after such a stop. The standard health service is added unless register did so.
func Serve(ctx context.Context, opts Options, register func(*grpc.Server)) error {
	switch {
	case opts.Logger == nil:
		return errors.New("serve driver: no logger given")
	case register == nil:
		return errors.New("serve driver: no services given")
	}
	if opts.MaxMessageBytes == 0 {
		opts.MaxMessageBytes = DefaultMaxMessageBytes
	}
	if opts.StopTimeout == 0 {
		opts.StopTimeout = DefaultStopTimeout
	}
	lis, err := Listen(ctx, opts.Socket, opts.AllowedUIDs, opts.Logger)
	if err != nil {
		return fmt.Errorf("serve driver: %w", err)
	}

	// Streams such as a watch have no end of their own: a graceful stop would wait for them in vain.
	stopping, endStreams := context.WithCancel(context.Background())
	defer endStreams()
	guard := guard{logger: slog.New(LogHandler(opts.Logger.Handler())), stopping: stopping}
	srv := grpc.NewServer(
		grpc.MaxRecvMsgSize(opts.MaxMessageBytes),
		grpc.MaxConcurrentStreams(1024),
		grpc.ConnectionTimeout(10*time.Second),
		// When Serve returns, no call is in progress: the driver may close what they use.
		grpc.WaitForHandlers(true),
		// Gateways ping every 10 s, also without calls in progress.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ChainUnaryInterceptor(guard.unary),
		grpc.ChainStreamInterceptor(guard.stream),
	)
	register(srv)
	hs := health.NewServer()
	if _, ok := srv.GetServiceInfo()[healthpb.Health_ServiceDesc.ServiceName]; !ok {
		healthpb.RegisterHealthServer(srv, hs)
		for name := range srv.GetServiceInfo() {
			hs.SetServingStatus(name, healthpb.HealthCheckResponse_SERVING)
		}
	}

	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	opts.Logger.Info("serving", "socket", opts.Socket)
	select {
	case err := <-done:
		return fmt.Errorf("serve driver on %s: %w", opts.Socket, err)
	case <-ctx.Done():
	}
	hs.Shutdown()
	endStreams()
	force := time.AfterFunc(opts.StopTimeout, srv.Stop)
	defer force.Stop()
	srv.GracefulStop()
	opts.Logger.Info("stopped", "socket", opts.Socket)
	// Stopped before it began to serve is stopped all the same.
	if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve driver on %s: %w", opts.Socket, err)
	}
	return nil
}

// guard keeps one bad call from taking the driver down, and ends streams when the server stops.
type guard struct {
	logger   *slog.Logger
	stopping context.Context //nolint:containedctx // the server's life, not a request's
}

func (g guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	defer g.recovered(ctx, info.FullMethod, &err)
	ctx = traced(ctx)
	resp, err = next(ctx, req)
	g.failed(ctx, info.FullMethod, err)
	return resp, err
}

func (g guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	defer g.recovered(ss.Context(), info.FullMethod, &err)
	ctx, cancel := context.WithCancel(traced(ss.Context()))
	defer cancel()
	defer context.AfterFunc(g.stopping, cancel)()
	err = next(srv, stream{ServerStream: ss, ctx: ctx})
	if g.stopping.Err() != nil && err != nil {
		return status.Error(codes.Unavailable, "driver is stopping; open the stream again")
	}
	return err
}

// failed logs a call that failed, with the trace's id where the gateway has one: at level info where the trace is being
// recorded, since somebody wants to know.
func (g guard) failed(ctx context.Context, method string, err error) {
	if err == nil {
		return
	}
	level := slog.LevelDebug
	if _, recorded := TraceID(ctx); recorded {
		level = slog.LevelInfo
	}
	g.logger.Log(ctx, level, "call failed", "method", method, "code", status.Code(err).String())
}

func (g guard) recovered(ctx context.Context, method string, err *error) {
	if p := recover(); p != nil {
		g.logger.ErrorContext(traced(ctx), "call panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "driver failed; see its log")
	}
}

type stream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // a ServerStream carries its context
}

func (s stream) Context() context.Context { return s.ctx }
