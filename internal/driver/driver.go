// Package driver is the guest room: the one way the gateway reaches another process that works for it over a Unix
// socket. It waits for the socket, reconnects for ever, checks who serves it, bounds every call in time, size and
// number, stops calling a driver that does not answer, and says why a driver cannot be used. It knows no driver's
// messages; the subpackages compute and credentials do. A driver that lies, hangs or dies degrades what it serves
// and nothing else.
package driver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/internal/fault"
)

// Defaults of Config.
const (
	DefaultRPCTimeout    = 30 * time.Second
	DefaultGrace         = 2 * time.Second
	DefaultMaxConcurrent = 64
	DefaultMaxQueued     = 1024
	DefaultMaxMessage    = 16 << 20
)

// Reasons of the errors of this package.
const (
	// ReasonUnavailable means that the driver was not reached, or was lost during the call.
	ReasonUnavailable = "DRIVER_UNAVAILABLE"
	// ReasonTimeout means that the driver took the call and did not answer in time.
	ReasonTimeout = "DRIVER_TIMEOUT"
	// ReasonBusy means that too many calls already wait for the driver.
	ReasonBusy = "DRIVER_BUSY"
	// ReasonRefused means that the driver answered with an error of its own.
	ReasonRefused = "DRIVER_REFUSED"
	// ReasonInvalidAnswer means that the driver answered with something that cannot be true.
	ReasonInvalidAnswer = "DRIVER_ANSWER_INVALID"
	// ReasonCallEnded means that the caller went away or ran out of its own time.
	ReasonCallEnded = "CALL_ENDED"
)

// Metrics receives what happens; implementations must not block.
type Metrics interface {
	// DriverCall counts a finished call with its method's short name and gRPC code, for example "GetSandbox"
	// and "OK".
	DriverCall(driver, method, code string, took time.Duration)
	// DriverReady records whether the driver is connected.
	DriverReady(driver string, ready bool)
}

// Config says how to reach one driver. Zero values mean the defaults above.
type Config struct {
	// Name is what people call the driver in messages and metrics, for example "compute".
	Name string
	// Socket is the path of the Unix socket; a leading '@' means Linux's abstract namespace. It need not exist.
	Socket string
	Logger *slog.Logger
	// MaxConcurrent bounds the calls in flight; MaxQueued bounds those that wait for a place.
	MaxConcurrent int
	MaxQueued     int
	// RPCTimeout bounds each call, not streams.
	RPCTimeout time.Duration
	// Grace is how long a call waits for a driver that has just been lost or not yet been there; after it calls
	// fail at once until the driver is back.
	Grace time.Duration
	// MaxMessage bounds an answer in bytes.
	MaxMessage int
	// AllowedUIDs may serve the socket besides root and the gateway's own user.
	AllowedUIDs []uint32
	// Metrics may be nil.
	Metrics Metrics
	// Trace follows calls; nil follows none.
	Trace Tracer
}

// Conn is a connection to one driver that never gives up. It is a grpc.ClientConnInterface, so that generated
// clients work on it; the errors of its calls are *fault.Error.
type Conn struct {
	cfg     Config
	cc      *grpc.ClientConn
	slots   chan struct{}
	breaker breaker
	stop    context.CancelFunc
	stopped chan struct{}

	mu     sync.Mutex
	queued int
	ready  bool
	// connections counts how often the driver was connected.
	connections int
	downSince   time.Time
	// dialErr is why the last attempt failed; grpc reports it only to calls.
	dialErr error
	// changed is closed and replaced on every change of ready.
	changed chan struct{}
}

var _ grpc.ClientConnInterface = (*Conn)(nil)

// Dial starts connecting and returns at once; the driver may come later. It fails only on an unusable Config.
// The connection lives until Close.
func Dial(cfg Config) (*Conn, error) {
	if cfg.Name == "" || cfg.Socket == "" || cfg.Logger == nil {
		return nil, errors.New("dial driver: name, socket and logger are required")
	}
	if len(cfg.Socket) > maxSocketPath {
		return nil, fmt.Errorf("dial %s driver: socket path %q is longer than the system's limit of %d bytes",
			cfg.Name, cfg.Socket, maxSocketPath)
	}
	cfg.setDefaults()
	c := &Conn{
		cfg: cfg, slots: make(chan struct{}, cfg.MaxConcurrent), breaker: newBreaker(),
		stopped: make(chan struct{}), downSince: time.Now(), changed: make(chan struct{}),
	}
	cc, err := grpc.NewClient("passthrough:///"+cfg.Socket,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return c.dial(ctx) }),
		grpc.WithAuthority("localhost"),
		grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(cfg.MaxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			// A restarted driver is found within a second.
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 700 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	)
	if err != nil {
		return nil, fmt.Errorf("dial %s driver: %w", cfg.Name, err)
	}
	c.cc = cc
	ctx, stop := context.WithCancel(context.Background())
	c.stop = stop
	go c.follow(ctx)
	return c, nil
}

func (cfg *Config) setDefaults() {
	if cfg.MaxConcurrent <= 0 {
		cfg.MaxConcurrent = DefaultMaxConcurrent
	}
	if cfg.MaxQueued <= 0 {
		cfg.MaxQueued = DefaultMaxQueued
	}
	if cfg.RPCTimeout <= 0 {
		cfg.RPCTimeout = DefaultRPCTimeout
	}
	if cfg.Grace <= 0 {
		cfg.Grace = DefaultGrace
	}
	if cfg.MaxMessage <= 0 {
		cfg.MaxMessage = DefaultMaxMessage
	}
}

