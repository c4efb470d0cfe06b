package login_test

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/cli/internal/idptest"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T) *http.Client {
	t.Helper()
	c := transport.HTTPClient(nil)
	t.Cleanup(c.CloseIdleConnections)
	return c
}

// visit is a browser: it follows the provider's redirect and returns the page.
func visit(t *testing.T, method, address string) (int, http.Header, string) {
	t.Helper()
	transport := &http.Transport{DisableKeepAlives: true}
	req, err := http.NewRequestWithContext(t.Context(), method, address, http.NoBody)
	if err != nil {
		t.Error(err)
		return 0, nil, ""
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		t.Error(err)
		return 0, nil, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header, string(body)
}

// signIn runs a login whose browser does what open does.
func signIn(t *testing.T, cfg login.Config, b login.Browser, open func(address string)) (profile.Token, error) {
	t.Helper()
	var browser sync.WaitGroup
	defer browser.Wait()
	b.Client, b.Notes = client(t), io.Discard
	b.Open = func(_ context.Context, address string) error {
		browser.Go(func() { open(address) })
		return nil
	}
	return b.Login(t.Context(), cfg)
}

func TestBrowserLogin(t *testing.T) {
	t.Parallel()
	for scopes, want := range map[string]string{
		"": "openid", "openid": "openid", "openid openid a": "openid a", "a  a b": "openid a b",
	} {
		t.Run(scopes, func(t *testing.T) {
			t.Parallel()
			idp := idptest.Start(t)
			cfg := login.Config{Issuer: idp.Issuer(), ClientID: "openshell-cli", Audience: "gw", Scopes: scopes}
			token, err := signIn(t, cfg, login.Browser{PromptLogin: true}, func(address string) {
				code, header, page := visit(t, http.MethodGet, address)
				if code != http.StatusOK || !strings.Contains(page, "Authentication successful") {
					t.Errorf("page: %d %s", code, page)
				}
				if csp := header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") {
					t.Errorf("content security policy %q", csp)
				}
				if header.Get("X-Content-Type-Options") != "nosniff" || header.Get("Cache-Control") != "no-store" {
					t.Errorf("headers %v", header)
				}
			})
			if err != nil || idp.Subject(token.AccessToken) != idptest.User || token.RefreshToken == "" {
				t.Fatalf("Login = %v, %v", token, err)
			}
			q := idp.Authorize()
			got := map[string]string{}
			for _, k := range []string{"response_type", "client_id", "code_challenge_method", "scope", "audience", "prompt"} {
				got[k] = q.Get(k)
			}
			if diff := cmp.Diff(map[string]string{
				"response_type": "code", "client_id": "openshell-cli", "code_challenge_method": "S256", "scope": want,
				"audience": "gw", "prompt": "login",
			}, got); diff != "" {
				t.Error(diff)
			}
			if len(q.Get("code_challenge")) != 43 || len(q.Get("state")) < 22 {
				t.Errorf("challenge %q, state %q", q.Get("code_challenge"), q.Get("state"))
			}
			back, err := url.Parse(q.Get("redirect_uri"))
			if err != nil || back.Scheme != "http" || back.Hostname() != "127.0.0.1" || back.Port() == "" || back.Path != "/callback" {
				t.Errorf("redirect %q", q.Get("redirect_uri"))
			}
		})
	}
}

// callbackOf is where an authorization address leads back to, with another query.
func callbackOf(t *testing.T, address string, q url.Values) string {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Error(err)
	}
	return u.Query().Get("redirect_uri") + "?" + q.Encode()
}

func TestStrayRequestsDoNotEndALogin(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	cfg := login.Config{Issuer: idp.Issuer(), ClientID: "c"}
	token, err := signIn(t, cfg, login.Browser{}, func(address string) {
		u, err := url.Parse(address)
		if err != nil {
			t.Error(err)
		}
		state := u.Query().Get("state")
		back := u.Query().Get("redirect_uri")
		for _, tc := range []struct {
			name, method, address string
			want                  int
		}{
			{"wrong state", http.MethodGet, callbackOf(t, address, url.Values{"state": {"x"}, "code": {"c"}}), 403},
			{"no state", http.MethodGet, callbackOf(t, address, url.Values{"code": {"c"}}), 403},
			{"error without state", http.MethodGet, callbackOf(t, address, url.Values{"error": {"access_denied"}}), 403},
			{"no code", http.MethodGet, callbackOf(t, address, url.Values{"state": {state}}), 400},
			{"other issuer", http.MethodGet, callbackOf(t, address, url.Values{"state": {state}, "code": {"c"}, "iss": {"https://evil"}}), 403},
			{"post", http.MethodPost, callbackOf(t, address, url.Values{"state": {state}, "code": {"c"}}), 405},
			{"head", http.MethodHead, callbackOf(t, address, url.Values{"state": {state}, "code": {"c"}}), 405},
			{"favicon", http.MethodGet, strings.Replace(back, "/callback", "/favicon.ico", 1), 404},
			{"longer path", http.MethodGet, back + "x?state=" + state + "&code=c", 404},
		} {
			if code, _, _ := visit(t, tc.method, tc.address); code != tc.want {
				t.Errorf("%s: status %d, want %d", tc.name, code, tc.want)
			}
		}
		if code, _, _ := visit(t, http.MethodGet, address); code != http.StatusOK {
			t.Errorf("the real answer: status %d", code)
		}
	})
	if err != nil || idp.Subject(token.AccessToken) != idptest.User {
		t.Fatalf("Login = %v, %v", token, err)
	}
}

