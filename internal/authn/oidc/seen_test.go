package oidc_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/oidctest"
)

func subjects(s *oidc.Issuers) []string {
	var all []string
	for seen := range s.EachSeen() {
		all = append(all, seen.Subject)
	}
	return all
}

func TestSeenKeepsWhatTheConfigurationLooksAt(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	at := time.Now().Truncate(time.Second)
	config := describe(idp, "idp")
	config.RolesClaim, config.ScopesClaim, config.UsernameClaim = "realm_access.roles", "scope", "name"
	config.Required = []oidc.RequiredClaim{{Claim: `"kubernetes.io".namespace`, Values: []string{"build"}}}
	s := open(t, oidc.Options{Now: func() time.Time { return at }}, idp.Client(), config)
	if _, ok := s.Seen(idp.URL, "alice-id"); ok {
		t.Error("seen before it came")
	}
	accept(t, s, idp.Mint(map[string]any{
		"realm_access":  map[string]any{"roles": []string{"x"}, "secret": "hidden"},
		"kubernetes.io": map[string]any{"namespace": "build", "secret": "hidden"},
		"scope":         "y", "name": "Alice", "sid": "s", "azp": "cli", "email": "hidden", "secret": "hidden", "iat": 7, "exp": at.Unix() + 60,
	}))
	seen, ok := s.Seen(idp.URL+"/", "alice-id")
	if !ok {
		t.Fatal("not seen")
	}
	want := map[string]any{
		"iss": idp.URL, "sub": "alice-id", "aud": oidctest.Audience, "azp": "cli", "sid": "s", "iat": 7.0, "exp": float64(at.Unix() + 60),
		"typ": "Bearer", "preferred_username": "alice", "name": "Alice", "scope": "y",
		"realm_access":  map[string]any{"roles": []any{"x"}},
		"kubernetes.io": map[string]any{"namespace": "build"},
	}
	if diff := cmp.Diff(want, seen.Claims); diff != "" {
		t.Errorf("claims (-want +got):\n%s", diff)
	}
	if !seen.Admitted || !seen.At.Equal(at) || seen.Issuer != idp.URL || seen.Subject != "alice-id" {
		t.Errorf("seen %+v", seen)
	}
	// What is remembered amounts to the same user.
	p, err := s.Verify(t.Context(), idp.Mint(map[string]any{"realm_access": oidctest.Roles("x"), "kubernetes.io": map[string]any{"namespace": "build"}, "scope": "y", "name": "Alice", "sid": "s", "iat": 7, "exp": at.Unix() + 60}))
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := s.Rules().Evaluate(seen.Claims, at)
	if diff := cmp.Diff(p, again); err != nil || diff != "" {
		t.Errorf("%v (-verified +explained):\n%s", err, diff)
	}
}

func TestSeenOfRefusedTokens(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	s := one(t, idp, func(c *oidc.Issuer) { c.Required = []oidc.RequiredClaim{{Claim: "team", Values: []string{"a"}}} })
	refuse := func(change map[string]any, reason string) {
		t.Helper()
		_, err := s.Verify(t.Context(), idp.Mint(change))
		wantReason(t, err, reason)
	}
	// Forged, expired and other tokens leave no trace.
	_, err := s.Verify(t.Context(), idp.MintWith(idp.NewKey(idp.Keys()[0].ID, "ES256"), nil, map[string]any{"team": "a"}))
	wantReason(t, err, oidc.ReasonSignature)
	refuse(map[string]any{"exp": 1}, oidc.ReasonExpired)
	refuse(map[string]any{"typ": "ID"}, oidc.ReasonKind)
	refuse(map[string]any{"sub": "a\x00b"}, oidc.ReasonSubject)
	if found := subjects(s); found != nil {
		t.Errorf("seen %v", found)
	}
	refuse(map[string]any{"team": "b"}, oidc.ReasonRequiredClaim)
	seen, ok := s.Seen(idp.URL, "alice-id")
	if !ok || seen.Admitted || seen.Claims["team"] != "b" {
		t.Errorf("refused: %+v, %v", seen, ok)
	}
	accept(t, s, idp.Mint(map[string]any{"team": "a"}))
	refuse(map[string]any{"team": "c"}, oidc.ReasonRequiredClaim)
	refuse(map[string]any{"team": "a", "nonce": "n"}, oidc.ReasonKind)
	// Explaining is about the last token, a preview about what she last came in with.
	if seen, _ := s.Seen(idp.URL, "alice-id"); seen.Admitted || seen.Claims["team"] != "c" {
		t.Errorf("last: %+v", seen)
	}
	for seen := range s.EachSeen() {
		if !seen.Admitted || seen.Claims["team"] != "a" {
			t.Errorf("each: %+v", seen)
		}
	}
}

