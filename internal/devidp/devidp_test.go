package devidp_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"go.uber.org/goleak"
	"golang.org/x/oauth2"

	"sallyport.dev/sallyport/internal/devidp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a provider listening on a port of its own; starting one takes about 100 ms for its key.
type fixture struct {
	*devidp.Provider
	http *http.Client
	dir  string
	stop func()
}

func start(t *testing.T, dir, address string) *fixture {
	t.Helper()
	lis, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	p, err := devidp.New(devidp.Config{
		Issuer:   "http://" + lis.Addr().String() + "/realms/openshell",
		StateDir: dir, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, lis) }()
	transport := &http.Transport{}
	stopped := false
	f := &fixture{Provider: p, dir: dir, http: &http.Client{Transport: transport, Timeout: 10 * time.Second}}
	f.stop = func() {
		if stopped {
			return
		}
		stopped = true
		transport.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	}
	t.Cleanup(f.stop)
	return f
}

func (f *fixture) post(t *testing.T, form url.Values) (map[string]any, int) {
	t.Helper()
	resp, err := f.http.PostForm(f.TokenEndpoint(), form)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out, resp.StatusCode
}

func (f *fixture) discovery(t *testing.T) map[string]any {
	t.Helper()
	resp, err := f.http.Get(f.Issuer() + "/.well-known/openid-configuration")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var out map[string]any
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// verify checks a token against the published keys and returns its claims.
func (f *fixture) verify(t *testing.T, raw any) map[string]any {
	t.Helper()
	text, _ := raw.(string)
	tok, err := jwt.ParseSigned(text, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		t.Fatalf("parse token: %v", err)
	}
	resp, err := f.http.Get(f.discovery(t)["jwks_uri"].(string))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(body), `"d"`) {
		t.Fatal("private key published")
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(body, &set); err != nil {
		t.Fatal(err)
	}
	keys := set.Key(tok.Headers[0].KeyID)
	if len(keys) != 1 {
		t.Fatalf("%d keys for kid %q", len(keys), tok.Headers[0].KeyID)
	}
	var claims map[string]any
	if err := tok.Claims(keys[0].Key, &claims); err != nil {
		t.Fatalf("verify: %v", err)
	}
	if claims["iss"] != f.Issuer() {
		t.Errorf("iss %v", claims["iss"])
	}
	return claims
}

func password(client, user, pass, scope string) url.Values {
	return url.Values{
		"grant_type": {"password"}, "client_id": {client}, "username": {user}, "password": {pass}, "scope": {scope},
	}
}

func words(claim any) []string {
	s, _ := claim.(string)
	return strings.Fields(s)
}

func list(claim any) []string {
	var out []string
	for _, v := range claim.([]any) {
		out = append(out, v.(string))
	}
	return out
}

func TestPasswordGrant(t *testing.T) {
	t.Parallel()
	f := start(t, t.TempDir(), "127.0.0.1:0")
	if d := f.discovery(t); d["issuer"] != f.Issuer() || d["token_endpoint"] != f.TokenEndpoint() || d["authorization_endpoint"] == nil {
		t.Errorf("discovery %v", d)
	}
	for _, tt := range []struct {
		user, pass string
		roles      []string
	}{
		{"admin@test", "admin", []string{"openshell-admin", "openshell-user"}},
		{"user@test", "user", []string{"openshell-user"}},
		{"user-b@test", "user-b", []string{"openshell-user"}},
	} {
		out, code := f.post(t, password("openshell-cli", tt.user, tt.pass, "openid sandbox:read sandbox:write"))
		if code != http.StatusOK {
			t.Fatalf("%s: %d %v", tt.user, code, out)
		}
		c := f.verify(t, out["access_token"])
		if got := list(c["realm_access"].(map[string]any)["roles"]); !slices.Equal(got, tt.roles) {
			t.Errorf("%s: roles %v", tt.user, got)
		}
		if !slices.Equal(list(c["aud"]), []string{"openshell-cli"}) || c["azp"] != "openshell-cli" || c["typ"] != "Bearer" ||
			c["preferred_username"] != tt.user {
			t.Errorf("%s: claims %v", tt.user, c)
		}
		if scopes := words(c["scope"]); !slices.Contains(scopes, "sandbox:write") || slices.Contains(scopes, "openshell:all") {
			t.Errorf("%s: scopes %v", tt.user, scopes)
		}
		if life := c["exp"].(float64) - c["iat"].(float64); life != 300 || out["expires_in"].(float64) != 300 {
			t.Errorf("%s: life %v", tt.user, life)
		}
	}
}

func TestPasswordGrantRefusals(t *testing.T) {
	t.Parallel()
	f := start(t, t.TempDir(), "127.0.0.1:0")
	for _, tt := range []struct {
		name string
		form url.Values
		want string
	}{
		{"wrong password", password("openshell-cli", "user@test", "x", ""), "invalid_grant"},
		{"unknown user", password("openshell-cli", "nobody", "x", ""), "invalid_grant"},
		{"unknown scope", password("openshell-cli", "user@test", "user", "root"), "invalid_scope"},
		{"unknown client", password("other", "user@test", "user", ""), "unauthorized_client"},
		{"machine client", password("openshell-ci", "user@test", "user", ""), "unauthorized_client"},
		{"client of another tenant", password("tenant-b-cli", "user@test", "user", ""), "invalid_grant"},
		{"user of another tenant", password("openshell-cli", "user@tenant-b", "user", ""), "invalid_grant"},
		{"client credentials of a public client", url.Values{"grant_type": {"client_credentials"}, "client_id": {"openshell-cli"}}, "unauthorized_client"},
		{"wrong client secret", url.Values{"grant_type": {"client_credentials"}, "client_id": {"openshell-ci"}, "client_secret": {"x"}}, "invalid_client"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if out, code := f.post(t, tt.form); code < 400 || out["error"] != tt.want {
				t.Errorf("%d %v", code, out)
			}
		})
	}
	huge := password("openshell-cli", "user@test", strings.Repeat("a", 70<<10), "")
	if _, code := f.post(t, huge); code != http.StatusBadRequest {
		t.Errorf("huge form: %d", code)
	}
}

