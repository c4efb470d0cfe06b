package oidc_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/oidctest"
)

// admitted is what a provider's token should amount to.
type admitted struct {
	Subject, Display, Tenant, Session string
	Roles, Scopes                     []string
}

// miss is a token that is almost right.
type miss struct {
	name   string
	change map[string]any
	reason string
}

// provider is a kind of provider with the configuration that an operator would write for it.
type provider struct {
	name   string
	shape  oidctest.Shape
	config oidc.Issuer
	want   admitted
	misses []miss
}

// foreign are the near misses of every provider.
func foreign(audience any) []miss {
	return []miss{
		{"for somebody else", map[string]any{"aud": audience}, oidc.ReasonAudience},
		{"for nobody", map[string]any{"aud": nil}, oidc.ReasonAudience},
		{"expired", map[string]any{"exp": 1_700_000_000}, oidc.ReasonExpired},
		{"without end", map[string]any{"exp": nil}, oidc.ReasonExpired},
		{"of another issuer", map[string]any{"iss": "https://evil.test"}, oidc.ReasonIssuer},
		{"of nobody", map[string]any{"sub": nil}, oidc.ReasonSubject},
	}
}

func providers() []provider {
	return []provider{
		{
			name: "Keycloak", shape: oidctest.Keycloak(),
			config: oidc.Issuer{
				Audiences: []string{"sallyport"}, ScopesClaim: "scope", Tenant: "team1",
				Required: []oidc.RequiredClaim{{Claim: "groups", Values: []string{"team1"}}},
			},
			want: admitted{
				Subject: "5f0e4a52-8a27-4a57-9a0e-7c7f0d1f3b10", Display: "alice", Tenant: "team1",
				Session: "b5a8c1d2-11aa-4f3b-8e0c-2f4f3c0f9e77",
				Roles:   []string{"default-roles-team", "openshell-user"}, Scopes: []string{"sandbox:read", "groups"},
			},
			misses: append(foreign("account"),
				miss{"member of another team", map[string]any{"groups": []string{"team2"}}, oidc.ReasonRequiredClaim},
				miss{"scope groups not granted", map[string]any{"groups": nil}, oidc.ReasonRequiredClaim},
				miss{"ID token", map[string]any{"typ": "ID", "at_hash": "x"}, oidc.ReasonKind},
				miss{"ID token without type", map[string]any{"typ": nil, "nonce": "x"}, oidc.ReasonKind},
				miss{"refresh token", map[string]any{"typ": "Refresh"}, oidc.ReasonKind},
				miss{"offline token", map[string]any{"typ": "Offline"}, oidc.ReasonKind},
				miss{"logout token", map[string]any{"typ": "Logout"}, oidc.ReasonKind},
				miss{"lightweight token", map[string]any{"aud": nil, "sub": nil, "realm_access": nil, "preferred_username": nil}, oidc.ReasonAudience},
				miss{"lightweight token with audience", map[string]any{"sub": nil, "realm_access": nil, "preferred_username": nil}, oidc.ReasonSubject}),
		},
		{
			name: "Keycloak, roles of a client", shape: oidctest.Keycloak(),
			config: oidc.Issuer{
				Audiences: []string{"sallyport"}, RolesClaim: `resource_access."sallyport.cli".roles`,
				RoleMap: map[string][]string{"operator": {"openshell-admin"}}, StrictRoles: true,
			},
			want: admitted{
				Subject: "5f0e4a52-8a27-4a57-9a0e-7c7f0d1f3b10", Display: "alice", Tenant: "sallyport",
				Session: "b5a8c1d2-11aa-4f3b-8e0c-2f4f3c0f9e77", Roles: []string{"openshell-admin"},
			},
		},
		{
			name: "Entra ID", shape: oidctest.Entra(),
			config: oidc.Issuer{
				Audiences: []string{oidctest.EntraAudience}, RolesClaim: "roles", ScopesClaim: "scp",
				Algorithms: []string{"RS256", "ES256"},
				Required:   []oidc.RequiredClaim{{Claim: "tid", Values: []string{oidctest.EntraTenant}}, {Claim: "ver", Values: []string{"2.0"}}},
				RoleMap:    map[string][]string{"Sallyport.User": {"openshell-user"}, "Sallyport.Admin": {"openshell-admin"}}, StrictRoles: true,
			},
			want: admitted{
				Subject: "pairwise-subject-of-alice", Display: "alice@example.test", Tenant: oidctest.EntraAudience,
				Session: "eeeeeeee-0000-4000-8000-00000000000a",
				Roles:   []string{"openshell-user"}, Scopes: []string{"access_as_user", "sandbox.read"},
			},
			misses: append(foreign("00000003-0000-0000-c000-000000000000"),
				miss{"guest of another tenant", map[string]any{"tid": "another"}, oidc.ReasonRequiredClaim},
				miss{"version 1.0", map[string]any{"ver": "1.0"}, oidc.ReasonRequiredClaim},
				miss{"not yet valid", map[string]any{"nbf": 4_000_000_000}, oidc.ReasonNotYet},
				miss{"ID token", map[string]any{"nonce": "x", "scp": nil}, oidc.ReasonKind}),
		},
		{
			name: "Entra ID, roles by group", shape: oidctest.Entra(),
			config: oidc.Issuer{
				Audiences: []string{oidctest.EntraAudience}, RolesClaim: "groups",
				RoleMap: map[string][]string{"aaaaaaaa-0000-4000-8000-000000000002": {"openshell-admin", "openshell-user"}}, StrictRoles: true,
			},
			want: admitted{
				Subject: "pairwise-subject-of-alice", Display: "alice@example.test", Tenant: oidctest.EntraAudience,
				Session: "eeeeeeee-0000-4000-8000-00000000000a", Roles: []string{"openshell-admin", "openshell-user"},
			},
			misses: []miss{
				{"in too many groups", oidctest.EntraOverage(), oidc.ReasonOverage},
				{"in too many groups, implicit flow", map[string]any{"groups": nil, "hasgroups": true}, oidc.ReasonOverage},
			},
		},
		{
			name: "Okta", shape: oidctest.Okta(),
			config: oidc.Issuer{
				Audiences: []string{"api://sallyport"}, RolesClaim: "groups", ScopesClaim: "scp", UsernameClaim: "sub",
				RoleMap:  map[string][]string{"Sallyport Admins": {"openshell-admin"}, "Everyone": {"openshell-user"}},
				Required: []oidc.RequiredClaim{{Claim: "cid", Values: []string{"0oa1client", "0oa2client"}}},
			},
			want: admitted{
				Subject: "alice@example.test", Display: "alice@example.test", Tenant: "api://sallyport",
				Roles: []string{"openshell-user", "openshell-admin"}, Scopes: []string{"sandbox:read"},
			},
			misses: append(foreign("https://example.okta.test"),
				miss{"from another client", map[string]any{"cid": "0oa3client"}, oidc.ReasonRequiredClaim},
				miss{"ID token", map[string]any{"at_hash": "x"}, oidc.ReasonKind}),
		},
		{
			name: "Dex", shape: oidctest.Dex(),
			config: oidc.Issuer{
				Audiences: []string{"sallyport"}, RolesClaim: "groups", AcceptIDTokens: true,
				RoleMap:  map[string][]string{"admins": {"openshell-admin"}, "engineers": {"openshell-user"}},
				Required: []oidc.RequiredClaim{{Claim: "federated_claims.connector_id", Values: []string{"ldap"}}},
			},
			want: admitted{
				Subject: "CgVhbGljZRIEbGRhcA", Display: "alice", Tenant: "sallyport", Roles: []string{"openshell-admin", "openshell-user"},
			},
			misses: append(foreign("another-app"),
				miss{"from another connector", map[string]any{"federated_claims": map[string]any{"connector_id": "github", "user_id": "1"}}, oidc.ReasonRequiredClaim},
				miss{"scope federated:id not granted", map[string]any{"federated_claims": nil}, oidc.ReasonRequiredClaim}),
		},
		{
			name: "GitHub Actions", shape: oidctest.GitHubActions(),
			config: oidc.Issuer{
				Audiences: []string{"sallyport"}, UsernameClaim: "actor", DefaultRoles: []string{"openshell-user"},
				Required: []oidc.RequiredClaim{
					{Claim: "repository_owner_id", Values: []string{"65"}},
					{Claim: "repository", Values: []string{"example-org/agents"}},
					{Claim: "ref", Values: []string{"refs/heads/main"}},
				},
			},
			want: admitted{
				Subject: "repo:example-org/agents:environment:production", Display: "alice", Tenant: "sallyport", Roles: []string{"openshell-user"},
			},
			misses: append(foreign("https://github.com/example-org"),
				miss{"another repository", map[string]any{"repository": "example-org/other"}, oidc.ReasonRequiredClaim},
				miss{"a fork's branch", map[string]any{"ref": "refs/pull/1/merge"}, oidc.ReasonRequiredClaim},
				miss{"an owner of the same name", map[string]any{"repository_owner_id": "66"}, oidc.ReasonRequiredClaim},
				miss{"not yet valid", map[string]any{"nbf": 4_000_000_000}, oidc.ReasonNotYet}),
		},
		{
			name: "Kubernetes", shape: oidctest.Kubernetes(),
			config: oidc.Issuer{
				Audiences: []string{"sallyport"}, UsernameClaim: "sub", DefaultRoles: []string{"openshell-user"},
				Required: []oidc.RequiredClaim{
					{Claim: `"kubernetes.io".namespace`, Values: []string{"build"}},
					{Claim: `kubernetes\.io.serviceaccount.name`, Values: []string{"runner"}},
				},
			},
			want: admitted{
				Subject: "system:serviceaccount:build:runner", Display: "system:serviceaccount:build:runner", Tenant: "sallyport",
				Roles: []string{"openshell-user"},
			},
			misses: append(foreign([]string{"https://kubernetes.default.svc.cluster.local"}),
				miss{"another namespace", map[string]any{"kubernetes.io": map[string]any{"namespace": "dev", "serviceaccount": map[string]any{"name": "runner"}}}, oidc.ReasonRequiredClaim},
				miss{"another account", map[string]any{"kubernetes.io": map[string]any{"namespace": "build", "serviceaccount": map[string]any{"name": "default"}}}, oidc.ReasonRequiredClaim},
				miss{"a flat claim of that name", map[string]any{"kubernetes.io": nil, "kubernetes": map[string]any{"io": map[string]any{"namespace": "build"}}}, oidc.ReasonRequiredClaim},
				miss{"token of a secret", map[string]any{"kubernetes.io": nil, "exp": nil, "kubernetes.io/serviceaccount/namespace": "build"}, oidc.ReasonExpired}),
		},
	}
}

