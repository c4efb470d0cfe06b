//go:build linux

package keycloak_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sallyport.dev/sallyport/test/keycloak"
)

// realm is a realm for one test, which fails when something cannot be had from it.
type realm struct{ keycloak.Realm }

// sibling is another realm of the same server.
func (r realm) sibling(name string) realm { return realm{r.Sibling(name)} }

func (r realm) password(t *testing.T, client, user, scope string) keycloak.Tokens {
	t.Helper()
	got, err := r.Password(context.WithoutCancel(t.Context()), client, user, scope)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func (r realm) machine(t *testing.T, client string) string {
	t.Helper()
	got, err := r.Program(t.Context(), client)
	if err != nil {
		t.Fatal(err)
	}
	return got
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
	req, err := http.NewRequestWithContext(t.Context(), method, r.Base+"/admin/realms"+path, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := r.HTTP.Do(req)
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
			"clientId": machineClient, "secret": keycloak.MachineSecret, "serviceAccountsEnabled": true, "standardFlowEnabled": false,
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
		req, err := http.NewRequest(http.MethodDelete, r.Base+"/admin/realms/"+name, http.NoBody)
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("Authorization", "Bearer "+token)
		resp, err := r.HTTP.Do(req)
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
	r.admin(t, http.MethodPost, "/"+r.Name+"/components", c, nil)
}

// keys lists the realm's providers of keys.
func (r realm) keys(t *testing.T) []component {
	t.Helper()
	var found []component
	r.admin(t, http.MethodGet, "/"+r.Name+"/components?type="+keyProvider, nil, &found)
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
	r.admin(t, http.MethodPut, fmt.Sprintf("/%s/components/%s", r.Name, all[i]["id"]), all[i], nil)
}

// deleteKeys leaves the realm without any key.
func (r realm) deleteKeys(t *testing.T) {
	t.Helper()
	for _, c := range r.keys(t) {
		r.admin(t, http.MethodDelete, fmt.Sprintf("/%s/components/%s", r.Name, c["id"]), nil, nil)
	}
}

// published is the number of keys in the realm's key set.
func (r realm) published(t *testing.T) int {
	t.Helper()
	resp, err := r.HTTP.Get(r.Endpoint("certs")) // The client has a timeout.
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
