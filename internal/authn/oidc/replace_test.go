package oidc_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/oidctest"
)

// replaceable runs a set of two issuers in a bubble.
func replaceable(t *testing.T, test func(t *testing.T, s *oidc.Issuers, a, b *oidctest.Issuer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a, b := oidctest.NewNamed(t, "https://a.test"), oidctest.NewNamed(t, "https://b.test")
		s := open(t, oidc.Options{}, oidctest.Network(a, b), describe(a, "a"), describe(b, "b"))
		run(t, s)
		synctest.Wait()
		test(t, s, a, b)
	})
}

func replace(t *testing.T, s *oidc.Issuers, issuers ...oidc.Issuer) {
	t.Helper()
	if err := s.Replace(issuers); err != nil {
		t.Fatal(err)
	}
}

func TestReplacedRulesDecideAtOnce(t *testing.T) {
	t.Parallel()
	replaceable(t, func(t *testing.T, s *oidc.Issuers, a, b *oidctest.Issuer) {
		token := a.Mint(map[string]any{"realm_access": oidctest.Roles("x"), "groups": []string{"g"}})
		for _, tc := range []struct {
			name   string
			change func(*oidc.Issuer)
			reason string
			roles  []string
		}{
			{"as before", func(*oidc.Issuer) {}, "", []string{"x"}},
			{"roles claim", func(c *oidc.Issuer) { c.RolesClaim = "groups" }, "", []string{"g"}},
			{"role map", func(c *oidc.Issuer) { c.RoleMap = map[string][]string{"x": {"y"}} }, "", []string{"y"}},
			{"another role map", func(c *oidc.Issuer) { c.RoleMap = map[string][]string{"x": {"z"}} }, "", []string{"z"}},
			{"default roles", func(c *oidc.Issuer) { c.DefaultRoles = []string{"d"} }, "", []string{"x", "d"}},
			{"audience", func(c *oidc.Issuer) { c.Audiences = []string{"other"} }, oidc.ReasonAudience, nil},
			{"required claim", func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Claim: "groups", Values: []string{"h"}}} }, oidc.ReasonRequiredClaim, nil},
			{"algorithm", func(c *oidc.Issuer) { c.Algorithms = []string{"RS256"} }, oidc.ReasonAlgorithm, nil},
			{"as before again", func(*oidc.Issuer) {}, "", []string{"x"}},
		} {
			config := describe(a, "a")
			tc.change(&config)
			replace(t, s, config, describe(b, "b"))
			if _, known := s.Known(token); known && tc.name != "as before" {
				t.Errorf("%s: what was decided before is remembered", tc.name)
			}
			p, err := s.Verify(t.Context(), token)
			switch {
			case tc.reason != "":
				wantReason(t, err, tc.reason)
			case err != nil:
				t.Errorf("%s: %v", tc.name, err)
			case !cmp.Equal(tc.roles, p.Roles):
				t.Errorf("%s: roles %v, want %v", tc.name, p.Roles, tc.roles)
			}
		}
		if a.KeyFetches.Load() != 1 || b.KeyFetches.Load() != 1 {
			t.Errorf("%d and %d fetches: keys were not kept", a.KeyFetches.Load(), b.KeyFetches.Load())
		}
	})
}

func TestReplacingNothingForgetsNothing(t *testing.T) {
	t.Parallel()
	replaceable(t, func(t *testing.T, s *oidc.Issuers, a, b *oidctest.Issuer) {
		token := a.Mint(nil)
		accept(t, s, token)
		same := describe(a, "a")
		same.Audiences, same.RoleMap, same.KeysTTL = append([]string(nil), same.Audiences...), map[string][]string{}, oidc.DefaultKeysTTL
		replace(t, s, same, describe(b, "b"))
		if _, known := s.Known(token); !known {
			t.Error("the token was forgotten")
		}
		// A configuration that cannot work leaves everything as it is.
		if err := s.Replace([]oidc.Issuer{same, same}); err == nil {
			t.Error("a broken configuration was accepted")
		}
		broken := same
		broken.CAFile = "/nowhere"
		if err := s.Replace([]oidc.Issuer{broken}); err == nil {
			t.Error("a missing CA file was accepted")
		}
		if _, known := s.Known(token); !known {
			t.Error("the token was forgotten")
		}
		accept(t, s, b.Mint(nil))
	})
}

