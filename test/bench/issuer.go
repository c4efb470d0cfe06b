package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

const (
	issuerPath = "/realms/openshell"
	audience   = "openshell-cli"
	keyID      = "bench"
	tokenLife  = 2 * time.Hour
)

// issuer is an identity provider with one RS256 key, in this process.
type issuer struct {
	url    string
	signer jose.Signer
	server *http.Server
}

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", keyID)
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, options)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	i := &issuer{url: "http://" + l.Addr().String() + issuerPath, signer: signer}
	mux := http.NewServeMux()
	mux.Handle("GET "+issuerPath+"/.well-known/openid-configuration", document(map[string]any{
		"issuer": i.url, "jwks_uri": i.url + "/certs", "authorization_endpoint": i.url + "/auth", "token_endpoint": i.url + "/token",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
	}))
	mux.Handle("GET "+issuerPath+"/certs", document(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{
		{Key: key.Public(), KeyID: keyID, Algorithm: string(jose.RS256), Use: "sig"},
	}}))
	i.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	// Ends with close, which is the only error there can be.
	go func() { _ = i.server.Serve(l) }()
	return i, nil
}

func (i *issuer) close() error {
	if err := i.server.Close(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func document(v any) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		// The gateway asks again if it did not get it.
		_ = json.NewEncoder(w).Encode(v)
	})
}

// mint returns a token of a user who may do everything, of the size that Keycloak's tokens have.
func (i *issuer) mint(user string) (string, error) {
	now := time.Now()
	roles := []string{"openshell-user", "openshell-admin", "default-roles-openshell", "offline_access", "uma_authorization"}
	token, err := jwt.Signed(i.signer).Claims(map[string]any{
		"iss": i.url, "aud": []string{audience, "account"}, "sub": user + "-id", "preferred_username": user,
		"exp": now.Add(tokenLife).Unix(), "iat": now.Unix(), "jti": "onrtac:" + user, "typ": "Bearer", "azp": audience,
		"sid": "2a1e0f2b-3d53-4c9f-b7e8-" + user, "acr": "1", "allowed-origins": []string{"http://localhost", "http://127.0.0.1"},
		"realm_access":    map[string]any{"roles": roles},
		"resource_access": map[string]any{"account": map[string]any{"roles": []string{"manage-account", "view-profile"}}},
		"scope":           "openid email profile", "email_verified": true, "name": "Bench " + user, "email": user + "@example.test",
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign a token: %w", err)
	}
	return token, nil
}
