package revocation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

const (
	// sweepEvery is how much later than its credential a stream may end.
	sweepEvery = time.Second
	// pruneEvery is how often revocations that are over are removed, pruneBatch how many in one transaction.
	pruneEvery = time.Minute
	pruneBatch = 256
	// defaultLeeway is how far the clocks of identity providers and gateway may differ.
	defaultLeeway = 60 * time.Second
)

// Options are what a Registry needs.
type Options struct {
	Store *store.Store
	// Expired is the cause with which streams end whose credential expired without renewal.
	Expired error
	// Leeway is how long after its expiry a credential is still accepted. A stream that is opened in that time has
	// until its end. 0 means 60 s.
	Leeway time.Duration
	// Max bounds the revocations; 0 means the constant Max.
	Max int
	// Logger is told what no caller can be told; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Registry decides who is refused, and ends streams. It implements the door's Sessions and is safe for concurrent use.
type Registry struct {
	store   *store.Store
	expired error
	leeway  time.Duration
	most    int
	log     *slog.Logger
	now     func() time.Time

	index   atomic.Pointer[index]
	streams streams

	// mu keeps those who write revocations and those who make a new index of them one after the other, so that who
	// revokes also counts the streams that this ends.
	mu sync.Mutex
	// revision is up to where the store was read.
	revision uint64
}

// Open reads the stored revocations. A gateway that cannot tell who is revoked must not serve, so an unreadable one is
// an error. Run has to run for streams to end and for what other processes store to count.
func Open(o Options) (*Registry, error) {
	if o.Store == nil || o.Expired == nil {
		return nil, errors.New("open revocations: a store and the cause of expired streams are needed")
	}
	r := &Registry{store: o.Store, expired: o.Expired, leeway: o.Leeway, most: o.Max, log: o.Logger, now: o.Now}
	if r.leeway == 0 {
		r.leeway = defaultLeeway
	}
	if r.most == 0 {
		r.most = Max
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.streams.init()
	if err := r.reload(); err != nil {
		return nil, fmt.Errorf("open revocations: %w", err)
	}
	return r, nil
}

// Streams returns how many open streams there are.
func (r *Registry) Streams() int { return int(r.streams.open.Load()) }

// Admit refuses a revoked caller (Unauthenticated, ReasonRevoked). A credential that ends later than those of the same
// caller's open streams renews them. While nothing is revoked and no stream is open it costs two loads.
func (r *Registry) Admit(p *principal.Principal) error {
	if x := *r.index.Load(); len(x) > 0 {
		if err := x.refusal(p, r.now); err != nil {
			return err
		}
	}
	// What opens RefreshSandboxToken or IssueSandboxToken alone keeps no stream open.
	if p.Kind == principal.User || p.Kind == principal.Sandbox && p.Source == principal.SourceToken {
		r.streams.renew(p, nanos(p.Expires))
	}
	return nil
}

// Renewed tells that a sandbox has got a token that ends at expires, zero for never: its open streams live on until
// then, although they were opened with an older one. Supervisors of other makes never open them again.
func (r *Registry) Renewed(sandboxID string, expires time.Time) {
	r.streams.renew(&principal.Principal{Kind: principal.Sandbox, SandboxID: sandboxID}, nanos(expires))
}

// Enter holds an open stream until done is called. end is called with the cause when the caller is revoked, or when
// its credential expires, at most a second later, unless it was renewed. Supervisors with only the shared secret of
// the older generation have nothing that could expire or be revoked.
func (r *Registry) Enter(p *principal.Principal, end context.CancelCauseFunc) (done func()) {
	if p.Kind == principal.Anonymous || p.Kind == principal.Sandbox && p.SandboxID == "" {
		return func() {}
	}
	deadline := nanos(p.Expires)
	if !p.Expires.IsZero() && !r.now().Before(p.Expires) {
		deadline = nanos(p.Expires.Add(r.leeway))
	}
	st := r.streams.add(p, end, deadline)
	// Somebody may have been revoked since Admit, and looked for streams before this one was there.
	if x := *r.index.Load(); len(x) > 0 && x.refusal(p, r.now) != nil {
		r.streams.endRefused(func(q *principal.Principal) error { return x.refusal(q, r.now) })
	}
	return st.leave
}

// Run ends streams in time, follows what the store's other writers revoke and restore, and removes what is over, until
// ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		every(ctx, sweepEvery, func() { r.streams.sweep(r.now().UnixNano(), r.expired) })
		return nil
	})
	group.Go(func() error {
		every(ctx, pruneEvery, func() {
			if err := r.prune(ctx); err != nil && ctx.Err() == nil {
				r.log.Warn("revocations that are over were not removed", "error", err)
			}
		})
		return nil
	})
	group.Go(func() error { return r.follow(ctx) })
	return group.Wait()
}

func every(ctx context.Context, d time.Duration, do func()) {
	ticker := time.NewTicker(d)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			do()
		}
	}
}

// follow applies the store's changes.
func (r *Registry) follow(ctx context.Context) error {
	for {
		r.mu.Lock()
		after := r.revision
		r.mu.Unlock()
		err := r.followFrom(ctx, after)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // The end that was asked for.
		case !errors.Is(err, store.ErrLagged):
			return fmt.Errorf("follow revocations: %w", err)
		}
		if err := r.reload(); err != nil {
			return fmt.Errorf("read revocations again: %w", err)
		}
	}
}

func (r *Registry) followFrom(ctx context.Context, after uint64) error {
	w := r.store.Watch(after)
	defer w.Close()
	for {
		change, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if change.Object.Kind != Kind {
			continue
		}
		changed, err := decode(change.Object)
		if change.Deleted && changed.over(r.now()) {
			continue // It refuses nobody, and goes with the next change: thousands that end together cost nothing.
		}
		if err == nil {
			err = r.applied(changed)
		}
		if err != nil {
			r.log.Error("a stored revocation was not applied", "id", change.Object.ID, "error", err)
		}
	}
}

// reload makes the index of everything stored.
func (r *Registry) reload() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	revision := r.store.Revision()
	x := index{}
	for _, o := range r.store.List(Kind, store.Query{AllWorkspaces: true}) {
		stored, err := decode(o)
		if err != nil {
			return err
		}
		t, err := stored.target()
		if err != nil {
			return err
		}
		x[t] = stored.rule()
	}
	r.revision = revision
	r.publish(x)
	return nil
}

func (r *Registry) applied(changed Revocation) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.apply(changed)
	return err
}

// apply makes the index agree with what the store now says about the target of changed, whatever order changes are
// heard of in, and returns how many streams that ended. The caller holds mu.
func (r *Registry) apply(changed Revocation) (int, error) {
	t, err := changed.target()
	if err != nil {
		return 0, err
	}
	old := *r.index.Load()
	var now rule
	o, err := r.store.ByName(Kind, "", t.key())
	there := err == nil
	if there {
		stored, err := decode(o)
		if err != nil {
			return 0, err
		}
		now = stored.rule()
	} else if !errors.Is(err, store.ErrNotFound) {
		return 0, err
	}
	if was, known := old[t]; known == there && was == now {
		return 0, nil
	}
	x := old.without(t, r.now())
	if there {
		x[t] = now
	}
	return r.publish(x), nil
}

// publish makes x what calls see and ends the streams it refuses. The caller holds mu.
func (r *Registry) publish(x index) int {
	r.index.Store(&x)
	if len(x) == 0 {
		return 0
	}
	return r.streams.endRefused(func(p *principal.Principal) error { return x.refusal(p, r.now) })
}
