package main

import (
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/execchannel"
)

// hop passes the bytes of a relay on to the caller of ExecSandbox.
type hop struct {
	overSSH bool
	serial  atomic.Uint64
	// sessions by sandbox id, pending relays by channel id.
	sessions sync.Map
	pending  sync.Map
}

func newHop(overSSH bool) *hop { return &hop{overSSH: overSSH} }

// session is one supervisor's stream.
type session struct {
	mu     sync.Mutex
	stream grpc.ServerStream
}

func (s *session) send(m *openshellpb.GatewayMessage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream.SendMsg(m)
}

func (h *hop) connect(_ any, stream grpc.ServerStream) error {
	var hello openshellpb.SupervisorMessage
	if err := stream.RecvMsg(&hello); err != nil {
		return err
	}
	id := hello.GetHello().GetSandboxId()
	s := &session{stream: stream}
	h.sessions.Store(id, s)
	defer h.sessions.CompareAndDelete(id, s)
	accepted := &openshellpb.SessionAccepted{SessionId: id, HeartbeatIntervalSecs: 15}
	err := s.send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_SessionAccepted{SessionAccepted: accepted}})
	for err == nil {
		var m openshellpb.SupervisorMessage
		err = stream.RecvMsg(&m)
	}
	return err
}

// claim is a relay that a supervisor answered; done ends its call.
type claim struct {
	stream grpc.ServerStream
	done   chan struct{}
}

func (h *hop) relay(_ any, stream grpc.ServerStream) error {
	var first openshellpb.RelayFrame
	if err := stream.RecvMsg(&first); err != nil {
		return err
	}
	waiting, ok := h.pending.LoadAndDelete(first.GetInit().GetChannelId())
	if !ok {
		return status.Error(codes.NotFound, "unknown relay")
	}
	c := &claim{stream: stream, done: make(chan struct{})}
	waiting.(chan *claim) <- c //nolint:forcetypeassert // reason: only open stores here
	select {
	case <-c.done:
		return nil
	case <-stream.Context().Done():
		return stream.Context().Err()
	}
}

// open asks the sandbox's supervisor for a relay and waits for it.
func (h *hop) open(stream grpc.ServerStream, sandboxID, serviceID string) (*claim, error) {
	s, ok := h.sessions.Load(sandboxID)
	if !ok {
		return nil, status.Error(codes.Unavailable, "no session")
	}
	id := strconv.FormatUint(h.serial.Add(1), 10)
	waiting := make(chan *claim, 1)
	h.pending.Store(id, waiting)
	open := &openshellpb.RelayOpen{ChannelId: id, ServiceId: serviceID}
	//nolint:forcetypeassert // reason: only connect stores here
	err := s.(*session).send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_RelayOpen{RelayOpen: open}})
	if err != nil {
		return nil, err
	}
	select {
	case c := <-waiting:
		return c, nil
	case <-stream.Context().Done():
		return nil, stream.Context().Err()
	}
}

func (h *hop) exec(_ any, stream grpc.ServerStream) error {
	var request openshellpb.ExecSandboxRequest
	if err := stream.RecvMsg(&request); err != nil {
		return err
	}
	if h.overSSH {
		return h.execSSH(stream, &request)
	}
	c, err := h.open(stream, request.SandboxId, execchannel.ServiceID)
	if err != nil {
		return err
	}
	defer close(c.done)
	// One frame towards the sandbox, which our supervisor understands too.
	command, err := proto.Marshal(&sallyportpb.ExecStart{Command: request.Command})
	if err != nil {
		return err
	}
	start := &openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: execchannel.Encode(execchannel.Start, command)}}
	if err := c.stream.SendMsg(start); err != nil {
		return err
	}
	var out event
	for {
		var frame openshellpb.RelayFrame
		err := c.stream.RecvMsg(&frame)
		if errors.Is(err, io.EOF) {
			return stream.SendMsg(exited(0))
		}
		if err != nil {
			return err
		}
		// The first byte tells output from the end, which the end of the stream tells too.
		data := frame.GetData()
		if len(data) == 0 || data[0] != byte(execchannel.Stdout) {
			continue
		}
		if err := stream.SendMsg(out.with(data[1:])); err != nil {
			return err
		}
	}
}

// event is one message of output, reused.
type event struct {
	message openshellpb.ExecSandboxEvent
	payload openshellpb.ExecSandboxEvent_Stdout
	stdout  openshellpb.ExecSandboxStdout
}

func (e *event) with(data []byte) *openshellpb.ExecSandboxEvent {
	e.stdout.Data = data
	e.payload.Stdout = &e.stdout
	e.message.Payload = &e.payload
	return &e.message
}

func exited(code int32) *openshellpb.ExecSandboxEvent {
	return &openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Exit{
		Exit: &openshellpb.ExecSandboxExit{ExitCode: code},
	}}
}

// execSSH ends SSH itself, with a fresh handshake for each command.
func (h *hop) execSSH(stream grpc.ServerStream, request *openshellpb.ExecSandboxRequest) error {
	c, err := h.open(stream, request.SandboxId, "")
	if err != nil {
		return err
	}
	defer close(c.done)
	conn, channels, requests, err := ssh.NewClientConn(&relayConn{stream: c.stream}, "sandbox", &ssh.ClientConfig{
		User: "sandbox", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return err
	}
	client := ssh.NewClient(conn, channels, requests)
	defer client.Close()
	s, err := client.NewSession()
	if err != nil {
		return err
	}
	defer s.Close()
	s.Stdout = &eventWriter{stream: stream}
	if err := s.Run(request.Command[0]); err != nil {
		return err
	}
	return stream.SendMsg(exited(0))
}

type eventWriter struct {
	stream grpc.ServerStream
	out    event
}

func (w *eventWriter) Write(p []byte) (int, error) {
	if err := w.stream.SendMsg(w.out.with(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// relayConn is a relay as the byte stream that SSH wants.
type relayConn struct {
	stream grpc.ServerStream
	rest   []byte
}

func (c *relayConn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		var frame openshellpb.RelayFrame
		if err := c.stream.RecvMsg(&frame); err != nil {
			return 0, err
		}
		c.rest = frame.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *relayConn) Write(p []byte) (int, error) {
	frame := &openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: p}}
	if err := c.stream.SendMsg(frame); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (*relayConn) Close() error        { return nil }
func (*relayConn) LocalAddr() net.Addr { return &net.UnixAddr{Name: "limit", Net: "unix"} }

func (*relayConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "sandbox", Net: "unix"} }
func (*relayConn) SetDeadline(time.Time) error      { return nil }
func (*relayConn) SetReadDeadline(time.Time) error  { return nil }
func (*relayConn) SetWriteDeadline(time.Time) error { return nil }
