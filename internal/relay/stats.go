package relay

import (
	"context"
	"errors"
	"sync/atomic"

	"sallyport.dev/sallyport/internal/fault"
)

// SessionEnd is why a session ended, of a closed set.
type SessionEnd uint8

// The reasons why a session ends.
const (
	// SessionClosed: the supervisor closed its stream.
	SessionClosed SessionEnd = iota
	// SessionLost: the connection broke.
	SessionLost
	// SessionSilent: nothing was heard for SilenceLimit.
	SessionSilent
	// SessionSuperseded: the sandbox's supervisor connected anew.
	SessionSuperseded
	// SessionDisconnected: the gateway wanted no session any more, because the sandbox was deleted.
	SessionDisconnected
	// SessionShutdown: the gateway stops.
	SessionShutdown

	sessionEnds
)

// String is the value of a metric's label.
func (e SessionEnd) String() string {
	return [...]string{"closed", "lost", "silent", "superseded", "disconnected", "shutdown", "other"}[min(e, sessionEnds)]
}

// reasonLost is what ends a session whose connection broke, wherever that is noticed.
const reasonLost = "supervisor connection lost"

// ChannelEnd is why a relay ended, or did not come about, of a closed set.
type ChannelEnd uint8

// The reasons why a relay ends.
const (
	// RelayClosed: whoever opened it closed it.
	RelayClosed ChannelEnd = iota
	// RelayDropped: the supervisor ended it.
	RelayDropped
	// RelaySessionEnded: the supervisor's session ended.
	RelaySessionEnded
	// RelayTargetFailed: the supervisor could not reach the target.
	RelayTargetFailed
	// RelayTimedOut: the supervisor did not claim it in time.
	RelayTimedOut
	// RelayCallerGone: who asked for it left before it was open.
	RelayCallerGone
	// RelayRefused: there were too many.
	RelayRefused
	// RelayOther is every other reason.
	RelayOther

	relayEnds
)

// String is the value of a metric's label.
func (e ChannelEnd) String() string {
	return [...]string{
		"closed", "dropped", "session_ended", "target_failed", "open_timeout", "caller_gone", "refused", "other",
	}[min(e, RelayOther)]
}

func relayEndOf(err error) ChannelEnd {
	if err == nil {
		return RelayClosed
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		return RelayOther
	}
	switch f.Reason {
	case "RELAY_DROPPED":
		return RelayDropped
	case "SUPERVISOR_DISCONNECTED":
		return RelaySessionEnded
	case "RELAY_TARGET_FAILED":
		return RelayTargetFailed
	case "RELAY_OPEN_TIMEOUT":
		return RelayTimedOut
	case "CALLER_GONE":
		return RelayCallerGone
	case "RELAY_CAPACITY", "RELAY_SANDBOX_LIMIT":
		return RelayRefused
	}
	return RelayOther
}

// counters count since the registry was made.
type counters struct {
	sessionsOpened, relaysOpened atomic.Uint64
	sessionsEnded                [sessionEnds]atomic.Uint64
	relaysEnded                  [relayEnds]atomic.Uint64
	carried                      [shardCount]carried
}

// carried are the bytes of the relays of one shard. Its ends have a cache line each, since one goroutine sends while
// another receives.
type carried struct {
	sent     atomic.Uint64
	_        [120]byte
	received atomic.Uint64
	_        [120]byte
}

// Stats counts what happened since the registry was made.
type Stats struct {
	SessionsOpened uint64
	// SessionsEnded is indexed by SessionEnd, RelaysEnded by ChannelEnd.
	SessionsEnded [sessionEnds]uint64
	// RelaysOpened are those that a supervisor claimed. RelaysEnded counts those that were never opened, too.
	RelaysOpened uint64
	RelaysEnded  [relayEnds]uint64
	// Waiting are the relays that wait for their supervisor right now.
	Waiting int
	// Sent and Received are the bytes carried into sandboxes and out of them.
	Sent, Received uint64
}

// Stats returns the counts so far.
func (r *Registry) Stats() Stats {
	c := &r.counters
	s := Stats{SessionsOpened: c.sessionsOpened.Load(), RelaysOpened: c.relaysOpened.Load()}
	for i := range s.SessionsEnded {
		s.SessionsEnded[i] = c.sessionsEnded[i].Load()
	}
	for i := range s.RelaysEnded {
		s.RelaysEnded[i] = c.relaysEnded[i].Load()
	}
	for i := range c.carried {
		s.Sent += c.carried[i].sent.Load()
		s.Received += c.carried[i].received.Load()
	}
	r.pending.mu.Lock()
	s.Waiting = len(r.pending.waiting)
	r.pending.mu.Unlock()
	return s
}

// Tracer follows the opening of one relay. It returns nil for one that nobody follows, else a function that is called
// once with the outcome.
type Tracer func(ctx context.Context, sandboxID string) (end func(error))

// Trace has the opening of relays followed. Call it before the registry is used.
func (r *Registry) Trace(t Tracer) { r.trace = t }
