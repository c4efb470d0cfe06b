// Package oidc verifies the access tokens of OpenID Connect issuers, several at once. It owns their keys: finding,
// refreshing and keeping them while a provider is away. It decides by the claims who is admitted as whom, and can say
// how it decided. It must not know what the roles and scopes it finds permit, nor how a token came in.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/authn/tokencache"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const (
	// leeway is how far the clocks of provider and gateway may differ.
	leeway = 60 * time.Second
	// cacheSize is the number of verified tokens that are remembered.
	cacheSize = 20_000
)

// Options are what the issuers share. The zero value is usable.
type Options struct {
	// HTTPClient reaches the providers that have no CA file of their own; nil means a client with the system's trust
	// store. Redirects to other hosts and endless answers are refused whichever client is given.
	HTTPClient *http.Client
	// Logger is told when keys change and when a provider is away; nil discards.
	Logger *slog.Logger
	// Observer counts; nil counts nothing.
	Observer Observer
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Issuers verifies tokens of a set of issuers that can be replaced while it works. It is safe for concurrent use.
type Issuers struct {
	options Options
	cache   *tokencache.Cache[verified]
	seen    *memory
	state   atomic.Pointer[state]

	replacing sync.Mutex    // held by whoever changes state
	poked     chan struct{} // tells Run that state changed
}

// state is one configuration in force. It is immutable.
type state struct {
	// epoch counts the configurations; what was decided under another one is decided again.
	epoch uint64
	rules *Rules
	// issuers are the ones of rules, by name in "iss".
	issuers map[string]*issuer
}

// issuer joins what decides about one issuer's tokens.
type issuer struct {
	*policy

	optional bool
	keys     *source
}

// verified is what a token was found to be, and by which keys.
type verified struct {
	principal  *principal.Principal
	keys       *source
	generation uint64
}

// NewIssuers returns a set of issuers that have no keys yet; Run fetches them. It refuses a configuration that could never
// accept a token, or would accept too many. No issuer at all accepts none.
func NewIssuers(issuers []Issuer, o Options) (*Issuers, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Observer == nil {
		o.Observer = unobserved{}
	}
	s := &Issuers{
		options: o, cache: tokencache.New[verified](cacheSize), seen: newMemory(), poked: make(chan struct{}, 1),
	}
	if err := s.Replace(issuers); err != nil {
		return nil, err
	}
	return s, nil
}

// Known returns the user of a token that was verified before and is remembered. It costs one hash, verifies nothing and
// asks nobody. The principal is shared by all calls with the token and must not be changed.
func (s *Issuers) Known(token string) (*principal.Principal, bool) {
	v, ok := s.remembered(tokencache.KeyOf(token), s.state.Load(), s.options.Now())
	return v.principal, ok
}

func (s *Issuers) remembered(key tokencache.Key, st *state, now time.Time) (verified, bool) {
	v, _, ok := s.cache.Get(key, st.epoch, now)
	if !ok {
		return verified{}, false
	}
	if set := v.keys.keys.Load(); !v.keys.usable(set, now) || set.generation != v.generation {
		return verified{}, false
	}
	return v, true
}

// Verify returns the user that an access token speaks for. The principal is shared by all calls with the token and
// must not be changed. Errors are faults: Unauthenticated for a token that is not to be believed, Unavailable when
// there are no keys to tell.
func (s *Issuers) Verify(ctx context.Context, token string) (*principal.Principal, error) {
	st, now, key := s.state.Load(), s.options.Now(), tokencache.KeyOf(token)
	if v, ok := s.remembered(key, st, now); ok {
		s.options.Observer.Verified(v.keys.name, ResultRemembered)
		return v.principal, nil
	}
	from, p, err := s.verify(ctx, token, key, st, now)
	name, result := UnknownIssuer, ResultAccepted
	if from != nil {
		name = from.name
	}
	if err != nil {
		result = fault.From(err).Reason
	}
	s.options.Observer.Verified(name, result)
	return p, err
}

func (s *Issuers) verify(ctx context.Context, token string, key tokencache.Key, st *state, now time.Time) (*issuer, *principal.Principal, error) {
	t, err := parse(token)
	if err != nil {
		return nil, nil, err
	}
	// The issuer decides whose keys are tried: two providers may publish the same key. A token of somebody else must not
	// make us fetch any.
	from := st.issuers[issuerOf(t.claims)]
	if from == nil {
		return nil, nil, st.rules.errIssuer()
	}
	if err := from.checkAlgorithm(t.algorithm); err != nil {
		return from, nil, err
	}
	set, candidates, err := from.keysFor(ctx, t, now)
	if err != nil {
		return from, nil, err
	}
	if err := t.verify(candidates); err != nil {
		return from, nil, err
	}
	p, err := from.decide(t.claims, now, nil)
	s.seen.note(st.rules, t, now, err)
	if err != nil {
		return from, nil, err
	}
	if now.Before(p.Expires) {
		s.cache.Put(key, st.epoch, verified{principal: p, keys: from.keys, generation: set.generation}, p.Expires)
	}
	return from, p, nil
}

// keysFor returns the keys that may have signed the token, and asks the provider once if there is none.
func (i *issuer) keysFor(ctx context.Context, t *token, now time.Time) (*keySet, []publicKey, error) {
	set := i.keys.keys.Load()
	if i.keys.usable(set, now) {
		if keys, known := set.keys[t.keyID]; known {
			accepted, err := accepting(keys, t.algorithm)
			return set, accepted, err
		}
		// A token that would be refused anyway is not worth a question to the provider, and its holder is
		// helped more by that reason.
		if _, err := i.decide(t.claims, now, nil); err != nil {
			return nil, nil, err
		}
	}
	if err := i.keys.demand(ctx, t.keyID); err != nil {
		return nil, nil, err
	}
	set = i.keys.keys.Load()
	if !i.keys.usable(set, i.keys.now()) {
		return nil, nil, i.keys.errNoKeys()
	}
	keys, known := set.keys[t.keyID]
	if !known {
		return nil, nil, errUnknownKey()
	}
	accepted, err := accepting(keys, t.algorithm)
	return set, accepted, err
}

// Status is how one issuer fares.
type Status struct {
	Name, Issuer string
	// Optional issuers do not hold up readiness.
	Optional bool
	// NotReady tells why tokens of the issuer cannot be verified right now: no keys yet, or keys too old to be trusted.
	// It is nil while keys serve, also when the provider is away. It is for operators, not for callers.
	NotReady error
	// LastFailure is why the last fetch failed, nil if it did not.
	LastFailure error
	// Keys is the number of keys that serve; Confirmed is when the provider last said that these are its keys, zero if
	// never. The age of the keys is the time since.
	Keys      int
	Confirmed time.Time
}

// Empty tells that there is no issuer, so that no token can be believed.
func (s *Issuers) Empty() bool { return len(s.state.Load().rules.order) == 0 }

// Status returns how every issuer fares, in the order of the configuration.
func (s *Issuers) Status() []Status {
	st := s.state.Load()
	all := make([]Status, 0, len(st.rules.order))
	for _, p := range st.rules.order {
		i := st.issuers[p.issuer]
		status := i.keys.status()
		status.Optional = i.optional
		all = append(all, status)
	}
	return all
}

// Ready tells which issuers cannot verify tokens right now and why; optional ones do not count.
func (s *Issuers) Ready() error {
	var errs []error
	for _, status := range s.Status() {
		if status.NotReady != nil && !status.Optional {
			errs = append(errs, fmt.Errorf("issuer %s: %w", status.Name, status.NotReady))
		}
	}
	return errors.Join(errs...)
}

func errUnknownKey() error {
	return invalid(ReasonUnknownKey, "unknown signing key").
		WithNext("%s; if that does not help, the provider signs with a key it does not publish", nextSignIn)
}

func (s *source) errNoKeys() error {
	s.mu.Lock()
	cause := s.lastErr
	s.mu.Unlock()
	return fault.Wrap(cause, fault.Unavailable, ReasonKeysMissing,
		"OIDC key refresh failed: the gateway has no usable keys of the identity provider").
		WithNext("try again shortly; if it lasts, have the operator check that the gateway reaches the provider")
}
