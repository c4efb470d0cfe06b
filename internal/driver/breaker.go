package driver

import (
	"sync"
	"time"
)

// breaker stops calls to a driver that takes them and does not answer. After threshold failures in a row it opens
// for a time that doubles with each failed probe up to a limit; then one call at a time is let through as probe.
type breaker struct {
	mu        sync.Mutex
	failures  int
	pause     time.Duration
	until     time.Time
	probing   bool
	threshold int
	first     time.Duration
	longest   time.Duration
}

func newBreaker() breaker {
	return breaker{threshold: 5, first: 250 * time.Millisecond, longest: 5 * time.Second}
}

// open tells whether calls are held back at now, and for how long.
func (b *breaker) open(now time.Time) (time.Duration, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until.Sub(now), now.Before(b.until)
}

// admit tells whether a call may go out; if it may, exactly one of settle's outcomes must follow.
func (b *breaker) admit(now time.Time) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < b.threshold {
		return 0, true
	}
	if now.Before(b.until) {
		return b.until.Sub(now), false
	}
	if b.probing {
		return b.first, false
	}
	b.probing = true
	return 0, true
}

// outcome is what a call taught about the driver.
type outcome uint8

const (
	outcomeAlive outcome = iota // The driver answered, if only with an error.
	outcomeDead                 // It did not.
	outcomeNone                 // The caller left before anything was learned.
)

func (b *breaker) settle(o outcome, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	wasProbe := b.probing
	switch o {
	case outcomeAlive:
		b.failures, b.pause, b.until, b.probing = 0, 0, time.Time{}, false
	case outcomeNone:
		b.probing = false
	case outcomeDead:
		b.failures++
		b.probing = false
		if b.failures < b.threshold || (!wasProbe && now.Before(b.until)) {
			return
		}
		b.pause = min(max(b.pause*2, b.first), b.longest)
		b.until = now.Add(b.pause)
	}
}

// reset forgets everything.
func (b *breaker) reset() { b.settle(outcomeAlive, time.Time{}) }
