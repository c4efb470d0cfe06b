//go:build linux

package keycloak_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
)

// realm is one realm of a server, with a client that reaches it.
type realm struct {
	name, base string
	// ca is the file of the server's authority; empty where it serves plain HTTP.
	ca   string
	http *http.Client
}

func (s *server) realm() realm {
	var config *tls.Config
	if s.ca != "" {
		pool := x509.NewCertPool()
		if pem, err := os.ReadFile(s.ca); err == nil {
			pool.AppendCertsFromPEM(pem)
		}
		config = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return realm{name: "openshell", base: s.base, ca: s.ca, http: newHTTP(config)}
}

// sibling is another realm of the same server.
func (r realm) sibling(name string) realm {
	r.name = name
	return r
}

func (r realm) issuer() string { return r.base + "/realms/" + r.name }

func (r realm) endpoint(name string) string { return r.issuer() + "/protocol/openid-connect/" + name }

// tokens are what the token endpoint returned; only access is always there.
type tokens struct {
	Access  string `json:"access_token"`
	ID      string `json:"id_token"`
	Refresh string `json:"refresh_token"`
}

// grant asks the token endpoint.
func (r realm) grant(form url.Values) (tokens, error) {
	var got tokens
	resp, err := r.http.PostForm(r.endpoint("token"), form)
	if err != nil {
		return got, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(body, &got)
	}
	if err == nil && got.Access == "" {
		err = fmt.Errorf("HTTP %d %s", resp.StatusCode, body)
	}
	if err != nil {
		return got, fmt.Errorf("no token for %s: %w", form.Get("client_id"), err)
	}
	return got, nil
}

// password signs a user in; without a scope the parameter is left out.
func (r realm) password(t *testing.T, client, user, scope string) tokens {
	t.Helper()
	form := url.Values{"grant_type": {"password"}, "client_id": {client}, "username": {user}, "password": {passwords[user]}}
	if scope != "" {
		form.Set("scope", scope)
	}
	got, err := r.grant(form)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// machine signs a client in with the secret that all of them have.
func (r realm) machine(t *testing.T, client string) string {
	t.Helper()
	got, err := r.tryMachine(client)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

const machineSecret = "ci-test-secret"

func (r realm) tryMachine(client string) (string, error) {
	got, err := r.grant(url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {machineSecret}})
	return got.Access, err
}

var passwords = map[string]string{
	"admin@test": "admin", "user@test": "user", "user-b@test": "user-b", "norole@test": "norole",
	"alice": "alice123", "bob": "bob123", "admin": "admin",
}

// part decodes one part of a token, 0 the header and 1 the claims, without any check.
func part(t *testing.T, token string, i int) map[string]any {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("a token of %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[i])
	var out map[string]any
	if err == nil {
		err = json.Unmarshal(raw, &out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// admin calls the server's admin API and decodes the answer into out, unless that is nil. Each call signs in anew: the
// administrator's tokens live for a minute.
func (r realm) admin(t *testing.T, method, path string, in, out any) {
	t.Helper()
	token := r.sibling("master").password(t, "admin-cli", "admin", "").Access
	var body io.Reader = http.NoBody
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			t.Fatal(err)
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, r.base+"/admin/realms"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		t.Fatalf("%s %s: HTTP %d %s, error %v", method, path, resp.StatusCode, answer, err)
	}
	if out != nil {
		if err := json.Unmarshal(answer, out); err != nil {
			t.Fatal(err)
		}
	}
}

// machineClient is the client of small realms; its tokens have the audience and the user role.
const machineClient = "machine"

// create makes a realm with one client, machineClient, and one key, for RS256.
func (r realm) create(t *testing.T, name string) {
	t.Helper()
	// Keycloak makes one realm at a time; those who wait here do not wait in its queue, where their time runs.
	shared.making.Lock()
	defer shared.making.Unlock()
	r.admin(t, http.MethodPost, "", map[string]any{
		"realm": name, "enabled": true, "sslRequired": "none",
		"roles": map[string]any{"realm": []any{map[string]any{"name": "openshell-user"}}},
		"clients": []any{map[string]any{
			"clientId": machineClient, "secret": machineSecret, "serviceAccountsEnabled": true, "standardFlowEnabled": false,
			"protocolMappers": []any{map[string]any{
				"name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
				"config": map[string]any{"included.custom.audience": audience, "access.token.claim": "true"},
			}},
		}},
		"users": []any{map[string]any{
			"username": "service-account-" + machineClient, "enabled": true, "serviceAccountClientId": machineClient,
			"realmRoles": []any{"openshell-user"},
		}},
		"components": map[string]any{keyProvider: []any{rsaKey("first", "100")}},
	}, nil)
}

// small creates a realm whose keys a test may change. It is removed with the test.
func (r realm) small(t *testing.T, name string) realm {
	t.Helper()
	r.create(t, name)
	t.Cleanup(func() {
		// t.Context has ended by now.
		token := r.sibling("master").password(t, "admin-cli", "admin", "").Access
		req, err := http.NewRequest(http.MethodDelete, r.base+"/admin/realms/"+name, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := r.http.Do(req)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
	})
	return r.sibling(name)
}

const keyProvider = "org.keycloak.keys.KeyProvider"

// component is a part of a realm; here always a provider of keys.
type component map[string]any

func rsaKey(name, priority string) component {
	return component{
		"name": name, "providerId": "rsa-generated",
		"config": map[string]any{"priority": []any{priority}, "algorithm": []any{"RS256"}, "keySize": []any{"2048"}},
	}
}

// addKey adds a provider of keys. The one with the highest priority signs at once.
func (r realm) addKey(t *testing.T, c component) {
	t.Helper()
	c = maps.Clone(c)
	c["providerType"] = keyProvider
	r.admin(t, http.MethodPost, "/"+r.name+"/components", c, nil)
}

// keys lists the realm's providers of keys.
func (r realm) keys(t *testing.T) []component {
	t.Helper()
	var found []component
	r.admin(t, http.MethodGet, "/"+r.name+"/components?type="+keyProvider, nil, &found)
	return found
}

// disableKey takes a key out of service: it verifies nothing any more and leaves the published set.
func (r realm) disableKey(t *testing.T, name string) {
	t.Helper()
	all := r.keys(t)
	i := slices.IndexFunc(all, func(c component) bool { return c["name"] == name })
	if i < 0 {
		t.Fatalf("no key %s", name)
	}
	config := all[i]["config"].(map[string]any)
	config["enabled"], config["active"] = []any{"false"}, []any{"false"}
	r.admin(t, http.MethodPut, fmt.Sprintf("/%s/components/%s", r.name, all[i]["id"]), all[i], nil)
}

// deleteKeys leaves the realm without any key.
func (r realm) deleteKeys(t *testing.T) {
	t.Helper()
	for _, c := range r.keys(t) {
		r.admin(t, http.MethodDelete, fmt.Sprintf("/%s/components/%s", r.name, c["id"]), nil, nil)
	}
}

// published is the number of keys in the realm's key set.
func (r realm) published(t *testing.T) int {
	t.Helper()
	resp, err := r.http.Get(r.endpoint("certs")) // The client has a timeout.
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var set struct {
		Keys []any `json:"keys"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&set); err != nil {
		t.Fatal(err)
	}
	return len(set.Keys)
}