func TestIssuersComeAndGo(t *testing.T) {
	t.Parallel()
	replaceable(t, func(t *testing.T, s *oidc.Issuers, a, b *oidctest.Issuer) {
		token := b.Mint(map[string]any{"exp": time.Now().Add(30 * time.Hour).Unix()})
		accept(t, s, token)
		replace(t, s, describe(a, "a"))
		_, err := s.Verify(t.Context(), token)
		wantReason(t, err, oidc.ReasonIssuer)
		wait(10 * time.Hour)
		if n := b.KeyFetches.Load(); n != 1 {
			t.Errorf("%d fetches from an issuer that is gone", n-1)
		}
		// An issuer that comes has its keys before the first token.
		replace(t, s, describe(b, "b"))
		synctest.Wait()
		if status := s.Status(); len(status) != 1 || status[0].NotReady != nil || b.KeyFetches.Load() != 2 {
			t.Errorf("status %+v after %d fetches", status, b.KeyFetches.Load())
		}
		accept(t, s, token)
	})
}

func TestWhichKeysSurvive(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*oidc.Issuer)
		kept   bool
	}{
		{"name", func(c *oidc.Issuer) { c.Name = "renamed" }, true},
		{"TTL", func(c *oidc.Issuer) { c.KeysTTL = 10 * time.Minute }, true},
		{"optional", func(c *oidc.Issuer) { c.Optional = true }, true},
		{"slash", func(c *oidc.Issuer) { c.URL += "/" }, true},
		{"discovery", func(c *oidc.Issuer) { c.DiscoveryURL = "https://a.test/./.well-known/openid-configuration" }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			replaceable(t, func(t *testing.T, s *oidc.Issuers, a, _ *oidctest.Issuer) {
				a.Fail(true)
				config := describe(a, "a")
				tc.change(&config)
				replace(t, s, config)
				_, err := s.Verify(t.Context(), a.Mint(nil))
				if tc.kept && err != nil {
					t.Errorf("refused: %v", err)
				} else if !tc.kept {
					wantReason(t, err, oidc.ReasonKeysMissing)
				}
				if ready := s.Ready(); (ready == nil) != (tc.kept || config.Optional) {
					t.Errorf("ready: %v", ready)
				}
			})
		})
	}
}

func TestANewTTLIsFollowed(t *testing.T) {
	t.Parallel()
	replaceable(t, func(t *testing.T, s *oidc.Issuers, a, _ *oidctest.Issuer) {
		config := describe(a, "a")
		config.KeysTTL = time.Minute
		replace(t, s, config)
		wait(time.Hour)
		if n := a.KeyFetches.Load(); n < 60 || n > 70 {
			t.Errorf("%d fetches in an hour, want about 60", n)
		}
	})
}

// Calls go on while configurations change under them.
func TestReplacingDropsNoCall(t *testing.T) {
	t.Parallel()
	a, b := oidctest.NewNamed(t, "https://a.test"), oidctest.NewNamed(t, "https://b.test")
	s := open(t, oidc.Options{}, oidctest.Network(a, b), describe(a, "a"), describe(b, "b"))
	run(t, s)
	tokens := []string{a.Mint(nil), b.Mint(nil), a.Mint(map[string]any{"sub": "bob"})}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 200 {
				accept(t, s, tokens[(i+n)%len(tokens)])
				for range s.EachSeen() {
					break
				}
			}
		})
	}
	wg.Go(func() {
		for n := range 100 {
			first, second := describe(a, "a"), describe(b, "b")
			first.DefaultRoles = []string{string(rune('a' + n%26))}
			second.RolesClaim = first.DefaultRoles[0]
			second.KeysTTL = time.Duration(n+60) * time.Second
			if err := s.Replace([]oidc.Issuer{first, second}); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
}
