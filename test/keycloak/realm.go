//go:build linux

package keycloak

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Realm is one realm of a server, with a client that reaches it.
type Realm struct {
	// Name is the realm's name, Base the server's URL.
	Name, Base string
	// CA is the file of the server's authority; empty where it serves plain HTTP.
	CA string
	// HTTP reaches the server.
	HTTP *http.Client
}

const (
	// People is the client of people's tools.
	People = "openshell-cli"
	// Machine is the client of programs.
	Machine = "openshell-ci"
	// MachineSecret is what it signs in with, as all clients with a secret do.
	MachineSecret = "ci-test-secret"
)

// Passwords are those of the realm's users, and of the server's administrator.
func Passwords(user string) string {
	return map[string]string{
		"admin@test": "admin", "user@test": "user", "user-b@test": "user-b", "norole@test": "norole",
		"alice": "alice123", "bob": "bob123", "admin": "admin",
	}[user]
}

// Sibling is another realm of the same server.
func (r Realm) Sibling(name string) Realm {
	r.Name = name
	return r
}

// Issuer is what the realm's tokens name.
func (r Realm) Issuer() string { return r.Base + "/realms/" + r.Name }

// Endpoint is the URL of one of the realm's endpoints, for example token.
func (r Realm) Endpoint(name string) string { return r.Issuer() + "/protocol/openid-connect/" + name }

// Tokens are what the token endpoint returned; only Access is always there.
type Tokens struct {
	Access  string `json:"access_token"`
	ID      string `json:"id_token"`
	Refresh string `json:"refresh_token"`
}

// Grant asks the token endpoint.
func (r Realm) Grant(ctx context.Context, form url.Values) (Tokens, error) {
	var got Tokens
	resp, err := post(ctx, r.HTTP, r.Endpoint("token"), form)
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

// Password signs a user in; without a scope the parameter is left out.
func (r Realm) Password(ctx context.Context, client, user, scope string) (Tokens, error) {
	form := url.Values{"grant_type": {"password"}, "client_id": {client}, "username": {user}, "password": {Passwords(user)}}
	if scope != "" {
		form.Set("scope", scope)
	}
	return r.Grant(ctx, form)
}

// Program signs a client in with the secret that all of them have, and returns its access token.
func (r Realm) Program(ctx context.Context, client string) (string, error) {
	got, err := r.Grant(ctx, url.Values{"grant_type": {"client_credentials"}, "client_id": {client}, "client_secret": {MachineSecret}})
	return got.Access, err
}

func post(ctx context.Context, client *http.Client, page string, form url.Values) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, page, strings.NewReader(form.Encode()))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return client.Do(request)
}
