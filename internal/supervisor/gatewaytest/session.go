package gatewaytest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// Session is one connected supervisor.
type Session struct {
	Hello *openshellpb.SupervisorHello
	// Metadata is what came with the call.
	Metadata metadata.MD
	mu       sync.Mutex
	stream   grpc.BidiStreamingServer[openshellpb.SupervisorMessage, openshellpb.GatewayMessage]
	gateway  *Gateway
	end      chan error
}

// Send sends one message on the session.
func (s *Session) Send(m *openshellpb.GatewayMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.Send(m)
}

// End ends the session with an error.
func (s *Session) End(err error) { s.end <- err }

// Session waits for the next supervisor to connect.
func (g *Gateway) Session(tb testing.TB) *Session {
	tb.Helper()
	select {
	case s := <-g.sessions:
		return s
	case <-time.After(30 * time.Second):
		tb.Fatal("no supervisor connected")
		return nil
	}
}

// ConnectSupervisor serves one session.
func (g *Gateway) ConnectSupervisor(stream grpc.BidiStreamingServer[openshellpb.SupervisorMessage, openshellpb.GatewayMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	md, _ := metadata.FromIncomingContext(stream.Context())
	s := &Session{Hello: first.GetHello(), Metadata: md, stream: stream, gateway: g, end: make(chan error, 1)}
	g.mu.Lock()
	heartbeat, mute, reject := g.Heartbeat, g.Mute, g.Reject
	g.mu.Unlock()
	if reject != "" {
		return s.Send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_SessionRejected{
			SessionRejected: &openshellpb.SessionRejected{Reason: reject},
		}})
	}
	if err := s.Send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_SessionAccepted{
		SessionAccepted: &openshellpb.SessionAccepted{SessionId: "session", HeartbeatIntervalSecs: heartbeat},
	}}); err != nil {
		return err
	}
	g.sessions <- s
	received := make(chan error, 1)
	go func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				received <- err
				return
			}
			g.count(m)
		}
	}()
	beat := time.NewTicker(time.Second)
	defer beat.Stop()
	for {
		select {
		case err := <-received:
			return err
		case err := <-s.end:
			return err
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-beat.C:
			if mute {
				continue
			}
			if err := s.Send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_Heartbeat{Heartbeat: &openshellpb.GatewayHeartbeat{}}}); err != nil {
				return err
			}
		}
	}
}

// count notes a supervisor's message, and fails the relay that it could not connect.
func (g *Gateway) count(m *openshellpb.SupervisorMessage) {
	g.mu.Lock()
	if m.GetHeartbeat() != nil {
		g.calls["heartbeat"]++
	}
	g.mu.Unlock()
	if r := m.GetRelayOpenResult(); r != nil && !r.GetSuccess() {
		if w := g.claim(r.GetChannelId()); w != nil {
			w <- claim{err: errors.New(r.GetError())}
		}
	}
}

// claim takes the waiter of a relay; nil if there is none.
func (g *Gateway) claim(id string) chan claim {
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.claims[id]
	delete(g.claims, id)
	return w
}

type claim struct {
	relay *Relay
	err   error
}

// Relay is one claimed relay from the gateway's side.
type Relay struct {
	ID     string
	stream grpc.BidiStreamingServer[openshellpb.RelayFrame, openshellpb.RelayFrame]
	done   chan error
	once   sync.Once
	rest   []byte
}

// Open opens a relay over the session and waits for its claim.
func (s *Session) Open(o *openshellpb.RelayOpen) (*Relay, error) {
	g := s.gateway
	g.mu.Lock()
	g.opened++
	o.ChannelId = "channel-" + strconv.Itoa(g.opened)
	wait := make(chan claim, 1)
	g.claims[o.GetChannelId()] = wait
	g.mu.Unlock()
	if err := s.Send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_RelayOpen{RelayOpen: o}}); err != nil {
		return nil, err
	}
	select {
	case c := <-wait:
		return c.relay, c.err
	case <-time.After(30 * time.Second):
		return nil, fmt.Errorf("relay %s not claimed", o.GetChannelId())
	}
}

// RelayStream hands the stream to whoever opened the relay.
func (g *Gateway) RelayStream(stream grpc.BidiStreamingServer[openshellpb.RelayFrame, openshellpb.RelayFrame]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	id := first.GetInit().GetChannelId()
	w := g.claim(id)
	if w == nil {
		return status.Error(codes.NotFound, "unknown or expired relay channel")
	}
	r := &Relay{ID: id, stream: stream, done: make(chan error, 1)}
	w <- claim{relay: r}
	select {
	case err := <-r.done:
		return err
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// Send sends one message, Recv returns the next one and io.EOF after the supervisor's half close.
func (r *Relay) Send(data []byte) error {
	return r.stream.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: data}})
}

// Recv returns the supervisor's next message.
func (r *Relay) Recv() ([]byte, error) {
	f, err := r.stream.Recv()
	if err != nil {
		return nil, err
	}
	return f.GetData(), nil
}

// Context ends with the supervisor's call.
func (r *Relay) Context() context.Context { return r.stream.Context() }

// Close ends the relay.
func (r *Relay) Close() error {
	r.once.Do(func() { r.done <- nil })
	return nil
}

func (r *Relay) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		data, err := r.Recv()
		if err != nil {
			return 0, err
		}
		r.rest = data
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *Relay) Write(p []byte) (int, error) {
	sent := 0
	for sent < len(p) {
		chunk := p[sent:min(len(p), sent+16<<10)]
		if err := r.Send(chunk); err != nil {
			return sent, err
		}
		sent += len(chunk)
	}
	return sent, nil
}

// LocalAddr names our side. It and the methods below make a Relay a net.Conn.
func (r *Relay) LocalAddr() net.Addr { return &net.UnixAddr{Name: "gateway", Net: "relay"} }

// RemoteAddr names the other side.
func (r *Relay) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "sandbox", Net: "relay"} }

// SetDeadline does nothing.
func (r *Relay) SetDeadline(time.Time) error { return nil }

// SetReadDeadline does nothing.
func (r *Relay) SetReadDeadline(time.Time) error { return nil }

// SetWriteDeadline does nothing.
func (r *Relay) SetWriteDeadline(time.Time) error { return nil }
