package credential

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	// margin is the life a cached value must have left to be handed out without asking again.
	margin = 30 * time.Second
	// maxAge takes the place of a life for values that do not expire, so that a changed one is noticed.
	maxAge = 5 * time.Minute
	// negativeAge is how long a failure answers for the driver.
	negativeAge = time.Second
	// staleWait is how long a caller waits for a new value while the old one is still valid.
	staleWait = 3 * time.Second
	// fetchTimeout bounds one question to the driver.
	fetchTimeout = 30 * time.Second
	// slowestRetry bounds the pause between attempts to refresh ahead.
	slowestRetry = 30 * time.Second

	defaultMaxNames = 4096
)

// Driver is the credentials driver as a Resolver needs it.
type Driver interface {
	Resolve(ctx context.Context, name string) (credentials.Token, error)
	List(ctx context.Context) ([]credentials.Info, error)
}

// Options are what a Resolver is made of.
type Options struct {
	// Driver may be nil: then every credential fails with ReasonNotConfigured.
	Driver Driver
	// Logger is required.
	Logger *slog.Logger
	// MaxNames bounds the credentials kept at once; 0 means 4096.
	MaxNames int
}

// Resolver turns names into values. However many callers want one value, the driver is asked once; a value is
// kept until shortly before it expires, renewed in the background while it is used, and handed out in its last
// seconds only if no new one can be had. It is safe for concurrent use.
type Resolver struct {
	driver   Driver
	log      *slog.Logger
	maxNames int

	// ctx is the life of fetches, which outlive their callers.
	ctx     context.Context
	stop    context.CancelFunc
	fetches sync.WaitGroup

	mu      sync.Mutex
	entries map[string]*entry
}

// entry is what is known of one credential.
type entry struct {
	token   credentials.Token
	fetched time.Time
	used    time.Time

	err      *fault.Error // Of the last fetch.
	failedAt time.Time
	failures int
	flight   *flight
}

// flight is one question to the driver; its result is set before done is closed.
type flight struct {
	done  chan struct{}
	token credentials.Token
	err   *fault.Error
}

// NewResolver returns a Resolver to be closed.
func NewResolver(o Options) *Resolver {
	if o.MaxNames <= 0 {
		o.MaxNames = defaultMaxNames
	}
	ctx, stop := context.WithCancel(context.Background())
	return &Resolver{driver: o.Driver, log: o.Logger, maxNames: o.MaxNames, ctx: ctx, stop: stop, entries: map[string]*entry{}}
}

// Close ends what runs in the background, waits for it and forgets all values.
func (r *Resolver) Close() {
	r.mu.Lock()
	r.stop()
	r.mu.Unlock()
	r.fetches.Wait()
	r.mu.Lock()
	clear(r.entries)
	r.mu.Unlock()
}

// Configured tells whether there is a driver at all.
func (r *Resolver) Configured() bool { return r.driver != nil }

// Resolve returns the current value of a credential. Its errors are *fault.Error with the reasons of this package
// and name the credential. A caller that leaves does not disturb the others.
func (r *Resolver) Resolve(ctx context.Context, name string) (credentials.Token, error) {
	if r.driver == nil {
		return credentials.Token{}, notConfigured(name)
	}
	now := time.Now()
	r.mu.Lock()
	if r.ctx.Err() != nil {
		r.mu.Unlock()
		return credentials.Token{}, fault.New(fault.Unavailable, ReasonCallEnded,
			"credential %q cannot be resolved: the gateway is shutting down", name).WithNext("try again in a moment")
	}
	e, err := r.entry(name, now)
	if err != nil {
		r.mu.Unlock()
		return credentials.Token{}, err
	}
	if e.fresh(now) {
		if e.flight == nil && e.wantsRefresh(now) {
			r.fetch(name, e)
		}
		token := e.token
		r.mu.Unlock()
		return token, nil
	}
	stale := e.token
	if e.flight == nil && e.err != nil && now.Before(e.failedAt.Add(negativeAge)) {
		err := e.err
		r.mu.Unlock()
		if valid(stale, now) {
			return stale, nil
		}
		return credentials.Token{}, err
	}
	if e.flight == nil {
		r.fetch(name, e)
	}
	f := e.flight
	r.mu.Unlock()
	return r.wait(ctx, name, f, stale)
}

