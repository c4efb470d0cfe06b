// Package wstunnel serves GET /_ws_tunnel: a WebSocket whose messages are the bytes of a connection to the port, for
// clients behind a proxy that passes nothing else. Everything that is asked of a connection is asked again inside, so
// the tunnel itself lets nobody in. It must know no method, no token and no page.
package wstunnel

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/coder/websocket"
	"google.golang.org/grpc/test/bufconn"

	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/site"
)

// Path is where the tunnel is.
const Path = "/_ws_tunnel"

// Defaults of the limits in Config.
const (
	DefaultMaxTunnels    = 256
	DefaultMaxPerAddress = 64
	DefaultMaxMessage    = 1 << 20
	DefaultIdleTimeout   = 10 * time.Minute
)

const (
	// pipeSize is what each direction holds when its reader pauses, readSize the largest message that is sent.
	pipeSize = 64 << 10
	readSize = 32 << 10
	// goodbye is how long a peer may take to answer the end of a tunnel.
	goodbye = time.Second
)

// Refusal says why a tunnel was not opened. The set is closed, so that it can be a metric label.
type Refusal string

const (
	// RefusedNested means that it was asked for inside a tunnel.
	RefusedNested Refusal = "nested"
	// RefusedHost means that it was asked for under a name that is not the gateway's.
	RefusedHost Refusal = "host"
	// RefusedOrigin means that a page asked for it that may not.
	RefusedOrigin Refusal = "origin"
	// RefusedTunnels means that there are as many as there may be.
	RefusedTunnels Refusal = "tunnels"
	// RefusedAddress means that the peer's address has as many as it may.
	RefusedAddress Refusal = "address"
)

// Port serves the connections inside tunnels, as listener.Port does.
type Port interface {
	ServeConn(ctx context.Context, conn net.Conn) error
}

// Config is what Tunnels are made of.
type Config struct {
	// Port is asked when a tunnel is opened, so that it may be made after the tunnels.
	Port func() Port
	// Site decides about names and pages. A request without an Origin comes from no page and is let in.
	Site   *site.Policy
	Logger *slog.Logger
	// MaxTunnels and MaxPerAddress bound the tunnels in all and of one address, MaxMessage the bytes of a message that a
	// peer sends, IdleTimeout how long a tunnel may carry nothing in either direction; 0 means the default. Loopback
	// addresses, under which a proxy on this machine connects, are bound by MaxTunnels alone.
	MaxTunnels    int
	MaxPerAddress int
	MaxMessage    int64
	IdleTimeout   time.Duration
	// Refused is told of each request that was refused; nil tells nobody. It must not block.
	Refused func(Refusal)
}

// Tunnels opens tunnels. It is an http.Handler, for Path.
type Tunnels struct {
	cfg  Config
	ctx  context.Context // ends the tunnels, which outlive their requests' contexts
	stop context.CancelFunc

	mu     sync.Mutex
	closed bool
	all    int
	peers  map[netip.Prefix]int // addresses that have a tunnel
	open   sync.WaitGroup
}

// New returns Tunnels. Close ends them.
func New(cfg Config) *Tunnels {
	t := &Tunnels{cfg: cfg, peers: map[netip.Prefix]int{}}
	t.ctx, t.stop = context.WithCancel(context.Background())
	c := &t.cfg
	if c.MaxTunnels <= 0 {
		c.MaxTunnels = DefaultMaxTunnels
	}
	if c.MaxPerAddress <= 0 {
		c.MaxPerAddress = DefaultMaxPerAddress
	}
	if c.MaxMessage <= 0 {
		c.MaxMessage = DefaultMaxMessage
	}
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = DefaultIdleTimeout
	}
	return t
}

// Close ends all tunnels, waits for them, and opens no more.
func (t *Tunnels) Close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.stop()
	t.open.Wait()
}

// Open returns how many tunnels there are, for a metric.
func (t *Tunnels) Open() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

// ServeHTTP implements http.Handler.
func (t *Tunnels) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if r.Method != http.MethodGet {
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "a tunnel is opened with GET", http.StatusMethodNotAllowed)
		return
	}
	switch {
	case listener.Injected(r.Context()):
		t.refuse(w, r, RefusedNested, http.StatusForbidden, "a tunnel inside a tunnel is not opened")
		return
	case !t.cfg.Site.Host(r):
		t.refuse(w, r, RefusedHost, http.StatusForbidden, "this gateway does not answer under that name")
		return
	case !t.cfg.Site.Origin(r):
		t.refuse(w, r, RefusedOrigin, http.StatusForbidden, "pages of that origin may not open a tunnel")
		return
	}
	remote := addressOf(r)
	leave, why := t.enter(remote)
	if leave == nil {
		w.Header().Set("Retry-After", "10")
		t.refuse(w, r, why, http.StatusServiceUnavailable, "too many tunnels are open")
		return
	}
	defer leave()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		InsecureSkipVerify: true, // The origin was checked above, by the operator's list.
	})
	if err != nil {
		t.cfg.Logger.Debug("no tunnel opened", "remote", r.RemoteAddr, "error", err)
		return // Accept has answered.
	}
	ws.SetReadLimit(t.cfg.MaxMessage)
	t.carry(ws, remote)
}

