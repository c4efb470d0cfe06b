package pgtest

import (
	"bytes"
	"errors"
	"net"
	"sync"
	"testing"
)

// Proxy passes TCP connections on to a server's socket, and cuts them when told.
type Proxy struct {
	listener net.Listener

	mu     sync.Mutex
	socket string
	open   map[net.Conn]net.Conn // client's end to server's end
	rule   *rule
	closed bool
	work   sync.WaitGroup
	// forsaken are servers' ends whose clients are gone.
	forsaken []net.Conn
}

// rule is what to do when a client sends certain bytes.
type rule struct {
	match   []byte
	forward bool
	done    chan struct{}
}

// NewProxy listens on a loopback port; it ends with the test.
func NewProxy(tb testing.TB, s *Server) *Proxy {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &Proxy{listener: l, socket: s.Socket(), open: map[net.Conn]net.Conn{}}
	p.work.Go(p.accept)
	tb.Cleanup(p.close)
	return p
}

// URL names a database behind the proxy.
func (p *Proxy) URL(database string) string {
	return "postgres://" + superuser + "@" + p.listener.Addr().String() + "/" + database + "?sslmode=disable"
}

// Address is where the proxy listens.
func (p *Proxy) Address() string { return p.listener.Addr().String() }

// Forsake ends the clients' side of all connections and leaves the server's side open, which so notices nothing.
func (p *Proxy) Forsake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, server := range p.open {
		delete(p.open, client)
		p.forsaken = append(p.forsaken, server)
		client.Close()
	}
}

// Point sends later connections to another server; nil refuses them.
func (p *Proxy) Point(s *Server) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.socket = ""
	if s != nil {
		p.socket = s.Socket()
	}
}

// Cut ends all connections at once.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for client, server := range p.open {
		client.Close()
		server.Close()
	}
}

// CutAt ends the first connection whose client sends these bytes within one packet: after passing them on and waiting
// for the server's answer, which the client never sees, or, without forward, before. The channel closes when it is done.
func (p *Proxy) CutAt(match string, forward bool) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rule = &rule{match: []byte(match), forward: forward, done: make(chan struct{})}
	return p.rule.done
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	for _, server := range p.forsaken {
		server.Close()
	}
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.work.Wait()
}

func (p *Proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.mu.Lock()
		socket, closed := p.socket, p.closed
		p.mu.Unlock()
		server, err := net.Dial("unix", socket) //nolint:noctx // a local socket answers at once
		if err != nil || closed {
			client.Close()
			continue
		}
		p.mu.Lock()
		p.open[client] = server
		p.mu.Unlock()
		c := &crossing{p: p, client: client, server: server}
		p.work.Go(c.toServer)
		p.work.Go(c.toClient)
	}
}

// crossing is one connection.
type crossing struct {
	p              *Proxy
	client, server net.Conn

	mu    sync.Mutex
	after *rule // answers are swallowed, and the connection is cut, once this is set
}

func (c *crossing) end() {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	c.client.Close()
	if _, ok := c.p.open[c.client]; ok {
		c.server.Close()
		delete(c.p.open, c.client)
	}
}

func (c *crossing) toServer() {
	defer c.end()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.client.Read(buf)
		if n > 0 {
			r := c.matching(buf[:n])
			if r != nil && !r.forward {
				c.end()
				close(r.done)
				return
			}
			if r != nil {
				c.mu.Lock()
				c.after = r
				c.mu.Unlock()
			}
			if _, err := c.server.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// matching takes the rule if these bytes are what it waits for.
func (c *crossing) matching(sent []byte) *rule {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	r := c.p.rule
	if r == nil || !bytes.Contains(sent, r.match) {
		return nil
	}
	c.p.rule = nil
	return r
}

func (c *crossing) toClient() {
	defer c.end()
	buf := make([]byte, 64<<10)
	for {
		n, err := c.server.Read(buf)
		c.mu.Lock()
		r := c.after
		c.mu.Unlock()
		if r != nil {
			c.end()
			close(r.done)
			return
		}
		if n > 0 {
			if _, err := c.client.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
