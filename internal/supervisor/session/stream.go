package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	// writeFrame is the most that one message of a byte stream carries. Encoded, it stays within 32 KiB, for which
	// the transport has buffers; for anything larger it takes, and clears, one of 1 MiB.
	writeFrame = 32<<10 - 16
	// stallProbe is how long work may block before the peer is asked for a sign of life, and again and again.
	stallProbe = 2 * time.Second
)

// errNotData reports a message that only opens a relay where data must follow.
var errNotData = errors.New("relay frame without data after the first")

// Stream is one claimed relay, message by message. It keeps no queue: a Send that the gateway does not read and a
// Recv that nobody calls hold back the other side through the transport's flow control.
type Stream struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	wire   grpc.BidiStreamingClient[openshellpb.RelayFrame, openshellpb.RelayFrame]

	// recv makes one reader of two: an SSH handshake that failed leaves its reader behind for a moment.
	recv sync.Mutex

	mu     sync.Mutex
	closed bool

	guard sync.Mutex
	timer *time.Timer
	busy  bool
	probe []byte
}

// Send passes one message to the gateway; data may be reused afterwards.
func (s *Stream) Send(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	err := s.wire.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: data}})
	if err != nil {
		return fmt.Errorf("send relay frame: %w", err)
	}
	return nil
}

// Recv returns the gateway's next message that is not empty, io.EOF when it has closed the relay.
func (s *Stream) Recv() ([]byte, error) {
	s.recv.Lock()
	defer s.recv.Unlock()
	for {
		frame, err := s.wire.Recv()
		if errors.Is(err, io.EOF) {
			return nil, io.EOF
		}
		if err != nil {
			return nil, fmt.Errorf("receive relay frame: %w", err)
		}
		if _, ok := frame.GetPayload().(*openshellpb.RelayFrame_Data); !ok {
			s.cancel(errNotData)
			return nil, errNotData
		}
		if data := frame.GetData(); len(data) > 0 {
			return data, nil
		}
	}
}

// CloseSend closes our side. The gateway can still send.
func (s *Stream) CloseSend() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if err := s.wire.CloseSend(); err != nil {
		return fmt.Errorf("close relay: %w", err)
	}
	return nil
}

// Guard runs work, which blocks while a local peer does not read. As nobody receives from the relay then, its end
// would go unseen: so while work blocks the gateway gets probe from time to time, and when that fails the relay's
// context ends. Only one goroutine may use it.
func (s *Stream) Guard(probe []byte, work func() error) error {
	s.guard.Lock()
	s.busy, s.probe = true, probe
	if s.timer == nil {
		s.timer = time.AfterFunc(stallProbe, s.ask)
	} else {
		s.timer.Reset(stallProbe)
	}
	s.guard.Unlock()
	err := work()
	s.guard.Lock()
	s.busy = false
	s.timer.Stop()
	s.guard.Unlock()
	return err
}

func (s *Stream) ask() {
	s.guard.Lock()
	busy, probe := s.busy, s.probe
	s.guard.Unlock()
	if !busy {
		return
	}
	if err := s.Send(probe); err != nil {
		s.cancel(err)
		return
	}
	s.guard.Lock()
	defer s.guard.Unlock()
	if s.busy {
		s.timer.Reset(stallProbe)
	}
}

// Conn returns the relay as a byte stream. Its Read and Write may run at the same time, but each only once.
func (s *Stream) Conn() net.Conn { return &conn{s: s} }

// conn is a relay as a net.Conn for the SSH server, so that no pipe and no copy lie between the two.
type conn struct {
	s    *Stream
	rest []byte
}

func (c *conn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		data, err := c.s.Recv()
		if err != nil {
			return 0, err
		}
		c.rest = data
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *conn) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		chunk := p[sent:min(len(p), sent+writeFrame)]
		if err := c.s.Send(chunk); err != nil {
			return sent, err
		}
		sent += len(chunk)
	}
	return sent, nil
}

// Close closes our side; the relay itself ends when the gateway has seen that.
func (c *conn) Close() error                     { return c.s.CloseSend() }
func (c *conn) LocalAddr() net.Addr              { return addr("sandbox") }
func (c *conn) RemoteAddr() net.Addr             { return addr("gateway") }
func (c *conn) SetDeadline(time.Time) error      { return nil }
func (c *conn) SetReadDeadline(time.Time) error  { return nil }
func (c *conn) SetWriteDeadline(time.Time) error { return nil }

// addr names an end of a relay where net.Conn wants an address.
type addr string

func (addr) Network() string  { return "relay" }
func (a addr) String() string { return string(a) }
