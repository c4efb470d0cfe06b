package v00

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/pipe"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sshsession"
)

const (
	// forwardBudget is how long a forwarded connection waits for the sandbox's supervisor, as in the reference.
	forwardBudget = 15 * time.Second
	// initTimeout bounds the wait for the first frame.
	initTimeout = 10 * time.Second
	// forwardFrame is the most that one frame carries to the caller.
	forwardFrame = 64 << 10
)

type forwardHandler struct {
	sandboxes *sandbox.Service
	relays    *relay.Registry
	ssh       SSH
}

type forwardStream = grpc.BidiStreamingServer[openshellpb.TcpForwardFrame, openshellpb.TcpForwardFrame]

// ForwardTcp carries one connection. The first frame says where to.
//
// A stream that is stopped while it waits for a frame ends with a status that says nothing: gRPC itself answers for a
// receive that fails. So other goroutines receive and send, this one returns with the reason when the connection has to
// end, and that ends the others.
func (h forwardHandler) ForwardTcp(stream forwardStream) error {
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	peer := newForwardPeer(stream)
	defer peer.Close()
	go peer.receive()
	go peer.send()
	init, err := peer.awaitInit(ctx)
	if err != nil {
		return err
	}
	// First of all: what is not the caller's does not exist, whatever else is wrong with the request.
	if _, err := h.sandboxes.Lookup(ctx, init.SandboxId); err != nil {
		return err
	}
	target, err := forwardTarget(init)
	if err != nil {
		return err
	}
	c, err := h.enter(ctx, init)
	if err != nil {
		return err
	}
	defer c.Leave()
	channel, err := h.open(c, target)
	if err != nil {
		if cause, ok := errors.AsType[*fault.Error](context.Cause(c.Context())); ok {
			return cause
		}
		return h.sandboxes.Ended(c.SandboxID, err)
	}
	return h.sandboxes.Ended(c.SandboxID, pipe.Run(c.Context(), peer, channel, pipe.Options{}).Err)
}

// forwardTarget checks where a connection shall go. The service id is the caller's free text and chooses no protocol
// here: what the two sides of a relay agree on is not the caller's to ask for.
func forwardTarget(init *openshellpb.TcpForwardInit) (relay.Target, error) {
	switch t := init.Target.(type) {
	case *openshellpb.TcpForwardInit_Tcp:
		host := strings.Trim(t.Tcp.GetHost(), "[]")
		if host == "" || strings.EqualFold(host, "localhost") {
			host = "127.0.0.1"
		}
		if addr, err := netip.ParseAddr(host); err != nil || !addr.IsLoopback() || addr.Zone() != "" {
			return relay.Target{}, fault.New(fault.InvalidArgument, "FORWARD_HOST", "tcp target host must be loopback").
				WithNext("forward to localhost: a relay is a door into the sandbox, not a way through it")
		}
		if port := t.Tcp.GetPort(); port < 1 || port > 65535 {
			return relay.Target{}, fault.New(fault.InvalidArgument, "FORWARD_PORT", "tcp target port must be between 1 and 65535")
		}
		return relay.Target{Host: host, Port: t.Tcp.GetPort()}, nil
	case *openshellpb.TcpForwardInit_Ssh:
		return relay.Target{}, nil
	default:
		return relay.Target{}, fault.New(fault.InvalidArgument, "FORWARD_TARGET", "target is required").WithNext("set ssh or tcp")
	}
}

// enter decides whether the connection may be: the caller must be one who may know of the sandbox, and a token, where
// there is one, must be the caller's own for this sandbox.
func (h forwardHandler) enter(ctx context.Context, init *openshellpb.TcpForwardInit) (*sshsession.Connection, error) {
	sessions, err := h.ssh.sessions()
	if err != nil {
		return nil, err
	}
	if init.AuthorizationToken == "" {
		return sessions.EnterUser(ctx, init.SandboxId)
	}
	return sessions.Enter(ctx, principal.From(ctx), init.SandboxId, init.AuthorizationToken)
}

