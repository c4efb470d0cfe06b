// Package sshconnect serves CONNECT /connect/ssh of the mvp generation: an HTTP/1.1 request with the token of an SSH
// session becomes a connection to the sandbox's SSH server. It turns the outcomes of sessions and relays into the
// statuses that clients know, and carries bytes. Who may connect is decided in the sessions; it must not know how.
package sshconnect

import (
	"bufio"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/pipe"
	"sallyport.dev/sallyport/internal/sshsession"
)

// Path is where connections are made.
const Path = "/connect/ssh"

// Headers of a request: the sandbox's id and the session's token.
const (
	HeaderSandboxID = "X-Sandbox-Id"
	HeaderToken     = "X-Sandbox-Token"
)

// DefaultSupervisorWait is how long a request waits for the sandbox's supervisor, as in the reference.
const DefaultSupervisorWait = 30 * time.Second

// answerTimeout is how long the client may take to accept the head of the answer.
const answerTimeout = 10 * time.Second

// Sessions lets connections in. *sshsession.Service implements it.
type Sessions interface {
	Enter(ctx context.Context, caller *principal.Principal, sandboxID, token string) (*sshsession.Connection, error)
}

// Limiter bounds what callers may ask for, as door.Limiter does for calls.
type Limiter interface {
	Attempt(remote net.Addr, method string, credential bool) (knownOnly bool, err error)
	Failed(remote net.Addr)
	Admit(p *principal.Principal, method string) error
}

// Config is what a Handler is made of. Sessions and Relays are required.
type Config struct {
	Sessions Sessions
	Relays   *relay.Registry
	// Limiter and Audit may be nil: nothing is limited, nothing is recorded.
	Limiter Limiter
	Audit   audit.Recorder
	// SupervisorWait is how long a request waits for the sandbox's supervisor; 0 means DefaultSupervisorWait.
	SupervisorWait time.Duration
	// Pipe bounds open connections.
	Pipe pipe.Options
	// Observe is told the status of each answer, for a metric; nil tells nobody. It must not block.
	Observe func(status int)
	// Logger is told of failures inside; nil discards.
	Logger *slog.Logger
	// Now is the clock of audit records; nil is the system's.
	Now func() time.Time
}

// Handler makes connections. It is an http.Handler for Path, of any method.
type Handler struct {
	cfg  Config
	ctx  context.Context // ends the connections, which outlive what net/http waits for
	stop context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	open   sync.WaitGroup
}

// New returns a Handler. Close ends its connections.
func New(c Config) (*Handler, error) {
	if c.Sessions == nil || c.Relays == nil {
		return nil, errors.New("set up SSH connections: sessions and relays are needed")
	}
	if c.Limiter == nil {
		c.Limiter = unlimited{}
	}
	if c.Audit == nil {
		c.Audit = audit.Discard{}
	}
	if c.SupervisorWait <= 0 {
		c.SupervisorWait = DefaultSupervisorWait
	}
	if c.Observe == nil {
		c.Observe = func(int) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	h := &Handler{cfg: c}
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	return h, nil
}

type unlimited struct{}

func (unlimited) Attempt(net.Addr, string, bool) (bool, error) { return false, nil }
func (unlimited) Failed(net.Addr)                              {}
func (unlimited) Admit(*principal.Principal, string) error     { return nil }

var errShutdown = fault.New(fault.Unavailable, "SHUTTING_DOWN", "gateway is shutting down").WithNext("connect again in a moment")

// Close ends all connections, waits for them, and makes no more.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop(errShutdown)
	h.open.Wait()
}

// enter counts a request in, unless the handler is closed.
func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.open.Add(1)
	}
	return !h.closed
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a := newAttempt(h, w, r)
	if !h.enter() {
		a.refuse(http.StatusServiceUnavailable, errShutdown)
		return
	}
	defer h.open.Done()
	ctx, cancel := context.WithCancelCause(r.Context())
	defer cancel(nil)
	defer context.AfterFunc(h.ctx, func() { cancel(errShutdown) })()

	sandboxID, token, ok := a.ask()
	if !ok {
		return
	}
	c, err := h.cfg.Sessions.Enter(ctx, nil, sandboxID, token)
	if err != nil {
		a.turnAway(err)
		return
	}
	defer c.Leave()
	a.of(c)
	if err := h.cfg.Limiter.Admit(c.Caller, Path); err != nil {
		a.refuse(http.StatusTooManyRequests, err)
		return
	}
	channel, err := h.relay(c)
	if err != nil {
		a.notReached(c, err)
		return
	}
	defer channel.Close()
	p, err := a.accept()
	if err != nil {
		return // There is nobody left to tell.
	}
	a.opened()
	a.closed(pipe.Run(c.Context(), p, channel, h.cfg.Pipe))
}

// relay opens a relay to the sandbox's SSH server.
func (h *Handler) relay(c *sshsession.Connection) (*relay.Channel, error) {
	wait, cancel := context.WithTimeout(c.Context(), h.cfg.SupervisorWait)
	defer cancel()
	session, err := h.cfg.Relays.Session(wait, c.SandboxID)
	if err != nil {
		return nil, err
	}
	return session.Open(c.Context(), relay.Target{})
}

// peer is the client's connection after the answer.
type peer struct {
	net.Conn
	in  *bufio.Reader // holds what the client sent right behind its request
	buf []byte
}

// readSize is what one read takes at most: what one message of a relay carries.
const readSize = 16 << 10

func newPeer(conn net.Conn, in *bufio.Reader) *peer {
	return &peer{Conn: conn, in: in, buf: make([]byte, readSize)}
}

// Recv implements pipe.Peer.
func (p *peer) Recv() ([]byte, error) {
	n, err := p.in.Read(p.buf)
	if n > 0 {
		return p.buf[:n], nil // The reader gives the error again.
	}
	return nil, err
}

// Send implements pipe.Peer.
func (p *peer) Send(data []byte) error {
	_, err := p.Write(data)
	return err
}

// HalfClose implements pipe.Peer.
func (p *peer) HalfClose() bool {
	c, ok := p.Conn.(interface{ CloseWrite() error })
	return ok && c.CloseWrite() == nil
}

// Close implements pipe.Peer.
func (p *peer) Close() { p.Conn.Close() }

var _ pipe.Peer = (*peer)(nil)
