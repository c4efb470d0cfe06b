package sshsession

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
)

// Refusals of tokens; the texts are those that clients of the newer generation match.
var (
	errUnknown = fault.New(fault.Unauthenticated, ReasonTokenUnknown, "SSH session token not found").
			WithNext("create another SSH session")
	errInvalid = fault.New(fault.Unauthenticated, ReasonTokenInvalid, "SSH session token is not valid").
			WithNext("create an SSH session for this sandbox as this user")
	errTokenExpired = fault.New(fault.Unauthenticated, ReasonTokenExpired, "SSH session token expired").
			WithNext("create another SSH session")
	errTokenRevoked = fault.New(fault.Unauthenticated, ReasonTokenRevoked, "SSH session token was revoked").
			WithNext("create another SSH session")
)

// storeFault words what the store returned about one session.
func storeFault(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return errUnknown
	}
	return fmt.Errorf("read SSH session: %w", err)
}

// Connection is one connection that was let in. It counts against the limits until Leave.
type Connection struct {
	SandboxID string
	// Session let it in; nil for a connection that its caller's own credential let in. It is shared and must not be
	// changed.
	Session *Session
	// Caller is on whose behalf the connection is open.
	Caller *principal.Principal

	ctx   context.Context
	end   context.CancelCauseFunc
	leave sync.Once
	out   func()
}

// Context ends when the connection has to, with the fault that says why as its cause: the session expired or was
// revoked, the user was revoked or may no longer know of the sandbox, or the sandbox is no more.
func (c *Connection) Context() context.Context { return c.ctx }

// Leave gives the connection's place back; the second time it does nothing.
func (c *Connection) Leave() { c.leave.Do(c.out) }

// Enter lets one connection in, or says why not. In this order: Unauthenticated for a token that is unknown, has
// expired, is of another sandbox or of a revoked user; NotFound where the sandbox is no more, or no longer the user's
// to know of; FailedPrecondition where it is not ready; ResourceExhausted above the limits. A sandbox whose supervisor
// is away for a moment counts as ready: that is worth waiting for.
//
// caller is who asks, where that is known in another way than by the token; then the token must be its own. With a nil
// caller the token's user asks. The connection ends with ctx.
func (s *Service) Enter(ctx context.Context, caller *principal.Principal, sandboxID, token string) (*Connection, error) {
	found, err := s.find(token)
	if err != nil {
		return nil, err
	}
	switch {
	case found.SandboxID != sandboxID, caller != nil && !found.owned(caller):
		return nil, errInvalid
	case found.over(s.now()):
		return nil, errTokenExpired
	}
	if err := s.admit(&found.User); err != nil {
		return nil, err
	}
	if caller == nil {
		caller = &found.User
	}
	return s.let(ctx, &Connection{SandboxID: sandboxID, Session: found, Caller: caller})
}

// EnterUser lets in a connection of the caller in ctx, who came through the door, without a session. It fails as Enter
// does. That the caller's credential expires or is revoked is the door's to see: it ends ctx, and the connection with
// it.
func (s *Service) EnterUser(ctx context.Context, sandboxID string) (*Connection, error) {
	return s.let(ctx, &Connection{SandboxID: sandboxID, Caller: principal.From(ctx)})
}

// let counts a connection in, if the sandbox and the limits allow.
func (s *Service) let(ctx context.Context, c *Connection) (*Connection, error) {
	sb, err := s.sandboxes.Lookup(principal.With(ctx, c.Caller), c.SandboxID)
	if err != nil {
		return nil, err
	}
	if sb.Phase != sandbox.PhaseReady && !sb.Waiting() {
		return nil, sb.NotReady()
	}
	c.ctx, c.end = context.WithCancelCause(ctx)
	if err := s.open.add(c); err != nil {
		c.end(nil)
		return nil, err
	}
	done := func() {}
	if c.Session != nil {
		done = s.users.Enter(unexpiring(&c.Session.User), c.end)
	}
	c.out = func() {
		done()
		s.open.remove(c)
		c.end(nil)
	}
	// What was revoked in the meantime has looked for connections before this one was there.
	if err := s.still(c); err != nil {
		c.Leave()
		return nil, err
	}
	return c, nil
}

// admit refuses a revoked user. The expiry is long ago: what a session knows of a user must not renew the streams that
// the user's real credential holds open.
func (s *Service) admit(p *principal.Principal) error {
	known := *p
	known.Expires = time.Unix(1, 0)
	return s.users.Admit(&known)
}

// unexpiring is the user without the end of its credential: a session has an expiry of its own.
func unexpiring(p *principal.Principal) *principal.Principal {
	known := *p
	known.Expires = time.Time{}
	return &known
}

// sweep ends the connections that have nothing to live on any more.
func (s *Service) sweep() {
	for _, c := range s.open.all() {
		if err := s.still(c); err != nil {
			c.end(err)
		}
	}
}

// still tells why a connection that was let in must end; nil if it need not. Failures inside are no such reason.
func (s *Service) still(c *Connection) error {
	if err := context.Cause(c.ctx); err != nil {
		return err
	}
	if c.Session != nil {
		if c.Session.over(s.now()) {
			return errTokenExpired
		}
		if _, err := s.store.Get(Kind, c.Session.ID); errors.Is(err, store.ErrNotFound) {
			return errTokenRevoked
		}
	}
	_, err := s.sandboxes.Lookup(principal.With(c.ctx, c.Caller), c.SandboxID)
	if fault.Is(err, fault.NotFound) {
		return err
	}
	return nil
}

// connections are the open ones.
type connections struct {
	mu   sync.Mutex
	open map[*Connection]struct{}
	// perToken counts by the session's id, perBox by the sandbox's.
	perToken, perBox map[string]int
}

func (o *connections) init() {
	o.open = map[*Connection]struct{}{}
	o.perToken, o.perBox = map[string]int{}, map[string]int{}
}

func (o *connections) add(c *Connection) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case c.Session != nil && o.perToken[c.Session.ID] >= MaxPerToken:
		return fault.New(fault.ResourceExhausted, ReasonTokenLimit, "SSH session connection limit reached").
			WithNext("close one of its %d connections, or create another SSH session", MaxPerToken)
	case o.perBox[c.SandboxID] >= MaxPerSandbox:
		return fault.New(fault.ResourceExhausted, ReasonSandboxLimit, "sandbox SSH connection limit reached").
			WithNext("close one of the sandbox's %d connections", MaxPerSandbox)
	}
	o.open[c] = struct{}{}
	o.perBox[c.SandboxID]++
	if c.Session != nil {
		o.perToken[c.Session.ID]++
	}
	return nil
}

func (o *connections) remove(c *Connection) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, c)
	less(o.perBox, c.SandboxID)
	if c.Session != nil {
		less(o.perToken, c.Session.ID)
	}
}

func less(counts map[string]int, key string) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// of returns how many connections a session has.
func (o *connections) of(id string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.perToken[id]
}

// all returns the open connections.
func (o *connections) all() []*Connection {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.open))
}

// end ends the connections of one session.
func (o *connections) end(id string, cause error) {
	for _, c := range o.all() {
		if c.Session != nil && c.Session.ID == id {
			c.end(cause)
		}
	}
}

// Connections returns how many connections are open, for a metric.
func (s *Service) Connections() int {
	s.open.mu.Lock()
	defer s.open.mu.Unlock()
	return len(s.open.open)
}