// wait waits for a fetch. While the old value is valid, it stands in for a fetch that fails or takes long.
func (r *Resolver) wait(ctx context.Context, name string, f *flight, stale credentials.Token) (credentials.Token, error) {
	var slow <-chan time.Time
	if valid(stale, time.Now()) {
		timer := time.NewTimer(staleWait)
		defer timer.Stop()
		slow = timer.C
	}
	select {
	case <-f.done:
	case <-slow:
		return stale, nil
	case <-ctx.Done():
		return credentials.Token{}, callEnded(ctx, name)
	}
	switch {
	case f.err == nil:
		return f.token, nil
	case f.err.Reason != ReasonUnknown && valid(stale, time.Now()):
		return stale, nil
	}
	return credentials.Token{}, f.err
}

// Last returns the last value known, however old, without asking anybody. It serves comparison only.
func (r *Resolver) Last(name string) (credentials.Token, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[name]
	if e == nil || e.token.Value == "" {
		return credentials.Token{}, false
	}
	return e.token, true
}

// List returns what the driver can hand out, sorted by name, without values.
func (r *Resolver) List(ctx context.Context) ([]credentials.Info, error) {
	if r.driver == nil {
		return nil, notConfigured("")
	}
	infos, err := r.driver.List(ctx)
	if err != nil {
		f := fault.From(err)
		return nil, fault.Wrap(err, f.Kind, ReasonDriverUnavailable, "credentials cannot be listed: %s", f.Message).
			WithNext("%s", next(err))
	}
	return infos, nil
}

// entry returns the entry of name, making room for a new one by forgetting the one unused for longest.
func (r *Resolver) entry(name string, now time.Time) (*entry, error) {
	e := r.entries[name]
	if e == nil {
		if len(r.entries) >= r.maxNames && !r.evict() {
			return nil, fault.New(fault.ResourceExhausted, ReasonTooMany,
				"credential %q cannot be resolved: %d others are being fetched", name, len(r.entries)).WithNext("try again in a moment")
		}
		e = &entry{}
		r.entries[name] = e
	}
	e.used = now
	return e, nil
}

func (r *Resolver) evict() bool {
	oldest := ""
	for name, e := range r.entries {
		if e.flight == nil && (oldest == "" || e.used.Before(r.entries[oldest].used)) {
			oldest = name
		}
	}
	if oldest == "" {
		return false
	}
	delete(r.entries, oldest)
	return true
}

// fetch asks the driver in the background, for everybody who wants the value; r.mu is held.
func (r *Resolver) fetch(name string, e *entry) {
	f := &flight{done: make(chan struct{})}
	e.flight = f
	r.fetches.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, fetchTimeout)
		defer cancel()
		token, err := r.driver.Resolve(ctx, name)
		now := time.Now()
		switch {
		case err != nil:
			f.err = explain(name, err)
		case !valid(token, now):
			f.err = fault.New(fault.Unavailable, ReasonFetchFailed,
				"credential %q could not be fetched: the driver's token has already expired", name).
				WithNext("compare the clocks of gateway and identity provider, and have the provider say how long its tokens live")
		default:
			f.token = token
		}
		r.settle(name, e, f, now)
		close(f.done)
	})
}

// settle records the result of a fetch.
func (r *Resolver) settle(name string, e *entry, f *flight, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.flight = nil
	e.err = f.err
	if f.err == nil {
		e.token, e.fetched, e.failures = f.token, now, 0
		return
	}
	e.failedAt = now
	e.failures++
	if f.err.Reason == ReasonUnknown {
		// The driver took it away: nobody gets it any longer.
		e.token = credentials.Token{}
	}
	if r.ctx.Err() == nil {
		r.log.Warn("credential cannot be fetched", "credential", name, "reason", f.err.Reason, "error", f.err,
			"attempt", e.failures, "previous_value_valid", valid(e.token, now))
	}
}

// valid tells whether a value can be used at all.
func valid(t credentials.Token, now time.Time) bool {
	return t.Value != "" && (t.Expires.IsZero() || now.Before(t.Expires))
}

// fresh tells whether the value may be handed out without asking again.
func (e *entry) fresh(now time.Time) bool {
	switch {
	case e.token.Value == "":
		return false
	case e.token.Expires.IsZero():
		return now.Before(e.fetched.Add(maxAge))
	}
	return now.Before(e.token.Expires.Add(-margin))
}

// wantsRefresh tells whether three quarters of the value's life are over and no failed attempt was just made.
func (e *entry) wantsRefresh(now time.Time) bool {
	life := maxAge
	if !e.token.Expires.IsZero() {
		life = e.token.Expires.Sub(e.fetched)
	}
	if now.Before(e.fetched.Add(life / 4 * 3)) {
		return false
	}
	if e.failures == 0 {
		return true
	}
	pause := min(negativeAge<<min(e.failures-1, 5), slowestRetry)
	return !now.Before(e.failedAt.Add(pause))
}
