package oidc_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/oidctest"
	"sallyport.dev/sallyport/internal/principal"
)

// verifier is what a set of issuers and a set of one have in common.
type verifier interface {
	Run(ctx context.Context) error
	Verify(ctx context.Context, token string) (*principal.Principal, error)
}

// run starts the verifier's loop in the bubble and ends it with the test.
func run(t *testing.T, v verifier) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// bubble runs a test with synthetic time against a provider without sockets.
func bubble(t *testing.T, change func(*single), test func(t *testing.T, idp *oidctest.Issuer, v *alone)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		idp := oidctest.NewInProcess(t)
		test(t, idp, newVerifier(t, idp, change))
	})
}

func accept(t *testing.T, v verifier, token string) {
	t.Helper()
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Errorf("refused: %v", err)
	}
}

func wait(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func wantFetches(t *testing.T, idp *oidctest.Issuer, want int64) {
	t.Helper()
	if got := idp.KeyFetches.Load(); got != want {
		t.Errorf("%d key fetches, want %d", got, want)
	}
}

func TestStartsWhileTheProviderIsDown(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		idp.Fail(true)
		run(t, v)
		wait(20 * time.Second)
		if err := v.Ready(); err == nil || !strings.Contains(err.Error(), "503") {
			t.Errorf("ready: %v, want the provider's answer", err)
		}
		_, err := v.Verify(t.Context(), idp.Mint(nil))
		wantRefused(t, err, fault.Unavailable, "OIDC key refresh failed")
		if strings.Contains(fault.From(err).Message+fault.From(err).Next, "503") {
			t.Error("the caller learns what the provider answered")
		}
		idp.Fail(false)
		wait(time.Minute + time.Second) // The longest pause between attempts.
		if err := v.Ready(); err != nil {
			t.Errorf("not ready after the provider came: %v", err)
		}
		accept(t, v, idp.Mint(nil))
	})
}

func TestRotatedKeyCostsOneFetch(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		old := idp.Mint(nil)
		accept(t, v, old)
		idp.Rotate()
		accept(t, v, idp.Mint(nil))
		accept(t, v, idp.Mint(map[string]any{"sub": "bob"}))
		wantFetches(t, idp, 2)
		_, err := v.Verify(t.Context(), old) // It was in the cache; its key is gone.
		wantRefused(t, err, fault.Unauthenticated, "unknown signing key")
	})
}

func TestUnknownKeysCauseBoundedFetches(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		forged := idp.NewKey("forged", jose.ES256)
		flood := func(n int) {
			for i := range n {
				forged.ID = fmt.Sprintf("forged-%d-%d", time.Now().Unix(), i)
				_, err := v.Verify(t.Context(), idp.MintWith(forged, nil, nil))
				wantRefused(t, err, fault.Unauthenticated, "unknown signing key")
			}
		}
		flood(300)
		wantFetches(t, idp, 2)
		wait(9 * time.Second)
		flood(50)
		wantFetches(t, idp, 2)
		wait(time.Second)
		flood(50)
		wantFetches(t, idp, 3)

		// One stubborn client does not use up the budget of others: its key is known not to exist.
		wait(10 * time.Second)
		forged.ID = "stubborn"
		for range 3 {
			_, err := v.Verify(t.Context(), idp.MintWith(forged, nil, nil))
			wantRefused(t, err, fault.Unauthenticated, "unknown signing key")
			wait(11 * time.Second)
		}
		wantFetches(t, idp, 4)
		idp.Rotate()
		accept(t, v, idp.Mint(nil))
		wantFetches(t, idp, 5)
	})
}

func TestTokensThatAreRefusedAnywayCauseNoFetch(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		key := idp.Keys()[0]
		forged := idp.NewKey(key.ID, jose.ES256)
		unknown := idp.NewKey("unknown", jose.ES256)
		for token, want := range map[string]string{
			idp.MintWith(forged, nil, nil):                                         "InvalidSignature",
			idp.MintWith(unknown, nil, map[string]any{"iss": "https://evil.test"}): "InvalidIssuer",
			idp.MintWith(unknown, nil, map[string]any{"exp": 1}):                   "ExpiredSignature",
			idp.MintWith(unknown, nil, map[string]any{"aud": "x"}):                 "InvalidAudience",
		} {
			_, err := v.Verify(t.Context(), token)
			wantRefused(t, err, fault.Unauthenticated, want)
		}
		wantFetches(t, idp, 1)
	})
}

