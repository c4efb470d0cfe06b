// Package pipe carries bytes between a peer outside the gateway and a relay into a sandbox, until either is done or
// something else ends the connection. Nothing is queued: who reads slowly holds back who sends. The package must not
// know who the peer is, what was asked of it, or what the bytes mean.
package pipe

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
)

// Defaults of Options.
const (
	// DefaultIdle is long: people leave a terminal open over lunch.
	DefaultIdle = time.Hour
	// DefaultHalfOpen is what one side has to finish when the other has.
	DefaultHalfOpen = 30 * time.Second
)

// ReasonIdle is the reason of the end of a connection that carried nothing for too long.
const ReasonIdle = "CONNECTION_IDLE"

var (
	errIdle = fault.New(fault.DeadlineExceeded, ReasonIdle, "the connection carried nothing for too long").
		WithNext("connect again; SSH clients stay connected with ServerAliveInterval")
	errDone = errors.New("done")
)

// Peer is the end outside. One goroutine receives while another sends.
type Peer interface {
	// Recv returns the next bytes, which are valid until the next call, or io.EOF when nothing more comes.
	Recv() ([]byte, error)
	Send(data []byte) error
	// HalfClose tells that nothing more comes from the sandbox. It returns false if the peer can be told so only by
	// closing it altogether.
	HalfClose() bool
	// Close ends the peer and wakes Recv and Send. It may be called more than once.
	Close()
}

// Options bound a connection; 0 means the default.
type Options struct {
	// Idle is how long it may carry nothing in either direction, HalfOpen how long when one of them has ended.
	Idle, HalfOpen time.Duration
}

// Outcome is what a connection came to.
type Outcome struct {
	// Up and Down are the bytes that went into the sandbox and out of it.
	Up, Down int64
	// Err is why the connection was cut; nil if both sides were done.
	Err error
}

// Run carries bytes both ways until both sides have ended, one failed, or ctx has ended, whose cause is then the
// outcome's. It closes peer and channel.
//
// A relay has no way to tell the sandbox that nothing more comes. When the peer says so, what the sandbox still sends is
// carried on, and the relay ends when the sandbox has, or has been silent for Options.HalfOpen.
func Run(ctx context.Context, peer Peer, channel *relay.Channel, o Options) Outcome {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	closed := make(chan struct{})
	context.AfterFunc(ctx, func() {
		defer close(closed)
		_ = channel.Close() // It always succeeds.
		peer.Close()        // A client that does not read keeps TLS waiting a few seconds.
	})
	p := &pipe{peer: peer, channel: channel, end: end}
	p.watch(o)
	up := make(chan struct{})
	go func() {
		defer close(up)
		p.up()
	}()
	p.down()
	<-up
	end(errDone)
	p.timer.Stop()
	<-closed
	out := Outcome{Up: p.sent.Load(), Down: p.received.Load(), Err: context.Cause(ctx)}
	if errors.Is(out.Err, errDone) {
		out.Err = nil
	}
	return out
}

type pipe struct {
	peer    Peer
	channel *relay.Channel
	end     context.CancelCauseFunc

	sent, received atomic.Int64
	began          time.Time
	// last is when bytes were carried last, limit how long there may be none, both in nanoseconds, last since began.
	last, limit atomic.Int64
	halfOpen    time.Duration
	timer       *time.Timer
}

// watch ends the pipe when it is idle. The timer looks at the clock only when it has run out, so that carrying bytes
// costs no more than noting the time.
func (p *pipe) watch(o Options) {
	if o.Idle <= 0 {
		o.Idle = DefaultIdle
	}
	if o.HalfOpen <= 0 {
		o.HalfOpen = DefaultHalfOpen
	}
	p.began, p.halfOpen = time.Now(), min(o.HalfOpen, o.Idle)
	p.limit.Store(int64(o.Idle))
	ready := make(chan struct{})
	p.timer = time.AfterFunc(o.Idle, func() {
		<-ready
		left := p.last.Load() + p.limit.Load() - int64(time.Since(p.began))
		if left <= 0 {
			p.end(errIdle)
			return
		}
		p.timer.Reset(time.Duration(left))
	})
	close(ready)
}

func (p *pipe) carried(total *atomic.Int64, n int) {
	total.Add(int64(n))
	p.last.Store(int64(time.Since(p.began)))
}

// half notes that one direction has ended.
func (p *pipe) half() {
	p.last.Store(int64(time.Since(p.began)))
	p.limit.Store(int64(p.halfOpen))
	p.timer.Reset(p.halfOpen)
}

// up carries what the peer sends.
func (p *pipe) up() {
	wire := p.channel.Conn()
	for {
		data, err := p.peer.Recv()
		if errors.Is(err, io.EOF) {
			p.half()
			return
		}
		if err == nil {
			_, err = wire.Write(data)
		}
		if err != nil {
			p.end(err)
			return
		}
		p.carried(&p.sent, len(data))
	}
}

// down carries what the sandbox sends.
func (p *pipe) down() {
	for {
		data, err := p.channel.Recv()
		if errors.Is(err, io.EOF) {
			if !p.peer.HalfClose() {
				p.end(errDone)
			}
			p.half()
			return
		}
		if err == nil {
			err = p.peer.Send(data)
		}
		if err != nil {
			p.end(err)
			return
		}
		p.carried(&p.received, len(data))
	}
}
