package compute

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"time"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Sink receives what a driver reports, one call at a time; while a call runs, the driver is not read.
type Sink interface {
	// Listed gets the driver's complete list: after every (re)connection, a moment later, and from time to time.
	// Changes that happened while the list was made may follow it as events.
	Listed(ctx context.Context, snapshots []Snapshot)
	// Changed gets a new snapshot of one sandbox.
	Changed(ctx context.Context, snapshot Snapshot)
	// Deleted tells that a sandbox's resource is gone.
	Deleted(ctx context.Context, id string)
	// Happened tells what the platform did for a sandbox.
	Happened(ctx context.Context, id string, event PlatformEvent)
}

// times are the periods of a watch.
type times struct {
	// settle is how long after opening the list is asked for again: a driver begins to watch some time after the
	// stream opened, and what changes until then is in neither the first list nor the stream.
	settle time.Duration
	// resync is the period of further lists, against a driver that loses events.
	resync time.Duration
	// first and longest bound the pause before reopening.
	first, longest time.Duration
}

var defaultTimes = times{settle: time.Second, resync: time.Minute, first: 50 * time.Millisecond, longest: 5 * time.Second}

// Watch reports to sink until ctx ends, and returns why it ended. A lost driver is waited for; the pause before
// reopening grows while nothing works and starts anew once a list has arrived.
func (c *Client) Watch(ctx context.Context, sink Sink) error {
	pause := c.first
	for {
		listed, err := c.watchOnce(ctx, sink)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if listed {
			pause = c.first
		}
		c.log.Warn("driver watch ended; opening it again", "driver", c.conn.Name(), "error", err)
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1)) //nolint:gosec // Jitter needs no secrecy.
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		pause = min(pause*2, c.longest)
	}
}

// watchOnce follows one stream to its end. It lists after opening, so that nothing that the driver did while
// nobody watched is missed. listed tells whether a list was delivered.
func (c *Client) watchOnce(ctx context.Context, sink Sink) (listed bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.rpc.WatchSandboxes(ctx, &computepb.WatchSandboxesRequest{})
	if err != nil {
		return false, err
	}
	events := make(chan *computepb.WatchSandboxesEvent)
	ended := make(chan error, 1)
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			e, err := stream.Recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case events <- e:
			case <-ctx.Done():
				ended <- ctx.Err()
				return
			}
		}
	}()
	// The goroutine ends before this function does.
	defer func() {
		cancel()
		<-received
	}()

	lists := time.NewTimer(0)
	defer lists.Stop()
	next, retry := c.settle, c.first
	for {
		select {
		case <-lists.C:
			snapshots, err := c.List(ctx)
			if err != nil {
				// The stream may be sound all the same; if the driver is gone, it ends by itself.
				c.log.Warn("driver list failed; asking again", "driver", c.conn.Name(), "error", err)
				lists.Reset(retry)
				retry = min(retry*2, c.longest)
				continue
			}
			sink.Listed(ctx, snapshots)
			listed = true
			lists.Reset(next)
			next, retry = c.resync, c.first
		case e := <-events:
			c.deliver(ctx, sink, e)
		case err := <-ended:
			if errors.Is(err, io.EOF) {
				return listed, errors.New("driver ended the stream")
			}
			return listed, err
		}
	}
}

// deliver checks one event and hands it on; an invalid one is logged and dropped, and the next list mends it.
func (c *Client) deliver(ctx context.Context, sink Sink, e *computepb.WatchSandboxesEvent) {
	var err error
	switch p := e.GetPayload().(type) {
	case *computepb.WatchSandboxesEvent_Sandbox:
		var s Snapshot
		if s, err = fromWire(p.Sandbox.GetSandbox()); err == nil {
			sink.Changed(ctx, s)
		}
	case *computepb.WatchSandboxesEvent_Deleted:
		id := p.Deleted.GetSandboxId()
		if err = checkID(id); err == nil {
			sink.Deleted(ctx, id)
		}
	case *computepb.WatchSandboxesEvent_PlatformEvent:
		id := p.PlatformEvent.GetSandboxId()
		if err = checkID(id); err == nil && p.PlatformEvent.GetEvent() != nil {
			sink.Happened(ctx, id, platformEvent(p.PlatformEvent.GetEvent()))
		}
	default:
		// An event of a newer generation, or an empty one.
		return
	}
	if err != nil {
		c.log.Warn("driver sent an invalid event; it is ignored", "driver", c.conn.Name(), "error", err)
	}
}
