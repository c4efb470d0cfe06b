// Package logpush sends the supervisor's own log to the gateway. Logging never waits for the network: lines go
// into a queue of fixed size, of which the oldest are dropped, and counted, when the gateway cannot keep up.
package logpush

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	queueSize  = 1024
	batchLines = 50
	batchTime  = 500 * time.Millisecond
	// maxBatch is the most that a gateway uses of one message.
	maxBatch = 100
	// backlog is what is kept for the next stream after one broke.
	backlog    = 200
	firstDelay = time.Second
	maxDelay   = 30 * time.Second
)

// Pusher collects lines and sends them.
type Pusher struct {
	sandboxID string
	full      chan struct{}

	mu      sync.Mutex
	lines   []*openshellpb.SandboxLogLine
	head    int
	dropped int
}

// New returns a Pusher for the sandbox.
func New(sandboxID string) *Pusher {
	return &Pusher{sandboxID: sandboxID, full: make(chan struct{}, 1), lines: make([]*openshellpb.SandboxLogLine, 0, queueSize)}
}

// Dropped returns how many lines were lost and not yet reported.
func (p *Pusher) Dropped() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dropped
}

func (p *Pusher) length() int { return len(p.lines) - p.head }

// add queues one line.
func (p *Pusher) add(line *openshellpb.SandboxLogLine) {
	p.mu.Lock()
	if p.length() == queueSize {
		p.drop(1)
	}
	if len(p.lines) == cap(p.lines) && p.head > 0 {
		p.lines = p.lines[:copy(p.lines, p.lines[p.head:])]
		p.head = 0
	}
	p.lines = append(p.lines, line)
	ready := p.length() >= batchLines
	p.mu.Unlock()
	if ready {
		select {
		case p.full <- struct{}{}:
		default:
		}
	}
}

func (p *Pusher) drop(n int) {
	clear(p.lines[p.head : p.head+n])
	p.head += n
	p.dropped += n
}

// take removes up to maxBatch lines and puts a note of what was lost in front of them.
func (p *Pusher) take() []*openshellpb.SandboxLogLine {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := min(p.length(), maxBatch-1)
	if n == 0 {
		return nil
	}
	batch := make([]*openshellpb.SandboxLogLine, 0, n+1)
	if p.dropped > 0 {
		batch = append(batch, &openshellpb.SandboxLogLine{
			SandboxId: p.sandboxID, TimestampMs: time.Now().UnixMilli(), Level: "WARN", Target: target,
			Message: fmt.Sprintf("%d log lines were dropped", p.dropped), Source: "sandbox",
		})
		p.dropped = 0
	}
	batch = append(batch, p.lines[p.head:p.head+n]...)
	clear(p.lines[p.head : p.head+n])
	p.head += n
	return batch
}

// putBack keeps the newest backlog lines of a batch that could not be sent and of what came after it.
func (p *Pusher) putBack(batch []*openshellpb.SandboxLogLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := append(batch, p.lines[p.head:]...)
	if n := len(all) - backlog; n > 0 {
		all = all[n:]
		p.dropped += n
	}
	kept := make([]*openshellpb.SandboxLogLine, 0, queueSize)
	p.lines, p.head = append(kept, all...), 0
}

// Run sends lines until ctx ends, and then what is left within the time of flush. log must not lead back here.
func (p *Pusher) Run(ctx context.Context, gateway openshellpb.OpenShellClient, flush time.Duration, log *slog.Logger) error {
	// The call outlives ctx by the time of the flush.
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(flush, cancel) })
	defer stop()
	delay := firstDelay
	for {
		sent, err := p.stream(ctx, life, gateway)
		if ctx.Err() != nil {
			return nil
		}
		if sent {
			delay = firstDelay
		}
		wait := delay/2 + rand.N(delay) //nolint:gosec // Jitter is no secret.
		log.Debug("log stream broke", "error", err, "retry_in", wait)
		delay = min(2*delay, maxDelay)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// stream sends lines over one call until it fails or ctx ends.
func (p *Pusher) stream(ctx, life context.Context, gateway openshellpb.OpenShellClient) (sent bool, err error) {
	call, cancel := context.WithCancel(life)
	defer cancel()
	wire, err := gateway.PushSandboxLogs(call, grpc.WaitForReady(ctx.Err() == nil))
	if err != nil {
		return false, fmt.Errorf("open log stream: %w", err)
	}
	ended := make(chan struct{})
	var endErr error
	go func() {
		defer close(ended)
		// The gateway answers only when it gives up the stream.
		endErr = wire.RecvMsg(&openshellpb.PushSandboxLogsResponse{})
	}()
	defer func() { cancel(); <-ended }()
	ticker := time.NewTicker(batchTime)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			_, err := p.send(wire)
			if err == nil {
				err = wire.CloseSend()
			}
			if err == nil {
				<-ended
			}
			return true, err
		case <-ended:
			p.putBack(nil)
			return sent, fmt.Errorf("log stream: %w", endErr)
		case <-ticker.C:
		case <-p.full:
		}
		some, err := p.send(wire)
		if err != nil {
			return sent, err
		}
		sent = sent || some
	}
}

// send sends all that is queued.
func (p *Pusher) send(wire grpc.ClientStreamingClient[openshellpb.PushSandboxLogsRequest, openshellpb.PushSandboxLogsResponse]) (bool, error) {
	sent := false
	for {
		batch := p.take()
		if len(batch) == 0 {
			return sent, nil
		}
		if err := wire.Send(&openshellpb.PushSandboxLogsRequest{SandboxId: p.sandboxID, Logs: batch}); err != nil {
			p.putBack(batch)
			return sent, fmt.Errorf("send log lines: %w", err)
		}
		sent = true
	}
}