func TestSecondTenantsTokensNameItsAudienceOnly(t *testing.T) {
	t.Parallel()
	f := start(t, t.TempDir(), "127.0.0.1:0")
	out, code := f.post(t, password("tenant-b-cli", "user@tenant-b", "user", "openid openshell:all"))
	if code != http.StatusOK {
		t.Fatalf("%d %v", code, out)
	}
	if c := f.verify(t, out["access_token"]); !slices.Equal(list(c["aud"]), []string{"tenant-b"}) {
		t.Errorf("aud %v", c["aud"])
	}
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	f := start(t, t.TempDir(), "127.0.0.1:0")
	for _, tt := range []struct{ client, secret, audience string }{
		{"openshell-ci", "ci-test-secret", "openshell-cli"},
		{"demo-service", f.DemoSecret(), "demo-service-api"},
	} {
		out, code := f.post(t, url.Values{
			"grant_type": {"client_credentials"}, "client_id": {tt.client}, "client_secret": {tt.secret},
		})
		if code != http.StatusOK {
			t.Fatalf("%s: %d %v", tt.client, code, out)
		}
		c := f.verify(t, out["access_token"])
		if c["azp"] != tt.client || !slices.Equal(list(c["aud"]), []string{tt.audience}) ||
			c["preferred_username"] != "service-account-"+tt.client {
			t.Errorf("%s: claims %v", tt.client, c)
		}
		if got := slices.Contains(words(c["scope"]), "openshell:all"); got != (tt.client == "openshell-ci") {
			t.Errorf("%s: scope %v", tt.client, c["scope"])
		}
		if out["refresh_token"] != nil {
			t.Errorf("%s: got a refresh token", tt.client)
		}
	}
}

var formAction = regexp.MustCompile(`<form method="post" action="([^"]+)"`)

