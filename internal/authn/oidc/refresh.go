package oidc

import (
	"context"
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
	// Pauses between attempts while the provider is away.
	firstRetry = time.Second
	lastRetry  = time.Minute
)

// fetch is one running refresh that callers may wait for.
type fetch struct {
	done chan struct{}
	err  error
}

// Run keeps the keys fresh until ctx ends; then it returns nil. It starts without the provider and waits for it.
func (v *Verifier) Run(ctx context.Context) error {
	retry := firstRetry
	for {
		pause := jitter(v.ttl)
		if err := v.refresh(ctx, true); err != nil {
			pause = min(jitter(retry), pause)
			retry = min(2*retry, lastRetry)
		} else {
			retry = firstRetry
		}
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// jitter shortens a pause by up to a tenth, so that many gateways do not ask at the same moment.
func jitter(d time.Duration) time.Duration {
	return d - rand.N(d/10+1) //nolint:gosec // Spreading load needs no secrecy.
}

// demand fetches keys because of a token with an unknown key, unless the budget for that is used up; then it does
// nothing. The answer is in v.keys.
func (v *Verifier) demand(ctx context.Context, keyID string) error {
	running, allowed := v.admit(keyID)
	if running == nil && !allowed {
		return nil
	}
	// A fetch that was under way already may have read the keys before this one was published, so that only one's
	// own fetch proves that the provider does not know it.
	own := running == nil
	// The provider's failure is not the caller's error: the keys there are decide.
	if own {
		running = v.begin(context.WithoutCancel(ctx), false)
	}
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
	if set := v.keys.Load(); own && running.err == nil && set != nil && set.keys[keyID] == nil {
		v.miss(keyID)
	}
	return nil
}

// admit returns the fetch that is running already, or whether a new one may start now.
func (v *Verifier) admit(keyID string) (running *fetch, allowed bool) {
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if missed, ok := v.misses[keyID]; ok && now.Sub(missed) < missFor {
		return nil, false
	}
	if v.inFlight != nil {
		return v.inFlight, false
	}
	if !v.lastDemanded.IsZero() && now.Sub(v.lastDemanded) < demandInterval {
		return nil, false
	}
	v.lastDemanded = now
	return nil, true
}

func (v *Verifier) miss(keyID string) {
	if len(keyID) > 256 {
		return // Too long to be remembered; the interval bounds it all the same.
	}
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.misses) >= maxMisses {
		clear(v.misses)
	}
	v.misses[keyID] = now
}

// refresh fetches the keys, or waits for the fetch that is running.
func (v *Verifier) refresh(ctx context.Context, rediscover bool) error {
	running := v.begin(ctx, rediscover)
	select {
	case <-running.done:
		return running.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin starts a fetch unless one is running.
func (v *Verifier) begin(ctx context.Context, rediscover bool) *fetch {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.inFlight != nil {
		return v.inFlight
	}
	running := &fetch{done: make(chan struct{})}
	v.inFlight = running
	address := v.jwksURI
	if rediscover {
		address = ""
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		running.err = v.load(ctx, address)
		v.mu.Lock()
		v.inFlight = nil
		v.mu.Unlock()
		close(running.done)
	}()
	return running
}

// load fetches the keys from address, or, if it is empty, from where discovery says. A failure leaves the keys as
// they are; a set without usable keys is a failure.
func (v *Verifier) load(ctx context.Context, address string) (err error) {
	defer func() {
		v.mu.Lock()
		v.lastErr = err
		if err != nil {
			v.jwksURI = "" // Perhaps the keys moved: discover again next time.
		}
		v.mu.Unlock()
		if err != nil && ctx.Err() != context.Canceled {
			v.log.Warn("refreshing OIDC keys failed", "err", err)
		}
	}()
	if address == "" {
		if address, err = v.discover(ctx); err != nil {
			return err
		}
	}
	keys, err := v.fetchKeys(ctx, address)
	if err != nil {
		return err
	}
	sum, err := fingerprint(keys)
	if err != nil {
		return err
	}
	next := &keySet{keys: keys, fingerprint: sum, confirmed: v.now()}
	last := v.keys.Load()
	if last != nil {
		next.generation = last.generation
	}
	changed := last == nil || last.fingerprint != sum
	if changed {
		next.generation++
	}
	v.keys.Store(next)
	v.mu.Lock()
	v.jwksURI = address
	if changed {
		clear(v.misses)
	}
	v.mu.Unlock()
	if changed {
		v.cache.Clear()
		v.log.Info("OIDC keys changed", "keys", len(keys), "generation", next.generation)
	}
	return nil
}
