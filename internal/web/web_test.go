package web_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"html"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/site"
	"sallyport.dev/sallyport/internal/web"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(t testing.TB) web.Config {
	t.Helper()
	policy, err := site.New(site.Config{Hosts: []string{"gateway.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	return web.Config{
		Connect: true, Site: policy, Address: "127.0.0.1:8080", Version: "1.2.3", Logger: slog.New(slog.DiscardHandler),
		OIDC: func() web.OIDC { return web.OIDC{Issuer: "https://id.example.com", Audience: "openshell-cli"} },
	}
}

// answer is what a test looks at beside the body.
type answer struct {
	StatusCode int
	Header     http.Header
}

// get asks h for the target as gateway.example.com, with headers in pairs.
func get(t testing.TB, h http.Handler, target string, header ...string) (answer, string) {
	t.Helper()
	path, query, _ := strings.Cut(target, "?")
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.URL = &url.URL{Path: path, RawQuery: query}
	r.Host = "gateway.example.com"
	for i := 0; i < len(header); i += 2 {
		switch header[i] {
		case "Host":
			r.Host = header[i+1]
		case "Method":
			r.Method = header[i+1]
		default:
			r.Header.Add(header[i], header[i+1])
		}
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return answer{w.Code, w.Header()}, w.Body.String()
}

const (
	good   = web.PathConnect + "?callback_port=4711&code=ABC-2345"
	signed = "CF_Authorization=abc.def.ghi"
)

func TestConnectParameters(t *testing.T) {
	t.Parallel()
	h := web.Handler(config(t))
	for _, c := range []struct {
		query  string
		status int
		text   string
	}{
		{"callback_port=4711&code=ABC-2345", 200, "Connect"},
		{"callback_port=1&code=000-0000", 200, "Connect"},
		{"callback_port=65535&code=ABC-2345", 200, "Connect"},
		{"callback_port=0&code=ABC-2345", 400, "from 1 to 65535"},
		{"callback_port=65536&code=ABC-2345", 400, "from 1 to 65535"},
		{"callback_port=-1&code=ABC-2345", 400, "from 1 to 65535"},
		{"callback_port=+4711&code=ABC-2345", 400, "from 1 to 65535"},
		{"callback_port=0x10&code=ABC-2345", 400, "from 1 to 65535"},
		{"callback_port=80%2F@evil&code=ABC-2345", 400, "from 1 to 65535"},
		{"callback_port=&code=ABC-2345", 400, "from 1 to 65535"},
		{"code=ABC-2345", 400, "each once"},
		{"callback_port=4711", 400, "each once"},
		{"", 400, "each once"},
		{"callback_port=1&callback_port=2&code=ABC-2345", 400, "each once"},
		{"callback_port=1&code=ABC-2345&code=ABC-2346", 400, "each once"},
		{"callback_port=4711&code=abc-2345", 400, web.InvalidCode},
		{"callback_port=4711&code=ABC2345", 400, web.InvalidCode},
		{"callback_port=4711&code=ABC-23456", 400, web.InvalidCode},
		{"callback_port=4711&code=ABC-2345%0a", 400, web.InvalidCode},
		{"callback_port=4711&code=ABC-234%E2%80%A8", 400, web.InvalidCode},
		{"callback_port=4711&code=%EF%BC%A1BC-2345", 400, web.InvalidCode},
		{"callback_port=4711&code=%3Cscript%3E", 400, web.InvalidCode},
		{"callback_port=4711&code=", 400, web.InvalidCode},
	} {
		for _, header := range [][]string{{"Cookie", signed}, nil} {
			resp, body := get(t, h, web.PathConnect+"?"+c.query, header...)
			want := c.text
			if header == nil && c.status == 200 {
				want = "Waiting"
			}
			if resp.StatusCode != c.status || !strings.Contains(body, want) {
				t.Errorf("%q: %d, want %d with %q:\n%s", c.query, resp.StatusCode, c.status, want, body)
			}
			if c.status != 200 && strings.Contains(body, "abc.def.ghi") {
				t.Errorf("%q: the answer holds the token", c.query)
			}
			wantStrict(t, c.query, resp)
		}
	}
}

// wantStrict checks what every page says about itself.
func wantStrict(t testing.TB, what string, resp answer) {
	t.Helper()
	for name, want := range map[string]string{
		"X-Frame-Options": "DENY", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
		"Cross-Origin-Opener-Policy": "same-origin",
	} {
		if got := resp.Header.Get(name); got != want {
			t.Errorf("%s: %s is %q, want %q", what, name, got, want)
		}
	}
	policy := resp.Header.Get("Content-Security-Policy")
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'"} {
		if !strings.Contains(policy, want) {
			t.Errorf("%s: the policy %q lacks %q", what, policy, want)
		}
	}
	for _, bad := range []string{"unsafe", "*", "http://127.0.0.1:*"} {
		if strings.Contains(policy, bad) {
			t.Errorf("%s: the policy %q has %q", what, policy, bad)
		}
	}
	if len(resp.Header.Values("Set-Cookie")) > 0 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("%s: headers %v", what, resp.Header)
	}
}

var nonceIn = regexp.MustCompile(`script-src 'nonce-([A-Za-z0-9_-]{22})'; connect-src http://127\.0\.0\.1:4711;`)

func TestConfirmationPage(t *testing.T) {
	t.Parallel()
	h := web.Handler(config(t))
	resp, body := get(t, h, good, "Cookie", signed)
	if got := resp.Header.Get("Content-Type"); got != "text/html; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	nonce := nonceIn.FindStringSubmatch(resp.Header.Get("Content-Security-Policy"))
	if nonce == nil {
		t.Fatalf("policy %q", resp.Header.Get("Content-Security-Policy"))
	}
	for _, want := range []string{
		`<script nonce="` + nonce[1] + `">`, `<style nonce="` + nonce[1] + `">`, `const token = "abc.def.ghi";`, `const code = "ABC-2345";`,
		`<code id="code">ABC-2345</code>`, `<dd id="host">gateway.example.com</dd>`, "<dd>1.2.3</dd>",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %q:\n%s", want, body)
		}
	}
	if inline := regexp.MustCompile(`(?i)\son[a-z]+\s*=|javascript:|style\s*=`).FindString(body); inline != "" {
		t.Errorf("the page has %q, which its policy blocks", inline)
	}
	if n := strings.Count(body, "abc.def.ghi"); n != 1 {
		t.Errorf("the token stands on the page %d times", n)
	}
	again, _ := get(t, h, good, "Cookie", signed)
	if again.Header.Get("Content-Security-Policy") == resp.Header.Get("Content-Security-Policy") {
		t.Error("two pages have one nonce")
	}
}

