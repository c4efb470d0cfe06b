package oidc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/json"
	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// FuzzClaims reads any claims as if a key of the issuer had signed them, with any claim paths.
func FuzzClaims(f *testing.F) {
	now := time.Unix(1_800_000_000, 0)
	f.Add(`{"iss":"https://i.test","aud":["a"],"sub":"s","exp":1800000300,"realm_access":{"roles":["r"]},"scope":"openid x"}`, "realm_access.roles", "scope")
	f.Add(`{"aud":"a","sub":"s","exp":1800000300,"nbf":1e300,"a.b":{"c":["openid",1]}}`, "a.b.c", "a.b.c")
	f.Add(`{"exp":-1}`, "...", ".")
	f.Fuzz(func(t *testing.T, document, roles, scopes string) {
		var claims map[string]any
		if len(roles) > 100 || len(scopes) > 100 || json.Unmarshal([]byte(document), &claims) != nil {
			return
		}
		rules, err := NewRules([]Issuer{{
			Name: "i", URL: "https://i.test", Audiences: []string{"a"}, RolesClaim: roles, ScopesClaim: scopes,
		}})
		if err != nil {
			return
		}
		p, err := rules.order[0].decide(claims, now, nil)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p, err)
		}
		explain(t, rules, claims, now, p, err)
		if err != nil {
			return
		}
		if p.Subject == "" || p.Expires.Before(now.Add(-leeway)) || claims["aud"] == nil {
			t.Errorf("accepted %+v of %s", p, document)
		}
		if slices.Contains(p.Roles, "") || slices.ContainsFunc(p.Scopes, func(s string) bool { return standardScopes[s] || s == "" }) {
			t.Errorf("roles %q, scopes %q", p.Roles, p.Scopes)
		}
	})
}

// explain checks that an explanation never disagrees with the decision, nor does one about what is remembered.
func explain(t *testing.T, rules *Rules, claims map[string]any, now time.Time, p *principal.Principal, err error) {
	t.Helper()
	claims["iss"] = "https://i.test"
	for _, c := range []map[string]any{claims, rules.keep.of(claims)} {
		explained, steps, why := rules.Evaluate(c, now)
		if diff := cmp.Diff(p, explained); diff != "" || fault.From(err).Reason != fault.From(why).Reason {
			t.Errorf("decided %v, explained %v (-decided +explained):\n%s", err, why, diff)
		}
		last := steps[len(steps)-1]
		if (last.Outcome == Refused) != (why != nil) || len(steps) > maxSteps+1 {
			t.Errorf("%d steps end with %+v, the outcome is %v", len(steps), last, why)
		}
		for _, step := range steps {
			if len(step.Found) > maxShown || strings.Contains(step.Found, "eyJ") && strings.Contains(step.Found, ".e") {
				t.Errorf("step shows %q", step.Found)
			}
		}
	}
}

func FuzzScopes(f *testing.F) {
	f.Add("openid sandbox:read")
	f.Add("\u00a0a\t b  offline_access")
	f.Fuzz(func(t *testing.T, claim string) {
		for _, s := range scopesIn(claim) {
			if standardScopes[s] || s == "" || strings.ContainsAny(s, " \t\n") {
				t.Errorf("%q has the scope %q", claim, s)
			}
		}
	})
}
