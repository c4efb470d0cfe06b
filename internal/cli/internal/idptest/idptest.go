// Package idptest is a small OpenID provider with behaviour for the tests of the command line: discovery, the
// authorization code flow with PKCE, rotating refresh tokens and client credentials. Its tokens are opaque words
// that only it can judge; it is no example of how to run one.
package idptest

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"
)

// User is whom the provider signs in, Client and Secret the machine it knows.
const (
	User   = "user@test"
	Client = "openshell-ci"
	Secret = "ci-secret"
)

// Provider is a running provider. Its fields may be changed between requests, under Lock.
type Provider struct {
	sync.Mutex
	// TTL is the lifetime of the access tokens.
	TTL time.Duration
	// Refuse is the error that the authorization endpoint answers with; empty signs the user in.
	Refuse string
	// KeepRefresh leaves a refresh token valid and sends no new one.
	KeepRefresh bool
	// Down makes the token endpoint fail without an OAuth error.
	Down bool
	// OtherIssuer is written into the discovery document in place of the issuer.
	OtherIssuer string
	// HTTPEndpoint is written as token endpoint.
	HTTPEndpoint string
	// Devices are the errors that the polls of a device login get, one after another; the empty one, or the end, is success.
	Devices []string
	// NoDevice leaves the device endpoint out of the discovery document, and makes it refuse clients.
	NoDevice bool

	server    *httptest.Server
	codes     map[string]url.Values
	refreshes map[string]string
	tokens    map[string]string
	authorize url.Values
	forms     []url.Values
	// devices are the requests of device codes.
	devices map[string]url.Values
}

