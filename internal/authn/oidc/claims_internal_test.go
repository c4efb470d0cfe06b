package oidc

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4/json"
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
		v := &Verifier{issuer: "https://i.test", audience: "a", rolesClaim: roles, scopesClaim: scopes}
		p, err := v.principalOf(claims, now)
		if (p == nil) == (err == nil) {
			t.Fatalf("got %v and %v", p, err)
		}
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

func FuzzScopes(f *testing.F) {
	f.Add("openid sandbox:read")
	f.Add("\u00a0a\t b  offline_access")
	f.Fuzz(func(t *testing.T, claim string) {
		for _, s := range scopesOf(claim) {
			if standardScopes[s] || s == "" || strings.ContainsAny(s, " \t\n") {
				t.Errorf("%q has the scope %q", claim, s)
			}
		}
	})
}
