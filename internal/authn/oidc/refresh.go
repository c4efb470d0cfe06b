package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

const (
	// demandInterval is the least time between two fetches that tokens with unknown keys cause.
	demandInterval = 10 * time.Second
	// missFor is how long a key id that the provider does not know causes no further fetch.
	missFor   = time.Minute
	maxMisses = 1024
	// maxWait is how long a call waits for a fetch; one that takes longer serves later calls.
	maxWait = 5 * time.Second
	// maxWaiting bounds the calls that wait for one issuer's fetch.
	maxWaiting = 1024
	// Pauses between attempts while the provider is away.
	firstRetry = time.Second
	lastRetry  = time.Minute
	// lastFirstRetry is the longest pause while there are no keys at all, when nobody can sign in.
	lastFirstRetry = 10 * time.Second
)

// fetch is one running refresh that callers may wait for.
type fetch struct {
	done chan struct{}
	err  error
}

// run keeps the keys fresh until ctx ends or the source is retired. It starts without the provider and waits for it. A
// fetch that is under way when the source is retired goes on, since calls may wait for it.
func (s *source) run(ctx context.Context, retired <-chan struct{}) {
	retry := firstRetry
	for {
		pause := jitter(s.ttl)
		running := s.refresh(ctx)
		select {
		case <-ctx.Done():
			return
		case <-retired:
			return
		case <-running.done:
		}
		if running.err != nil {
			pause = min(jitter(retry), pause)
			longest := lastRetry
			if s.keys.Load() == nil {
				longest = lastFirstRetry
			}
			retry = min(2*retry, longest)
		} else {
			retry = firstRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-retired:
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// jitter shortens a pause by up to a tenth, so that many gateways do not ask at the same moment.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/10+1) //nolint:gosec // Spreading load needs no secrecy.
}

// demand fetches keys because of a token with an unknown key, unless the budget for that is used up; then it does
// nothing. The answer is in s.keys.
func (s *source) demand(ctx context.Context, keyID string) error {
	running, own, err := s.admit(ctx, keyID)
	if running == nil || err != nil {
		return err
	}
	defer func() {
		s.mu.Lock()
		s.waiting--
		s.mu.Unlock()
	}()
	timer := time.NewTimer(maxWait)
	defer timer.Stop()
	select {
	case <-running.done:
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return fault.Wrap(ctx.Err(), fault.Unavailable, ReasonKeysMissing,
			"OIDC key refresh failed: the call ended before the identity provider answered").
			WithNext("try again shortly")
	}
	// The provider's failure is not the caller's error: the keys there are decide. A fetch that was under way already
	// may have read the keys before this one was published, so that only one's own fetch proves that the provider does
	// not know it.
	if set := s.keys.Load(); own && running.err == nil && set != nil && set.keys[keyID] == nil {
		s.miss(keyID)
	}
	return nil
}

// admit returns the fetch to wait for, and whether it was started for this call. It is none where the provider was asked
// a short while ago, and an error where too many calls wait already.
func (s *source) admit(ctx context.Context, keyID string) (running *fetch, own bool, err error) {
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if missed, ok := s.misses[keyID]; ok && now.Sub(missed) < missFor {
		return nil, false, nil
	}
	running = s.inFlight
	if running == nil {
		if !s.lastDemanded.IsZero() && now.Sub(s.lastDemanded) < demandInterval {
			return nil, false, nil
		}
		s.lastDemanded = now
		// The fetch outlives the call: others wait for it too.
		running, own = s.start(context.WithoutCancel(ctx), false), true
	}
	if s.waiting >= maxWaiting {
		return nil, false, fault.New(fault.Unavailable, ReasonKeysMissing,
			"OIDC key refresh failed: too many calls wait for the identity provider").WithNext("try again shortly")
	}
	s.waiting++
	return running, own, nil
}

func (s *source) miss(keyID string) {
	if len(keyID) > 256 {
		return // Too long to be remembered; the interval bounds it all the same.
	}
	now := s.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.misses) >= maxMisses {
		clear(s.misses)
	}
	s.misses[keyID] = now
}

// refresh starts a fetch from where discovery says, unless one is running.
func (s *source) refresh(ctx context.Context) *fetch {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.inFlight != nil {
		return s.inFlight
	}
	return s.start(ctx, true)
}

// start starts a fetch. The caller holds s.mu and has seen that none is running.
func (s *source) start(ctx context.Context, rediscover bool) *fetch {
	running := &fetch{done: make(chan struct{})}
	s.inFlight = running
	address := s.jwksURI
	if rediscover {
		address = ""
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		running.err = s.load(ctx, address)
		s.mu.Lock()
		s.inFlight = nil
		s.mu.Unlock()
		close(running.done)
	}()
	return running
}

// load fetches the keys from address, or, if it is empty, from where discovery says. A failure leaves the keys as
// they are; a set without usable keys is a failure.
func (s *source) load(ctx context.Context, address string) (err error) {
	result := FetchFailed
	defer func() {
		s.mu.Lock()
		s.lastErr = err
		if err != nil {
			s.jwksURI = "" // Perhaps the keys moved: discover again next time.
		}
		s.mu.Unlock()
		if errors.Is(ctx.Err(), context.Canceled) {
			return
		}
		s.observer.KeysFetched(s.name, result)
		if err != nil {
			s.log.Warn("refreshing OIDC keys failed", "err", err)
		}
	}()
	if address == "" {
		if address, err = s.discover(ctx); err != nil {
			return err
		}
	}
	keys, err := s.fetchKeys(ctx, address)
	if err != nil {
		return err
	}
	sum, err := fingerprint(keys)
	if err != nil {
		return err
	}
	result = s.serve(keys, sum, address)
	return nil
}

// serve puts fetched keys in force.
func (s *source) serve(keys map[string][]publicKey, sum [sha256.Size]byte, address string) (result string) {
	next := &keySet{keys: keys, fingerprint: sum, confirmed: s.now()}
	last := s.keys.Load()
	if last != nil {
		next.generation = last.generation
	}
	changed := last == nil || last.fingerprint != sum
	if changed {
		next.generation++
	}
	s.keys.Store(next)
	s.mu.Lock()
	s.jwksURI = address
	if changed {
		clear(s.misses)
	}
	s.mu.Unlock()
	if !changed {
		return FetchUnchanged
	}
	s.changed(s)
	s.log.Info("OIDC keys changed", "keys", len(keys), "generation", next.generation)
	return FetchChanged
}
