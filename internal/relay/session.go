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
	out      chan Message
	seen     atomic.Int64

	mu       sync.Mutex
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

// Serve sends control messages and heartbeats through send until the session or ctx ends, and ends the session
// when the supervisor has been silent for SilenceLimit. It returns send's error if there was one.
func (s *Session) Serve(ctx context.Context, send func(Message) error) error {
	ticker := time.NewTicker(HeartbeatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case m := <-s.out:
			if err := send(m); err != nil {
				return err
			}
		case <-ticker.C:
			if now().Sub(time.Unix(0, s.seen.Load())) > SilenceLimit {
				s.End("no sign of life from the supervisor for " + SilenceLimit.String())
				return nil
			}
			if err := send(Message{Heartbeat: true}); err != nil {
				return err
			}
		}
	}
}

// End ends the session and every relay on it. The first reason wins.
func (s *Session) End(reason string) {
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
	for _, c := range channels {
		c.end(disconnected(reason))
	}
	s.registry.disconnect(s, reason)
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
	c := &Channel{
		ID: newChannelID(), SandboxID: s.hello.SandboxID, session: s,
		claimed: make(chan struct{}), done: make(chan struct{}),
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
		return fault.New(fault.ResourceExhausted, "RELAY_SANDBOX_LIMIT", "per-sandbox relay limit reached").
			WithNext("close some of the sandbox's sessions first")
	}
	s.channels[c.ID] = c
	s.registry.relays.Add(1)
	return nil
}

// offer sends the Open and waits for the claim.
func (s *Session) offer(ctx context.Context, c *Channel, target Target, timeout <-chan time.Time) error {
	select {
	case s.out <- Message{Open: &Open{ChannelID: c.ID, Target: target}}:
	case <-s.done:
		return disconnected(s.Reason())
	case <-ctx.Done():
		return canceled(ctx)
	case <-timeout:
		return openTimedOut()
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

// withdraw tells the supervisor that a relay is no longer wanted, if there is room to say so.
func (s *Session) withdraw(c *Channel) {
	select {
	case s.out <- Message{Close: &Close{ChannelID: c.ID, Reason: "requester gone"}}:
	default:
	}
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
