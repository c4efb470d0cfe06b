package devidp

import (
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/luikyv/go-oidc/pkg/goidc"
)

// Names of the development realm, which follow the reference project's Keycloak realm so that its scripts and
// tests work unchanged.
const (
	// Realm is the last element of the issuer's path, /realms/openshell.
	Realm = "openshell"
	// CLIClient is the public client of people: code with PKCE, password grant, refresh tokens.
	CLIClient = "openshell-cli"
	// CIClient is the machine client of pipelines; CISecret is its well-known secret.
	CIClient = "openshell-ci"
	CISecret = "ci-test-secret"
	// DemoClient is the machine client that the credentials driver obtains tokens for; its secret is made anew
	// for each state directory.
	DemoClient = "demo-service"
	// DemoAudience is the audience of DemoClient's tokens: a service outside the gateway.
	DemoAudience = "demo-service-api"
	// TenantBClient is the public client of a second tenant. Its tokens name TenantBAudience only, so a gateway
	// of the first tenant has to refuse them.
	TenantBClient   = "tenant-b-cli"
	TenantBAudience = "tenant-b"
)

// Realm roles.
const (
	RoleAdmin = "openshell-admin"
	RoleUser  = "openshell-user"
)

const (
	tenantA = "openshell"
	tenantB = "tenant-b"
)

var (
	standardScopes = []string{"openid", "profile", "email", "roles", "web-origins", "acr", "offline_access"}
	productScopes  = []string{
		"sandbox:read", "sandbox:write", "provider:read", "provider:write", "config:read", "config:write",
		"inference:read", "inference:write", "workspace:read", "workspace:write", "openshell:all",
	}
)

// user is one person of the realm.
type user struct {
	name, given, family string
	password            string
	tenant              string
	roles               []string
}

// subject is the user's id: stable over restarts and state directories.
func (u user) subject() string { return stableID("user/" + u.name) }

func stableID(name string) string {
	return uuid.NewSHA1(uuid.NameSpaceURL, []byte("urn:sallyport:devidp:"+name)).String()
}

func (u user) passwordIs(p string) bool {
	a, b := sha256.Sum256([]byte(u.password)), sha256.Sum256([]byte(p))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1
}

// client is one registered client with what its tokens carry.
type client struct {
	goidc.Client
	audience []string
	tenant   string
	// defaultScopes are in every token of the client, asked for or not.
	defaultScopes []string
	password      bool
}

// realm is everything that exists at the provider; it never changes while it runs.
type realm struct {
	users   []user
	clients []client
}

func newRealm(demoSecret string) *realm {
	admin, person := []string{RoleAdmin, RoleUser}, []string{RoleUser}
	return &realm{
		users: []user{
			{"admin@test", "Admin", "Test", "admin", tenantA, admin},
			{"user@test", "User", "Test", "user", tenantA, person},
			{"user-b@test", "User-B", "Test", "user-b", tenantA, person},
			{"user@tenant-b", "User", "Tenant-B", "user", tenantB, person},
		},
		clients: []client{
			publicClient(CLIClient, tenantA, CLIClient),
			machineClient(CIClient, CISecret, []string{CLIClient}, "openshell:all"),
			machineClient(DemoClient, demoSecret, []string{DemoAudience}),
			publicClient(TenantBClient, tenantB, TenantBAudience),
		},
	}
}

func publicClient(id, tenant, audience string) client {
	return client{
		Client: goidc.Client{
			ID: id,
			ClientMeta: goidc.ClientMeta{
				Name: id,
				// Native clients may use any port of a loopback address; the path has to be one of these.
				ApplicationType: goidc.ApplicationTypeNative,
				RedirectURIs: []string{
					"http://127.0.0.1", "http://127.0.0.1/", "http://127.0.0.1/callback", "http://127.0.0.1/auth/callback",
				},
				GrantTypes:       []goidc.GrantType{goidc.GrantAuthorizationCode, goidc.GrantRefreshToken},
				ResponseTypes:    []goidc.ResponseType{goidc.ResponseTypeCode},
				ScopeIDs:         strings.Join(slices.Concat(standardScopes, productScopes), " "),
				TokenAuthnMethod: goidc.AuthnMethodNone,
			},
		},
		audience: []string{audience}, tenant: tenant, password: true,
		defaultScopes: []string{"profile", "email"},
	}
}

func machineClient(id, secret string, audience []string, defaults ...string) client {
	return client{
		Client: goidc.Client{
			ID: id, Secret: secret,
			ClientMeta: goidc.ClientMeta{
				Name:             id,
				GrantTypes:       []goidc.GrantType{goidc.GrantClientCredentials},
				ScopeIDs:         strings.Join(slices.Concat(standardScopes, productScopes), " "),
				TokenAuthnMethod: goidc.AuthnMethodSecretPost,
			},
		},
		audience: audience, tenant: tenantA,
		defaultScopes: append([]string{"profile", "email"}, defaults...),
	}
}

func (r *realm) client(id string) (client, bool) {
	i := slices.IndexFunc(r.clients, func(c client) bool { return c.ID == id })
	if i < 0 {
		return client{}, false
	}
	return r.clients[i], true
}

func (r *realm) bySubject(sub string) (user, bool) {
	i := slices.IndexFunc(r.users, func(u user) bool { return u.subject() == sub })
	if i < 0 {
		return user{}, false
	}
	return r.users[i], true
}

// signIn checks a user's password. A user signs in through a client of the user's own tenant only: otherwise a
// token for one tenant could be had by people of another.
func (r *realm) signIn(c client, name, password string) (user, bool) {
	for _, u := range r.users {
		if u.name == name {
			return u, u.passwordIs(password) && u.tenant == c.tenant
		}
	}
	return user{}, false
}

// tokenClaims are the claims of an access token beside those the library sets.
func (r *realm) tokenClaims(t *goidc.Token) map[string]any {
	c, ok := r.client(t.ClientID)
	if !ok {
		return nil
	}
	out := map[string]any{
		"typ": "Bearer",
		"azp": c.ID,
		"aud": c.audience,
	}
	scopes := slices.Clone(c.defaultScopes)
	for s := range strings.FieldsSeq(t.Scopes) {
		// These three widen other claims and are no part of the scope claim.
		if s != "roles" && s != "web-origins" && s != "acr" && !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	out["scope"] = strings.Join(scopes, " ")
	if u, ok := r.bySubject(t.Subject); ok {
		for k, v := range u.claims() {
			out[k] = v
		}
		return out
	}
	out["sub"] = stableID("service-account/" + c.ID)
	out["preferred_username"] = "service-account-" + c.ID
	out["realm_access"] = map[string]any{"roles": []string{RoleUser}}
	return out
}

// identityClaims are what ID tokens and the userinfo endpoint tell about a person.
func (r *realm) identityClaims(g *goidc.Grant) map[string]any {
	if u, ok := r.bySubject(g.Subject); ok {
		return u.claims()
	}
	return nil
}

func (u user) claims() map[string]any {
	return map[string]any{
		"preferred_username": u.name,
		"given_name":         u.given,
		"family_name":        u.family,
		"name":               u.given + " " + u.family,
		"email":              u.name,
		"email_verified":     true,
		"realm_access":       map[string]any{"roles": u.roles},
	}
}