// An ID token that is accepted on demand is remembered as one.
func TestSeenOfIDTokens(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	s := one(t, idp, func(c *oidc.Issuer) { c.AcceptIDTokens = true })
	accept(t, s, idp.Mint(map[string]any{"nonce": "private"}))
	seen, _ := s.Seen(idp.URL, "alice-id")
	if seen.Claims["nonce"] != true {
		t.Errorf("nonce is %v", seen.Claims["nonce"])
	}
	if _, _, err := oidc.Evaluate(describe(idp, "strict"), seen.Claims, time.Time{}); err == nil {
		t.Error("a strict issuer would refuse it")
	}
}

func TestSeenFollowsTheConfiguration(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	config := describe(idp, "idp")
	config.RolesClaim, config.ScopesClaim = "roles", "scope"
	s := open(t, oidc.Options{}, idp.Client(), config)
	accept(t, s, idp.Mint(map[string]any{"roles": []string{"x"}, "scope": "y", "groups": []string{"z"}}))
	seen, _ := s.Seen(idp.URL, "alice-id")
	next := config
	next.RolesClaim, next.ScopesClaim = "groups", ""
	if missing := s.Rules().Missing(seen); missing != nil {
		t.Errorf("missing %v now", missing)
	}
	if missing := rulesOf(t, next).Missing(seen); !slices.Equal(missing, []string{"groups"}) {
		t.Errorf("missing %v then", missing)
	}
	// What the rules look at in other people's tokens does not matter, nor what they would look at if they knew the issuer.
	stranger := next
	stranger.Name, stranger.URL = "stranger", "https://stranger.test"
	if missing := rulesOf(t, config, stranger).Missing(seen); missing != nil {
		t.Errorf("missing %v for another issuer", missing)
	}
	if missing := rulesOf(t, stranger).Missing(seen); missing != nil {
		t.Errorf("missing %v without the issuer", missing)
	}
	replace(t, s, next)
	seen, ok := s.Seen(idp.URL, "alice-id")
	if !ok || seen.Claims["roles"] != nil || seen.Claims["scope"] != nil || seen.Claims["sub"] == nil {
		t.Errorf("after the change: %+v, %v", seen, ok)
	}
	if missing := s.Rules().Missing(seen); !slices.Equal(missing, []string{"groups"}) {
		t.Errorf("missing %v after the change", missing)
	}
	accept(t, s, idp.Mint(map[string]any{"groups": []string{"z"}}))
	if seen, _ := s.Seen(idp.URL, "alice-id"); s.Rules().Missing(seen) != nil || seen.Claims["groups"] == nil {
		t.Errorf("seen anew: %+v", seen)
	}
}

func TestSeenRemembersTheAlgorithm(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	s := one(t, idp, nil)
	accept(t, s, idp.Mint(nil))
	seen, _ := s.Seen(idp.URL, "alice-id")
	p, steps, err := s.Rules().EvaluateSeen(seen, time.Time{})
	if err != nil || p.Subject != "alice-id" || steps[1].Name != oidc.StepAlgorithm || steps[1].Found != "ES256" {
		t.Errorf("got %+v, %+v, %v", p, steps, err)
	}
	config := describe(idp, "idp")
	config.Algorithms = []string{"EdDSA"}
	_, steps, err = rulesOf(t, config).EvaluateSeen(seen, time.Time{})
	wantReason(t, err, oidc.ReasonAlgorithm)
	if last := steps[len(steps)-1]; last.Name != oidc.StepAlgorithm || last.Outcome != oidc.Refused {
		t.Errorf("ended with %+v", last)
	}
}
