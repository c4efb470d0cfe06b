package relay

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/fault"
)

const shardCount = 64

// Registry finds the session of a sandbox and opens relays over it. It is safe for concurrent use; sandboxes
// are spread over shards so that no lock is shared by all sessions.
type Registry struct {
	observer Observer
	seed     maphash.Seed
	shards   [shardCount]shard
	pending  pendingTable
	sessions atomic.Int64
	relays   atomic.Int64
	// quiet receives a value when the last relay has ended.
	quiet    chan struct{}
	counters counters
	trace    Tracer
}

type shard struct {
	mu       sync.Mutex
	sessions map[string]*Session
	// waiters are closed when a session of the sandbox arrives.
	waiters map[string]chan struct{}
}

// NewRegistry returns an empty registry that reports to observer.
func NewRegistry(observer Observer) *Registry {
	r := &Registry{observer: observer, seed: maphash.MakeSeed(), quiet: make(chan struct{}, 1)}
	for i := range r.shards {
		r.shards[i].sessions = map[string]*Session{}
		r.shards[i].waiters = map[string]chan struct{}{}
	}
	r.pending.init()
	return r
}

// Sessions returns the number of connected supervisors.
func (r *Registry) Sessions() int { return int(r.sessions.Load()) }

// Relays returns the number of open relays.
func (r *Registry) Relays() int { return int(r.relays.Load()) }

// Connected tells whether the sandbox has a session right now, and its main process's instance id.
func (r *Registry) Connected(sandboxID string) (instanceID string, ok bool) {
	s := r.lookup(sandboxID)
	if s == nil {
		return "", false
	}
	return s.hello.InstanceID, true
}

func (r *Registry) shard(sandboxID string) *shard { return &r.shards[r.shardIndex(sandboxID)] }

func (r *Registry) shardIndex(sandboxID string) uint64 {
	return maphash.String(r.seed, sandboxID) % shardCount
}

func (r *Registry) lookup(sandboxID string) *Session {
	sh := r.shard(sandboxID)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.sessions[sandboxID]
}

// Connect registers a supervisor's session. A live session of the same sandbox is superseded: it ends at once
// and with it its relays. The session sends through send, one message at a time, and calls stop, once, when it ends,
// which has to end a waiting send. The caller receives, and finally calls Session.End and Session.Wait.
func (r *Registry) Connect(ctx context.Context, hello Hello, send func(Message) error, stop func()) (*Session, error) {
	if hello.SandboxID == "" {
		return nil, fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "sandbox_id is required")
	}
	s := &Session{
		ID: uuid.NewString(), hello: hello, registry: r, send: send, stop: stop, done: make(chan struct{}),
	}
	s.Seen()
	s.beaten = s.seen.Load()
	sh := r.shard(hello.SandboxID)
	sh.mu.Lock()
	old := sh.sessions[hello.SandboxID]
	if old != nil && !hello.Takeover {
		sh.mu.Unlock()
		return nil, fault.New(fault.FailedPrecondition, "SESSION_ALREADY_LIVE",
			"sandbox already has a live supervisor session").
			WithNext("a supervisor that knows only the shared secret may not replace a live session; retry when it has ended")
	}
	sh.sessions[hello.SandboxID] = s
	if w := sh.waiters[hello.SandboxID]; w != nil {
		close(w)
		delete(sh.waiters, hello.SandboxID)
	}
	sh.mu.Unlock()
	r.sessions.Add(1)
	r.counters.sessionsOpened.Add(1)
	if old != nil {
		old.end("superseded by a newer session", SessionSuperseded)
	}
	r.observer.Connected(ctx, hello.SandboxID, s.ID, hello.InstanceID)
	return s, nil
}

// disconnect forgets s unless a newer session took its place, and tells the observer in that case only.
func (r *Registry) disconnect(s *Session, reason string, why SessionEnd) {
	r.sessions.Add(-1)
	r.counters.sessionsEnded[why].Add(1)
	sh := r.shard(s.hello.SandboxID)
	sh.mu.Lock()
	current := sh.sessions[s.hello.SandboxID] == s
	if current {
		delete(sh.sessions, s.hello.SandboxID)
	}
	sh.mu.Unlock()
	if current {
		r.observer.Disconnected(context.Background(), s.hello.SandboxID, s.ID, reason)
	}
}

// Disconnect ends the sandbox's session, if there is one.
func (r *Registry) Disconnect(sandboxID, reason string) {
	if s := r.lookup(sandboxID); s != nil {
		s.end(reason, SessionDisconnected)
	}
}

// Drain waits until no relay is open, or ctx ends, then ends all sessions.
func (r *Registry) Drain(ctx context.Context, reason string) {
	for r.Relays() > 0 && ctx.Err() == nil {
		select {
		case <-r.quiet:
		case <-ctx.Done():
		}
	}
	r.Close(reason)
}

// Close ends all sessions.
func (r *Registry) Close(reason string) {
	r.each(func(s *Session) { s.end(reason, SessionShutdown) })
}

// Beat keeps the sessions' heartbeats until ctx ends: one clock for all, since a timer and a goroutine each would
// cost more than an idle session needs otherwise.
func (r *Registry) Beat(ctx context.Context) {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			at := now()
			r.each(func(s *Session) { s.beat(at) })
		}
	}
}

// each calls f with every session, outside the locks.
func (r *Registry) each(f func(*Session)) {
	var all []*Session
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		all = all[:0]
		for _, s := range sh.sessions {
			all = append(all, s)
		}
		sh.mu.Unlock()
		for _, s := range all {
			f(s)
		}
	}
}