func (t *Tunnels) refuse(w http.ResponseWriter, r *http.Request, why Refusal, status int, text string) {
	if t.cfg.Refused != nil {
		t.cfg.Refused(why)
	}
	t.cfg.Logger.Debug("tunnel refused", "why", string(why), "remote", r.RemoteAddr)
	http.Error(w, text, status)
}

// enter counts a tunnel in and returns what counts it out, or why there must not be one.
func (t *Tunnels) enter(remote net.Addr) (leave func(), why Refusal) {
	key, counted := listener.PeerKey(remote)
	counted = counted && !key.Addr().IsLoopback()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.closed || t.all >= t.cfg.MaxTunnels:
		return nil, RefusedTunnels
	case counted && t.peers[key] >= t.cfg.MaxPerAddress:
		return nil, RefusedAddress
	}
	t.all++
	t.open.Add(1)
	if counted {
		t.peers[key]++
	}
	return func() {
		defer t.open.Done()
		t.mu.Lock()
		defer t.mu.Unlock()
		t.all--
		if counted {
			if t.peers[key]--; t.peers[key] == 0 {
				delete(t.peers, key)
			}
		}
	}, ""
}

// carry moves bytes until either side ends.
func (t *Tunnels) carry(ws *websocket.Conn, remote net.Addr) {
	ctx, end := context.WithCancel(t.ctx)
	defer end()
	near, far := pipe(remote)
	defer near.Close()
	idle := time.AfterFunc(t.cfg.IdleTimeout, end)
	defer idle.Stop()
	touch := func() { idle.Reset(t.cfg.IdleTimeout) }

	// Closing is what ends a read or write of either connection. The peer is given the time to hear why.
	unblock := context.AfterFunc(ctx, func() {
		near.Close()
		time.AfterFunc(goodbye, func() { _ = ws.CloseNow() })
	})
	defer unblock()
	var parts sync.WaitGroup
	var upErr error
	parts.Go(func() {
		if err := t.cfg.Port().ServeConn(ctx, far); err != nil {
			t.cfg.Logger.Debug("nothing was said in a tunnel", "remote", remote.String(), "error", err)
		}
	})
	parts.Go(func() {
		upErr = up(ws, near, touch)
		near.Close()
	})
	downErr := down(ws, near, touch)
	t.leave(ws)
	parts.Wait()
	t.cfg.Logger.Debug("tunnel closed", "remote", remote.String(), "in", upErr, "out", downErr)
}

// leave says goodbye where the peer still listens.
func (t *Tunnels) leave(ws *websocket.Conn) {
	code, reason := websocket.StatusNormalClosure, "the connection inside has ended"
	if t.ctx.Err() != nil {
		code, reason = websocket.StatusGoingAway, "the gateway stops"
	}
	timer := time.AfterFunc(goodbye, func() { _ = ws.CloseNow() })
	defer timer.Stop()
	// These fail where the peer has gone, or has said goodbye itself.
	_ = ws.Close(code, reason)
	_ = ws.CloseNow()
}

// up copies messages of either kind, binary and text, into the connection. Its reads end when ws is closed.
func up(ws *websocket.Conn, near io.Writer, touch func()) error {
	buf := make([]byte, readSize)
	for {
		_, message, err := ws.Reader(context.Background())
		if err != nil {
			return err
		}
		for {
			n, err := message.Read(buf)
			if n > 0 {
				if _, err := near.Write(buf[:n]); err != nil {
					return err
				}
				touch()
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
	}
}

// down copies what the connection says into binary messages.
func down(ws *websocket.Conn, near io.Reader, touch func()) error {
	buf := make([]byte, readSize)
	for {
		n, err := near.Read(buf)
		if n > 0 {
			if err := ws.Write(context.Background(), websocket.MessageBinary, buf[:n]); err != nil {
				return err
			}
			touch()
		}
		if err != nil {
			return err
		}
	}
}

// pipe returns the ends of a connection in memory. The far one seems to come from remote.
func pipe(remote net.Addr) (near, far net.Conn) {
	l := bufconn.Listen(pipeSize)
	defer l.Close()
	dialed := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Dial() // It cannot fail before l is closed.
		dialed <- c
	}()
	far, _ = l.Accept()
	return <-dialed, &inner{Conn: far, remote: remote}
}

// inner is the end that the port serves.
type inner struct {
	net.Conn
	remote net.Addr
}

// RemoteAddr implements net.Conn.
func (i *inner) RemoteAddr() net.Addr { return i.remote }

// addressOf returns where the request came from.
func addressOf(r *http.Request) net.Addr {
	if a, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		return net.TCPAddrFromAddrPort(a)
	}
	return &net.UnixAddr{Name: r.RemoteAddr, Net: "unix"}
}