func TestWaitingPage(t *testing.T) {
	t.Parallel()
	h := web.Handler(config(t))
	for _, header := range [][]string{
		nil, {"Cookie", "other=1"}, {"Cookie", "CF_Authorization="}, {"Cookie", "CF_Authorization"}, {"Cookie", "cf_authorization=a"}, {"Cookie", "xCF_Authorization=a"},
	} {
		resp, body := get(t, h, good, header...)
		if resp.StatusCode != http.StatusOK || !strings.Contains(body, `<meta http-equiv="refresh" content="2; url=?callback_port=4711&amp;code=ABC-2345">`) {
			t.Errorf("%q: %d:\n%s", header, resp.StatusCode, body)
		}
		if policy := resp.Header.Get("Content-Security-Policy"); strings.Contains(policy, "script-src") || strings.Contains(policy, "connect-src") {
			t.Errorf("%q: policy %q", header, policy)
		}
		if strings.Contains(body, "<script") {
			t.Errorf("%q: the page has a script", header)
		}
	}
}

var tokenIn = regexp.MustCompile(`const token = (".*");\n`)

func TestCookies(t *testing.T) {
	t.Parallel()
	h := web.Handler(config(t))
	for _, c := range []struct {
		header []string
		token  string // empty: refused
	}{
		{[]string{"Cookie", signed}, "abc.def.ghi"},
		{[]string{"Cookie", "a=b; CF_Authorization=x.y.z; c=d"}, "x.y.z"},
		{[]string{"Cookie", "CF_Authorization=first; CF_Authorization=second"}, "first"},
		{[]string{"Cookie", "CF_Authorization=first", "Cookie", "CF_Authorization=second"}, "first"},
		{[]string{"Cookie", "CF_Authorization=a=b=="}, "a=b=="},
		{[]string{"Cookie", `CF_Authorization="quoted"`}, `"quoted"`},
		{[]string{"Cookie", `CF_Authorization=</script><script>alert(1)</script>`}, `</script><script>alert(1)</script>`},
		{[]string{"Cookie", `CF_Authorization=\u003c/script\u003e`}, `\u003c/script\u003e`},
		{[]string{"Cookie", "CF_Authorization=<!--"}, "<!--"},
		{[]string{"Cookie", "CF_Authorization=a b"}, ""},
		{[]string{"Cookie", "CF_Authorization=a\u2028b"}, ""},
		{[]string{"Cookie", "CF_Authorization=a\x00b"}, ""},
		{[]string{"Cookie", "CF_Authorization=\xff"}, ""},
		{[]string{"Cookie", "CF_Authorization=" + strings.Repeat("a", 8<<10)}, strings.Repeat("a", 8<<10)},
		{[]string{"Cookie", "CF_Authorization=" + strings.Repeat("a", 8<<10+1)}, ""},
	} {
		resp, body := get(t, h, good, c.header...)
		if c.token == "" {
			if resp.StatusCode != http.StatusBadRequest || !strings.Contains(body, "is no token") {
				t.Errorf("%.80q: %d", c.header, resp.StatusCode)
			}
			continue
		}
		wantToken(t, body, c.token)
	}
}