func TestProviders(t *testing.T) {
	t.Parallel()
	for _, tc := range providers() {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			idp := oidctest.NewNamed(t, tc.shape.Issuer)
			tc.config.Name, tc.config.URL = "tested", tc.shape.Issuer
			s := open(t, oidc.Options{}, idp.Client(), tc.config)
			p, err := s.Verify(t.Context(), idp.MintAs(tc.shape, nil))
			if err != nil {
				t.Fatal(err)
			}
			got := admitted{p.Subject, p.DisplayName, p.Tenant, p.SessionID, p.Roles, p.Scopes}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if p.Issuer != tc.shape.Issuer || p.Issued.IsZero() || p.Expires.IsZero() {
				t.Errorf("got %+v", p)
			}
			for _, m := range tc.misses {
				t.Run(m.name, func(t *testing.T) {
					t.Parallel()
					p, err := s.Verify(t.Context(), idp.MintAs(tc.shape, m.change))
					if p != nil {
						t.Errorf("admitted %+v", p)
					}
					wantReason(t, err, m.reason)
				})
			}
		})
	}
}

// Without the option, access tokens of Dex are taken for what they look like.
func TestTokensThatLookLikeIDTokensNeedTheOption(t *testing.T) {
	t.Parallel()
	shape := oidctest.Dex()
	idp := oidctest.NewNamed(t, shape.Issuer)
	config := oidc.Issuer{Name: "dex", URL: idp.URL, Audiences: []string{"sallyport"}}
	_, err := open(t, oidc.Options{}, idp.Client(), config).Verify(t.Context(), idp.MintAs(shape, nil))
	wantReason(t, err, oidc.ReasonKind)
	config.AcceptIDTokens = true
	s := open(t, oidc.Options{}, idp.Client(), config)
	accept(t, s, idp.MintAs(shape, nil))
	accept(t, s, idp.MintAs(shape, map[string]any{"typ": "ID"}))
	for _, typ := range []string{"Refresh", "Offline", "Logout", "logout"} {
		_, err := s.Verify(t.Context(), idp.MintAs(shape, map[string]any{"typ": typ}))
		wantReason(t, err, oidc.ReasonKind)
	}
}
