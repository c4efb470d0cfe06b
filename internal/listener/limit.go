package listener

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Defaults of the limits in Config.
const (
	// DefaultMaxConnections bounds what one process holds, at some 20 KiB for an idle TLS connection.
	DefaultMaxConnections = 16384
	// DefaultMaxPerAddress leaves room for the sandboxes of a node or an office behind one address.
	DefaultMaxPerAddress = 1024

	// maxStrangers bounds connections that have not said yet what they are, maxStrangersPerAddress those of one
	// address: such a connection costs a peer nothing, so one peer must not be able to have them all.
	maxStrangers           = 1024
	maxStrangersPerAddress = 128
	// refusalsLogged is the least time between two log lines about refusals of one kind.
	refusalsLogged = time.Minute
)

// Refusal says why a connection was closed before it was served. The set is closed, so that it can be a metric label.
type Refusal string

const (
	// RefusedConnections means that the port holds as many connections as it may.
	RefusedConnections Refusal = "connections"
	// RefusedAddress means that the peer's address holds as many as it may.
	RefusedAddress Refusal = "address"
	// RefusedStrangers means that too many connections have not said yet what they are.
	RefusedStrangers Refusal = "strangers"
	// RefusedSilent means that the peer did not say in time what it speaks, or did not finish its handshake.
	RefusedSilent Refusal = "silent"
	// RefusedHandshake means that the TLS handshake failed, or that the peer went away before it spoke.
	RefusedHandshake Refusal = "handshake"
)

// String returns the word itself.
func (r Refusal) String() string { return string(r) }

// PeerKey is what limits of addresses count by: an IPv4 address, or an IPv6 network of 64 bits, of which one machine has
// the whole. It is none for a Unix socket.
func PeerKey(a net.Addr) (netip.Prefix, bool) {
	tcp, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}, false
	}
	addr := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	} else if addr.IsLoopback() {
		bits = 128 // Its network holds other addresses, which are none of this machine's.
	}
	key, err := addr.Prefix(bits)
	return key, err == nil
}

// census counts the connections of a port.
type census struct {
	maxAll, maxPerAddress int
	loopbackToo           bool
	refused               func(Refusal)
	log                   *slog.Logger

	mu        sync.Mutex
	all       int
	strangers int
	// peers has an entry for each address that holds a counted connection, so it is no larger than maxAll.
	peers  map[netip.Prefix]*holding
	logged map[Refusal]time.Time
}

// holding is what one address has open.
type holding struct{ all, strangers int }

func newCensus(cfg *Config) *census {
	c := &census{
		maxAll: cfg.MaxConnections, maxPerAddress: cfg.MaxPerAddress, loopbackToo: cfg.LimitLoopback, refused: cfg.Refused,
		log: cfg.Logger, peers: map[netip.Prefix]*holding{}, logged: map[Refusal]time.Time{},
	}
	if c.maxAll <= 0 {
		c.maxAll = DefaultMaxConnections
	}
	if c.maxPerAddress <= 0 {
		c.maxPerAddress = DefaultMaxPerAddress
	}
	return c
}

// ticket is a counted connection. spoke and gone are called once each at least; more often does no harm.
type ticket struct {
	c       *census
	key     netip.Prefix
	counted bool // by address
	spoken  sync.Once
	ended   sync.Once
}

// enter counts a connection in, or says why it must not be served.
func (c *census) enter(addr net.Addr) (*ticket, Refusal) {
	t := &ticket{c: c}
	t.key, t.counted = PeerKey(addr)
	t.counted = t.counted && (c.loopbackToo || !t.key.Addr().IsLoopback())
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all >= c.maxAll {
		return nil, RefusedConnections
	}
	if c.strangers >= maxStrangers {
		return nil, RefusedStrangers
	}
	if t.counted {
		h := c.peers[t.key]
		switch {
		case h == nil:
			h = &holding{}
			c.peers[t.key] = h
		case h.all >= c.maxPerAddress:
			return nil, RefusedAddress
		case h.strangers >= maxStrangersPerAddress:
			return nil, RefusedStrangers
		}
		h.all++
		h.strangers++
	}
	c.all++
	c.strangers++
	return t, ""
}

// spoke says that the connection is a stranger no longer.
func (t *ticket) spoke() {
	t.spoken.Do(func() {
		t.c.mu.Lock()
		defer t.c.mu.Unlock()
		t.c.strangers--
		if t.counted {
			t.c.peers[t.key].strangers--
		}
	})
}

// gone says that the connection is closed.
func (t *ticket) gone() {
	t.spoke()
	t.ended.Do(func() {
		t.c.mu.Lock()
		defer t.c.mu.Unlock()
		t.c.all--
		if !t.counted {
			return
		}
		h := t.c.peers[t.key]
		if h.all--; h.all == 0 {
			delete(t.c.peers, t.key)
		}
	})
}

// report counts a refusal and, now and then, logs one.
func (c *census) report(why Refusal, addr net.Addr, err error) {
	if c.refused != nil {
		c.refused(why)
	}
	level := slog.LevelDebug
	if why == RefusedConnections || why == RefusedAddress || why == RefusedStrangers {
		c.mu.Lock()
		if now := time.Now(); now.Sub(c.logged[why]) >= refusalsLogged {
			c.logged[why], level = now, slog.LevelWarn
		}
		c.mu.Unlock()
	}
	c.log.LogAttrs(context.Background(), level, "connection refused", slog.String("why", string(why)),
		slog.String("remote", addr.String()), slog.Any("err", err))
}

// open returns the number of connections.
func (c *census) open() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}
