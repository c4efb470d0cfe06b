package driveroauth2

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

const (
	// minLeft is what a served token has left to live, at least.
	minLeft = 30 * time.Second
	// failureMemory is how long a failed request answers for the callers that follow it, so that a provider in
	// trouble is not asked once a caller.
	failureMemory = time.Second
	// retryMin and retryMax bound the pause between attempts of a refresh in the background.
	retryMin, retryMax = 2 * time.Second, time.Minute
)

// errStopping answers callers of a driver that is going down, or of a credential that just left the configuration.
var errStopping = fault.New(fault.Unavailable, "DRIVER_STOPPING", "credentials driver is stopping or reloading").
	WithNext("try again")

// fetchFunc obtains a fresh token; its error is fit for callers.
type fetchFunc func(context.Context) (token, error)

// source keeps one credential's token. Each has its own lock, never held over the network, so that a slow
// provider delays its own credential only; and at most one request in flight, whoever waits for it.
type source struct {
	fetch  fetchFunc
	logger *slog.Logger
	// life ends requests and timers when the driver stops or the credential leaves the configuration.
	life context.Context
	wg   *sync.WaitGroup

	mu sync.Mutex
	// All below under mu.
	current token
	flight  *flight
	// used tells whether the token was served since it was fetched: an unused one is not refreshed.
	used    bool
	timer   *time.Timer
	retry   time.Duration
	failed  error
	failure time.Time
}

// flight is one request; done closes when result is set.
type flight struct {
	done   chan struct{}
	result token
	err    error
}

func newSource(life context.Context, wg *sync.WaitGroup, logger *slog.Logger, fetch fetchFunc) *source {
	return &source{fetch: fetch, logger: logger, life: life, wg: wg}
}

// token returns one with more than minLeft to live, from memory where there is one.
func (s *source) token(ctx context.Context) (token, error) {
	s.mu.Lock()
	now := time.Now()
	if s.current.expires.Sub(now) > minLeft {
		t := s.current
		s.used = true
		s.mu.Unlock()
		return t, nil
	}
	if s.flight == nil && s.failed != nil && now.Sub(s.failure) < failureMemory {
		err := s.failed
		s.mu.Unlock()
		return token{}, err
	}
	f := s.startLocked()
	s.mu.Unlock()

	select {
	case <-f.done:
		if f.err == nil {
			s.markUsed(f.result)
		}
		return f.result, f.err
	case <-ctx.Done():
		return token{}, ctx.Err()
	}
}

func (s *source) markUsed(t token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current.value == t.value {
		s.used = true
	}
}

// refresh asks for a new token in the background; the present one is served until it arrives.
func (s *source) refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startLocked()
}

// hasToken tells whether there is a token to keep fresh.
func (s *source) hasToken() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current.value != ""
}

func (s *source) startLocked() *flight {
	if s.flight != nil {
		return s.flight
	}
	f := &flight{done: make(chan struct{})}
	if s.life.Err() != nil {
		f.err = errStopping
		close(f.done)
		return f
	}
	s.flight = f
	s.wg.Go(func() {
		ctx, cancel := context.WithTimeout(s.life, fetchTimeout)
		defer cancel()
		f.result, f.err = s.fetch(ctx)
		s.land(f)
	})
	return f
}

// land stores a request's outcome and arranges the next one.
func (s *source) land(f *flight) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer close(f.done)
	s.flight = nil
	now := time.Now()
	if f.err != nil {
		s.failed, s.failure = f.err, now
		s.retry = min(max(s.retry*2, retryMin), retryMax)
		if s.current.expires.After(now) {
			s.logger.Warn("refresh failed, serving the present token", "error", f.err, "left", s.current.expires.Sub(now))
			s.armLocked(s.retry)
		}
		return
	}
	s.failed, s.retry = nil, 0
	s.current, s.used = f.result, false
	s.logger.Debug("token fetched", "expires", f.result.expires)
	if life := f.result.expires.Sub(now); life > minLeft {
		s.armLocked(min(life*3/4, (life-minLeft)*9/10))
	}
}

func (s *source) armLocked(after time.Duration) {
	if s.timer != nil {
		s.timer.Stop()
	}
	if s.life.Err() == nil {
		s.timer = time.AfterFunc(after, s.due)
	}
}

// due runs at three quarters of a token's life, and again after a failure: a token in use is renewed ahead.
func (s *source) due() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() == nil && s.used && s.current.expires.After(time.Now()) {
		s.startLocked()
	}
}

// stop ends the timer; requests end with life, which the caller has cancelled: no request starts after stop.
func (s *source) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.timer != nil {
		s.timer.Stop()
	}
}
