//go:build linux

package keycloak_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestAlgorithms has Keycloak sign with every algorithm that it signs with and a published key can vouch for.
func TestAlgorithms(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	narrow := open(t, r, "--oidc-algorithms", "ES256,EdDSA")
	for _, algorithm := range []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"} {
		client := "openshell-cli"
		if algorithm != "RS256" {
			client += "-" + strings.ToLower(algorithm)
		}
		token := r.password(t, client, "user@test", everything).Access
		if got := part(t, token, 0)["alg"]; got != algorithm {
			t.Errorf("a token of %s is signed with %v", client, got)
		}
		d.wantIn(algorithm, token)
		if algorithm == "ES256" || algorithm == "EdDSA" {
			narrow.wantIn(algorithm, token)
		} else {
			narrow.wantOut(algorithm+" where ES256 and EdDSA are allowed", token, "TOKEN_ALGORITHM")
		}
	}
}

// TestTokensOfOtherKinds presents what the token endpoint returns beside the access token.
func TestTokensOfOtherKinds(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	got := r.password(t, "openshell-cli", "admin@test", everything)
	d.wantIn("access token", got.Access)
	if claims := part(t, got.ID, 1); claims["aud"] != audience || claims["iss"] != r.Issuer() || claims["realm_access"] == nil {
		t.Fatalf("the ID token is refused for less than its kind: %v", claims)
	}
	d.wantOut("ID token", got.ID, "TOKEN_KIND")
	// Its signature is an HMAC, for nobody but Keycloak.
	d.wantOut("refresh token", got.Refresh, "TOKEN_ALGORITHM")
	offline := r.password(t, "openshell-cli", "admin@test", everything+" offline_access")
	d.wantOut("offline token", offline.Refresh, "TOKEN_ALGORITHM")
}

// TestRefusals presents access tokens with a good signature that are not for this gateway or say too little.
func TestRefusals(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	for _, c := range []struct{ client, reason string }{
		{"openshell-cli-noaud", "TOKEN_AUDIENCE"},
		{"openshell-cli-nosub", "TOKEN_SUBJECT"},
		{"openshell-cli-lightweight", "TOKEN_AUDIENCE"}, // It has no subject either.
		{"tenant-b-cli", "TOKEN_AUDIENCE"},
		{"shared-cli", "TOKEN_AUDIENCE"},
	} {
		d.wantOut(c.client, r.password(t, c.client, "admin@test", everything).Access, c.reason)
	}
	lenient := open(t, r, "--oidc-allow-missing-audience")
	lenient.wantOut("a lightweight token where the audience may be absent",
		r.password(t, "openshell-cli-lightweight", "admin@test", everything).Access, "TOKEN_SUBJECT")
	lenient.wantOut("another audience where none is needed", r.password(t, "tenant-b-cli", "admin@test", everything).Access, "TOKEN_AUDIENCE")
	wantDenied(t, "a user without any role", d.list(r.password(t, "openshell-cli", "norole@test", everything).Access), "openshell-user")
}

// TestOtherRealm presents tokens that the same server signed for another realm.
func TestOtherRealm(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	d.wantOut("the server's administrator", r.sibling("master").password(t, "admin-cli", "admin", "").Access, "TOKEN_ISSUER")
	other := r.small(t, "other")
	token := other.machine(t, machineClient)
	d.wantOut("a machine of another realm", token, "TOKEN_ISSUER")
	open(t, other, "--oidc-scopes-claim", "").wantIn("a machine in its own realm", token)
}

// TestExpiry uses tokens that live for five seconds; clocks may differ by a minute more.
func TestExpiry(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	token := r.password(t, "openshell-cli-short", "user@test", everything).Access
	d.wantIn("a fresh token", token)
	expires := time.Unix(int64(part(t, token, 1)["exp"].(float64)), 0)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		before := time.Now()
		err := d.list(token)
		if err != nil {
			if reasonOf(err) != "TOKEN_EXPIRED" || time.Now().Before(expires) {
				t.Errorf("refused %s after its end: %v", time.Since(expires), err)
			}
			return
		}
		if before.After(expires.Add(patience)) {
			t.Fatalf("accepted %s after its end", time.Since(expires))
		}
		<-tick.C
	}
}

// TestTenants binds gateways to tenants whose users all get tokens with both audiences.
func TestTenants(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	scope := everything + " groups"
	alice, bob := r.password(t, "shared-cli", "alice", scope).Access, r.password(t, "shared-cli", "bob", scope).Access
	if aud, ok := part(t, alice, 1)["aud"].([]any); !ok || len(aud) != 2 {
		t.Fatalf("alice's audiences are %v, want those of both tenants", aud)
	}
	one := open(t, r, "--oidc-audience", "team1", "--tenant", "team1", "--tenant-claim", "groups")
	two := open(t, r, "--oidc-audience", "team2", "--tenant", "team2", "--tenant-claim", "groups")
	one.wantIn("alice at team1", alice)
	two.wantIn("bob at team2", bob)
	two.wantOut("alice at team2", alice, "TOKEN_CLAIM_REQUIRED")
	one.wantOut("bob at team1", bob, "TOKEN_CLAIM_REQUIRED")
	one.wantOut("alice without her groups", r.password(t, "shared-cli", "alice", everything).Access, "TOKEN_CLAIM_REQUIRED")
	admin := r.password(t, "shared-cli", "admin@test", scope).Access
	one.wantIn("a member of both at team1", admin)
	two.wantIn("a member of both at team2", admin)
}

// front stands between a gateway and Keycloak, as in a network where the gateway does not reach the issuer's own address,
// and counts the fetches of keys.
type front struct {
	url  string
	keys atomic.Int64
}

func newFront(t *testing.T, r realm) *front {
	t.Helper()
	target, err := url.Parse(r.Base)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{}
	proxy := &httputil.ReverseProxy{
		Transport: r.HTTP.Transport,
		Rewrite: func(p *httputil.ProxyRequest) {
			p.SetURL(target)
			p.Out.Header.Del("Accept-Encoding")
		},
		ModifyResponse: func(resp *http.Response) error {
			if !strings.HasSuffix(resp.Request.URL.Path, "/openid-configuration") {
				return nil
			}
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				return err
			}
			here := strconv.Quote(f.url + "/realms/" + r.Name + "/protocol/openid-connect/certs")
			body = bytes.ReplaceAll(body, []byte(strconv.Quote(r.Endpoint("certs"))), []byte(here))
			resp.Body, resp.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
			resp.Header.Set("Content-Length", strconv.Itoa(len(body)))
			return nil
		},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if strings.HasSuffix(req.URL.Path, "/certs") {
			f.keys.Add(1)
		}
		proxy.ServeHTTP(w, req)
	}))
	t.Cleanup(server.Close)
	f.url = server.URL
	return f
}

// discovery is the flag that leads a gateway here.
func (f *front) discovery(r realm) []string {
	return []string{"--oidc-discovery-url", f.url + "/realms/" + r.Name + "/.well-known/openid-configuration"}
}
