package main

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/execchannel"
)

type relayStream = grpc.BidiStreamingClient[openshellpb.RelayFrame, openshellpb.RelayFrame]

// stub is a supervisor that runs nothing: it keeps a session on a connection of its own and answers relays by
// itself, so that the server's share of the work can be seen.
type stub struct {
	conn   *grpc.ClientConn
	cancel context.CancelFunc
	ended  chan struct{}
	// err is why the session ended, nil if it was closed; read it after ended.
	err error
}

// stubOptions say what a stub answers.
type stubOptions struct {
	sandboxID string
	// capability announces exec channels; without it the gateway falls back to SSH.
	capability bool
	relay      func(ctx context.Context, stream relayStream) error
}

// connectStub connects a stub and returns once the server has accepted its session.
func (w *world) connectStub(ctx context.Context, address string, o stubOptions) (*stub, error) {
	token, _, err := w.tokens.Mint(o.sandboxID)
	if err != nil {
		return nil, err
	}
	conn, err := w.dial(address)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(bearer(ctx, token))
	s := &stub{conn: conn, cancel: cancel, ended: make(chan struct{})}
	client := openshellpb.NewOpenShellClient(conn)
	out := ctx
	if o.capability {
		out = metadata.AppendToOutgoingContext(ctx, execchannel.MetadataKey, execchannel.Capability)
	}
	stream, err := client.ConnectSupervisor(out, grpc.WaitForReady(true))
	if err == nil {
		err = stream.Send(&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{
			Hello: &openshellpb.SupervisorHello{SandboxId: o.sandboxID, InstanceId: "bench"},
		}})
	}
	if err == nil {
		var m *openshellpb.GatewayMessage
		if m, err = stream.Recv(); err == nil && m.GetSessionAccepted() == nil {
			err = errors.New("session was not accepted")
		}
	}
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("connect a supervisor: %w", err), conn.Close())
	}
	go func() {
		defer close(s.ended)
		if err := s.serve(ctx, client, stream, o); ctx.Err() == nil {
			s.err = err
		}
	}()
	return s, nil
}

// serve answers heartbeats and relays until the session ends.
func (s *stub) serve(ctx context.Context, client openshellpb.OpenShellClient,
	stream grpc.BidiStreamingClient[openshellpb.SupervisorMessage, openshellpb.GatewayMessage], o stubOptions,
) error {
	beat := &openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Heartbeat{Heartbeat: &openshellpb.SupervisorHeartbeat{}}}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		if m.GetHeartbeat() != nil {
			if err := stream.Send(beat); err != nil {
				return err
			}
		}
		if open := m.GetRelayOpen(); open != nil && o.relay != nil {
			// A relay that fails fails the caller's command, which is where it is noticed.
			go func() { _ = answer(ctx, client, open.GetChannelId(), o.relay) }()
		}
	}
}

func answer(ctx context.Context, client openshellpb.OpenShellClient, id string, relay func(context.Context, relayStream) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := client.RelayStream(ctx)
	if err != nil {
		return err
	}
	init := &openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{Init: &openshellpb.RelayInit{ChannelId: id}}}
	if err := stream.Send(init); err != nil {
		return err
	}
	if err := relay(ctx, stream); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	// The server ends the call; before that something may still be on its way.
	for {
		if _, err := stream.Recv(); err != nil {
			return nil
		}
	}
}

// close ends the session and its connection.
func (s *stub) close() error {
	s.cancel()
	<-s.ended
	return errors.Join(s.err, s.conn.Close())
}

// outputFrame is one full frame of output of our supervisor.
const outputFrame = 64<<10 - 16

// printing answers a command with this many bytes of output and exit code 0.
func printing(total int64) func(context.Context, relayStream) error {
	frame := make([]byte, outputFrame)
	frame[0] = byte(execchannel.Stdout)
	return func(_ context.Context, stream relayStream) error {
		if _, err := stream.Recv(); err != nil {
			return err
		}
		for left := total; left > 0; {
			n := min(left, outputFrame-1)
			if err := stream.Send(dataFrame(frame[:1+n])); err != nil {
				return err
			}
			left -= n
		}
		return stream.Send(dataFrame(execchannel.EncodeExit(0)))
	}
}

func dataFrame(data []byte) *openshellpb.RelayFrame {
	return &openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: data}}
}

// printingOverSSH does the same as an SSH server. A relay may carry several commands.
func printingOverSSH(total int64) (func(context.Context, relayStream) error, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		return nil, err
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	return func(_ context.Context, stream relayStream) error {
		conn, channels, requests, err := ssh.NewServerConn(&streamConn{stream: stream}, config)
		if err != nil {
			return err
		}
		defer conn.Close()
		go ssh.DiscardRequests(requests)
		for c := range channels {
			channel, requests, err := c.Accept()
			if err != nil {
				return err
			}
			go serveSSH(channel, requests, total)
		}
		return nil
	}, nil
}

// serveSSH answers the first command of a channel. What fails here fails the caller's command too.
func serveSSH(channel ssh.Channel, requests <-chan *ssh.Request, total int64) {
	defer channel.Close()
	for r := range requests {
		if r.Type != "exec" {
			_ = r.Reply(r.Type == "env", nil)
			continue
		}
		_ = r.Reply(true, nil)
		if _, err := io.CopyN(channel, zeros{}, total); err != nil {
			return
		}
		_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Code uint32 }{0}))
		return
	}
}

// zeros is as long as one likes.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// streamConn is a relay as the byte stream that SSH wants.
type streamConn struct {
	stream relayStream
	rest   []byte
}

func (c *streamConn) Read(p []byte) (int, error) {
	for len(c.rest) == 0 {
		frame, err := c.stream.Recv()
		if err != nil {
			return 0, err
		}
		c.rest = frame.GetData()
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *streamConn) Write(p []byte) (int, error) {
	if err := c.stream.Send(dataFrame(p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *streamConn) Close() error      { return c.stream.CloseSend() }
func (*streamConn) LocalAddr() net.Addr { return &net.UnixAddr{Name: "sandbox", Net: "unix"} }

func (*streamConn) RemoteAddr() net.Addr             { return &net.UnixAddr{Name: "gateway", Net: "unix"} }
func (*streamConn) SetDeadline(time.Time) error      { return nil }
func (*streamConn) SetReadDeadline(time.Time) error  { return nil }
func (*streamConn) SetWriteDeadline(time.Time) error { return nil }
