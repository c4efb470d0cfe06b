package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/execchannel"
)

// dialTimeout bounds the connection to a TCP target.
const dialTimeout = 5 * time.Second

// lingerTime is what a target has to finish after the gateway has closed the relay.
const lingerTime = 10 * time.Second

// errWithdrawn ends a relay that nobody waits for any more.
var errWithdrawn = errors.New("the gateway withdrew the relay")

// relays knows the open relays by their channel.
type relays struct {
	mu    sync.Mutex
	open  map[string]context.CancelCauseFunc
	group sync.WaitGroup
}

func (r *relays) init() { r.open = map[string]context.CancelCauseFunc{} }

// add enters a relay; false if there are too many or the channel is open already.
func (r *relays) add(id string, cancel context.CancelCauseFunc) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.open) >= MaxRelays || r.open[id] != nil {
		return false
	}
	r.open[id] = cancel
	return true
}

func (r *relays) remove(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, id)
}

func (r *relays) end(id string) {
	r.mu.Lock()
	cancel := r.open[id]
	r.mu.Unlock()
	if cancel != nil {
		cancel(errWithdrawn)
	}
}

func (r *relays) wait() { r.group.Wait() }

// open starts a relay in a goroutine of its own.
func (l *link) open(parent context.Context, o *openshellpb.RelayOpen) {
	c := l.client
	id := o.GetChannelId()
	ctx, cancel := context.WithCancelCause(parent)
	if id == "" || !c.relays.add(id, cancel) {
		cancel(nil)
		l.result(id, errors.New("supervisor relay capacity reached"))
		return
	}
	c.relays.group.Go(func() {
		defer c.relays.remove(id)
		defer cancel(nil)
		if err := l.serve(ctx, cancel, o); err != nil && ctx.Err() == nil {
			c.o.Log.Debug("relay ended", "channel", id, "error", err)
		}
	})
}

// result tells the gateway whether the target can be reached. A session that is gone needs no answer: its end has
// failed the relay.
func (l *link) result(id string, cause error) {
	r := &openshellpb.RelayOpenResult{ChannelId: id, Success: cause == nil}
	if cause != nil {
		r.Error = cause.Error()
	}
	_ = l.send(&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_RelayOpenResult{RelayOpenResult: r}})
}

// serve connects a relay to its target. The target comes first: once the relay is claimed, a failure could only be
// shown as an abrupt end.
func (l *link) serve(ctx context.Context, cancel context.CancelCauseFunc, o *openshellpb.RelayOpen) error {
	c := l.client
	switch target := o.GetTarget().(type) {
	case *openshellpb.RelayOpen_Tcp:
		conn, err := dial(ctx, target.Tcp)
		l.result(o.GetChannelId(), err)
		if err != nil {
			return err
		}
		defer conn.Close()
		s, err := c.claim(ctx, cancel, o.GetChannelId())
		if err != nil {
			return err
		}
		return bridge(ctx, s, conn)
	default:
		s, err := c.claim(ctx, cancel, o.GetChannelId())
		if err != nil {
			return err
		}
		if o.GetServiceId() == execchannel.ServiceID {
			return c.o.Exec.Serve(ctx, s)
		}
		err = c.o.SSH.ServeConn(ctx, s.Conn())
		return errors.Join(err, finish(s))
	}
}

// claim opens the relay's own call and names the channel.
func (c *Client) claim(ctx context.Context, cancel context.CancelCauseFunc, id string) (*Stream, error) {
	wire, err := c.o.Gateway.RelayStream(ctx)
	if err != nil {
		return nil, fmt.Errorf("claim relay: %w", err)
	}
	err = wire.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{
		Init: &openshellpb.RelayInit{ChannelId: id},
	}})
	if err != nil {
		return nil, fmt.Errorf("claim relay: %w", err)
	}
	return &Stream{ctx: ctx, cancel: cancel, wire: wire}, nil
}

// finish closes our side and waits until the gateway has closed the relay: ending the call earlier could take away
// what the gateway has not read yet.
func finish(s *Stream) error {
	if err := s.CloseSend(); err != nil {
		return err
	}
	for {
		if _, gone := s.Recv(); gone != nil {
			return nil //nolint:nilerr // Any end will do.
		}
	}
}

// dial connects to a target inside the sandbox. Only loopback is allowed: a relay is a door into the sandbox, not
// a way through it to elsewhere.
func dial(ctx context.Context, t *openshellpb.TcpRelayTarget) (net.Conn, error) {
	address, err := LoopbackAddress(t.GetHost(), t.GetPort())
	if err != nil {
		return nil, err
	}
	d := net.Dialer{Timeout: dialTimeout}
	conn, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connect to target: %w", err)
	}
	return conn, nil
}

// LoopbackAddress returns the address to dial for a target, or why it is refused. An empty host means loopback.
func LoopbackAddress(host string, port uint32) (string, error) {
	if port < 1 || port > 65535 {
		return "", fmt.Errorf("target port must be in 1..=65535, not %d", port)
	}
	host = strings.Trim(host, "[]")
	if host == "" || strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return "", fmt.Errorf("target host %.64q is not loopback", host)
	}
	return net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)), nil
}

// bridge copies both ways, passes on each end as soon as it is there, and returns when both have ended.
func bridge(ctx context.Context, s *Stream, local net.Conn) error {
	stop := context.AfterFunc(ctx, func() { local.Close() })
	defer stop()
	var up sync.WaitGroup
	var upErr error
	var gone atomic.Bool
	up.Go(func() {
		upErr = copyUp(s, local, &gone)
		if upErr != nil {
			s.cancel(upErr)
		}
	})
	err := copyDown(s, local, &gone)
	up.Wait()
	return errors.Join(err, upErr)
}

// uploads are the buffers of copyUp.
var uploads sync.Pool

func takeUpload() *[]byte {
	if b, ok := uploads.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, writeFrame)
	return &b
}

// copyUp ends with the target's side. Once the gateway has gone, what the target still says is read and dropped,
// so that it can finish in peace.
func copyUp(s *Stream, local net.Conn, gone *atomic.Bool) error {
	buf := takeUpload()
	defer uploads.Put(buf)
	for {
		n, err := local.Read(*buf)
		if n > 0 && !gone.Load() {
			if err := s.Send((*buf)[:n]); err != nil && !gone.Load() {
				return err
			}
		}
		if errors.Is(err, io.EOF) || err != nil && gone.Load() {
			return s.CloseSend()
		}
		if err != nil {
			return fmt.Errorf("read from target: %w", err)
		}
	}
}

// copyDown ends with the gateway's side, which in gRPC is the end of the whole call. The target sees a half close
// and has lingerTime to finish.
func copyDown(s *Stream, local net.Conn, gone *atomic.Bool) error {
	for {
		data, err := s.Recv()
		if err != nil {
			gone.Store(true)
			half, ok := local.(interface{ CloseWrite() error })
			if !ok || !errors.Is(err, io.EOF) || half.CloseWrite() != nil {
				local.Close()
			}
			local.SetReadDeadline(time.Now().Add(lingerTime))
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		err = s.Guard(nil, func() error { _, err := local.Write(data); return err })
		if err != nil {
			s.cancel(err)
			return fmt.Errorf("write to target: %w", err)
		}
	}
}
