package login_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/fault"
)

// send is a page that talks to the client; it returns the status and what the answer allows.
func send(t *testing.T, method, address, origin, host, body string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Error(err)
		return 0, nil, ""
	}
	if origin != "" {
		req.Header.Set("Origin", origin)
	}
	if host != "" {
		req.Host = host
	}
	req.Header.Set("Access-Control-Request-Private-Network", "true")
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		t.Error(err)
		return 0, nil, ""
	}
	defer resp.Body.Close()
	said, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Error(err)
	}
	return resp.StatusCode, resp.Header, string(said)
}

func TestEdgeLogin(t *testing.T) {
	t.Parallel()
	const origin = "https://gw.example"
	var browser sync.WaitGroup
	defer browser.Wait()
	var notes bytes.Buffer
	e := login.Edge{Notes: &notes, Open: func(_ context.Context, address string) error {
		browser.Go(func() {
			u, err := url.Parse(address)
			if err != nil || u.Scheme+"://"+u.Host != origin || u.Path != "/auth/connect" ||
				!regexp.MustCompile(`\A[A-HJ-NP-Z2-9]{3}-[A-HJ-NP-Z2-9]{4}\z`).MatchString(u.Query().Get("code")) {
				t.Errorf("page %s, %v", address, err)
			}
			base, code := "http://127.0.0.1:"+u.Query().Get("callback_port"), u.Query().Get("code")
			good := fmt.Sprintf(`{"token":"t.o.k","code":%q}`, code)
			for name, tc := range map[string]struct {
				method, path, origin, host, body string
				want                             int
			}{
				"another page":       {http.MethodPost, "/callback", "https://evil.example", "", good, 403},
				"no page":            {http.MethodPost, "/callback", "", "", good, 403},
				"a page's preflight": {http.MethodOptions, "/callback", "https://evil.example", "", "", 403},
				"another name":       {http.MethodPost, "/callback", origin, "evil.example", good, 421},
				"another path":       {http.MethodPost, "/callback/x", origin, "", good, 404},
				"GET":                {http.MethodGet, "/callback", origin, "", "", 405},
				"no JSON":            {http.MethodPost, "/callback", origin, "", "token=t", 400},
				"no token":           {http.MethodPost, "/callback", origin, "", fmt.Sprintf(`{"code":%q}`, code), 400},
				"another code":       {http.MethodPost, "/callback", origin, "", `{"token":"t","code":"AAA-AAAA"}`, 403},
				"no word":            {http.MethodPost, "/callback", origin, "", fmt.Sprintf(`{"token":"a; b","code":%q}`, code), 400},
				"too much":           {http.MethodPost, "/callback", origin, "", `{"token":"` + strings.Repeat("x", 70<<10) + `"}`, 400},
			} {
				if got, header, _ := send(t, tc.method, base+tc.path, tc.origin, tc.host, tc.body); got != tc.want ||
					strings.Contains(header.Get("Access-Control-Allow-Origin"), "evil") {
					t.Errorf("%s: status %d, want %d; %v", name, got, tc.want, header)
				}
			}
			if got, header, _ := send(t, http.MethodOptions, base+"/callback", origin, "", ""); got != 204 ||
				header.Get("Access-Control-Allow-Origin") != origin || header.Get("Access-Control-Allow-Private-Network") != "true" {
				t.Errorf("preflight: %d, %v", got, header)
			}
			if got, _, said := send(t, http.MethodPost, base+"/callback", origin, "", good); got != 200 || said != `{"ok":true}`+"\n" {
				t.Errorf("the token: %d %s", got, said)
			}
		})
		return nil
	}}
	token, err := e.Login(t.Context(), origin)
	if err != nil || token != "t.o.k" || strings.Contains(notes.String(), token) {
		t.Errorf("%q, %v; notes %s", token, err, notes.String())
	}
}

func TestEdgeLoginEnds(t *testing.T) {
	t.Parallel()
	e := login.Edge{Notes: io.Discard, Timeout: time.Millisecond}
	if _, err := e.Login(t.Context(), "https://gw.example"); fault.From(err).Reason != login.ReasonTimeout {
		t.Errorf("nobody came: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	e.Timeout = 0
	if _, err := e.Login(ctx, "https://gw.example"); err == nil {
		t.Error("an interrupted login succeeded")
	}
}

func TestEdgeToken(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	jwt := func(claims string) string { return "h." + base64.RawURLEncoding.EncodeToString([]byte(claims)) + ".s" }
	for name, tc := range map[string]struct {
		token string
		ok    bool
	}{
		"no JWT":     {"opaque", true},
		"valid":      {jwt(`{"exp":1001}`), true},
		"expired":    {jwt(`{"exp":1000}`), false},
		"no end":     {jwt(`{}`), true},
		"odd end":    {jwt(`{"exp":1e300}`), true},
		"no JSON":    {jwt(`x`), true},
		"two words":  {"a b", false},
		"a cookie's": {"a;b", false},
		"none":       {"", false},
	} {
		s := login.EdgeSource{Gateway: "gw", EdgeToken: tc.token, Now: func() time.Time { return now }}
		got, err := s.Token(t.Context())
		if tc.ok != (err == nil && got == tc.token) || !tc.ok && (!fault.Is(err, fault.Unauthenticated) || fault.From(err).Next == "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		if tc.token != "" && strings.Contains(s.String(), tc.token) {
			t.Errorf("%s: shown", name)
		}
	}
}