func TestConcurrentCallersShareOneFetch(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		idp.Rotate()
		release := idp.Hold()
		token := idp.Mint(nil)
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { accept(t, v, token) })
		}
		// One of them gives up; the fetch is not his alone.
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			_, err := v.Verify(ctx, token)
			wantRefused(t, err, fault.Unavailable, "OIDC key refresh failed")
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		release()
		wg.Wait()
		wantFetches(t, idp, 2)
	})
}

func TestAHangingProviderHoldsNobodyForLong(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		good, forged := idp.Mint(nil), idp.NewKey("forged", jose.ES256)
		release := idp.Hold()
		defer release()
		began := time.Now()
		_, err := v.Verify(t.Context(), idp.MintWith(forged, nil, nil))
		wantRefused(t, err, fault.Unauthenticated, "unknown signing key")
		if waited := time.Since(began); waited != 5*time.Second {
			t.Errorf("waited %s, want 5s", waited)
		}
		accept(t, v, good)
	})
}

func TestABrokenOrEmptySetNeverReplacesAGoodOne(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(http.ResponseWriter, *http.Request){
		"empty set":    func(w http.ResponseWriter, _ *http.Request) { write(w, `{"keys":[]}`) },
		"no set":       func(w http.ResponseWriter, _ *http.Request) { write(w, `{}`) },
		"no JSON":      func(w http.ResponseWriter, _ *http.Request) { write(w, `<html>`) },
		"nothing":      func(http.ResponseWriter, *http.Request) {},
		"only unknown": func(w http.ResponseWriter, _ *http.Request) { write(w, `{"keys":[{"kty":"X","kid":"1"},3,null]}`) },
		"error page":   func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"keys":[]}`, http.StatusBadGateway) },
		"huge": func(w http.ResponseWriter, _ *http.Request) {
			write(w, `{"keys":[{"kty":"oct","k":"`+strings.Repeat("A", 600<<10)+`"}]}`)
		},
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://evil.test/certs", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubble(t, func(c *single) { c.JWKSTTL = time.Minute }, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
				run(t, v)
				synctest.Wait()
				idp.ServeKeys(handler)
				wait(5 * time.Minute)
				if idp.KeyFetches.Load() < 3 {
					t.Error("keys were not refreshed")
				}
				accept(t, v, idp.Mint(nil))
				if err := v.Ready(); err != nil {
					t.Errorf("ready: %v", err)
				}
			})
		})
	}
}

func write(w http.ResponseWriter, body string) {
	_, _ = w.Write([]byte(body)) // The verifier may hang up on a long answer.
}

func TestStaleKeysServeForADay(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		idp.Fail(true)
		wait(24*time.Hour - time.Minute)
		token := idp.Mint(nil)
		accept(t, v, token)
		wait(2 * time.Minute)
		_, err := v.Verify(t.Context(), token)
		wantRefused(t, err, fault.Unavailable, "OIDC key refresh failed")
		if err := v.Ready(); err == nil || !strings.Contains(err.Error(), "older than") {
			t.Errorf("ready: %v, want too old", err)
		}
		idp.Fail(false)
		wait(time.Minute + time.Second)
		accept(t, v, token)
	})
}

func TestKeysAreFetchedOncePerTTL(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		wait(10*time.Hour + time.Minute)
		// A tenth of jitter: between 10 and 11 refreshes after the first.
		if n := idp.KeyFetches.Load(); n < 11 || n > 13 {
			t.Errorf("%d key fetches in ten hours, want about 11", n)
		}
		if idp.DiscoveryFetches.Load() != idp.KeyFetches.Load() {
			t.Error("the address of the keys was not read anew")
		}
	})
}

func TestCachedTokenEndsWithItsExpiry(t *testing.T) {
	t.Parallel()
	bubble(t, nil, func(t *testing.T, idp *oidctest.Issuer, v *alone) {
		run(t, v)
		synctest.Wait()
		token := idp.Mint(map[string]any{"exp": time.Now().Add(100 * time.Second).Unix()})
		accept(t, v, token)
		wait(159 * time.Second)
		accept(t, v, token)
		wait(2 * time.Second)
		_, err := v.Verify(t.Context(), token)
		wantRefused(t, err, fault.Unauthenticated, "ExpiredSignature")
	})
}

func TestKeysOfOtherUseDoNotVerify(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(published map[string]any)
		want   string
	}{
		{"unchanged", func(map[string]any) {}, ""},
		{"no use and no algorithm", func(p map[string]any) { delete(p, "use"); delete(p, "alg") }, ""},
		{"for verifying", func(p map[string]any) { p["key_ops"] = []string{"verify"} }, ""},
		{"use enc", func(p map[string]any) { p["use"] = "enc" }, "unknown signing key"},
		{"for encryption", func(p map[string]any) { p["key_ops"] = []string{"wrapKey"} }, "unknown signing key"},
		{"without kid", func(p map[string]any) { delete(p, "kid") }, "unknown signing key"},
		{"of another type's algorithm", func(p map[string]any) { p["alg"] = "RS256" }, "unknown signing key"},
		{"broken point", func(p map[string]any) { p["x"] = p["y"] }, "unknown signing key"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			idp := oidctest.New(t)
			bystander, key := idp.Keys()[0], idp.NewKey("tested", jose.ES256)
			tc.change(key.Published)
			idp.SetKeys(bystander, key)
			_, err := newVerifier(t, idp, nil).Verify(t.Context(), idp.Mint(nil))
			if tc.want != "" {
				wantRefused(t, err, fault.Unauthenticated, tc.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestDiscovery(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(t *testing.T, idp *oidctest.Issuer, c *single)
		want   string // in Ready; empty: ready
	}{
		{"issuer configured with slash", func(_ *testing.T, _ *oidctest.Issuer, c *single) { c.Issuer += "//" }, ""},
		{"issuer described with slash", func(_ *testing.T, idp *oidctest.Issuer, _ *single) {
			idp.SetDiscovery("issuer", idp.URL+"/")
		}, ""},
		{"elsewhere", func(_ *testing.T, idp *oidctest.Issuer, c *single) {
			c.DiscoveryURL = c.Issuer + "/.well-known/openid-configuration"
			c.Issuer = "https://public.test/realms/openshell"
			idp.SetDiscovery("issuer", c.Issuer)
		}, ""},
		{"another issuer", func(_ *testing.T, idp *oidctest.Issuer, _ *single) {
			idp.SetDiscovery("issuer", "https://other.test")
		}, "OIDC discovery issuer mismatch"},
		{"no issuer", func(_ *testing.T, idp *oidctest.Issuer, _ *single) { idp.SetDiscovery("issuer", nil) }, "OIDC discovery issuer mismatch"},
		{"no keys", func(_ *testing.T, idp *oidctest.Issuer, _ *single) { idp.SetDiscovery("jwks_uri", nil) }, "jwks_uri"},
		{"keys in a file", func(_ *testing.T, idp *oidctest.Issuer, _ *single) {
			idp.SetDiscovery("jwks_uri", "file:///etc/passwd")
		}, "jwks_uri"},
		{"redirect to another host", func(t *testing.T, _ *oidctest.Issuer, c *single) {
			t.Helper()
			from := httptest.NewServer(http.RedirectHandler(c.Issuer+"/.well-known/openid-configuration", http.StatusFound))
			t.Cleanup(from.Close)
			c.DiscoveryURL = from.URL
		}, "redirected to another host"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			idp := oidctest.New(t)
			v := newVerifier(t, idp, func(c *single) { tc.change(t, idp, c) })
			_, err := v.Verify(t.Context(), idp.Mint(map[string]any{"iss": v.Issuer()}))
			ready := v.Ready()
			switch {
			case tc.want == "" && (err != nil || ready != nil):
				t.Errorf("verify: %v, ready: %v", err, ready)
			case tc.want != "" && (ready == nil || !strings.Contains(ready.Error(), tc.want)):
				t.Errorf("ready: %v, want %q", ready, tc.want)
			}
		})
	}
}