// Name returns the driver's name.
func (c *Conn) Name() string { return c.cfg.Name }

// Socket returns the path the driver is reached at.
func (c *Conn) Socket() string { return c.cfg.Socket }

// Close ends the connection and every call on it, and waits for the connection's own work to end.
func (c *Conn) Close() error {
	c.stop()
	err := c.cc.Close()
	<-c.stopped
	return err
}

// Ready returns nil if the driver is connected and answers, else an Unavailable error with the reason.
func (c *Conn) Ready() error {
	c.mu.Lock()
	ready := c.ready
	c.mu.Unlock()
	if !ready {
		return c.unavailable(nil)
	}
	if wait, open := c.breaker.open(time.Now()); open {
		return c.suspended(wait)
	}
	return nil
}

// WaitReady waits until the driver is connected or ctx ends; then the error says why it is not.
func (c *Conn) WaitReady(ctx context.Context) error {
	for {
		c.mu.Lock()
		ready, changed := c.ready, c.changed
		c.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return c.unavailable(ctx.Err())
		case <-c.stopped:
			return c.unavailable(errors.New("connection closed"))
		}
	}
}

// Connected waits until the driver has been connected more often than seen times, and returns how often it was by then;
// start with 0. It fails when ctx ends or the connection is closed. What is asked of a driver once for each of its
// lives is asked after it.
func (c *Conn) Connected(ctx context.Context, seen int) (int, error) {
	for {
		c.mu.Lock()
		connections, changed := c.connections, c.changed
		c.mu.Unlock()
		if connections > seen {
			return connections, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return seen, context.Cause(ctx)
		case <-c.stopped:
			return seen, c.unavailable(errors.New("connection closed"))
		}
	}
}

// follow keeps the connection connecting and records each change of its state.
func (c *Conn) follow(ctx context.Context) {
	defer close(c.stopped)
	for {
		state := c.cc.GetState()
		switch state {
		case connectivity.Idle:
			c.cc.Connect()
		case connectivity.Shutdown:
			return
		case connectivity.Ready, connectivity.Connecting, connectivity.TransientFailure:
		}
		c.setReady(state == connectivity.Ready)
		if !c.cc.WaitForStateChange(ctx, state) {
			c.setReady(false)
			return
		}
	}
}

func (c *Conn) setReady(ready bool) {
	c.mu.Lock()
	if c.ready == ready {
		c.mu.Unlock()
		return
	}
	c.ready = ready
	if ready {
		c.connections++
		c.dialErr = nil
	} else {
		c.downSince = time.Now()
	}
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()

	if ready {
		// A new process deserves a new chance.
		c.breaker.reset()
		c.cfg.Logger.Info("driver connected", "driver", c.cfg.Name, "socket", c.cfg.Socket)
	} else {
		c.cfg.Logger.Warn("driver lost", "driver", c.cfg.Name, "socket", c.cfg.Socket)
	}
	if c.cfg.Metrics != nil {
		c.cfg.Metrics.DriverReady(c.cfg.Name, ready)
	}
}

// dial connects to the socket and refuses a server that neither root, nor the gateway's own user, nor an allowed
// user started: whoever may put a socket at the path would otherwise receive every secret sent to the driver.
func (c *Conn) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "unix", c.cfg.Socket)
	if err == nil {
		if err = c.checkPeer(nc); err != nil {
			nc.Close()
			nc = nil
		}
	}
	c.mu.Lock()
	first := err != nil && (c.dialErr == nil || c.dialErr.Error() != err.Error())
	c.dialErr = err
	c.mu.Unlock()
	if first {
		c.cfg.Logger.Warn("driver cannot be reached; trying until it can", "driver", c.cfg.Name,
			"socket", c.cfg.Socket, "error", err)
	}
	return nc, err
}

func (c *Conn) checkPeer(nc net.Conn) error {
	uid, err := peerUID(nc)
	if err != nil {
		return fmt.Errorf("read who serves the socket: %w", err)
	}
	if uid == 0 || uid == ownUID() || slices.Contains(c.cfg.AllowedUIDs, uid) {
		return nil
	}
	return fmt.Errorf("socket is served by uid %d, which is neither root, nor this process's uid %d, nor allowed", uid, ownUID())
}

// unavailable is the error of a driver that is not connected.
func (c *Conn) unavailable(cause error) *fault.Error {
	c.mu.Lock()
	why := c.dialErr
	c.mu.Unlock()
	if why == nil {
		why = cause
	}
	message := fmt.Sprintf("%s driver is unavailable at socket %s", c.cfg.Name, c.cfg.Socket)
	if why != nil {
		message += " (" + oneLine(why.Error(), 200) + ")"
	}
	return fault.Wrap(errors.Join(why, &transportError{cause: cause}), fault.Unavailable, ReasonUnavailable, "%s", message).
		WithNext("check that the %s driver runs and serves %s; the gateway reconnects by itself", c.cfg.Name, c.cfg.Socket)
}

// suspended is the error of a driver that is connected but has stopped answering.
func (c *Conn) suspended(wait time.Duration) *fault.Error {
	return fault.Wrap(&transportError{}, fault.Unavailable, ReasonUnavailable,
		"%s driver at socket %s has stopped answering; calls are held back for %s",
		c.cfg.Name, c.cfg.Socket, wait.Round(time.Millisecond)).
		WithNext("look at the log of the %s driver or restart it, then try again", c.cfg.Name)
}
