package v00

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/streamstop"
)

// helloTimeout bounds the wait for the first message of a supervisor's stream.
const helloTimeout = 10 * time.Second

type supervisorHandler struct {
	sandboxes *sandbox.Service
	relays    *relay.Registry
}

type (
	supervisorStream = grpc.BidiStreamingServer[openshellpb.SupervisorMessage, openshellpb.GatewayMessage]
	relayStream      = grpc.BidiStreamingServer[openshellpb.RelayFrame, openshellpb.RelayFrame]
)

// ownSandbox checks that the caller is the supervisor of this very sandbox and that the sandbox exists. A caller
// of the shared-secret generation proved no sandbox; it is taken at its word, which is what its flag allows.
func ownSandbox(ctx context.Context, sandboxes *sandbox.Service, id string) error {
	p := principal.From(ctx)
	switch {
	case p.Kind != principal.Sandbox:
		return fault.New(fault.PermissionDenied, "SANDBOX_ONLY", "supervisor RPCs require a sandbox principal").
			WithNext("only a sandbox's supervisor may call this")
	case id == "":
		return fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "sandbox_id is required")
	case p.SandboxID != id && p.Source != principal.SourceSharedSecret:
		return fault.New(fault.PermissionDenied, "CROSS_SANDBOX", "cross-sandbox access denied").
			WithNext("a sandbox may act for itself only")
	}
	return sandboxes.Exists(id)
}

// ConnectSupervisor holds a supervisor's session. This goroutine receives; others send as there is something to send,
// and stop the stream when the session ends, so that an idle session costs little more than its connection.
func (h supervisorHandler) ConnectSupervisor(stream supervisorStream) error {
	ctx := stream.Context()
	stop := streamstop.Of(ctx)
	if stop == nil {
		return fault.New(fault.Internal, "STREAM_NOT_STOPPABLE", "the gateway cannot hold this stream")
	}
	hello, err := awaitHello(stream, stop)
	if err != nil {
		return err
	}
	if err := ownSandbox(ctx, h.sandboxes, hello.SandboxId); err != nil {
		return err
	}
	accepted := make(chan struct{})
	session, err := h.relays.Connect(ctx, relay.Hello{
		SandboxID: hello.SandboxId, InstanceID: hello.InstanceId, Capabilities: capabilities(ctx),
		Takeover: principal.From(ctx).Source != principal.SourceSharedSecret,
	}, func(m relay.Message) error {
		// Nothing goes out before the session is accepted.
		<-accepted
		return stream.Send(messageToWire(m))
	}, func() { stop(errSessionEnded) })
	if err != nil {
		return err
	}
	err = stream.Send(&openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_SessionAccepted{
		SessionAccepted: &openshellpb.SessionAccepted{
			SessionId: session.ID, HeartbeatIntervalSecs: uint32(relay.HeartbeatInterval / time.Second),
		},
	}})
	close(accepted)
	if err == nil {
		err = receive(stream, session)
	}
	session.End("supervisor stream ended")
	session.Wait()
	if errors.Is(context.Cause(ctx), errSessionEnded) {
		return fault.New(fault.Unavailable, "SESSION_ENDED", "session ended: %s", session.Reason()).WithNext("connect again")
	}
	return err
}

// errSessionEnded and errNoHello are why the gateway stopped a supervisor's stream.
var (
	errSessionEnded = errors.New("session ended")
	errNoHello      = errors.New("no hello")
)

// awaitHello receives the first message.
func awaitHello(stream supervisorStream, stop context.CancelCauseFunc) (*openshellpb.SupervisorHello, error) {
	timer := time.AfterFunc(helloTimeout, func() { stop(errNoHello) })
	defer timer.Stop()
	first, err := stream.Recv()
	switch {
	case err == nil && first.GetHello() != nil:
		return first.GetHello(), nil
	case err == nil:
		return nil, fault.New(fault.InvalidArgument, "HELLO_EXPECTED", "expected SupervisorHello")
	case errors.Is(err, io.EOF):
		return nil, fault.New(fault.InvalidArgument, "HELLO_EXPECTED", "stream closed before hello")
	case errors.Is(context.Cause(stream.Context()), errNoHello):
		return nil, fault.New(fault.DeadlineExceeded, "HELLO_TIMEOUT", "no hello within %s", helloTimeout)
	}
	return nil, err
}

// receive hands a supervisor's messages to its session until either ends.
func receive(stream supervisorStream, session *relay.Session) error {
	for {
		m, err := stream.Recv()
		switch {
		case err == nil:
			handleSupervisor(session, m)
			continue
		case errors.Is(err, io.EOF):
			session.End("supervisor closed its stream")
			return nil
		}
		session.End("supervisor connection lost")
		return err
	}
}

