package listener_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/listener"
)

// door is a net.Listener whose connections come from the test, under any address.
type door struct {
	conns chan net.Conn
	once  sync.Once
	done  chan struct{}
}

func newDoor() *door { return &door{conns: make(chan net.Conn), done: make(chan struct{})} }

func (d *door) Accept() (net.Conn, error) {
	select {
	case c := <-d.conns:
		if c == nil {
			return nil, errors.New("too many open files")
		}
		return c, nil
	case <-d.done:
		return nil, net.ErrClosed
	}
}
func (d *door) Close() error   { d.once.Do(func() { close(d.done) }); return nil }
func (d *door) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 443} }

// knock connects from the address and returns the client's side.
func (d *door) knock(from string) net.Conn {
	client, server := net.Pipe()
	d.conns <- &from4{Conn: server, addr: &net.TCPAddr{IP: net.ParseIP(from), Port: 1}}
	return client
}

type from4 struct {
	net.Conn
	addr net.Addr
}

func (f *from4) RemoteAddr() net.Addr { return f.addr }

// refusals counts what the port reports.
type refusals struct {
	mu sync.Mutex
	n  map[listener.Refusal]int
}

func (r *refusals) add(why listener.Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n == nil {
		r.n = map[listener.Refusal]int{}
	}
	r.n[why]++
}

func (r *refusals) of(why listener.Refusal) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.n[why]
}

// open serves a port on a door until the test calls the function returned.
func open(t *testing.T, cfg listener.Config) (*door, *listener.Port, *refusals, func()) {
	t.Helper()
	r := &refusals{}
	cfg.GRPC = grpc.NewServer(listener.GRPCOptions()...)
	openshellpb.RegisterOpenShellServer(cfg.GRPC, service{})
	cfg.HTTP, cfg.FastPath, cfg.Logger, cfg.Refused = http.NotFoundHandler(), true, slog.New(slog.DiscardHandler), r.add
	p, err := listener.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	d := newDoor()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, d, time.Second) }()
	return d, p, r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
}

// closedAfter returns how long the port keeps a connection whose client does nothing more, by the bubble's clock.
func closedAfter(c net.Conn) time.Duration {
	began := time.Now()
	_, _ = io.Copy(io.Discard, c)
	return time.Since(began)
}

func TestPeersThatDoNotSpeakAreCut(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	withTLS := &tls.Config{Certificates: []tls.Certificate{a.issue(t, "server")}}
	trickle := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			for i := range len(text) {
				if _, err := io.WriteString(c, text[i:i+1]); err != nil {
					return
				}
				time.Sleep(time.Second)
			}
		}
	}
	once := func(text string) func(net.Conn) {
		return func(c net.Conn) { _, _ = io.WriteString(c, text) }
	}
	for name, c := range map[string]struct {
		tls    *tls.Config
		client func(net.Conn)
		within time.Duration
		silent int
	}{
		"nothing in plaintext":              {nil, func(net.Conn) {}, 10 * time.Second, 1},
		"one byte of the preface":           {nil, once("P"), 10 * time.Second, 1},
		"the preface, a byte in 4 seconds":  {nil, func(c net.Conn) { once("PR")(c); time.Sleep(9 * time.Second); once("I")(c) }, 10 * time.Second, 1},
		"the preface and nothing more":      {nil, once("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 10 * time.Second, 0},
		"half the preface, then bytes":      {nil, once("PRI * HTTP"), 10 * time.Second, 0},
		"a request line":                    {nil, once("GET / HTTP/1.1\r\n"), 10 * time.Second, 0},
		"headers, a byte a second":          {nil, trickle("GET / HTTP/1.1\r\nHost: a\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaa"), 10 * time.Second, 0},
		"nothing on a TLS port":             {withTLS, func(net.Conn) {}, 10 * time.Second, 1},
		"the start of a TLS record":         {withTLS, once("\x16\x03\x01\x02\x00"), 10 * time.Second, 1},
		"a TLS record, a byte a second":     {withTLS, trickle("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03aaaaaaaaaaaa"), 10 * time.Second, 1},
		"plaintext on a TLS port":           {withTLS, once("GET / HTTP/1.1\r\n\r\n"), 0, 0},
		"a handshake and nothing (gRPC)":    {withTLS, shake("h2"), 10 * time.Second, 0},
		"a handshake and nothing (browser)": {withTLS, shake("h2", "http/1.1"), 10 * time.Second, 0},
		"a handshake and nothing (1.1)":     {withTLS, shake(), 10 * time.Second, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, p, refused, end := open(t, listener.Config{TLS: c.tls})
				defer end()
				conn := d.knock("198.51.100.1")
				began := time.Now()
				var client sync.WaitGroup
				defer client.Wait()
				if strings.HasPrefix(name, "a handshake") {
					c.client(conn) // It reads itself.
				} else {
					client.Go(func() { c.client(conn) })
				}
				if got := closedAfter(conn); got > c.within+time.Second {
					t.Errorf("kept for %v", got)
				}
				synctest.Wait()
				if n := refused.of(listener.RefusedSilent); n != c.silent {
					t.Errorf("%d refusals as silent after %v, want %d", n, time.Since(began), c.silent)
				}
				if n := p.Connections(); n != 0 {
					t.Errorf("%d connections are still counted", n)
				}
				conn.Close()
			})
		})
	}
}

