package sshsession

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

const (
	// sweepEvery is how late an open connection may end that has nothing to live on any more.
	sweepEvery = 2 * time.Second
	// pruneEvery is how often sessions that open nothing are removed, pruneBatch how many in one transaction.
	pruneEvery = time.Minute
	pruneBatch = 256
	// tokenBytes is the entropy of a token. Clients accept letters, digits and "._~+/=-": it is written in hexadecimal.
	tokenBytes = 32
	// stripes spread sandboxes over the locks of Create.
	stripes = 64
)

// Sandboxes finds sandboxes on behalf of the caller in a context. *sandbox.Service implements it.
type Sandboxes interface {
	// Lookup fails with NotFound for a caller who may not know of the sandbox.
	Lookup(ctx context.Context, id string) (*sandbox.Sandbox, error)
	Exists(id string) error
}

// Users knows which users are revoked. *revocation.Registry implements it.
type Users interface {
	// Admit refuses a revoked user. A credential that lives longer than the one before renews the user's streams.
	Admit(p *principal.Principal) error
	// Enter calls end when the user is revoked, until done is called.
	Enter(p *principal.Principal, end context.CancelCauseFunc) (done func())
}

// Config is what a Service is made of.
type Config struct {
	Store     *store.Store
	Sandboxes Sandboxes
	// Users may be nil: then nobody is revoked.
	Users Users
	// TTL is how long a session lives; 0 means DefaultTTL, less than 0 means that sessions never expire.
	TTL time.Duration
	// MaxPerUser is how many sessions one user may have for one sandbox; 0 means DefaultMaxPerUser.
	MaxPerUser int
	// Logger is told what no caller can be told; nil discards.
	Logger *slog.Logger
	// Now is the clock, Random the source of tokens; nil is the system's.
	Now    func() time.Time
	Random io.Reader
}

// Service is the sessions' rules. It is safe for concurrent use.
type Service struct {
	store      *store.Store
	sandboxes  Sandboxes
	users      Users
	ttl        time.Duration
	maxPerUser int
	log        *slog.Logger
	now        func() time.Time
	random     io.Reader

	// creating keeps those who count one user's sessions and add another one after the other.
	creating [stripes]sync.Mutex
	seed     maphash.Seed

	open connections
}

// New returns a Service. Run has to run for connections to end in time.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Sandboxes == nil {
		return nil, errors.New("set up SSH sessions: a store and sandboxes are needed")
	}
	s := &Service{
		store: c.Store, sandboxes: c.Sandboxes, users: c.Users, ttl: c.TTL, maxPerUser: c.MaxPerUser, log: c.Logger,
		now: c.Now, random: c.Random, seed: maphash.MakeSeed(),
	}
	if s.users == nil {
		s.users = everybody{}
	}
	if s.ttl == 0 {
		s.ttl = DefaultTTL
	}
	if s.maxPerUser <= 0 {
		s.maxPerUser = DefaultMaxPerUser
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	s.open.init()
	return s, nil
}

// everybody is Users none of whom is revoked.
type everybody struct{}

func (everybody) Admit(*principal.Principal) error { return nil }
func (everybody) Enter(*principal.Principal, context.CancelCauseFunc) func() {
	return func() {}
}

// Create makes a session for the caller, who must be a user to whom the sandbox may be known, and returns it with its
// token, which nobody can be told again. The sandbox must be ready. A user who has as many sessions for the sandbox as
// may be loses the oldest that is not in use: clients make one for each connection and seldom revoke it.
func (s *Service) Create(ctx context.Context, sandboxID string) (*Session, string, error) {
	p := principal.From(ctx)
	if p.Kind != principal.User {
		return nil, "", fault.New(fault.PermissionDenied, ReasonUsersOnly, "SSH sessions are for users").
			WithNext("call it as a user, from outside the sandbox")
	}
	sb, err := s.sandboxes.Lookup(ctx, sandboxID)
	if err != nil {
		return nil, "", err
	}
	if sb.Phase != sandbox.PhaseReady {
		return nil, "", sb.NotReady()
	}
	secret := make([]byte, tokenBytes)
	if _, err := io.ReadFull(s.random, secret); err != nil {
		return nil, "", fmt.Errorf("make the token of an SSH session: %w", err)
	}
	token := hex.EncodeToString(secret)
	made := &Session{
		SandboxID: sandboxID, Workspace: sb.Object.Workspace, Created: s.now(), User: *p, hash: hashOf(token),
	}
	made.ID = idOf(made.hash)
	if s.ttl > 0 {
		// Callers are told milliseconds.
		made.Expires = made.Created.Add(s.ttl).Truncate(time.Millisecond)
	}
	if err := s.add(ctx, made); err != nil {
		return nil, "", err
	}
	return made, token, nil
}

