package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

// Session is one supervisor's connection.
type Session struct {
	// ID is unique to this connection.
	ID string

	hello    Hello
	registry *Registry
	send     func(Message) error
	stop     func()
	seen     atomic.Int64
	// beaten is when the last heartbeat went out; the registry's beat alone touches it.
	beaten int64
	// writers is the goroutine that sends, if there is something to send.
	writers sync.WaitGroup

	mu       sync.Mutex
	queue    []Message
	writing  bool
	channels map[string]*Channel
	ended    bool
	reason   string
	done     chan struct{}
	attached map[any]any
}

// SandboxID is the sandbox that the session serves.
func (s *Session) SandboxID() string { return s.hello.SandboxID }

// Can tells whether the supervisor announced a capability.
func (s *Session) Can(capability string) bool {
	return slices.Contains(s.hello.Capabilities, capability)
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Reason tells why the session ended; empty while it lives.
func (s *Session) Reason() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason
}

// Seen records that the supervisor sent something.
func (s *Session) Seen() { s.seen.Store(now().UnixNano()) }

// enqueue has a message sent, if the session lives. The queue needs no bound of its own: what may wait for a claim is
// bounded, and the other messages are left out where something waits already.
func (s *Session) enqueue(m Message) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || m.Open == nil && len(s.queue) > 0 {
		return false
	}
	s.queue = append(s.queue, m)
	if !s.writing {
		s.writing = true
		s.writers.Add(1)
		go s.write()
	}
	return true
}

// write sends what is queued. It lives only as long as there is something to send: a session at rest costs no
// goroutine beyond the one that receives.
func (s *Session) write() {
	defer s.writers.Done()
	for {
		s.mu.Lock()
		if len(s.queue) == 0 || s.ended {
			s.queue, s.writing = nil, false
			s.mu.Unlock()
			return
		}
		m := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		if err := s.send(m); err != nil {
			s.end(reasonLost, SessionLost)
		}
	}
}

// beat sends a heartbeat when one is due, and ends the session of a supervisor that has been silent too long.
func (s *Session) beat(at time.Time) {
	if at.UnixNano()-s.beaten < int64(HeartbeatInterval) {
		return
	}
	s.beaten = at.UnixNano()
	if at.Sub(time.Unix(0, s.seen.Load())) > SilenceLimit {
		s.end("no sign of life from the supervisor for "+SilenceLimit.String(), SessionSilent)
		return
	}
	s.enqueue(Message{Heartbeat: true})
}

// Wait returns when nothing is being sent any more on a session that has ended.
func (s *Session) Wait() { s.writers.Wait() }

// End ends the session and every relay on it because its stream is over. The first reason wins.
func (s *Session) End(reason string) {
	why := SessionClosed
	if reason == reasonLost {
		why = SessionLost
	}
	s.end(reason, why)
}

func (s *Session) end(reason string, why SessionEnd) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.reason = true, reason
	channels := make([]*Channel, 0, len(s.channels))
	for _, c := range s.channels {
		channels = append(channels, c)
	}
	s.attached = nil
	close(s.done)
	s.mu.Unlock()
	s.stop()
	for _, c := range channels {
		c.end(disconnected(reason))
	}
	s.registry.disconnect(s, reason, why)
}

// TargetFailed handles the supervisor's word that a relay's target cannot be reached.
func (s *Session) TargetFailed(channelID, text string) {
	s.registry.pending.fail(s, channelID, text)
}

// Attach returns the value that belongs to this session under key, making it once; it is how a mechanism on top
// of relays keeps one connection a session. build must not block: it runs under the session's lock.
func (s *Session) Attach(key any, build func() any) any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := s.attached[key]; ok {
		return v
	}
	v := build()
	if s.ended {
		return v
	}
	if s.attached == nil {
		s.attached = map[any]any{}
	}
	s.attached[key] = v
	return v
}

// Open opens a relay over this very session. See Registry.Open.
func (s *Session) Open(ctx context.Context, target Target) (*Channel, error) {
	if s.registry.trace != nil {
		if end := s.registry.trace(ctx, s.hello.SandboxID); end != nil {
			c, err := s.open(ctx, target)
			end(err)
			return c, err
		}
	}
	return s.open(ctx, target)
}

func (s *Session) open(ctx context.Context, target Target) (*Channel, error) {
	c := &Channel{
		ID: newChannelID(), SandboxID: s.hello.SandboxID, session: s,
		claimed: make(chan struct{}), done: make(chan struct{}),
		carried: &s.registry.counters.carried[s.registry.shardIndex(s.hello.SandboxID)],
	}
	if err := s.add(c); err != nil {
		return nil, err
	}
	if err := s.registry.pending.add(ctx, c); err != nil {
		c.end(err)
		return nil, err
	}
	timer := time.NewTimer(ClaimTimeout)
	defer timer.Stop()
	if err := s.offer(ctx, c, target, timer.C); err != nil {
		s.registry.pending.drop(c)
		c.end(err)
		return nil, err
	}
	return c, nil
}

func (s *Session) add(c *Channel) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return disconnected(s.reason)
	}
	if len(s.channels) >= MaxPerSandbox {
		s.registry.counters.relaysEnded[RelayRefused].Add(1)
		return fault.New(fault.ResourceExhausted, "RELAY_SANDBOX_LIMIT", "per-sandbox relay limit reached").
			WithNext("close some of the sandbox's sessions first")
	}
	if s.channels == nil {
		s.channels = map[string]*Channel{}
	}
	s.channels[c.ID] = c
	s.registry.relays.Add(1)
	return nil
}

// offer sends the Open and waits for the claim.
func (s *Session) offer(ctx context.Context, c *Channel, target Target, timeout <-chan time.Time) error {
	if !s.enqueue(Message{Open: &Open{ChannelID: c.ID, Target: target}}) {
		return disconnected(s.Reason())
	}
	select {
	case <-c.claimed:
		return nil
	case <-c.done:
		return c.Err()
	case <-ctx.Done():
		s.withdraw(c)
		return canceled(ctx)
	case <-timeout:
		s.withdraw(c)
		return openTimedOut()
	}
}

// withdraw tells the supervisor that a relay is no longer wanted, if nothing waits to be sent already.
func (s *Session) withdraw(c *Channel) {
	s.enqueue(Message{Close: &Close{ChannelID: c.ID, Reason: "requester gone"}})
}

func (s *Session) forget(c *Channel) {
	s.mu.Lock()
	_, ok := s.channels[c.ID]
	delete(s.channels, c.ID)
	s.mu.Unlock()
	if ok && s.registry.relays.Add(-1) == 0 {
		select {
		case s.registry.quiet <- struct{}{}:
		default:
		}
	}
}

func disconnected(reason string) *fault.Error {
	return fault.New(fault.Unavailable, "SUPERVISOR_DISCONNECTED", "supervisor session disconnected").
		WithNext("the supervisor reconnects by itself (%s); retry", reason)
}

func openTimedOut() *fault.Error {
	return fault.New(fault.DeadlineExceeded, "RELAY_OPEN_TIMEOUT", "relay open timed out").
		WithNext("the supervisor did not claim the relay within %s; see the sandbox's logs", ClaimTimeout)
}

func canceled(ctx context.Context) *fault.Error {
	kind := fault.Canceled
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		kind = fault.DeadlineExceeded
	}
	return fault.Wrap(context.Cause(ctx), kind, "CALLER_GONE", "the caller ended the call")
}
