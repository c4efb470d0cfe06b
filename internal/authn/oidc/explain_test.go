package oidc_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/oidctest"
)

// claimsOf returns claims as they come out of a token.
func claimsOf(t *testing.T, claims map[string]any) map[string]any {
	t.Helper()
	data, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	var decoded map[string]any
	if err := json.Unmarshal(data, &decoded); err != nil {
		t.Fatal(err)
	}
	return decoded
}

func rulesOf(t *testing.T, issuers ...oidc.Issuer) *oidc.Rules {
	t.Helper()
	rules, err := oidc.NewRules(issuers)
	if err != nil {
		t.Fatal(err)
	}
	return rules
}

func TestStepsOfADecision(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	claims := claimsOf(t, map[string]any{
		"iss": "https://i.test/", "aud": []string{"other", "a"}, "sub": "s", "exp": now.Unix() + 60, "nbf": now.Unix(),
		"groups": []string{"Admins", "team1"}, "scp": "openid x", "name": "Alice",
	})
	config := oidc.Issuer{
		Name: "i", URL: "https://i.test", Audiences: []string{"a"}, RolesClaim: "groups", ScopesClaim: "scp", UsernameClaim: "name",
		Required: []oidc.RequiredClaim{{Claim: "groups", Values: []string{"team1"}}},
		RoleMap:  map[string][]string{"Admins": {"admin", "user"}}, StrictRoles: true, DefaultRoles: []string{"d"}, Tenant: "t",
	}
	p, steps, err := oidc.Evaluate(config, claims, now)
	if err != nil {
		t.Fatal(err)
	}
	if !cmp.Equal(p.Roles, []string{"admin", "user", "d"}) || p.DisplayName != "Alice" || p.Tenant != "t" {
		t.Errorf("principal %+v", p)
	}
	want := []oidc.Step{
		{oidc.StepIssuer, "iss", "https://i.test/", oidc.Accepted, "it is the issuer i"},
		{oidc.StepExpiry, "exp", "2027-01-15T08:01:00Z", oidc.Accepted, ""},
		{oidc.StepNotBefore, "nbf", "2027-01-15T08:00:00Z", oidc.Accepted, ""},
		{oidc.StepAudience, "aud", "[other, a]", oidc.Accepted, "it is meant for a"},
		{oidc.StepKind, "typ", "", oidc.Accepted, "it is an access token"},
		{oidc.StepSubject, "sub", "s", oidc.Accepted, ""},
		{oidc.StepRequired, "groups", "[Admins, team1]", oidc.Accepted, "it has team1"},
		{oidc.StepTenant, "", "t", oidc.Accepted, "it is the issuer's"},
		{oidc.StepRoles, "groups", "[Admins, team1]", oidc.Accepted, ""},
		{oidc.StepRoleMap, "groups", "Admins", oidc.Accepted, "it stands for [admin, user]"},
		{oidc.StepRoleMap, "groups", "team1", oidc.Ignored, "the role map does not name it"},
		{oidc.StepDefaultRoles, "", "[d]", oidc.Accepted, "everybody of the issuer has them"},
		{oidc.StepScopes, "scp", "openid x", oidc.Accepted, ""},
		{oidc.StepUsername, "name", "Alice", oidc.Accepted, ""},
	}
	if diff := cmp.Diff(want, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestARefusalIsTheLastStep(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	rules := rulesOf(t, oidc.Issuer{
		Name: "i", URL: "https://i.test", Audiences: []string{"a"}, RolesClaim: "groups",
		Required: []oidc.RequiredClaim{{Claim: "team", Values: []string{"t"}}},
	})
	for _, tc := range []struct {
		step, claim, reason string
		change              map[string]any
	}{
		{oidc.StepIssuer, "iss", oidc.ReasonIssuer, map[string]any{"iss": "https://j.test"}},
		{oidc.StepIssuer, "iss", oidc.ReasonIssuer, map[string]any{"iss": nil}},
		{oidc.StepExpiry, "exp", oidc.ReasonExpired, map[string]any{"exp": now.Unix() - 61}},
		{oidc.StepNotBefore, "nbf", oidc.ReasonNotYet, map[string]any{"nbf": now.Unix() + 61}},
		{oidc.StepAudience, "aud", oidc.ReasonAudience, map[string]any{"aud": []string{"b"}}},
		{oidc.StepKind, "typ", oidc.ReasonKind, map[string]any{"typ": "ID"}},
		{oidc.StepKind, "nonce", oidc.ReasonKind, map[string]any{"nonce": "n"}},
		{oidc.StepSubject, "sub", oidc.ReasonSubject, map[string]any{"sub": 1}},
		{oidc.StepRequired, "team", oidc.ReasonRequiredClaim, map[string]any{"team": "u"}},
		{oidc.StepRoles, "groups", oidc.ReasonOverage, map[string]any{"hasgroups": true}},
	} {
		claims := map[string]any{"iss": "https://i.test", "aud": "a", "sub": "s", "exp": now.Unix() + 60, "team": "t"}
		for name, value := range tc.change {
			claims[name] = value
		}
		p, steps, err := rules.Evaluate(claimsOf(t, claims), now)
		wantReason(t, err, tc.reason)
		last := steps[len(steps)-1]
		f := fault.From(err)
		if p != nil || last.Name != tc.step || last.Claim != tc.claim || last.Outcome != oidc.Refused || last.Detail != f.Message+"; "+f.Next {
			t.Errorf("%v: ended with %+v", tc.change, last)
		}
	}
	if _, steps, err := oidc.Evaluate(oidc.Issuer{}, nil, now); err == nil || steps != nil {
		t.Error("a broken configuration decided")
	}
}

func TestWithoutATimeNoTimeIsChecked(t *testing.T) {
	t.Parallel()
	rules := rulesOf(t, oidc.Issuer{Name: "i", URL: "https://i.test", Audiences: []string{"a"}})
	claims := map[string]any{"iss": "https://i.test", "aud": "a", "sub": "s", "exp": 1, "nbf": 4_000_000_000}
	p, steps, err := rules.Evaluate(claimsOf(t, claims), time.Time{})
	if err != nil || p.Expires.Unix() != 1 || steps[1].Outcome != oidc.Ignored || steps[2].Outcome != oidc.Ignored {
		t.Errorf("got %+v, %v, %+v", p, err, steps)
	}
	delete(claims, "exp")
	_, _, err = rules.Evaluate(claimsOf(t, claims), time.Time{})
	wantReason(t, err, oidc.ReasonExpired)
}

func TestWhatAStepShows(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	token := idp.Mint(nil)
	config := oidc.Issuer{Name: "i", URL: "https://i.test", Audiences: []string{"a"}, RolesClaim: "r"}
	many := make([]string, 1000)
	for i := range many {
		many[i] = fmt.Sprintf("role-%d", i)
	}
	for _, tc := range []struct {
		name  string
		claim any
		want  string
	}{
		{"token", token, "(a token)"},
		{"token after a scheme", "Bearer " + token, "(a token)"},
		{"token in a list", []any{"x", token}, "[x, (a token)]"},
		{"token in an address", "https://x.test/?t=" + token, "(a token)"},
		{"object", map[string]any{"access_token": token}, "an object of 1 claims"},
		{"object in a list", []any{map[string]any{"t": token}, []any{token}, nil, 1.5, true}, "[…, …, null, 1.5, true]"},
		{"newline", "a\nb", `"a\nb"`},
		{"long text", strings.Repeat("é", 300), strings.Repeat("é", 98) + "…"},
		{"many", many[:22], "[" + strings.Join(many[:20], ", ") + ", and 2 more]"},
		{"number", 12, "12"},
		{"nothing", nil, ""},
	} {
		claims := map[string]any{"iss": "https://i.test", "aud": "a", "sub": "s", "exp": 4_000_000_000, "r": tc.claim}
		_, steps, err := oidc.Evaluate(config, claimsOf(t, claims), time.Unix(1_800_000_000, 0))
		if err != nil {
			t.Fatal(err)
		}
		found := ""
		for _, step := range steps {
			if len(step.Found) > 200 || strings.Contains(step.Found+step.Detail, "eyJ") {
				t.Errorf("%s: step shows %q", tc.name, step.Found)
			}
			if step.Name == oidc.StepRoles {
				found = step.Found
			}
		}
		if found != tc.want && (len(tc.want) <= 200 || !strings.HasPrefix(tc.want, strings.TrimSuffix(found, "…"))) {
			t.Errorf("%s: shows %q, want %q", tc.name, found, tc.want)
		}
	}
	claims := map[string]any{"iss": "https://i.test", "aud": "a", "sub": "s", "exp": 4_000_000_000, "r": many}
	config.RoleMap, config.Audiences = map[string][]string{"role-1": {"x"}}, []string{"a"}
	p, steps, err := oidc.Evaluate(config, claimsOf(t, claims), time.Unix(1_800_000_000, 0))
	if err != nil || len(p.Roles) != 1000 || len(steps) > 201 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
}
