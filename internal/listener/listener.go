// Package listener is the one port: TLS or plaintext, HTTP/1.1, HTTP/2 and gRPC on the same address.
//
// A connection whose client offers only HTTP/2 (every gRPC library does) goes straight to the gRPC server's own
// transport, which has true backpressure and costs a fraction of the others. Everything else goes to net/http, where
// plain HTTP is served and gRPC, gRPC-Web and Connect calls are passed on to the same gRPC server over an in-memory
// HTTP/2 connection. The package knows no method and no identity beyond handing over the TLS state.
package listener

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/experimental"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/mem"
)

// Limits of the port. Windows follow one rule: a connection's window holds all its streams' windows, or one paused
// stream would freeze the others.
const (
	// MaxMessage bounds an inbound gRPC message. The reference's limit is 1 MiB, yet its own clients send up to
	// 4 MiB of standard input in one ExecSandbox message.
	MaxMessage = 4<<20 + 64<<10
	// MaxStreams bounds the concurrent streams of one connection.
	MaxStreams       = 256
	streamWindow     = 1 << 20
	connWindow       = 16 << 20
	handshakeTimeout = 10 * time.Second
	headerTimeout    = 10 * time.Second
	// idleTimeout is how long a connection without a call or request is kept.
	idleTimeout = 10 * time.Minute
	// streamWorkers serve calls; when long streams hold all of them, further calls get goroutines of their own.
	streamWorkers = 32
	// MaxHeaderBytes bounds the header list of a request.
	MaxHeaderBytes = 64 << 10
)

// GRPCOptions are the transport settings of the gRPC server behind the port. Clients of the protocol ping every
// 10 s, also when idle; the default enforcement would disconnect them.
func GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(handedOver{}),
		// The library's own pool has nothing between 32 KiB and 1 MiB, and clears what it hands out.
		experimental.BufferPool(mem.NewTieredBufferPool(256, 4<<10, 16<<10, 36<<10, 72<<10, 1<<20)),
		// Workers that stay keep the stacks they have grown; a new goroutine a call copies its stack twice.
		grpc.NumStreamWorkers(streamWorkers),
		// Half the usual: an idle connection holds it, and frames larger than it are read past it.
		grpc.ReadBufferSize(16 << 10),
		grpc.MaxRecvMsgSize(MaxMessage),
		grpc.MaxConcurrentStreams(MaxStreams),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxHeaderListSize(MaxHeaderBytes),
		grpc.ConnectionTimeout(handshakeTimeout),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		// A client whose idle connection is closed opens another with its next call.
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: 20 * time.Second, Timeout: 10 * time.Second, MaxConnectionIdle: idleTimeout,
		}),
	}
}

// protocols are offered in the handshake; a client that names none gets HTTP/1.1.
var protocols = []string{"h2", "http/1.1"}

// Config is what a Port is made of.
type Config struct {
	// TLS is nil for plaintext. GetCertificate, GetConfigForClient and ClientAuth are the caller's; NextProtos and the
	// lowest version are set here, also in what GetConfigForClient gives.
	TLS *tls.Config
	// GRPC must have been made with GRPCOptions.
	GRPC *grpc.Server
	// HTTP answers everything that is not a gRPC, gRPC-Web or Connect call.
	HTTP http.Handler
	// FastPath sends connections that offer only HTTP/2 to the gRPC transport. Switch it off behind a proxy that
	// mixes plain HTTP and gRPC on one HTTP/2 connection.
	FastPath bool
	Logger   *slog.Logger

	// MaxConnections bounds the connections of the port, MaxPerAddress those of one IPv4 address or IPv6 /64; 0 means
	// DefaultMaxConnections and DefaultMaxPerAddress. What is more is closed at once.
	MaxConnections int
	MaxPerAddress  int
	// LimitLoopback holds loopback addresses to MaxPerAddress too, as a gateway behind a proxy of the same machine
	// may want. Unix sockets have no address to count by.
	LimitLoopback bool
	// Foreign tells of a call that arrived as HTTP, and that a browser made, that its page has no business here: it is answered
	// with 403. nil lets all pass. Calls that no browser can make are not asked about.
	Foreign func(*http.Request) bool
	// Refused is told of each connection that was closed before it was served; nil tells nobody. It must not block.
	Refused func(Refusal)
}

