package oidctest

import (
	"maps"
	"time"
)

// Shape is what the tokens of a well-known kind of provider look like: the header fields and claims that the provider
// documents, with invented values.
type Shape struct {
	// Issuer is the provider's name, to be given to NewNamed.
	Issuer string
	// Header are fields beside "alg" and "kid"; nil removes one.
	Header map[string]any
	// Claims are those of a token that is issued at the time.
	Claims func(at time.Time) map[string]any
}

// MintAs returns a token of the shape, signed with the newest key. The given claims replace or, being nil, remove those of
// the shape.
func (i *Issuer) MintAs(s Shape, change map[string]any) string {
	i.tb.Helper()
	i.mu.Lock()
	now := i.now()
	i.mu.Unlock()
	claims := s.Claims(now)
	claims["iss"] = i.URL
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	keys := i.Keys()
	return i.sign(keys[len(keys)-1], s.Header, claims)
}

// lasting returns the times of a token.
func lasting(at time.Time, life time.Duration) map[string]any {
	return map[string]any{"iat": at.Unix(), "exp": at.Add(life).Unix()}
}

func with(claims, more map[string]any) map[string]any {
	maps.Copy(claims, more)
	return claims
}

// Keycloak is an access token of a person in a realm of Keycloak 26, as measured there. Scope "groups" is granted.
func Keycloak() Shape {
	return Shape{
		Issuer: "https://keycloak.test/realms/team",
		Claims: func(at time.Time) map[string]any {
			return with(lasting(at, 5*time.Minute), map[string]any{
				"jti":                "onrtac:0b7c5a1e-6a54-4b6b-9a53-1a9b6a0d6a11",
				"aud":                []string{"sallyport", "account"},
				"sub":                "5f0e4a52-8a27-4a57-9a0e-7c7f0d1f3b10",
				"typ":                "Bearer",
				"azp":                "sallyport-cli",
				"sid":                "b5a8c1d2-11aa-4f3b-8e0c-2f4f3c0f9e77",
				"auth_time":          at.Unix(),
				"acr":                "1",
				"allowed-origins":    []string{"http://127.0.0.1"},
				"realm_access":       Roles("default-roles-team", "openshell-user"),
				"resource_access":    map[string]any{"sallyport.cli": Roles("operator"), "account": Roles("view-profile")},
				"scope":              "openid profile email sandbox:read groups",
				"groups":             []string{"team1"},
				"name":               "Alice Example",
				"preferred_username": "alice",
				"given_name":         "Alice",
				"family_name":        "Example",
				"email":              "alice@example.test",
				"email_verified":     true,
			})
		},
	}
}

// EntraTenant is the tenant of the stand-in for Entra ID, EntraAudience the application id of the gateway in it.
const (
	EntraTenant   = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
	EntraAudience = "11111111-2222-3333-4444-555555555555"
)

// Entra is a version 2.0 access token of a person for an application with app roles and the optional claim "groups".
func Entra() Shape {
	return Shape{
		Issuer: "https://login.microsoftonline.com/" + EntraTenant + "/v2.0",
		Claims: func(at time.Time) map[string]any {
			return with(lasting(at, 75*time.Minute), map[string]any{
				"aud":                EntraAudience,
				"nbf":                at.Unix(),
				"aio":                "opaque",
				"azp":                "66666666-7777-8888-9999-000000000000",
				"azpacr":             "0",
				"groups":             []string{"aaaaaaaa-0000-4000-8000-000000000001", "aaaaaaaa-0000-4000-8000-000000000002"},
				"name":               "Alice Example",
				"oid":                "dddddddd-0000-4000-8000-00000000000a",
				"preferred_username": "alice@example.test",
				"rh":                 "opaque",
				"roles":              []string{"Sallyport.User"},
				"scp":                "access_as_user sandbox.read",
				"sid":                "eeeeeeee-0000-4000-8000-00000000000a",
				"sub":                "pairwise-subject-of-alice",
				"tid":                EntraTenant,
				"uti":                "opaque",
				"ver":                "2.0",
			})
		},
	}
}

// EntraOverage is what Entra ID leaves in place of "groups" for people in more than 200 of them.
func EntraOverage() map[string]any {
	return map[string]any{
		"groups":       nil,
		"_claim_names": map[string]any{"groups": "src1"},
		"_claim_sources": map[string]any{"src1": map[string]any{
			"endpoint": "https://graph.test/v1.0/users/dddddddd-0000-4000-8000-00000000000a/getMemberObjects",
		}},
	}
}