// signIn walks the browser's part of the code flow and returns the redirect's parameters.
func (f *fixture) signIn(t *testing.T, authURL, user, pass string) url.Values {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	browser := &http.Client{
		Transport: f.http.Transport, Jar: jar, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := browser.Get(authURL)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	m := formAction.FindSubmatch(body)
	if m == nil {
		t.Fatalf("no form: %d %s", resp.StatusCode, body)
	}
	if csp := resp.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(string(body), "<script") {
		t.Errorf("page policy %q", csp)
	}
	base, _ := url.Parse(f.Issuer())
	target := base.ResolveReference(&url.URL{Path: string(m[1])}).String()
	wrong, err := browser.PostForm(target, url.Values{"username": {user}, "password": {"<wrong>"}})
	if err != nil {
		t.Fatal(err)
	}
	_ = wrong.Body.Close()
	if wrong.StatusCode != http.StatusUnauthorized {
		t.Errorf("wrong password: %d", wrong.StatusCode)
	}
	resp, err = browser.PostForm(target, url.Values{"username": {user}, "password": {pass}})
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	loc, err := resp.Location()
	if err != nil {
		t.Fatalf("no redirect: %d", resp.StatusCode)
	}
	if !strings.HasPrefix(loc.String(), "http://127.0.0.1:54321/callback?") {
		t.Errorf("redirect to %s", loc)
	}
	return loc.Query()
}

func TestCodeFlowWithPKCEAndRefreshOverARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	f := start(t, dir, "127.0.0.1:0")
	issuer, _ := url.Parse(f.Issuer())
	for _, host := range []string{"127.0.0.1", "localhost"} {
		conf := oauth2.Config{
			ClientID: "openshell-cli", RedirectURL: "http://" + host + ":54321/callback", Scopes: []string{"openid", "openshell:all"},
			Endpoint: oauth2.Endpoint{
				AuthURL: f.discovery(t)["authorization_endpoint"].(string), TokenURL: f.TokenEndpoint(), AuthStyle: oauth2.AuthStyleInParams,
			},
		}
		verifier := oauth2.GenerateVerifier()
		got := f.signIn(t, conf.AuthCodeURL("st4te", oauth2.S256ChallengeOption(verifier)), "user@test", "user")
		if got.Get("state") != "st4te" || got.Get("code") == "" {
			t.Fatalf("redirect %v", got)
		}
		ctx := context.WithValue(t.Context(), oauth2.HTTPClient, f.http)
		if _, err := conf.Exchange(ctx, got.Get("code"), oauth2.VerifierOption(oauth2.GenerateVerifier())); err == nil {
			t.Error("a wrong verifier was accepted")
		}
		// The failure has used the code up.
		got = f.signIn(t, conf.AuthCodeURL("st4te", oauth2.S256ChallengeOption(verifier)), "user@test", "user")
		tok, err := conf.Exchange(ctx, got.Get("code"), oauth2.VerifierOption(verifier))
		if err != nil {
			t.Fatal(err)
		}
		first := f.verify(t, tok.AccessToken)
		if id := f.verify(t, tok.Extra("id_token")); id["sub"] != first["sub"] || id["preferred_username"] != "user@test" {
			t.Errorf("id token %v", id)
		}

		f.stop()
		f = start(t, dir, issuer.Host)
		if again := f.verify(t, tok.AccessToken); again["jti"] != first["jti"] {
			t.Error("token of before the restart is another one")
		}
		out, code := f.post(t, url.Values{"grant_type": {"refresh_token"}, "client_id": {"openshell-cli"}, "refresh_token": {tok.RefreshToken}})
		if code != http.StatusOK {
			t.Fatalf("refresh: %d %v", code, out)
		}
		if c := f.verify(t, out["access_token"]); c["sub"] != first["sub"] || !slices.Contains(words(c["scope"]), "openshell:all") {
			t.Errorf("refreshed claims %v", c)
		}
		if out, code := f.post(t, url.Values{"grant_type": {"refresh_token"}, "client_id": {"tenant-b-cli"}, "refresh_token": {tok.RefreshToken}}); code < 400 {
			t.Errorf("another client refreshed: %v", out)
		}
	}
}

func TestAuthorizeRefusals(t *testing.T) {
	t.Parallel()
	f := start(t, t.TempDir(), "127.0.0.1:0")
	base := f.discovery(t)["authorization_endpoint"].(string) + "?response_type=code&client_id=openshell-cli&scope=openid&redirect_uri="
	noFollow := &http.Client{Transport: f.http.Transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	for _, tt := range []struct{ name, target string }{
		{"foreign redirect", base + url.QueryEscape("https://evil.test/callback") + "&code_challenge=" + strings.Repeat("a", 43) + "&code_challenge_method=S256"},
		{"name that only begins like localhost", base + url.QueryEscape("http://localhost.evil.test/callback")},
	} {
		resp, err := noFollow.Get(tt.target)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %d to %s", tt.name, resp.StatusCode, resp.Header.Get("Location"))
		}
	}
	resp, err := noFollow.Get(base + url.QueryEscape("http://127.0.0.1:1/callback"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if loc := resp.Header.Get("Location"); !strings.Contains(loc, "error=invalid_request") {
		t.Errorf("without PKCE: %d to %s", resp.StatusCode, loc)
	}
}

func TestOnlyThisMachine(t *testing.T) {
	t.Parallel()
	f := start(t, t.TempDir(), "127.0.0.1:0")
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.Issuer()+"/.well-known/openid-configuration", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "rebound.test"
	resp, err := f.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusMisdirectedRequest {
		t.Errorf("foreign host name: %d", resp.StatusCode)
	}
	for _, issuer := range []string{"http://idp.test/realms/openshell", "http://127.0.0.1:1/", "ftp://127.0.0.1/realms/openshell"} {
		if _, err := devidp.New(devidp.Config{Issuer: issuer, StateDir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}); err == nil {
			t.Errorf("issuer %s accepted", issuer)
		}
	}
	entries, err := os.ReadDir(f.dir)
	if err != nil || len(entries) == 0 {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(f.dir, e.Name())); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", e.Name(), info.Mode())
		}
	}
}