// Port serves one address.
type Port struct {
	cfg   Config
	outer *tls.Config
	// hardened is the copy of what GetConfigForClient last gave.
	hardened atomic.Pointer[hardened]
	native   *queue
	web      *queue
	bridge   *bridge
	server   *http.Server
	census   *census
	wg       sync.WaitGroup
}

// New returns a Port.
func New(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg, census: newCensus(&cfg), native: newQueue(), web: newQueue()}
	if cfg.TLS != nil {
		p.cfg.TLS = harden(cfg.TLS)
		p.outer = p.look()
	}
	b := newBridge(cfg.GRPC, cfg.HTTP, cfg.Foreign, cfg.Logger)
	p.bridge = b
	versions := &http.Protocols{}
	versions.SetHTTP1(true)
	versions.SetHTTP2(true)
	versions.SetUnencryptedHTTP2(true)
	p.server = &http.Server{
		Handler: b, TLSConfig: p.cfg.TLS.Clone(), Protocols: versions, ErrorLog: slog.NewLogLogger(cfg.Logger.Handler(), slog.LevelDebug),
		ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: MaxHeaderBytes,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if sealed, ok := c.(*tls.Conn); ok {
				c = sealed.NetConn()
			}
			s, ok := c.(*socket)
			if !ok {
				return ctx
			}
			if s.injected {
				ctx = context.WithValue(ctx, injectedKey{}, true)
			}
			return context.WithValue(ctx, brakeKey{}, &s.brake)
		},
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 128, MaxReceiveBufferPerStream: streamWindow,
			MaxReceiveBufferPerConnection: 128 * streamWindow,
			SendPingTimeout:               20 * time.Second, PingTimeout: 10 * time.Second,
		},
	}
	return p, nil
}

// hardened remembers the copy of a configuration, so that a handshake does not make another.
type hardened struct{ from, to *tls.Config }

// harden returns a copy of c with what the port insists on.
func harden(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = protocols
	c.MinVersion = max(c.MinVersion, tls.VersionTLS12)
	return c
}

// look returns the configuration of the handshakes. It is one for all connections, or none of them could be resumed.
func (p *Port) look() *tls.Config {
	cfg := p.cfg.TLS
	outer := cfg.Clone()
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if s, ok := hello.Conn.(*socket); ok {
			s.fast = p.cfg.FastPath && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == "h2"
		}
		if cfg.GetConfigForClient == nil {
			return nil, nil
		}
		chosen, err := cfg.GetConfigForClient(hello)
		if chosen == nil || err != nil {
			return nil, err
		}
		if h := p.hardened.Load(); h != nil && h.from == chosen {
			return h.to, nil
		}
		h := &hardened{from: chosen, to: harden(chosen)}
		p.hardened.Store(h)
		return h.to, nil
	}
	return outer
}

// Serve accepts connections from l until ctx ends, then drains: it stops accepting, tells HTTP/2 clients to go
// away and waits up to grace for calls in flight before it cuts them.
func (p *Port) Serve(ctx context.Context, l net.Listener, grace time.Duration) error {
	p.native.addr, p.web.addr = l.Addr(), l.Addr()
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return ignoreClosed(p.cfg.GRPC.Serve(p.native)) })
	group.Go(func() error { return ignoreClosed(p.cfg.GRPC.Serve(p.bridge)) })
	group.Go(func() error { return ignoreClosed(p.server.Serve(p.web)) })
	group.Go(func() error { return p.accept(gctx, l) })
	group.Go(func() error {
		<-gctx.Done()
		_ = l.Close()
		p.drain(grace)
		return nil
	})
	err := group.Wait()
	p.wg.Wait()
	return err
}

