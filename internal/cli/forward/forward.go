// Package forward carries connections that are made to this machine to ports of a sandbox, through the gateway, and keeps
// which forwards there are on disk, so that other processes can list and end them. It speaks the wire contract; it knows no
// commands, and prints nothing.
package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	// maxConnections is how many connections are carried at the same time; gateways take fewer for one sandbox.
	maxConnections = 64
	// chunk is how much one message carries, in bytes.
	chunk = 32 << 10
	// answered is how long the stream of a connection stays, without a byte, whose client has closed its side after an
	// answer, and unanswered that of one that may still wait for its answer. A client that is gone and one that only has no
	// more to say look the same, and a gateway does not tell the sandbox of either.
	answered, unanswered = 500 * time.Millisecond, 30 * time.Second
	// revokeTimeout bounds giving back an SSH session, which would expire by itself.
	revokeTimeout = 2 * time.Second
)

// Target is a port inside a sandbox.
type Target struct {
	SandboxID string
	// Host is an address of the sandbox's own loopback.
	Host string
	Port uint16
}

// Forward carries connections to one target.
type Forward struct {
	Shell  openshellpb.OpenShellClient
	Target Target
	// Failed is told why a connection was not, or no longer, carried. It must not block.
	Failed func(error)

	sessions sessions
}

// Serve accepts connections, and closes the listener, until ctx ends, which is no error, or the sandbox is gone. A
// connection that fails ends alone.
func (f *Forward) Serve(ctx context.Context, listener net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var conns sync.WaitGroup
	defer func() {
		conns.Wait()
		f.sessions.revoke(context.WithoutCancel(ctx), f.Shell)
	}()
	stop := context.AfterFunc(ctx, func() { listener.Close() })
	defer stop()
	room := make(chan struct{}, maxConnections)
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			if conn != nil {
				conn.Close()
			}
			if gone, ok := errors.AsType[goneError](context.Cause(ctx)); ok {
				return gone.error
			}
			return nil
		}
		if err != nil {
			cancel(nil)
			return fmt.Errorf("accept a connection: %w", err)
		}
		select {
		case room <- struct{}{}:
		default:
			conn.Close()
			f.Failed(fmt.Errorf("there are %d connections already", maxConnections))
			continue
		}
		conns.Go(func() {
			defer func() { <-room }()
			err := f.carry(ctx, conn)
			switch {
			case err == nil, ctx.Err() != nil:
			case status.Code(err) == codes.NotFound:
				cancel(goneError{err})
			default:
				f.Failed(err)
			}
		})
	}
}

// goneError tells that there is nothing to forward to any more.
type goneError struct{ error }

// carry carries one connection to its end.
func (f *Forward) carry(ctx context.Context, conn net.Conn) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	one, err := f.sessions.take(ctx, f.Shell, f.Target.SandboxID)
	if err != nil {
		return err
	}
	err = f.connect(ctx, conn, one.token)
	f.sessions.give(one, status.Code(err) != codes.Unauthenticated)
	return err
}

// connect opens a stream to the target and passes bytes until either side has ended.
func (f *Forward) connect(ctx context.Context, conn net.Conn, token string) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := f.Shell.ForwardTcp(ctx)
	if err != nil {
		cancel()
		return err
	}
	sent := make(chan struct{})
	var closing linger
	defer func() {
		cancel()
		conn.Close()
		<-sent
		closing.end()
	}()
	init := &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Init{Init: &openshellpb.TcpForwardInit{
		SandboxId: f.Target.SandboxID, ServiceId: "forward:" + f.Target.SandboxID, AuthorizationToken: token,
		Target: &openshellpb.TcpForwardInit_Tcp{Tcp: &openshellpb.TcpRelayTarget{Host: f.Target.Host, Port: uint32(f.Target.Port)}},
	}}}
	// A stream that is over already tells why when it is received from.
	go func() {
		defer close(sent)
		if stream.Send(init) == nil {
			send(conn, stream, &closing)
			closing.begin(cancel)
		}
	}()
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) || closing.over() {
			return nil
		}
		if err != nil {
			return err
		}
		closing.received()
		if _, err := conn.Write(frame.GetData()); err != nil {
			// Who connected has gone, which is no failure.
			return nil
		}
	}
}

// linger ends a stream some time after the client has closed its side.
type linger struct {
	mu      sync.Mutex
	waiting bool // for an answer to what was sent
	done    bool
	timer   *time.Timer
}

func (l *linger) limit() time.Duration {
	if l.waiting {
		return unanswered
	}
	return answered
}

// sending notes that the client has said something.
func (l *linger) sending() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = true
}

// received notes an answer.
func (l *linger) received() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.waiting = false
	if l.timer != nil {
		l.timer.Reset(l.limit())
	}
}

// begin notes that the client has closed its side, and calls end once nothing has come for long enough.
func (l *linger) begin(end func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.timer = time.AfterFunc(l.limit(), func() {
		l.mu.Lock()
		l.done = true
		l.mu.Unlock()
		end()
	})
}

// over tells whether end was called.
func (l *linger) over() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *linger) end() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
	}
}

// send passes on what the connection brings, until either is over.
func send(conn net.Conn, stream openshellpb.OpenShell_ForwardTcpClient, l *linger) {
	// A stream that is over has no use for its end; receiving tells why.
	defer func() { _ = stream.CloseSend() }()
	buf := make([]byte, chunk)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			l.sending()
			frame := &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Data{Data: buf[:n]}}
			if stream.Send(frame) != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}
