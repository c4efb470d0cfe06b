package oidc_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/oidctest"
)

// While the provider hangs and thousands wait for it with keys that nobody knows, people with good tokens come in
// without waiting, new tokens too, and those of other issuers. In the bubble time stands still unless everybody waits,
// so that any wait of theirs would show.
func TestAFloodOfUnknownKeysHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := oidctest.NewNamed(t, "https://a.test"), oidctest.NewNamed(t, "https://b.test")
		s := open(t, oidc.Options{}, oidctest.Network(a, b), describe(a, "a"), describe(b, "b"))
		run(t, s)
		synctest.Wait()
		known := a.Mint(nil)
		accept(t, s, known)
		forged := a.NewKey("forged", jose.ES256)
		release := a.Hold()
		defer release()

		const flood, waiting = 3_000, 1_024
		began := time.Now()
		var wg sync.WaitGroup
		var unknown, busy atomic.Int64
		for i := range flood {
			forged.ID = fmt.Sprintf("forged-%d", i)
			token := a.MintWith(forged, nil, nil)
			wg.Go(func() {
				_, err := s.Verify(t.Context(), token)
				switch {
				case fault.Is(err, fault.Unavailable):
					busy.Add(1)
				case fault.From(err).Reason == oidc.ReasonUnknownKey:
					unknown.Add(1)
				default:
					t.Errorf("forged: %v", err)
				}
			})
		}
		synctest.Wait() // All of the flood waits now, or was sent away.
		if n := busy.Load(); n != flood-waiting {
			t.Errorf("%d were sent away, want %d", n, flood-waiting)
		}
		for i := range 100 {
			accept(t, s, known)
			accept(t, s, a.Mint(map[string]any{"sub": fmt.Sprintf("user-%d", i)}))
			accept(t, s, b.Mint(map[string]any{"sub": fmt.Sprintf("user-%d", i)}))
		}
		if err := s.Ready(); err != nil {
			t.Errorf("ready: %v", err)
		}
		if waited := time.Since(began); waited != 0 {
			t.Errorf("good callers waited %s", waited)
		}
		wantFetches(t, a, 2)
		wantFetches(t, b, 1)
		wg.Wait()
		if n := unknown.Load(); n != waiting || time.Since(began) != 5*time.Second {
			t.Errorf("%d were told after %s that nobody knows the key", n, time.Since(began))
		}
		wantFetches(t, a, 2)
	})
}

// A flood at one issuer leaves the budget of another alone.
func TestBudgetsOfIssuersAreTheirOwn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := oidctest.NewNamed(t, "https://a.test"), oidctest.NewNamed(t, "https://b.test")
		s := open(t, oidc.Options{}, oidctest.Network(a, b), describe(a, "a"), describe(b, "b"))
		run(t, s)
		synctest.Wait()
		forged := a.NewKey("forged", jose.ES256)
		for i := range 100 {
			forged.ID = fmt.Sprintf("forged-%d", i)
			_, err := s.Verify(t.Context(), a.MintWith(forged, nil, nil))
			wantReason(t, err, oidc.ReasonUnknownKey)
		}
		b.Rotate()
		accept(t, s, b.Mint(nil))
		wantFetches(t, a, 2)
		wantFetches(t, b, 2)
	})
}

// Many issuers of one gateway, and many gateways, do not fetch at the same moment.
func TestRefreshesAreSpread(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all []*oidctest.Issuer
		var configs []oidc.Issuer
		for i := range 20 {
			idp := oidctest.NewNamed(t, fmt.Sprintf("https://i%d.test", i))
			all, configs = append(all, idp), append(configs, describe(idp, fmt.Sprintf("i%d", i)))
		}
		s := open(t, oidc.Options{}, oidctest.Network(all...), configs...)
		run(t, s)
		wait(57 * time.Minute)
		early := 0
		for _, idp := range all {
			if idp.KeyFetches.Load() == 2 {
				early++
			}
		}
		if early == 0 || early == len(all) {
			t.Errorf("%d of %d have refreshed in the middle of the spread", early, len(all))
		}
	})
}