// Okta is an access token of a person from a custom authorization server of Okta with a groups claim. Its header has no
// "typ".
func Okta() Shape {
	return Shape{
		Issuer: "https://example.okta.test/oauth2/default",
		Header: map[string]any{"typ": nil},
		Claims: func(at time.Time) map[string]any {
			return with(lasting(at, time.Hour), map[string]any{
				"ver":       1,
				"jti":       "AT.invented",
				"aud":       "api://sallyport",
				"cid":       "0oa1client",
				"uid":       "00u1alice",
				"scp":       []string{"openid", "profile", "sandbox:read"},
				"auth_time": at.Unix(),
				"sub":       "alice@example.test",
				"groups":    []string{"Everyone", "Sallyport Admins"},
			})
		},
	}
}

// Dex is an access token of a person from Dex. Dex makes it like an ID token, with the hash of nothing anybody has, so
// that nothing tells the two apart. Its header has no "typ", and there are no scopes in it.
func Dex() Shape {
	return Shape{
		Issuer: "https://dex.test/dex",
		Header: map[string]any{"typ": nil},
		Claims: func(at time.Time) map[string]any {
			return with(lasting(at, 24*time.Hour), map[string]any{
				"aud":                "sallyport",
				"sub":                "CgVhbGljZRIEbGRhcA",
				"at_hash":            "aW52ZW50ZWQtaGFzaA",
				"nonce":              "of-the-client",
				"email":              "alice@example.test",
				"email_verified":     true,
				"groups":             []string{"admins", "engineers"},
				"name":               "Alice Example",
				"preferred_username": "alice",
				"federated_claims":   map[string]any{"connector_id": "ldap", "user_id": "alice"},
			})
		},
	}
}

// GitHubActions is the token of a job that deploys from the main branch. It has no roles and no user name.
func GitHubActions() Shape {
	return Shape{
		Issuer: "https://token.actions.githubusercontent.com",
		Header: map[string]any{"x5t": "invented"},
		Claims: func(at time.Time) map[string]any {
			return with(lasting(at, 5*time.Minute), map[string]any{
				"jti":                   "a1b2c3d4-0000-4000-8000-000000000000",
				"sub":                   "repo:example-org/agents:environment:production",
				"aud":                   "sallyport",
				"nbf":                   at.Add(-10 * time.Minute).Unix(),
				"actor":                 "alice",
				"actor_id":              "12",
				"base_ref":              "",
				"environment":           "production",
				"event_name":            "push",
				"head_ref":              "",
				"job_workflow_ref":      "example-org/agents/.github/workflows/deploy.yml@refs/heads/main",
				"ref":                   "refs/heads/main",
				"ref_type":              "branch",
				"repository":            "example-org/agents",
				"repository_id":         "74",
				"repository_owner":      "example-org",
				"repository_owner_id":   "65",
				"repository_visibility": "private",
				"run_attempt":           "1",
				"run_id":                "1001",
				"run_number":            "10",
				"runner_environment":    "github-hosted",
				"sha":                   "0123456789abcdef0123456789abcdef01234567",
				"workflow":              "deploy",
			})
		},
	}
}

// Kubernetes is the projected token of a pod's service account. Its header has no "typ".
func Kubernetes() Shape {
	return Shape{
		Issuer: "https://kubernetes.default.svc.cluster.local",
		Header: map[string]any{"typ": nil},
		Claims: func(at time.Time) map[string]any {
			return with(lasting(at, time.Hour), map[string]any{
				"aud": []string{"sallyport"},
				"jti": "b2c3d4e5-0000-4000-8000-000000000000",
				"nbf": at.Unix(),
				"sub": "system:serviceaccount:build:runner",
				"kubernetes.io": map[string]any{
					"namespace":      "build",
					"node":           map[string]any{"name": "node-1", "uid": "c3d4e5f6-0000-4000-8000-000000000001"},
					"pod":            map[string]any{"name": "runner-0", "uid": "c3d4e5f6-0000-4000-8000-000000000002"},
					"serviceaccount": map[string]any{"name": "runner", "uid": "c3d4e5f6-0000-4000-8000-000000000003"},
					"warnafter":      at.Add(50 * time.Minute).Unix(),
				},
			})
		},
	}
}