// wantToken reads the token as the page's script would, and sees that nothing of it got out of its string.
func wantToken(t testing.TB, body, want string) {
	t.Helper()
	found := tokenIn.FindStringSubmatch(body)
	if found == nil {
		t.Fatalf("no token on the page:\n%s", body)
	}
	var got string
	if err := json.Unmarshal([]byte(found[1]), &got); err != nil || got != want {
		t.Errorf("the script reads %q, %v; want %q", got, err, want)
	}
	if n := strings.Count(strings.ToLower(body), "<script"); n != 1 {
		t.Errorf("the page has %d scripts", n)
	}
	if n := strings.Count(strings.ToLower(body), "</script"); n != 1 {
		t.Errorf("scripts end %d times", n)
	}
	if strings.Contains(body, "<!--") {
		t.Error("the page has the start of a comment")
	}
}

func TestShownHost(t *testing.T) {
	t.Parallel()
	h := web.Handler(config(t))
	for _, c := range []struct {
		header []string
		want   string
	}{
		{nil, "gateway.example.com"},
		{[]string{"Host", "localhost:8080"}, "localhost:8080"},
		{[]string{"X-Forwarded-Host", "edge.example.com"}, "edge.example.com"},
		{[]string{"X-Forwarded-Host", `<img src=x onerror="alert('1')">&`}, `<img src=x onerror="alert('1')">&`},
		{[]string{"X-Forwarded-Host", strings.Repeat("a", 300)}, "gateway.example.com"},
		{[]string{"X-Forwarded-Host", ""}, "gateway.example.com"},
	} {
		_, body := get(t, h, good, append(c.header, "Cookie", signed)...)
		found := regexp.MustCompile(`<dd id="host">(.*)</dd>`).FindStringSubmatch(body)
		if found == nil || html.UnescapeString(found[1]) != c.want || strings.ContainsAny(found[1], `<>"'`) {
			t.Errorf("%q: shown as %q", c.header, found)
		}
	}
}

func TestWhoMayLoadThePage(t *testing.T) {
	t.Parallel()
	h := web.Handler(config(t))
	for _, c := range []struct {
		header []string
		status int
	}{
		{nil, 200},
		{[]string{"Host", "127.0.0.1:8080"}, 200},
		{[]string{"Host", "evil.example"}, 403},
		{[]string{"Host", "evil.example", "X-Forwarded-Host", "gateway.example.com"}, 403},
		{[]string{"Host", ""}, 403},
		{[]string{"Origin", "https://evil.example"}, 403},
		{[]string{"Origin", "null"}, 403},
		{[]string{"Origin", "https://gateway.example.com"}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		{[]string{"Sec-Fetch-Site", "none", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "document"}, 200},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "navigate", "Sec-Fetch-Dest", "iframe"}, 403},
		{[]string{"Sec-Fetch-Site", "cross-site", "Sec-Fetch-Mode", "no-cors", "Sec-Fetch-Dest", "script"}, 403},
		{[]string{"Sec-Fetch-Site", "same-origin", "Sec-Fetch-Mode", "cors", "Sec-Fetch-Dest", "empty"}, 403},
		{[]string{"Method", http.MethodPost}, 405},
		{[]string{"Method", http.MethodOptions}, 405},
		{[]string{"Method", http.MethodHead}, 200},
	} {
		resp, body := get(t, h, good, append(c.header, "Cookie", signed)...)
		if resp.StatusCode != c.status {
			t.Errorf("%q: %d, want %d", c.header, resp.StatusCode, c.status)
		}
		if resp.StatusCode != http.StatusOK && strings.Contains(body, "abc.def.ghi") {
			t.Errorf("%q: the answer holds the token", c.header)
		}
		wantStrict(t, strings.Join(c.header, " "), resp)
	}
}