func (p *Port) drain(grace time.Duration) {
	deadline, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	graceful := make(chan struct{})
	go func() {
		p.cfg.GRPC.GracefulStop()
		close(graceful)
	}()
	if err := p.server.Shutdown(deadline); err != nil {
		_ = p.server.Close()
	}
	select {
	case <-graceful:
	case <-deadline.Done():
		p.cfg.GRPC.Stop()
		<-graceful
	}
	p.native.Close()
	p.web.Close()
	p.bridge.close()
}

func (p *Port) accept(ctx context.Context, l net.Listener) error {
	pause := 5 * time.Millisecond
	for {
		conn, err := l.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			return nil
		}
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept: %w", err)
			}
			// Out of descriptors, most likely: wait rather than spin.
			p.cfg.Logger.Error("accept a connection", "error", err)
			timer := time.NewTimer(pause)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
			timer.Stop()
			pause = min(2*pause, time.Second)
			continue
		}
		pause = 5 * time.Millisecond
		t, why := p.census.enter(conn.RemoteAddr())
		if t == nil {
			conn.Close()
			p.census.report(why, conn.RemoteAddr(), nil)
			continue
		}
		s := newSocket(conn)
		s.gone = t.gone
		p.wg.Go(func() {
			defer t.spoke()
			p.route(ctx, s)
		})
	}
}

// Connections returns how many connections the port holds, for a metric. Injected ones are not among them.
func (p *Port) Connections() int { return p.census.open() }

// ServeConn serves a connection that arrived in another way than through the listener, such as inside a tunnel, as if
// it had arrived here in plaintext. It returns as soon as the connection has said what it speaks; the port closes it.
// Such a connection counts against no limit of Config, has no certificate, and Injected is true of its requests.
func (p *Port) ServeConn(ctx context.Context, conn net.Conn) error {
	s := newSocket(conn)
	s.injected = true
	_ = s.SetDeadline(time.Now().Add(handshakeTimeout))
	target, err := p.routePlain(s)
	if err != nil {
		s.Close()
		return err
	}
	_ = s.SetDeadline(time.Time{})
	if !target.put(ctx, s) {
		s.Close()
		return fmt.Errorf("serve a connection: %w", net.ErrClosed)
	}
	return nil
}

type (
	injectedKey struct{}
	brakeKey    struct{}
)

// Injected tells whether a request's connection came through ServeConn.
func Injected(ctx context.Context) bool { return ctx.Value(injectedKey{}) != nil }

// route finds out what a connection speaks and hands it over.
func (p *Port) route(ctx context.Context, s *socket) {
	_ = s.SetDeadline(time.Now().Add(handshakeTimeout))
	var conn net.Conn = s
	var target *queue
	var err error
	if p.cfg.TLS != nil {
		conn, target, err = p.routeTLS(ctx, s)
	} else {
		target, err = p.routePlain(s)
	}
	if err != nil {
		conn.Close()
		why := RefusedHandshake
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded) {
			why = RefusedSilent
		}
		p.census.report(why, s.RemoteAddr(), err)
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if !target.put(ctx, conn) {
		conn.Close()
	}
}

func (p *Port) routeTLS(ctx context.Context, s *socket) (net.Conn, *queue, error) {
	conn := tls.Server(s, p.outer)
	hctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := conn.HandshakeContext(hctx); err != nil {
		return conn, nil, fmt.Errorf("TLS handshake: %w", err)
	}
	if s.fast {
		return conn, p.native, nil
	}
	return conn, p.web, nil
}

// preface is how every HTTP/2 client begins; the first four bytes are enough to tell.
const preface = "PRI "

func (p *Port) routePlain(s *socket) (*queue, error) {
	head := make([]byte, len(preface))
	for n := 0; n < len(head); {
		k, err := s.Conn.Read(head[n:])
		if err != nil {
			return nil, fmt.Errorf("read the first bytes: %w", err)
		}
		n += k
		s.head = head[:n]
		if !strings.HasPrefix(preface, string(s.head)) {
			return p.web, nil
		}
	}
	if p.cfg.FastPath {
		return p.native, nil
	}
	return p.web, nil
}

func ignoreClosed(err error) error {
	if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