func TestRefusedLogin(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	idp.Refuse = "access_denied"
	_, err := signIn(t, login.Config{Issuer: idp.Issuer(), ClientID: "c"}, login.Browser{}, func(address string) {
		code, _, page := visit(t, http.MethodGet, address)
		if code != http.StatusBadRequest || strings.Contains(page, "<b>") || !strings.Contains(page, "&lt;b&gt;no") {
			t.Errorf("page: %d %s", code, page)
		}
	})
	if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), "access_denied") {
		t.Fatalf("Login = %v", err)
	}
}

func TestLoginTimesOut(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	var notes bytes.Buffer
	b := login.Browser{Client: client(t), Notes: &notes, Timeout: 10 * time.Millisecond}
	_, err := b.Login(t.Context(), login.Config{Issuer: idp.Issuer(), ClientID: "c"})
	if !fault.Is(err, fault.DeadlineExceeded) {
		t.Fatalf("Login = %v", err)
	}
	// Without a browser the address is printed.
	if !strings.Contains(notes.String(), idp.Issuer()+"/auth?") || strings.Contains(notes.String(), "Opening browser") {
		t.Errorf("notes: %s", notes.String())
	}
}

func TestOpener(t *testing.T) {
	t.Parallel()
	env := func(vars map[string]string) profile.Env {
		return func(k string) (string, bool) { v, ok := vars[k]; return v, ok }
	}
	for _, v := range []string{"1", "true", "TRUE"} {
		if login.Opener(env(map[string]string{login.NoBrowserEnv: v, "DISPLAY": ":0"})) != nil {
			t.Errorf("%s=%s opens a browser", login.NoBrowserEnv, v)
		}
	}
	if open := login.Opener(env(nil)); open == nil || open(t.Context(), "http://127.0.0.1/") == nil {
		t.Error("without a display no browser can be opened")
	}
}

func TestDiscoveryIsStrict(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		change func(*idptest.Provider)
		issuer func(*idptest.Provider) string
		reason string
	}{
		{name: "other issuer", change: func(p *idptest.Provider) { p.OtherIssuer = "https://other" }, reason: login.ReasonIssuer},
		{name: "endpoint without host", change: func(p *idptest.Provider) { p.HTTPEndpoint = "/token" }, reason: login.ReasonInsecureIssuer},
		{name: "not found", issuer: func(p *idptest.Provider) string { return p.Issuer() + "/x" }, reason: login.ReasonDiscovery},
		{name: "not a url", issuer: func(*idptest.Provider) string { return "http://\x00" }, reason: login.ReasonDiscovery},
		{name: "plain http elsewhere", issuer: func(*idptest.Provider) string { return "http://192.0.2.1" }, reason: login.ReasonDiscovery},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			idp := idptest.Start(t)
			if tc.change != nil {
				tc.change(idp)
			}
			issuer := idp.Issuer()
			if tc.issuer != nil {
				issuer = tc.issuer(idp)
			}
			_, err := login.Discover(t.Context(), client(t), issuer)
			if err == nil || fault.From(err).Reason != tc.reason {
				t.Errorf("Discover = %v", err)
			}
		})
	}
}

func TestClientCredentials(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	cfg := login.Config{Issuer: idp.Issuer(), ClientID: idptest.Client, Scopes: "a b", Audience: "gw"}
	token, err := login.ClientCredentials(t.Context(), client(t), cfg, idptest.Secret)
	if err != nil || token.RefreshToken != "" || idp.Subject(token.AccessToken) == "" {
		t.Fatalf("ClientCredentials = %v, %v", token, err)
	}
	want := url.Values{
		"grant_type": {"client_credentials"}, "client_id": {idptest.Client}, "client_secret": {idptest.Secret},
		"scope": {"a b"}, "audience": {"gw"},
	}
	if diff := cmp.Diff(want, idp.Forms()[0]); diff != "" {
		t.Error(diff)
	}
	if _, err := login.ClientCredentials(t.Context(), client(t), cfg, ""); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("with an empty secret: %v", err)
	}
}
