package oidc_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/oidctest"
)

// several returns a set of five issuers, the first of which signs with RS256.
func several(b *testing.B) (s *oidc.Issuers, idp *oidctest.Issuer) {
	b.Helper()
	var all []*oidctest.Issuer
	var configs []oidc.Issuer
	for i := range 5 {
		next := oidctest.NewNamed(b, fmt.Sprintf("https://i%d.test", i))
		config := describe(next, fmt.Sprintf("i%d", i))
		config.ScopesClaim, config.RoleMap = "scope", map[string][]string{"staff": {"openshell-user"}}
		config.Required = []oidc.RequiredClaim{{Claim: "groups", Values: []string{"team1"}}}
		all, configs = append(all, next), append(configs, config)
	}
	all[0].AddKey(jose.RS256)
	return open(b, oidc.Options{}, oidctest.Network(all...), configs...), all[0]
}

// mint returns different tokens of usual length.
func mint(idp *oidctest.Issuer, n int, exp time.Time) []string {
	tokens := make([]string, n)
	for i := range tokens {
		tokens[i] = idp.Mint(map[string]any{
			"sub": fmt.Sprintf("user-%d", i), "exp": exp.Unix(), "realm_access": oidctest.Roles("staff", "other"),
			"scope": "openid sandbox:read sandbox:write", "groups": []string{"team1"}, "filler": strings.Repeat("x", 400),
		})
	}
	return tokens
}

func verifyAll(b *testing.B, s *oidc.Issuers, tokens []string) {
	b.Helper()
	ctx := b.Context()
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if _, err := s.Verify(ctx, tokens[i%len(tokens)]); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerifyRemembered(b *testing.B) {
	s, idp := several(b)
	verifyAll(b, s, mint(idp, 1, time.Now().Add(time.Hour)))
}

func BenchmarkVerifyRememberedOf10000(b *testing.B) {
	s, idp := several(b)
	tokens := mint(idp, 10_000, time.Now().Add(time.Hour))
	for _, token := range tokens {
		if _, err := s.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
	verifyAll(b, s, tokens)
}

// Every token is past its end, within the leeway, so that none is remembered: what every call would cost without a
// memory.
func BenchmarkVerifyEveryTime(b *testing.B) {
	s, idp := several(b)
	s2, err := oidc.NewIssuers([]oidc.Issuer{describe(idp, "idp")}, oidc.Options{HTTPClient: idp.Client()})
	if err != nil {
		b.Fatal(err)
	}
	tokens := mint(idp, 64, time.Now().Add(-10*time.Second))
	b.Run("rules", func(b *testing.B) { verifyAll(b, s, tokens) })
	b.Run("plain", func(b *testing.B) { verifyAll(b, s2, tokens) })
}

func BenchmarkKnown(b *testing.B) {
	s, idp := several(b)
	token := mint(idp, 1, time.Now().Add(time.Hour))[0]
	if _, err := s.Verify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	for name, token := range map[string]string{"known": token, "unknown": token[:len(token)-1] + "_"} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				s.Known(token)
			}
		})
	}
}

// What good callers pay while forged tokens with unknown keys come in as fast as they can.
func BenchmarkVerifyRememberedUnderFlood(b *testing.B) {
	s, idp := several(b)
	good := mint(idp, 1_000, time.Now().Add(time.Hour))
	forged := idp.NewKey("forged", jose.ES256)
	flood := make([]string, 1_000)
	for i := range flood {
		forged.ID = fmt.Sprintf("forged-%d", i)
		flood[i] = idp.MintWith(forged, nil, map[string]any{"groups": []string{"team1"}})
	}
	for _, token := range good {
		if _, err := s.Verify(b.Context(), token); err != nil {
			b.Fatal(err)
		}
	}
	fetches := idp.KeyFetches.Load()
	var sent atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := s.Verify(b.Context(), flood[i%len(flood)]); err == nil {
				b.Error("a forged token was accepted")
			}
			sent.Add(1)
		}
	})
	verifyAll(b, s, good)
	close(stop)
	wg.Wait()
	b.ReportMetric(float64(sent.Load())/b.Elapsed().Seconds(), "forged/s")
	b.ReportMetric(float64(idp.KeyFetches.Load()-fetches), "fetches")
}

func BenchmarkEvaluate(b *testing.B) {
	s, idp := several(b)
	token := mint(idp, 1, time.Now().Add(time.Hour))[0]
	if _, err := s.Verify(b.Context(), token); err != nil {
		b.Fatal(err)
	}
	seen, ok := s.Seen(idp.URL, "user-0")
	if !ok {
		b.Fatal("not seen")
	}
	rules := s.Rules()
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := rules.Evaluate(seen.Claims, time.Time{}); err != nil {
			b.Fatal(err)
		}
	}
}
