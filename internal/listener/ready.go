package listener

import (
	"errors"
	"io"
	"net"
	"syscall"

	"google.golang.org/grpc/mem"
)

// readyReader is what gRPC's transport looks for in a connection it reads (ReadOnReady of its internal package
// readyreader): wait until there is something to read, and only then take a buffer of size bytes from the pool. A
// connection without the method costs a read buffer of its own for as long as it lives, also while it is idle.
//
// A result with n > 0 carries the buffer that holds the bytes, which the caller puts back; one without carries none.
type readyReader interface {
	ReadOnReady(size int, pool mem.BufferPool) (buf *[]byte, n int, err error)
}

var (
	_ readyReader = (*socket)(nil)
	_ readyReader = (*sealed)(nil)
)

// socket is a connection as it was accepted. It gives back the bytes that were read to find out the protocol, is
// read by gRPC without a buffer that waits, and tells when it is closed.
type socket struct {
	net.Conn
	head []byte
	wait waiter
	byOne
	brake brake

	// gone is called when the connection is closed; nil calls nothing. It may be called more than once.
	gone func()
	// fast says that the client's first message offered HTTP/2 alone, injected that ServeConn brought it.
	fast     bool
	injected bool
}

func newSocket(c net.Conn) *socket {
	s := &socket{Conn: c}
	// Only these types say by SyscallConn what Read would give; a wrapper may hold bytes of its own.
	switch t := c.(type) {
	case *net.TCPConn:
		s.wait.raw, _ = t.SyscallConn() // An error leaves nil, and the slower way.
	case *net.UnixConn:
		s.wait.raw, _ = t.SyscallConn()
	}
	return s
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	s.brake.wait()
	if len(s.head) > 0 {
		n := copy(p, s.head)
		s.head = s.head[n:]
		return n, nil
	}
	return s.Conn.Read(p)
}

// Close implements net.Conn.
func (s *socket) Close() error {
	err := s.Conn.Close()
	s.brake.end()
	if s.gone != nil {
		s.gone()
	}
	return err
}

// CloseWrite ends this side of the connection alone. net/http does so before it gives up a client that still sends,
// which would else lose the answer.
func (s *socket) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return nil
}

// ReadOnReady implements readyReader. Like Read, it is for one goroutine at a time.
func (s *socket) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	s.brake.wait()
	switch {
	case len(s.head) > 0:
		return fill(s, size, pool)
	case waits && s.wait.raw != nil:
		return s.wait.read(size, pool)
	default:
		return s.byOne.read(s.Conn, size, pool)
	}
}

// sealed is a TLS connection after its handshake, as gRPC reads it.
type sealed struct {
	net.Conn
	byOne
}

// ReadOnReady implements readyReader.
func (s *sealed) ReadOnReady(size int, pool mem.BufferPool) (*[]byte, int, error) {
	return s.byOne.read(s.Conn, size, pool)
}

// byOne reads a connection that cannot tell whether anything waits in it, TLS above all: it waits for one byte, and
// takes a buffer for the rest in the next read. What follows the first byte is almost always there already, since a
// peer writes a frame at once.
type byOne struct {
	first   [1]byte
	started bool
}

func (b *byOne) read(c io.Reader, size int, pool mem.BufferPool) (*[]byte, int, error) {
	if b.started {
		b.started = false
		return fill(c, size, pool)
	}
	n, err := c.Read(b.first[:])
	if n == 0 {
		return nil, 0, err
	}
	b.started = true
	buf := pool.Get(size)
	copy(*buf, b.first[:])
	return buf, n, err
}

// fill reads once into a buffer of the pool.
func fill(c io.Reader, size int, pool mem.BufferPool) (*[]byte, int, error) {
	buf := pool.Get(size)
	n, err := c.Read(*buf)
	if n == 0 {
		pool.Put(buf)
		return nil, 0, err
	}
	return buf, n, err
}

// waiter reads a socket when the runtime's poller says that it is readable.
type waiter struct {
	raw syscall.RawConn
	// try is attempt, bound once: a method value made at each read would be an allocation each.
	try func(fd uintptr) bool

	size int
	pool mem.BufferPool
	buf  *[]byte
	n    int
	err  error
}

func (w *waiter) read(size int, pool mem.BufferPool) (*[]byte, int, error) {
	if w.try == nil {
		w.try = w.attempt
	}
	w.size, w.pool = size, pool
	err := w.raw.Read(w.try)
	buf, n := w.buf, w.n
	if err == nil {
		err = w.err
	}
	w.pool, w.buf, w.n, w.err = nil, nil, 0, nil
	return buf, n, err
}

// attempt reads without blocking. It answers false, and holds no buffer, as long as nothing is there.
func (w *waiter) attempt(fd uintptr) bool {
	buf := w.pool.Get(w.size)
	n, err := readNow(fd, *buf)
	if n > 0 {
		w.buf, w.n = buf, n
		return true
	}
	w.pool.Put(buf)
	switch {
	case errors.Is(err, errWouldBlock):
		return false
	case err == nil:
		err = io.EOF
	}
	w.err = err
	return true
}