// handleSupervisor takes one message of a live session; a second hello and RelayClose carry no news.
func handleSupervisor(session *relay.Session, m *openshellpb.SupervisorMessage) {
	session.Seen()
	if r := m.GetRelayOpenResult(); r != nil && !r.Success {
		session.TargetFailed(r.ChannelId, r.Error)
	}
}

// capabilities reads what a supervisor announced beyond the protocol. It is a property of the peer's program, not of
// its identity, so it is no business of the door's.
func capabilities(ctx context.Context) []string {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get(execchannel.MetadataKey)
	if len(values) == 0 || len(values[0]) > 256 {
		return nil
	}
	return strings.Split(values[0], ",")
}

func messageToWire(m relay.Message) *openshellpb.GatewayMessage {
	switch {
	case m.Open != nil:
		open := &openshellpb.RelayOpen{ChannelId: m.Open.ChannelID, ServiceId: m.Open.Target.ServiceID}
		if host := m.Open.Target.Host; host != "" {
			open.Target = &openshellpb.RelayOpen_Tcp{Tcp: &openshellpb.TcpRelayTarget{Host: host, Port: m.Open.Target.Port}}
		} else {
			open.Target = &openshellpb.RelayOpen_Ssh{Ssh: &openshellpb.SshRelayTarget{}}
		}
		return &openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_RelayOpen{RelayOpen: open}}
	case m.Close != nil:
		return &openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_RelayClose{
			RelayClose: &openshellpb.RelayClose{ChannelId: m.Close.ChannelID, Reason: m.Close.Reason},
		}}
	default:
		return &openshellpb.GatewayMessage{Payload: &openshellpb.GatewayMessage_Heartbeat{Heartbeat: &openshellpb.GatewayHeartbeat{}}}
	}
}

// RelayStream is the supervisor's end of one relay. The stream itself is handed to whoever opened the relay; this
// call only lasts as long as it is in use.
func (h supervisorHandler) RelayStream(stream relayStream) error {
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return fault.New(fault.InvalidArgument, "RELAY_EMPTY", "empty RelayStream")
	}
	if err != nil {
		return err
	}
	id := first.GetInit().GetChannelId()
	if id == "" {
		return fault.New(fault.InvalidArgument, "RELAY_INIT_EXPECTED", "first RelayFrame must be init with non-empty channel_id")
	}
	p := principal.From(stream.Context())
	if p.Kind != principal.Sandbox {
		return fault.New(fault.PermissionDenied, "SANDBOX_ONLY", "supervisor RPCs require a sandbox principal")
	}
	channel, err := h.relays.Claim(id, p.SandboxID, &relayWire{stream: stream})
	if err != nil {
		return err
	}
	select {
	case <-channel.Done():
		return channel.Err()
	case <-stream.Context().Done():
		channel.Abandon()
		return nil
	}
}

// relayWire is a relay's stream as the relay room sees it. Its messages are reused: the transport has encoded or
// copied them when a call returns.
type relayWire struct {
	stream relayStream
	out    openshellpb.RelayFrame
	data   openshellpb.RelayFrame_Data
}

func (w *relayWire) Send(data []byte) error {
	w.data.Data = data
	w.out.Payload = &w.data
	return w.stream.Send(&w.out)
}

func (w *relayWire) Recv() ([]byte, error) {
	for {
		frame, err := w.stream.Recv()
		if err != nil {
			return nil, err
		}
		data, ok := frame.Payload.(*openshellpb.RelayFrame_Data)
		if !ok {
			// Anything but data after init ends that direction, as in the reference.
			return nil, io.EOF
		}
		if len(data.Data) > 0 {
			return data.Data, nil
		}
	}
}

// ReportMainProcessExit takes a supervisor's word that the main process has ended, whatever its exit code.
func (h supervisorHandler) ReportMainProcessExit(ctx context.Context, req *openshellpb.ReportMainProcessExitRequest) (*openshellpb.ReportMainProcessExitResponse, error) {
	if err := ownSandbox(ctx, h.sandboxes, req.SandboxId); err != nil && !fault.Is(err, fault.NotFound) {
		return nil, err
	}
	if err := h.sandboxes.MainProcessExited(ctx, req.SandboxId, req.InstanceId, req.ExitCode); err != nil {
		return nil, err
	}
	return &openshellpb.ReportMainProcessExitResponse{}, nil
}