func TestWhatIsOffIsNotFound(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Connect, cfg.OIDC = false, nil
	h := web.Handler(cfg)
	if resp, body := get(t, h, good, "Cookie", signed); resp.StatusCode != http.StatusNotFound || strings.Contains(body, "abc") {
		t.Errorf("%s: %d", web.PathConnect, resp.StatusCode)
	}
	if resp, body := get(t, h, web.PathOIDCConfig); resp.StatusCode != http.StatusNotFound || body != "" {
		t.Errorf("%s: %d %q", web.PathOIDCConfig, resp.StatusCode, body)
	}
	for _, path := range []string{"/", "/auth", "/auth/", "/auth/connect/", "/auth/connect/x", "/auth/oidc-config/"} {
		if resp, _ := get(t, web.Handler(config(t)), path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %d", path, resp.StatusCode)
		}
	}
}

func TestOIDCConfig(t *testing.T) {
	t.Parallel()
	// It is the same for everybody, whatever the name.
	resp, body := get(t, web.Handler(config(t)), web.PathOIDCConfig, "Host", "10.0.0.1")
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "application/json" ||
		strings.TrimSpace(body) != `{"issuer":"https://id.example.com","audience":"openshell-cli"}` {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	wantStrict(t, web.PathOIDCConfig, resp)
}

type empty struct{}

func (empty) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

func TestWithoutNoncesThereIsNoPage(t *testing.T) {
	t.Parallel()
	cfg := config(t)
	cfg.Random = empty{}
	if resp, body := get(t, web.Handler(cfg), good, "Cookie", signed); resp.StatusCode != http.StatusInternalServerError || strings.Contains(body, "abc") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	cfg.Random = io.LimitReader(bytes.NewReader(make([]byte, 100)), 100)
	if resp, _ := get(t, web.Handler(cfg), good, "Cookie", signed); resp.StatusCode != http.StatusOK {
		t.Errorf("%d", resp.StatusCode)
	}
}

// Whatever comes in: no markup gets out of where it belongs, and a token is shown whole or not at all.
func FuzzConnect(f *testing.F) {
	for _, seed := range [][4]string{
		{"4711", "ABC-2345", "abc.def", "gateway.example.com"},
		{"0", "abc", "</script><script>", "<img>"},
		{"65536", "ABC-234\u2028", "a\u2028b", `"'&<>`},
		{"1", "ABC-2345", `\`, "`${1}"},
		{"1", "ABC-2345", "<!--<script>", "]]>"},
	} {
		f.Add(seed[0], seed[1], seed[2], seed[3])
	}
	h := web.Handler(config(f))
	f.Fuzz(func(t *testing.T, port, code, cookie, forwarded string) {
		query := url.Values{"callback_port": {port}, "code": {code}}.Encode()
		resp, body := get(t, h, web.PathConnect+"?"+query, "Cookie", "CF_Authorization="+cookie, "X-Forwarded-Host", forwarded)
		wantStrict(t, query, resp)
		if resp.StatusCode != http.StatusOK {
			if resp.StatusCode != http.StatusBadRequest || strings.Contains(body, "<script") {
				t.Fatalf("%d:\n%s", resp.StatusCode, body)
			}
			return
		}
		if !regexp.MustCompile(`\A[A-Z0-9]{3}-[A-Z0-9]{4}\z`).MatchString(code) {
			t.Fatalf("the code %q is taken", code)
		}
		value, _, _ := strings.Cut(cookie, ";")
		value = strings.TrimSpace("=" + value)[1:]
		if value == "" {
			return
		}
		wantToken(t, body, value)
		for _, tag := range []string{"<img", "<iframe", "<svg", "<base", "<form", "<object"} {
			if strings.Contains(strings.ToLower(body), tag) {
				t.Fatalf("the page has %s:\n%s", tag, body)
			}
		}
	})
}
