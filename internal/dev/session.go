package dev

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// session is one signed-in user's connection to the gateway.
type session struct {
	openshellpb.OpenShellClient
	conn   *grpc.ClientConn
	claims claims
}

func (s *session) close() error { return s.conn.Close() }

// signIn obtains a token with a password and connects with it, trusting the development authority only.
func signIn(ctx context.Context, sys *system, client, user, password string) (*session, error) {
	token, err := passwordToken(ctx, sys.idp.TokenEndpoint(), client, user, password)
	if err != nil {
		return nil, fmt.Errorf("sign in as %s: %w", user, err)
	}
	c, err := parseClaims(token)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(sys.certs.caPEM) {
		return nil, errors.New("read development authority: no certificate")
	}
	conn, err := grpc.NewClient("127.0.0.1:"+strconv.Itoa(sys.ports.Gateway),
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12})),
		grpc.WithPerRPCCredentials(bearer(token)))
	if err != nil {
		return nil, fmt.Errorf("connect to gateway: %w", err)
	}
	return &session{OpenShellClient: openshellpb.NewOpenShellClient(conn), conn: conn, claims: c}, nil
}

func passwordToken(ctx context.Context, endpoint, client, user, password string) (string, error) {
	form := url.Values{
		"grant_type": {"password"}, "client_id": {client}, "username": {user}, "password": {password},
		"scope": {"openid openshell:all"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var body struct {
		AccessToken string `json:"access_token"`
		Error       string `json:"error"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 64<<10)).Decode(&body); err != nil {
		return "", fmt.Errorf("read token response: %w", err)
	}
	if resp.StatusCode != http.StatusOK || body.AccessToken == "" {
		return "", fmt.Errorf("token endpoint answered %d %s", resp.StatusCode, body.Error)
	}
	return body.AccessToken, nil
}

// bearer puts a token on every call, over TLS only.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// claims are what the demo shows of a token.
type claims struct {
	Azp   string  `json:"azp"`
	Exp   float64 `json:"exp"`
	User  string  `json:"preferred_username"`
	Realm struct {
		Roles []string `json:"roles"`
	} `json:"realm_access"`
	Aud any `json:"aud"`
}

func parseClaims(token string) (claims, error) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}, errors.New("token is no JWT")
	}
	return parsePayload(parts[1])
}

func parsePayload(part string) (claims, error) {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return claims{}, fmt.Errorf("decode token's claims: %w", err)
	}
	var c claims
	if err := json.Unmarshal(raw, &c); err != nil {
		return claims{}, fmt.Errorf("decode token's claims: %w", err)
	}
	return c, nil
}
