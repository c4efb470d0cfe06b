package servicehost

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"
)

const (
	// splitWait is how long a connection may take to show its first byte, splitMost how many may do so at once.
	splitWait = 10 * time.Second
	splitMost = 256
	// plainHeaderTimeout, plainIdle and plainHeader bound plain connections.
	plainHeaderTimeout = 10 * time.Second
	plainIdle          = time.Minute
	plainHeader        = 64 << 10
)

// Split takes from a listener of TLS the connections within this machine that speak plain HTTP, and serves services on
// them, as the reference does. All others are given on untouched. Where the system cannot show bytes without taking them,
// all are.
type Split struct {
	net.Listener
	server *http.Server
	// tls and plain are where connections go once it is known what they speak.
	tls, plain chan accepted
	places     chan struct{}
	done       chan struct{}
	closing    sync.Once
	running    sync.WaitGroup
}

type accepted struct {
	conn net.Conn
	err  error
}

// NewSplit serves plain connections with handler, which is Handler.Alone behind whatever else guards the port. Close ends
// it with the listener.
func NewSplit(l net.Listener, handler http.Handler, log *slog.Logger) *Split {
	s := &Split{
		Listener: l, tls: make(chan accepted), plain: make(chan accepted), places: make(chan struct{}, splitMost), done: make(chan struct{}),
		server: &http.Server{
			Handler: handler, ReadHeaderTimeout: plainHeaderTimeout, IdleTimeout: plainIdle, MaxHeaderBytes: plainHeader,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
	s.running.Go(s.accept)
	s.running.Go(func() {
		if err := s.server.Serve(plainListener{s}); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			log.Error("plain HTTP of services has ended", "error", err)
		}
	})
	return s
}

// Accept implements net.Listener.
func (s *Split) Accept() (net.Conn, error) { return s.take(s.tls) }

func (s *Split) take(from <-chan accepted) (net.Conn, error) {
	select {
	case a := <-from:
		return a.conn, a.err
	case <-s.done:
		return nil, net.ErrClosed
	}
}

// give hands a connection over, or closes it if nobody takes it any more.
func (s *Split) give(to chan<- accepted, a accepted) bool {
	select {
	case to <- a:
		return true
	case <-s.done:
		if a.conn != nil {
			a.conn.Close()
		}
		return false
	}
}

// Close implements net.Listener. It ends the plain connections too.
func (s *Split) Close() error {
	err := s.Listener.Close()
	s.closing.Do(func() {
		close(s.done)
		_ = s.server.Close() // Its listener is this one.
		s.running.Wait()
	})
	return err
}

// accept takes connections and looks at those within this machine.
func (s *Split) accept() {
	for {
		c, err := s.Listener.Accept()
		if err != nil || !loopback(c.LocalAddr()) || !loopback(c.RemoteAddr()) {
			if !s.give(s.tls, accepted{c, err}) || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		select {
		case s.places <- struct{}{}:
			s.running.Go(func() {
				defer func() { <-s.places }()
				s.sort(c)
			})
		default:
			s.give(s.tls, accepted{conn: c})
		}
	}
}

// sort gives a connection on by its first byte.
func (s *Split) sort(c net.Conn) {
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-s.done:
			c.SetReadDeadline(time.Unix(1, 0)) // Wakes who looks.
		case <-stop:
		}
	}()
	c.SetReadDeadline(time.Now().Add(splitWait))
	first, ok := peek(c)
	c.SetReadDeadline(time.Time{})
	to := s.tls
	if ok && method(first) {
		to = s.plain
	}
	s.give(to, accepted{conn: c})
}

// method tells whether a plain HTTP request may begin with this byte. A TLS connection never does.
func method(first byte) bool { return first >= 'A' && first <= 'Z' }

// plainListener is where the server of plain connections gets them.
type plainListener struct{ s *Split }

// Accept implements net.Listener.
func (l plainListener) Accept() (net.Conn, error) { return l.s.take(l.s.plain) }

// Close implements net.Listener; the Split closes itself.
func (l plainListener) Close() error { return nil }

// Addr implements net.Listener.
func (l plainListener) Addr() net.Addr { return l.s.Addr() }
