package driveroauth2

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// counter is a fetch that can fail and counts.
type counter struct {
	mu   sync.Mutex
	n    int
	life time.Duration
	err  error
}

func (c *counter) fetch(context.Context) (token, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	if c.err != nil {
		return token{}, c.err
	}
	now := time.Now()
	return token{value: string(rune('a' + c.n)), fetched: now, expires: now.Add(c.life)}, nil
}

func (c *counter) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = err
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

func inBubble(t *testing.T, life time.Duration, test func(t *testing.T, s *source, c *counter)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		c := &counter{life: life}
		s := newSource(ctx, &wg, slog.New(slog.DiscardHandler), c.fetch)
		test(t, s, c)
		cancel()
		s.stop()
		wg.Wait()
	})
}

func TestTokenIsServedOnlyWithTimeLeft(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		left    time.Duration
		fetches int
	}{
		{"31 s left", 31 * time.Second, 1},
		{"30 s left", 30 * time.Second, 2},
		{"29 s left", 29 * time.Second, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, 300*time.Second, func(t *testing.T, s *source, c *counter) {
				if _, err := s.token(t.Context()); err != nil {
					t.Fatal(err)
				}
				// Not in use, so nothing is renewed meanwhile.
				s.mu.Lock()
				s.used = false
				s.mu.Unlock()
				time.Sleep(300*time.Second - tt.left)
				if _, err := s.token(t.Context()); err != nil {
					t.Fatal(err)
				}
				if got := c.count(); got != tt.fetches {
					t.Errorf("%d fetches, want %d", got, tt.fetches)
				}
			})
		})
	}
}

func TestTokenInUseIsRenewedAheadAndAnIdleOneIsNot(t *testing.T) {
	t.Parallel()
	inBubble(t, 300*time.Second, func(t *testing.T, s *source, c *counter) {
		if _, err := s.token(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(224 * time.Second)
		synctest.Wait()
		if c.count() != 1 {
			t.Fatal("renewed too early")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if c.count() != 2 {
			t.Fatal("not renewed at three quarters of its life")
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if c.count() != 2 {
			t.Errorf("an idle token was renewed: %d fetches", c.count())
		}
	})
}

func TestFailedRenewalKeepsServingAndTriesAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, 300*time.Second, func(t *testing.T, s *source, c *counter) {
		first, err := s.token(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c.fail(errors.New("provider is down"))
		time.Sleep(226 * time.Second)
		synctest.Wait()
		if got, err := s.token(t.Context()); err != nil || got.value != first.value {
			t.Fatalf("token %q, error %v", got.value, err)
		}
		c.fail(nil)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got, err := s.token(t.Context()); err != nil || got.value == first.value {
			t.Fatalf("not renewed: token %q, error %v", got.value, err)
		}
	})
}

func TestFailureIsRememberedForASecond(t *testing.T) {
	t.Parallel()
	inBubble(t, 300*time.Second, func(t *testing.T, s *source, c *counter) {
		c.fail(errors.New("provider is down"))
		for range 10 {
			if _, err := s.token(t.Context()); err == nil {
				t.Fatal("no error")
			}
		}
		if c.count() != 1 {
			t.Errorf("provider was asked %d times in a second", c.count())
		}
		time.Sleep(1001 * time.Millisecond)
		c.fail(nil)
		if _, err := s.token(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestLifeWithoutExpiresIn(t *testing.T) {
	t.Parallel()
	if _, ok := jwtExpiry("opaque"); ok {
		t.Error("an opaque token has no expiry")
	}
	// {"exp":4102444800}
	if exp, ok := jwtExpiry("e30.eyJleHAiOjQxMDI0NDQ4MDB9.x"); !ok || exp.Unix() != 4102444800 {
		t.Errorf("expiry %v, %v", exp, ok)
	}
}