// open opens a relay to the target. What is wrong with relays is not the caller's doing.
func (h forwardHandler) open(c *sshsession.Connection, target relay.Target) (*relay.Channel, error) {
	wait, cancel := context.WithTimeout(c.Context(), forwardBudget)
	defer cancel()
	session, err := h.relays.Session(wait, c.SandboxID)
	if err != nil {
		return nil, err
	}
	channel, err := session.Open(c.Context(), target)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Kind == fault.ResourceExhausted {
		return nil, fault.Wrap(f, fault.Unavailable, f.Reason, "supervisor relay failed: %s", f.Message).WithNext("%s", f.Next)
	}
	return channel, err
}

// forwardPeer is the caller's stream.
type forwardPeer struct {
	stream forwardStream
	// frames come from receive, which closes it after err is set.
	frames chan *openshellpb.TcpForwardFrame
	err    error
	// out goes to send, whose results come back over sent.
	out    chan []byte
	sent   chan error
	closed chan struct{}
	once   sync.Once
}

var _ pipe.Peer = (*forwardPeer)(nil)

func newForwardPeer(stream forwardStream) *forwardPeer {
	return &forwardPeer{
		stream: stream, frames: make(chan *openshellpb.TcpForwardFrame), out: make(chan []byte), sent: make(chan error, 1),
		closed: make(chan struct{}),
	}
}

// receive passes the caller's frames on until the stream ends or the peer is closed.
func (p *forwardPeer) receive() {
	defer close(p.frames)
	for {
		var frame *openshellpb.TcpForwardFrame
		if frame, p.err = p.stream.Recv(); p.err != nil {
			return
		}
		select {
		case p.frames <- frame:
		case <-p.closed:
			p.err = net.ErrClosed
			return
		}
	}
}

// send sends what Send is given until the peer is closed. Its message is reused: the transport has encoded it when the
// stream's Send returns.
func (p *forwardPeer) send() {
	var frame openshellpb.TcpForwardFrame
	var data openshellpb.TcpForwardFrame_Data
	frame.Payload = &data
	for {
		select {
		case data.Data = <-p.out:
			p.sent <- p.stream.Send(&frame)
		case <-p.closed:
			return
		}
	}
}

// next returns the next frame.
func (p *forwardPeer) next() (*openshellpb.TcpForwardFrame, error) {
	select {
	case frame, ok := <-p.frames:
		if !ok {
			return nil, p.err
		}
		return frame, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

// awaitInit receives the first frame.
func (p *forwardPeer) awaitInit(ctx context.Context) (*openshellpb.TcpForwardInit, error) {
	timer := time.NewTimer(initTimeout)
	defer timer.Stop()
	select {
	case frame, ok := <-p.frames:
		if ok && frame.GetInit() != nil {
			return frame.GetInit(), nil
		}
		if ok || errors.Is(p.err, io.EOF) {
			return nil, fault.New(fault.InvalidArgument, "FORWARD_INIT_EXPECTED", "first TcpForwardFrame must be init")
		}
		return nil, p.err
	case <-timer.C:
		return nil, fault.New(fault.DeadlineExceeded, "FORWARD_INIT_TIMEOUT", "no init within %s", initTimeout)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Recv implements pipe.Peer.
func (p *forwardPeer) Recv() ([]byte, error) {
	for {
		frame, err := p.next()
		if err != nil {
			return nil, err
		}
		data, ok := frame.Payload.(*openshellpb.TcpForwardFrame_Data)
		if !ok {
			return nil, fault.New(fault.InvalidArgument, "FORWARD_DATA_EXPECTED", "frames after init must be data")
		}
		if len(data.Data) > 0 {
			return data.Data, nil
		}
	}
}

// Send implements pipe.Peer.
func (p *forwardPeer) Send(data []byte) error {
	for len(data) > 0 {
		n := min(len(data), forwardFrame)
		select {
		case p.out <- data[:n]:
		case <-p.closed:
			return net.ErrClosed
		}
		select {
		case err := <-p.sent:
			if err != nil {
				return err
			}
		case <-p.closed:
			return net.ErrClosed
		}
		data = data[n:]
	}
	return nil
}

// HalfClose implements pipe.Peer: a server ends a stream in both directions or in none.
func (p *forwardPeer) HalfClose() bool { return false }

// Close implements pipe.Peer.
func (p *forwardPeer) Close() { p.once.Do(func() { close(p.closed) }) }