// add stores a session in place of what has to go for it.
func (s *Service) add(ctx context.Context, made *Session) error {
	payload, err := made.encode()
	if err != nil {
		return err
	}
	lock := &s.creating[maphash.String(s.seed, made.SandboxID)%stripes]
	lock.Lock()
	defer lock.Unlock()
	gone, err := s.room(made)
	if err != nil {
		return err
	}
	for _, id := range gone {
		if err := s.remove(ctx, id); err != nil {
			return err
		}
	}
	_, err = s.store.Write(ctx, store.Create(&store.Object{
		Kind: Kind, ID: made.ID, Workspace: made.Workspace, Owner: made.User.Actor(), CreatedAt: made.Created, Payload: payload,
	}))
	if err != nil {
		return writeFault(err)
	}
	return nil
}

// room returns the sessions that have to go before another is added.
func (s *Service) room(made *Session) (gone []string, err error) {
	var idle []*Session
	all, now := 0, s.now()
	for _, o := range s.store.List(Kind, store.Query{Workspace: made.Workspace, Owner: made.User.Actor()}) {
		other, err := decode(o)
		switch {
		case err != nil || other.over(now):
			gone = append(gone, o.ID)
		case other.SandboxID == made.SandboxID:
			all++
			if s.open.of(other.ID) == 0 {
				idle = append(idle, other)
			}
		}
	}
	excess := all + 1 - s.maxPerUser
	if excess <= 0 {
		return gone, nil
	}
	if len(idle) < excess {
		return nil, fault.New(fault.ResourceExhausted, ReasonTooMany, "%d SSH sessions for this sandbox are in use, which is the most", all).
			WithNext("close some connections first")
	}
	slices.SortStableFunc(idle, func(a, b *Session) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	for _, other := range idle[:excess] {
		gone = append(gone, other.ID)
	}
	return gone, nil
}

// remove deletes a session; that another did so already is no error.
func (s *Service) remove(ctx context.Context, id string) error {
	_, err := s.store.Write(ctx, store.Delete(Kind, id, 0))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return writeFault(err)
	}
	return nil
}

// writeFault words what the store returned. Nobody else writes a session, so that there is no other writer to tell of.
func writeFault(err error) error {
	return storefault.Of(fmt.Errorf("write SSH session: %w", err),
		fault.New(fault.Aborted, "CONCURRENT_MODIFICATION", "failed due to concurrent modification").WithNext("retry"))
}

// Revoke ends the session of a token, and its open connections. It returns false for a token that no session has, and
// NotFound for a session of another user.
func (s *Service) Revoke(ctx context.Context, token string) (bool, error) {
	if token == "" {
		return false, fault.New(fault.InvalidArgument, "TOKEN_REQUIRED", "token is required")
	}
	found, err := s.find(token)
	if errors.Is(err, errUnknown) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !found.owned(principal.From(ctx)) {
		return false, fault.New(fault.NotFound, ReasonNotFound, "SSH session not found").
			WithNext("a session is revoked by the user who created it")
	}
	if err := s.remove(ctx, found.ID); err != nil {
		return false, err
	}
	s.open.end(found.ID, errTokenRevoked)
	return true, nil
}

// Run ends connections in time and removes sessions that open nothing any more, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	sweep, prune := time.NewTicker(sweepEvery), time.NewTicker(pruneEvery)
	defer sweep.Stop()
	defer prune.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-sweep.C:
			s.sweep()
		case <-prune.C:
			if err := s.prune(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("SSH sessions that are over were not removed", "error", err)
			}
		}
	}
}

// prune removes sessions that have expired, and those of sandboxes that are no more. Sessions are never changed, so
// that only a user who revokes one can come in between; then the next time does the rest.
func (s *Service) prune(ctx context.Context) error {
	now := s.now()
	var over []store.Op
	for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true}) {
		stored, err := decode(o)
		if err != nil || stored.over(now) || fault.Is(s.sandboxes.Exists(stored.SandboxID), fault.NotFound) {
			over = append(over, store.Delete(Kind, o.ID, o.Version))
		}
	}
	for batch := range slices.Chunk(over, pruneBatch) {
		if _, err := s.store.Write(ctx, batch...); err != nil {
			return err
		}
	}
	return nil
}