// shake finishes a TLS handshake with the protocols and then leaves the connection to others.
func shake(protocols ...string) func(net.Conn) {
	return func(c net.Conn) {
		_ = tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: protocols}).Handshake()
	}
}

func TestCapsOnConnections(t *testing.T) {
	t.Parallel()
	const idle = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, c := range map[string]struct {
		cfg  listener.Config
		from []string
		say  string
		want map[listener.Refusal]int
		held int
	}{
		"in all": {
			listener.Config{MaxConnections: 3},
			[]string{"198.51.100.1", "198.51.100.2", "127.0.0.1", "198.51.100.3", "127.0.0.1"},
			idle,
			map[listener.Refusal]int{listener.RefusedConnections: 2},
			3,
		},
		"one IPv4 address": {
			listener.Config{MaxPerAddress: 2},
			[]string{"198.51.100.1", "198.51.100.1", "198.51.100.1", "::ffff:198.51.100.1", "198.51.100.2"},
			idle,
			map[listener.Refusal]int{listener.RefusedAddress: 2},
			3,
		},
		"one IPv6 network": {
			listener.Config{MaxPerAddress: 2},
			[]string{"2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"},
			idle,
			map[listener.Refusal]int{listener.RefusedAddress: 1},
			3,
		},
		"loopback is exempt": {
			listener.Config{MaxPerAddress: 1}, []string{"127.0.0.1", "127.0.0.1", "::1", "::1"}, idle, nil, 4,
		},
		"unless it is not": {
			listener.Config{MaxPerAddress: 1, LimitLoopback: true},
			[]string{"127.0.0.1", "127.0.0.1", "::1"},
			idle,
			map[listener.Refusal]int{listener.RefusedAddress: 1},
			2,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, p, refused, end := open(t, c.cfg)
				defer end()
				var conns []net.Conn
				for _, from := range c.from {
					conn := d.knock(from)
					conns = append(conns, conn)
					go func() {
						_, _ = io.WriteString(conn, c.say)
						_, _ = io.Copy(io.Discard, conn)
					}()
					synctest.Wait()
				}
				for _, why := range []listener.Refusal{listener.RefusedConnections, listener.RefusedAddress, listener.RefusedStrangers} {
					if got := refused.of(why); got != c.want[why] {
						t.Errorf("%d refusals because of %s, want %d", got, why, c.want[why])
					}
				}
				if got := p.Connections(); got != c.held {
					t.Errorf("%d connections held, want %d", got, c.held)
				}
				for _, conn := range conns {
					conn.Close()
				}
				synctest.Wait()
				if got := p.Connections(); got != 0 {
					t.Errorf("%d connections are counted after all have closed", got)
				}
				// The room is free again.
				again := d.knock(c.from[0])
				synctest.Wait()
				if got := p.Connections(); got != 1 {
					t.Errorf("%d connections held, want the new one", got)
				}
				again.Close()
			})
		})
	}
}

// One address must not be able to take every place of those that have not spoken yet.
func TestSilentPeersOfOneAddressDoNotKeepOthersOut(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, refused, end := open(t, listener.Config{MaxPerAddress: 1000})
		defer end()
		for range 200 {
			defer d.knock("198.51.100.1").Close()
		}
		synctest.Wait()
		if got := refused.of(listener.RefusedStrangers); got != 200-128 {
			t.Errorf("%d refused, want %d", got, 200-128)
		}
		other := d.knock("198.51.100.2")
		defer other.Close()
		go func() { _, _ = io.WriteString(other, "GET / HTTP/1.1\r\nHost: a\r\n\r\n") }()
		answer := make([]byte, 12)
		if _, err := io.ReadFull(other, answer); err != nil || string(answer) != "HTTP/1.1 404" {
			t.Errorf("answered %q, %v", answer, err)
		}
	})
}

// A connection without a call is closed after ten minutes.
func TestIdleConnectionsEnd(t *testing.T) {
	t.Parallel()
	for name, say := range map[string]string{
		"HTTP/1.1": "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"HTTP/2":   "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				d, p, _, end := open(t, listener.Config{})
				defer end()
				conn := d.knock("198.51.100.1")
				go func() { _, _ = io.WriteString(conn, say) }()
				if got := closedAfter(conn); got > 11*time.Minute {
					t.Errorf("kept for %v", got)
				}
				conn.Close()
				synctest.Wait()
				if n := p.Connections(); n != 0 {
					t.Errorf("%d connections are still counted", n)
				}
			})
		})
	}
}

// An error of accept, such as too many open files, is waited out and not spun on.
func TestAcceptErrorsArePausedAfter(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d, _, _, end := open(t, listener.Config{})
		defer end()
		began := time.Now()
		var tries atomic.Int64
		for range 12 {
			d.conns <- nil
			tries.Add(1)
		}
		if took := time.Since(began); took < 3*time.Second {
			t.Errorf("%d failures in %v", tries.Load(), took)
		}
		conn := d.knock("198.51.100.1")
		go func() { _, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") }()
		if got, err := io.ReadAll(conn); err != nil || len(got) == 0 {
			t.Errorf("after the failures: %q, %v", got, err)
		}
	})
}