// Session waits until the sandbox has a session or ctx ends.
func (r *Registry) Session(ctx context.Context, sandboxID string) (*Session, error) {
	sh := r.shard(sandboxID)
	for {
		sh.mu.Lock()
		if s := sh.sessions[sandboxID]; s != nil {
			sh.mu.Unlock()
			return s, nil
		}
		w := sh.waiters[sandboxID]
		if w == nil {
			w = make(chan struct{})
			sh.waiters[sandboxID] = w
		}
		sh.mu.Unlock()
		select {
		case <-w:
		case <-ctx.Done():
			r.dropWaiter(sh, sandboxID, w)
			return nil, fault.Wrap(context.Cause(ctx), fault.Unavailable, "SUPERVISOR_NOT_CONNECTED", "supervisor session not connected").
				WithNext("the sandbox's supervisor is away; see the sandbox's status and logs, then retry")
		}
	}
}

// dropWaiter forgets a waiter that nobody may be waiting on any more. Another caller on the same channel is woken
// and registers again, which is cheaper than counting.
func (r *Registry) dropWaiter(sh *shard, sandboxID string, w chan struct{}) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.waiters[sandboxID] == w {
		delete(sh.waiters, sandboxID)
		close(w)
	}
}

// Open opens a relay to target in the sandbox and waits until the supervisor claimed it. The caller closes the
// channel. ctx bounds the wait for a session and the claim, not the channel's life.
func (r *Registry) Open(ctx context.Context, sandboxID string, target Target) (*Channel, error) {
	s, err := r.Session(ctx, sandboxID)
	if err != nil {
		return nil, err
	}
	return s.Open(ctx, target)
}

// Claim hands the supervisor's wire to whoever waits for the relay. owner is the sandbox the supervisor proved
// to be, or empty where it proved nothing (the shared-secret generation, whose only binding is the unguessable
// channel id). The returned channel's Done ends the supervisor's call.
func (r *Registry) Claim(channelID, owner string, wire Wire) (*Channel, error) {
	c, err := r.pending.take(channelID, owner)
	if err != nil {
		return nil, err
	}
	if !c.accept(wire) {
		return nil, fault.New(fault.NotFound, "RELAY_UNKNOWN", "unknown or expired relay channel")
	}
	return c, nil
}

func newChannelID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// pendingTable holds the relays that wait for their claim.
type pendingTable struct {
	mu      sync.Mutex
	waiting map[string]*Channel
	perBox  map[string]int
	// freed is closed when a place becomes free; nil while nobody waits for one.
	freed chan struct{}
}

func (t *pendingTable) init() {
	t.waiting = map[string]*Channel{}
	t.perBox = map[string]int{}
}

// add takes a place for c. A burst of callers is normal while claims come in, so that one who finds no place waits
// for PlaceTimeout before it is refused; MaxPerSandbox bounds who waits.
func (t *pendingTable) add(ctx context.Context, c *Channel) error {
	freed, err := t.try(c)
	if err == nil {
		return nil
	}
	timer := time.NewTimer(PlaceTimeout)
	defer timer.Stop()
	for err != nil {
		select {
		case <-freed:
			freed, err = t.try(c)
		case <-timer.C:
			return err
		case <-c.done:
			return c.Err()
		case <-ctx.Done():
			return canceled(ctx)
		}
	}
	return nil
}

// try takes a place if there is one; otherwise it says why there is none and what is closed when one is free.
func (t *pendingTable) try(c *Channel) (<-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var full *fault.Error
	switch {
	case len(t.waiting) >= MaxPending:
		full = fault.New(fault.ResourceExhausted, "RELAY_CAPACITY", "gateway relay capacity reached").
			WithNext("retry in a moment")
	case t.perBox[c.SandboxID] >= MaxPendingPerSandbox:
		full = fault.New(fault.ResourceExhausted, "RELAY_SANDBOX_LIMIT", "per-sandbox relay limit reached").
			WithNext("retry in a moment; the sandbox's supervisor is slow to answer")
	default:
		t.waiting[c.ID] = c
		t.perBox[c.SandboxID]++
		return t.freed, nil
	}
	if t.freed == nil {
		t.freed = make(chan struct{})
	}
	return t.freed, full
}

func (t *pendingTable) take(channelID, owner string) (*Channel, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := t.waiting[channelID]
	if c == nil {
		return nil, fault.New(fault.NotFound, "RELAY_UNKNOWN", "unknown or expired relay channel")
	}
	if owner != "" && owner != c.SandboxID {
		return nil, fault.New(fault.PermissionDenied, "CROSS_SANDBOX", "cross-sandbox access denied")
	}
	t.remove(c)
	return c, nil
}

func (t *pendingTable) drop(c *Channel) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.waiting[c.ID] == c {
		t.remove(c)
	}
}

func (t *pendingTable) remove(c *Channel) {
	delete(t.waiting, c.ID)
	if t.perBox[c.SandboxID]--; t.perBox[c.SandboxID] <= 0 {
		delete(t.perBox, c.SandboxID)
	}
	if t.freed != nil {
		close(t.freed)
		t.freed = nil
	}
}

// fail ends a waiting relay because its supervisor said that the target cannot be reached. Only the session that
// owns the relay may do that.
func (t *pendingTable) fail(s *Session, channelID, text string) {
	t.mu.Lock()
	c := t.waiting[channelID]
	if c == nil || c.session != s {
		t.mu.Unlock()
		return
	}
	t.remove(c)
	t.mu.Unlock()
	c.end(fault.New(fault.Unavailable, "RELAY_TARGET_FAILED", "%s", truncate(text, 512)))
}

func truncate(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	if s == "" {
		return "relay target failed"
	}
	return s
}

// now is the clock of heartbeats: monotonic, and fake inside a synctest bubble.
func now() time.Time { return time.Now() }
