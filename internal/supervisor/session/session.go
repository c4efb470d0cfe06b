// Package session keeps the supervisor's connection to its gateway: one ConnectSupervisor call at a time, begun
// again whenever it ends, and the relays that the gateway opens over it. It decides what a relay may be connected
// to; what an exec channel or an SSH connection is, its two handlers know.
package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/supervisor/execserver"
)

const (
	// MaxRelays bounds the relays that are open at the same time.
	MaxRelays = 256
	// acceptTimeout bounds the wait for a gateway that is connected to accept the session.
	acceptTimeout = 10 * time.Second
	// minHeartbeat is the shortest interval a gateway can ask for; defaultHeartbeat is for one that asks for none.
	minHeartbeat     = 5 * time.Second
	defaultHeartbeat = 15 * time.Second
	// missedHeartbeats is how many intervals the gateway may be silent.
	missedHeartbeats = 3
	firstDelay       = 200 * time.Millisecond
	maxDelay         = 30 * time.Second
	// steadySession is how long a session has to last to count as success after long trouble.
	steadySession = 5 * time.Second
)

// Options is what a Client needs.
type Options struct {
	SandboxID string
	// InstanceID names this supervisor's main process, new for each start.
	InstanceID string
	// Gateway opens the calls.
	Gateway openshellpb.OpenShellClient
	// Exec serves exec channels.
	Exec interface {
		Serve(ctx context.Context, ch execserver.Channel) error
	}
	// SSH serves one SSH connection and returns when it has ended.
	SSH interface {
		ServeConn(ctx context.Context, conn net.Conn) error
	}
	// Unauthenticated is called when the gateway refused our credential, to get a fresh one; may be nil.
	Unauthenticated func(ctx context.Context, cause error)
	Log             *slog.Logger
}

// Client keeps the session.
type Client struct {
	o      Options
	relays relays
}

// New returns a client; Run makes the session.
func New(o Options) *Client {
	c := &Client{o: o}
	c.relays.init()
	return c
}

// Run keeps a session until ctx ends, then waits for the relays to end.
func (c *Client) Run(ctx context.Context) error {
	delay := firstDelay
	for ctx.Err() == nil {
		began := time.Now()
		accepted, reason := c.once(ctx)
		if ctx.Err() != nil {
			break
		}
		if accepted && time.Since(began) >= min(delay, steadySession) {
			delay = firstDelay
		}
		if status.Code(reason) == codes.Unauthenticated && c.o.Unauthenticated != nil {
			c.o.Unauthenticated(ctx, reason)
		}
		wait := jitter(delay)
		c.o.Log.Warn("gateway session ended; reconnecting", "error", reason, "in", wait.Round(time.Millisecond))
		delay = min(2*delay, maxDelay)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
	c.relays.wait()
	return nil //nolint:nilerr // Only ctx ends the loop; the reason of the last session is of no use then.
}

// jitter spreads d over half to one and a half of it, so that a gateway's restart is not followed by a stampede.
func jitter(d time.Duration) time.Duration {
	return d/2 + rand.N(d) //nolint:gosec // Jitter is no secret.
}

type control = grpc.BidiStreamingClient[openshellpb.SupervisorMessage, openshellpb.GatewayMessage]

// link is one session. Several goroutines send on it.
type link struct {
	client *Client
	mu     sync.Mutex
	stream control
	// end ends the session.
	end context.CancelCauseFunc
}

func (l *link) send(m *openshellpb.SupervisorMessage) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.stream.Send(m); err != nil {
		return fmt.Errorf("send to gateway: %w", err)
	}
	return nil
}

var (
	errSilent    = errors.New("no sign of life from the gateway")
	errNotTaken  = errors.New("the gateway did not accept the session in time")
	errFirstWord = errors.New("the gateway's first message does not accept the session")
)

// once runs one session to its end.
func (c *Client) once(parent context.Context) (accepted bool, err error) {
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	out := metadata.AppendToOutgoingContext(ctx, execchannel.MetadataKey, execchannel.Capability)
	// Waits through an outage; the connection has a backoff of its own.
	stream, err := c.o.Gateway.ConnectSupervisor(out, grpc.WaitForReady(true))
	if err != nil {
		return false, fmt.Errorf("connect: %w", err)
	}
	l := &link{client: c, stream: stream, end: cancel}
	silence := time.AfterFunc(acceptTimeout, func() { cancel(errNotTaken) })
	defer silence.Stop()
	interval, err := l.handshake()
	if err != nil {
		return false, explain(ctx, err)
	}
	var beats sync.WaitGroup
	defer beats.Wait()
	defer cancel(nil)
	beats.Go(func() { l.beat(ctx, interval) })
	patience := missedHeartbeats * interval
	silence.Stop()
	silence = time.AfterFunc(patience, func() { cancel(errSilent) })
	defer silence.Stop()
	for {
		m, err := stream.Recv()
		if err != nil {
			return true, explain(ctx, err)
		}
		silence.Reset(patience)
		l.handle(parent, m)
	}
}

// explain prefers our own reason for the end of a session to the transport's words for it.
func explain(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return fmt.Errorf("session: %w", err)
}

func (l *link) handshake() (time.Duration, error) {
	o := l.client.o
	err := l.send(&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{
		Hello: &openshellpb.SupervisorHello{SandboxId: o.SandboxID, InstanceId: o.InstanceID},
	}})
	if err != nil {
		// The reason why the call ended comes with the answer.
		if _, reason := l.stream.Recv(); reason != nil {
			return 0, reason
		}
		return 0, err
	}
	first, err := l.stream.Recv()
	if err != nil {
		return 0, err
	}
	if r := first.GetSessionRejected(); r != nil {
		return 0, fmt.Errorf("gateway rejected the session: %.512s", r.GetReason())
	}
	a := first.GetSessionAccepted()
	if a == nil {
		return 0, errFirstWord
	}
	o.Log.Info("gateway session established", "session", a.GetSessionId())
	interval := time.Duration(a.GetHeartbeatIntervalSecs()) * time.Second
	if interval == 0 {
		interval = defaultHeartbeat
	}
	return min(max(interval, minHeartbeat), time.Hour), nil
}

func (l *link) beat(ctx context.Context, interval time.Duration) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	beat := &openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Heartbeat{
		Heartbeat: &openshellpb.SupervisorHeartbeat{},
	}}
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if err := l.send(beat); err != nil {
				l.end(err)
				return
			}
		}
	}
}

// handle acts on one message. Relays live in ctx, not in the session: they are calls of their own, and the gateway
// decides whether they outlive it.
func (l *link) handle(ctx context.Context, m *openshellpb.GatewayMessage) {
	switch p := m.GetPayload().(type) {
	case *openshellpb.GatewayMessage_RelayOpen:
		l.open(ctx, p.RelayOpen)
	case *openshellpb.GatewayMessage_RelayClose:
		l.client.relays.end(p.RelayClose.GetChannelId())
	case *openshellpb.GatewayMessage_SessionRejected:
		l.end(fmt.Errorf("gateway ended the session: %.512s", p.SessionRejected.GetReason()))
	default:
		// A heartbeat is only a sign of life, and what a newer gateway says is not for us.
	}
}
