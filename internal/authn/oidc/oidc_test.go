package oidc_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/oidctest"
	"sallyport.dev/sallyport/internal/principal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newVerifier returns a verifier for the issuer. Its keys come with the first token.
func newVerifier(tb testing.TB, idp *oidctest.Issuer, change func(*single)) *alone {
	tb.Helper()
	config := single{
		Issuer: idp.URL, Audience: oidctest.Audience, ScopesClaim: "scope", HTTPClient: idp.Client(),
	}
	if change != nil {
		change(&config)
	}
	v, err := newAlone(config)
	if err != nil {
		tb.Fatal(err)
	}
	return v
}

func wantRefused(t *testing.T, err error, kind fault.Kind, text string) {
	t.Helper()
	if !fault.Is(err, kind) || !strings.Contains(fault.From(err).Message, text) {
		t.Errorf("got %v, want kind %d with %q", err, kind, text)
		return
	}
	if f := fault.From(err); f.Next == "" || f.Reason == "" {
		t.Errorf("%q lacks a reason (%q) or a next step (%q)", f.Message, f.Reason, f.Next)
	}
}

func TestPrincipalOfAToken(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	v := newVerifier(t, idp, nil)
	exp := time.Now().Add(time.Hour).Unix()
	got, err := v.Verify(t.Context(), idp.Mint(map[string]any{
		"realm_access": oidctest.Roles("openshell-user", "openshell-admin"),
		"scope":        "openid profile sandbox:read  email sandbox:write offline_access",
		"exp":          exp,
		"iat":          exp - 3600,
		"sid":          "session-1",
	}))
	if err != nil {
		t.Fatal(err)
	}
	want := &principal.Principal{
		Kind: principal.User, Subject: "alice-id", DisplayName: "alice", Issuer: idp.URL,
		Provider: principal.ProviderOIDC, Tenant: oidctest.Audience,
		Roles: []string{"openshell-user", "openshell-admin"}, Scopes: []string{"sandbox:read", "sandbox:write"},
		SessionID: "session-1", Issued: time.Unix(exp-3600, 0), Expires: time.Unix(exp, 0),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestEveryAlgorithm(t *testing.T) {
	t.Parallel()
	for _, alg := range []jose.SignatureAlgorithm{
		jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
		jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
	} {
		t.Run(string(alg), func(t *testing.T) {
			t.Parallel()
			idp := oidctest.New(t)
			idp.AddKey(alg)
			if _, err := newVerifier(t, idp, nil).Verify(t.Context(), idp.Mint(nil)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClaims(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	// The clock of the test stands still, so that seconds count.
	now := time.Now().Truncate(time.Second)
	idp.SetClock(func() time.Time { return now })
	ago := func(s int64) int64 { return now.Unix() - s }
	for _, tc := range []struct {
		name   string
		change map[string]any
		want   string // empty: accepted
	}{
		{"plain", nil, ""},
		{"exp 59 s ago", map[string]any{"exp": ago(59)}, ""},
		{"exp 60 s ago", map[string]any{"exp": ago(60)}, ""},
		{"exp 61 s ago", map[string]any{"exp": ago(61)}, "invalid token: ExpiredSignature"},
		{"exp absent", map[string]any{"exp": nil}, "missing exp"},
		{"exp zero", map[string]any{"exp": 0}, "missing exp"},
		{"exp as string", map[string]any{"exp": "4102444800"}, "missing exp"},
		{"exp in milliseconds", map[string]any{"exp": now.UnixMilli()}, "missing exp"},
		{"exp with fraction", map[string]any{"exp": float64(ago(-10)) + 0.5}, ""},
		{"nbf in 59 s", map[string]any{"nbf": ago(-59)}, ""},
		{"nbf in 61 s", map[string]any{"nbf": ago(-61)}, "invalid token: ImmatureSignature"},
		{"nbf as string", map[string]any{"nbf": "now"}, "invalid nbf"},
		{"iss with slash", map[string]any{"iss": idp.URL + "/"}, ""},
		{"iss absent", map[string]any{"iss": nil}, "invalid token: InvalidIssuer"},
		{"iss foreign", map[string]any{"iss": "https://other.test"}, "invalid token: InvalidIssuer"},
		{"iss longer", map[string]any{"iss": idp.URL + "/x"}, "invalid token: InvalidIssuer"},
		{"iss as array", map[string]any{"iss": []string{idp.URL}}, "invalid token: InvalidIssuer"},
		{"aud among others", map[string]any{"aud": []string{"account", oidctest.Audience}}, ""},
		{"aud foreign", map[string]any{"aud": "account"}, "invalid token: InvalidAudience"},
		{"aud only others", map[string]any{"aud": []string{"account", "x"}}, "invalid token: InvalidAudience"},
		{"aud with a number", map[string]any{"aud": []any{oidctest.Audience, 1}}, "invalid token: InvalidAudience"},
		{"aud as number", map[string]any{"aud": 7}, "invalid token: InvalidAudience"},
		{"aud absent", map[string]any{"aud": nil}, "invalid token: InvalidAudience"},
		{"azp is no audience", map[string]any{"aud": nil, "azp": oidctest.Audience}, "invalid token: InvalidAudience"},
		{"sub absent", map[string]any{"sub": nil}, "missing sub"},
		{"sub empty", map[string]any{"sub": ""}, "missing sub"},
		{"sub as number", map[string]any{"sub": 7}, "missing sub"},
		{"sub with newline", map[string]any{"sub": "a\nb"}, "missing sub"},
		{"sub at the limit", map[string]any{"sub": strings.Repeat("s", 1024)}, ""},
		{"sub past the limit", map[string]any{"sub": strings.Repeat("s", 1025)}, "missing sub"},
		{"ID token by type", map[string]any{"typ": "ID"}, "not an access token"},
		{"ID token by nonce", map[string]any{"typ": nil, "nonce": "n"}, "not an access token"},
		{"ID token by at_hash", map[string]any{"typ": nil, "at_hash": "h"}, "not an access token"},
		{"refresh token", map[string]any{"typ": "Refresh"}, "not an access token"},
		{"no type", map[string]any{"typ": nil}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, idp, func(c *single) { c.Now = func() time.Time { return now } })
			token := idp.Mint(tc.change)
			for range 2 { // The second time from the cache, where it was accepted.
				_, err := v.Verify(t.Context(), token)
				if tc.want == "" {
					if err != nil {
						t.Errorf("refused: %v", err)
					}
					continue
				}
				wantRefused(t, err, fault.Unauthenticated, tc.want)
			}
		})
	}
}

func TestMissingAudienceOnlyOnDemand(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	v := newVerifier(t, idp, func(c *single) { c.AllowMissingAudience = true })
	if _, err := v.Verify(t.Context(), idp.Mint(map[string]any{"aud": nil})); err != nil {
		t.Errorf("absent: %v", err)
	}
	_, err := v.Verify(t.Context(), idp.Mint(map[string]any{"aud": "account"}))
	wantRefused(t, err, fault.Unauthenticated, "InvalidAudience")
	_, err = v.Verify(t.Context(), idp.Mint(map[string]any{"aud": []string{}}))
	wantRefused(t, err, fault.Unauthenticated, "InvalidAudience")
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	rs := idp.AddKey(jose.RS256)
	es := idp.Keys()[0]
	rs384, ps256 := rs, rs
	rs384.Algorithm, ps256.Algorithm = jose.RS384, jose.PS256
	other := idp.NewKey(rs.ID, jose.RS256)
	der, err := x509.MarshalPKIXPublicKey(rs.Private.Public())
	if err != nil {
		t.Fatal(err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	good := idp.MintWith(rs, nil, nil)
	for _, tc := range []struct{ name, token, want string }{
		{"no kid", idp.MintWith(rs, map[string]any{"kid": nil}, nil), "invalid token: missing kid"},
		{"unknown kid", idp.MintWith(rs, map[string]any{"kid": "nobody's"}, nil), "invalid token: unknown signing key"},
		{"kid of another key", idp.MintWith(rs, map[string]any{"kid": es.ID}, nil), "InvalidAlgorithm"},
		{"another key under the kid", idp.MintWith(other, nil, nil), "invalid token: InvalidSignature"},
		{"key published for RS256 used for RS384", idp.MintWith(rs384, nil, nil), "InvalidAlgorithm"},
		{"key published for RS256 used for PS256", idp.MintWith(ps256, nil, nil), "InvalidAlgorithm"},
		{"alg none", idp.Unsigned(map[string]any{"alg": "none", "kid": rs.ID}, nil), "invalid token"},
		{"alg None", idp.Unsigned(map[string]any{"alg": "None", "kid": rs.ID}, nil), "invalid token"},
		{"HS256 with the public key", idp.HMAC(rs.ID, public, nil), "invalid token: InvalidAlgorithm"},
		{"typ logout", idp.MintWith(rs, map[string]any{"typ": "logout+jwt"}, nil), "not an access token"},
		{"typ number", idp.MintWith(rs, map[string]any{"typ": 1}, nil), "not an access token"},
		{"crit unknown", idp.MintWith(rs, map[string]any{"crit": []string{"exp"}, "exp": 1}, nil), "invalid token"},
		{"no signature", good[:strings.LastIndexByte(good, '.')+1], "invalid token"},
		{"two segments", good[:strings.LastIndexByte(good, '.')], "invalid token: malformed"},
		{"opaque", "opaque", "invalid token: malformed"},
		{"empty", "", "invalid token: malformed"},
		{"too long", strings.Repeat("a", 16<<10+1), "invalid token: too long"},
		{"typ at+jwt", idp.MintWith(rs, map[string]any{"typ": "at+jwt"}, nil), ""},
		{"typ application/at+jwt", idp.MintWith(rs, map[string]any{"typ": "application/at+jwt"}, nil), ""},
		{"no typ", idp.MintWith(rs, map[string]any{"typ": nil}, nil), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			_, err := newVerifier(t, idp, nil).Verify(t.Context(), tc.token)
			if tc.want != "" {
				wantRefused(t, err, fault.Unauthenticated, tc.want)
			} else if err != nil {
				t.Errorf("refused: %v", err)
			}
		})
	}
}

func TestRolesAndScopes(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	type result struct{ Roles, Scopes []string }
	for _, tc := range []struct {
		name          string
		roles, scopes string
		claims        map[string]any
		want          result
	}{
		{"none", "", "scope", nil, result{}},
		{"one role as string", "role", "", map[string]any{"role": "a b"}, result{Roles: []string{"a b"}}},
		{"roles of a nested claim", "a.b.c", "", map[string]any{"a": map[string]any{"b": map[string]any{"c": []string{"x"}}}}, result{Roles: []string{"x"}}},
		{"name with dots", "https://x.test/roles", "", map[string]any{"https://x.test/roles": []string{"x"}}, result{Roles: []string{"x"}}},
		{"nested in a name with dots", "resource_access.my.app.roles", "", map[string]any{"resource_access": map[string]any{"my.app": oidctest.Roles("x")}}, result{Roles: []string{"x"}}},
		{"path through a string", "a.b", "", map[string]any{"a": "x"}, result{}},
		{"other types count for nothing", "r", "", map[string]any{"r": []any{"x", 1, nil, "", map[string]any{}}}, result{Roles: []string{"x"}}},
		{"object", "r", "", map[string]any{"r": map[string]any{"x": true}}, result{}},
		{"scopes as array", "", "scp", map[string]any{"scp": []string{"openid", "sandbox:read"}}, result{Scopes: []string{"sandbox:read"}}},
		{"openid only", "", "scope", map[string]any{"scope": "openid"}, result{}},
		{"scopes off", "", "", map[string]any{"scope": "openshell:all"}, result{}},
		{"scope as number", "", "scope", map[string]any{"scope": 1}, result{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, idp, func(c *single) { c.RolesClaim, c.ScopesClaim = tc.roles, tc.scopes })
			p, err := v.Verify(t.Context(), idp.Mint(tc.claims))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, result{p.Roles, p.Scopes}); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestTokenOfAClient(t *testing.T) {
	t.Parallel()
	idp := oidctest.New(t)
	idp.AddClient("ci", oidctest.Client{Secret: "s", Claims: map[string]any{"realm_access": oidctest.Roles("openshell-user")}})
	config := clientcredentials.Config{ClientID: "ci", ClientSecret: "s", TokenURL: idp.URL + "/token", Scopes: []string{"openshell:all"}}
	token, err := config.Token(context.WithValue(t.Context(), oauth2.HTTPClient, idp.Client()))
	if err != nil {
		t.Fatal(err)
	}
	p, err := newVerifier(t, idp, nil).Verify(t.Context(), token.AccessToken)
	if err != nil {
		t.Fatal(err)
	}
	if p.Subject != "service-account-ci" || len(p.Roles) != 1 || len(p.Scopes) != 1 {
		t.Errorf("got %+v", p)
	}
	config.ClientSecret = "wrong"
	if _, err := config.Token(context.WithValue(t.Context(), oauth2.HTTPClient, idp.Client())); err == nil {
		t.Error("a wrong secret was accepted")
	}
}

func TestConfigurationsThatCannotWork(t *testing.T) {
	t.Parallel()
	good := single{Issuer: "https://idp.test/realms/x/", Audience: "a"}
	if v, err := newAlone(good); err != nil || v.Issuer() != "https://idp.test/realms/x" {
		t.Fatalf("good one: %v, %v", v, err)
	}
	for name, change := range map[string]func(*single){
		"no issuer":              func(c *single) { c.Issuer = "" },
		"relative issuer":        func(c *single) { c.Issuer = "idp.test" },
		"issuer with password":   func(c *single) { c.Issuer = "https://u:p@idp.test" },
		"issuer of another kind": func(c *single) { c.Issuer = "file:///etc" },
		"no audience":            func(c *single) { c.Audience = "" },
		"discovery":              func(c *single) { c.DiscoveryURL = "nowhere" },
		"negative TTL":           func(c *single) { c.JWKSTTL = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := good
			change(&c)
			if _, err := newAlone(c); err == nil {
				t.Error("accepted")
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	idp := oidctest.NewInProcess(f)
	v := newVerifier(f, idp, nil)
	f.Add(idp.Mint(nil))
	f.Add(idp.Unsigned(map[string]any{"alg": "none"}, nil))
	f.Add("a.b.c")
	f.Fuzz(func(t *testing.T, token string) {
		p, err := v.Verify(context.Background(), token)
		if (p == nil) == (err == nil) {
			t.Errorf("got %v and %v", p, err)
		}
		if err == nil && p.Subject != "alice-id" {
			t.Errorf("forged a token for %q", p.Subject)
		}
	})
}
