package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

// Channel is one open relay, from the gateway's side. Send and Recv pass straight to the supervisor's stream:
// there is no queue in between, so a slow reader holds back the sender through the stream's own flow control.
type Channel struct {
	ID        string
	SandboxID string

	session *Session
	wire    Wire
	claimed chan struct{}
	done    chan struct{}
	carried *carried

	mu    sync.Mutex
	ended bool
	err   error
}

// accept gives the channel its wire; false if the channel ended before.
func (c *Channel) accept(w Wire) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return false
	}
	c.wire = w
	c.session.registry.counters.relaysOpened.Add(1)
	close(c.claimed)
	return true
}

// Done is closed when the channel has ended. The supervisor's call returns then, which ends its stream.
func (c *Channel) Done() <-chan struct{} { return c.done }

// Err tells why the channel ended: nil while it lives and after Close.
func (c *Channel) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Send passes one message to the supervisor.
func (c *Channel) Send(data []byte) error {
	if err := c.wire.Send(data); err != nil {
		return c.explain(err)
	}
	c.carried.sent.Add(uint64(len(data)))
	return nil
}

// Recv returns the supervisor's next message, io.EOF once it closed its side.
func (c *Channel) Recv() ([]byte, error) {
	data, err := c.wire.Recv()
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, c.explain(err)
	}
	c.carried.received.Add(uint64(len(data)))
	return data, err
}

// explain prefers the reason why the channel ended over the transport's own words.
func (c *Channel) explain(err error) error {
	select {
	case <-c.done:
		if cause := c.Err(); cause != nil {
			return cause
		}
		return net.ErrClosed
	default:
		return fault.Wrap(err, fault.Unavailable, "RELAY_BROKEN", "relay channel dropped").WithNext("retry")
	}
}

// Close ends the channel.
func (c *Channel) Close() error {
	c.end(nil)
	return nil
}

// Abandon ends the channel because the supervisor's call is over.
func (c *Channel) Abandon() {
	c.end(fault.New(fault.Unavailable, "RELAY_DROPPED", "relay channel dropped").WithNext("retry"))
}

func (c *Channel) end(err error) {
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		return
	}
	c.ended, c.err = true, err
	close(c.done)
	c.mu.Unlock()
	c.session.registry.counters.relaysEnded[relayEndOf(err)].Add(1)
	c.session.forget(c)
}

// Conn returns the channel as a byte stream for protocols that bring their own framing. Deadlines are not
// supported; closing it closes the channel.
func (c *Channel) Conn() net.Conn { return &conn{c: c} }

type conn struct {
	c    *Channel
	rest []byte
}

func (n *conn) Read(p []byte) (int, error) {
	for len(n.rest) == 0 {
		data, err := n.c.Recv()
		if err != nil {
			return 0, err
		}
		n.rest = data
	}
	k := copy(p, n.rest)
	n.rest = n.rest[k:]
	return k, nil
}

// frameSize is what one message carries: the reference's chunk, which every supervisor accepts.
const frameSize = 16 << 10

func (n *conn) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		chunk := p[sent:min(len(p), sent+frameSize)]
		if err := n.c.Send(chunk); err != nil {
			return sent, err
		}
		sent += len(chunk)
	}
	return sent, nil
}

func (n *conn) Close() error                     { return n.c.Close() }
func (n *conn) LocalAddr() net.Addr              { return relayAddr("gateway") }
func (n *conn) RemoteAddr() net.Addr             { return relayAddr("sandbox/" + n.c.SandboxID) }
func (n *conn) SetDeadline(time.Time) error      { return nil }
func (n *conn) SetReadDeadline(time.Time) error  { return nil }
func (n *conn) SetWriteDeadline(time.Time) error { return nil }

// relayAddr names an end of a relay where net.Conn wants an address.
type relayAddr string

func (relayAddr) Network() string  { return "relay" }
func (a relayAddr) String() string { return string(a) }