// Start runs a provider until the test is over.
func Start(t testing.TB) *Provider {
	t.Helper()
	p := &Provider{
		TTL: 5 * time.Minute, codes: map[string]url.Values{}, refreshes: map[string]string{}, tokens: map[string]string{},
		devices: map[string]url.Values{},
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /realms/test/.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /realms/test/auth", p.auth)
	mux.HandleFunc("POST /realms/test/token", p.token)
	mux.HandleFunc("POST /realms/test/device", p.device)
	p.server = httptest.NewServer(mux)
	t.Cleanup(p.server.Close)
	return p
}

// Issuer is the provider's URL.
func (p *Provider) Issuer() string { return p.server.URL + "/realms/test" }

// Local reaches the provider without a connection, for tests on a fake clock.
func (p *Provider) Local() http.RoundTripper { return local{p.server.Config.Handler} }

type local struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (l local) RoundTrip(r *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	l.handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// Subject is whom an access token is for; empty for one that the provider did not issue.
func (p *Provider) Subject(access string) string {
	p.Lock()
	defer p.Unlock()
	return p.tokens[access]
}

// Authorize is the query of the last authorization request.
func (p *Provider) Authorize() url.Values {
	p.Lock()
	defer p.Unlock()
	return p.authorize
}

// Asked is Authorize for who holds the lock.
func (p *Provider) Asked() url.Values { return p.authorize }

// GrantAccess issues an access token for the user, to who holds the lock.
func (p *Provider) GrantAccess() string {
	token := "access-" + rand.Text()
	p.tokens[token] = User
	return token
}

// Forms are the bodies sent to the token endpoint so far.
func (p *Provider) Forms() []url.Values {
	p.Lock()
	defer p.Unlock()
	return append([]url.Values(nil), p.forms...)
}

// Grant issues a refresh token for a test to begin with.
func (p *Provider) Grant() string {
	p.Lock()
	defer p.Unlock()
	token := rand.Text()
	p.refreshes[token] = User
	return token
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	p.Lock()
	defer p.Unlock()
	doc := map[string]string{
		"issuer": p.Issuer(), "authorization_endpoint": p.Issuer() + "/auth", "token_endpoint": p.Issuer() + "/token",
	}
	if !p.NoDevice {
		doc["device_authorization_endpoint"] = p.Issuer() + "/device"
	}
	if p.OtherIssuer != "" {
		doc["issuer"] = p.OtherIssuer
	}
	if p.HTTPEndpoint != "" {
		doc["token_endpoint"] = p.HTTPEndpoint
	}
	reply(w, http.StatusOK, doc)
}

func (p *Provider) auth(w http.ResponseWriter, r *http.Request) {
	p.Lock()
	defer p.Unlock()
	p.authorize = r.URL.Query()
	back, err := url.Parse(p.authorize.Get("redirect_uri"))
	if err != nil || back.Hostname() != "127.0.0.1" {
		http.Error(w, "bad redirect_uri", http.StatusBadRequest)
		return
	}
	q := url.Values{"state": {p.authorize.Get("state")}, "iss": {p.Issuer()}}
	if p.Refuse != "" {
		q.Set("error", p.Refuse)
		q.Set("error_description", "<b>no</b>")
	} else {
		code := rand.Text()
		p.codes[code] = p.authorize
		q.Set("code", code)
	}
	back.RawQuery = q.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

// device hands out a code, if the client sends what it has to.
func (p *Provider) device(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	p.Lock()
	defer p.Unlock()
	p.authorize = r.PostForm
	if p.Refuse != "" || r.PostForm.Get("code_challenge_method") != "S256" {
		reply(w, http.StatusBadRequest, map[string]string{"error": p.Refuse})
		return
	}
	code := rand.Text()
	p.devices[code] = r.PostForm
	reply(w, http.StatusOK, map[string]any{
		"device_code": code, "user_code": "ABCD-EFGH", "verification_uri": p.Issuer() + "/device",
		"verification_uri_complete": p.Issuer() + "/device?user_code=ABCD-EFGH", "expires_in": 60, "interval": 1,
	})
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	if err := r.ParseForm(); err != nil {
		http.Error(w, "bad form", http.StatusBadRequest)
		return
	}
	p.Lock()
	defer p.Unlock()
	f := r.PostForm
	p.forms = append(p.forms, f)
	if p.Down {
		http.Error(w, "down", http.StatusBadGateway)
		return
	}
	subject, code := p.judge(f)
	if code != "" {
		reply(w, http.StatusBadRequest, map[string]string{"error": code, "error_description": "not accepted"})
		return
	}
	access := "access-" + rand.Text()
	p.tokens[access] = subject
	out := map[string]any{"access_token": access, "token_type": "Bearer", "expires_in": int(p.TTL.Seconds())}
	if f.Get("grant_type") != "client_credentials" && !(p.KeepRefresh && f.Get("grant_type") == "refresh_token") {
		refresh := rand.Text()
		p.refreshes[refresh] = subject
		out["refresh_token"] = refresh
	}
	reply(w, http.StatusOK, out)
}

// judge returns the subject of a grant or the OAuth error.
func (p *Provider) judge(f url.Values) (subject, code string) {
	switch f.Get("grant_type") {
	case "authorization_code":
		asked := p.codes[f.Get("code")]
		delete(p.codes, f.Get("code"))
		sum := sha256.Sum256([]byte(f.Get("code_verifier")))
		if asked == nil || asked.Get("redirect_uri") != f.Get("redirect_uri") || asked.Get("client_id") != f.Get("client_id") ||
			asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			return "", "invalid_grant"
		}
		return User, ""
	case "refresh_token":
		subject := p.refreshes[f.Get("refresh_token")]
		if !p.KeepRefresh {
			delete(p.refreshes, f.Get("refresh_token"))
		}
		if subject == "" {
			return "", "invalid_grant"
		}
		return subject, ""
	case "urn:ietf:params:oauth:grant-type:device_code":
		asked := p.devices[f.Get("device_code")]
		sum := sha256.Sum256([]byte(f.Get("code_verifier")))
		if asked == nil || asked.Get("client_id") != f.Get("client_id") ||
			asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(sum[:]) {
			return "", "invalid_grant"
		}
		if len(p.Devices) > 0 {
			code := p.Devices[0]
			p.Devices = p.Devices[1:]
			if code != "" {
				return "", code
			}
		}
		delete(p.devices, f.Get("device_code"))
		return User, ""
	case "client_credentials":
		if f.Get("client_id") != Client || f.Get("client_secret") != Secret {
			return "", "invalid_client"
		}
		return "service-account-" + Client, ""
	default:
		return "", "unsupported_grant_type"
	}
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(v); err != nil {
		panic(fmt.Sprintf("encode a reply: %v", err))
	}
}
