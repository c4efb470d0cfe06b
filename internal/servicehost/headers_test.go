package servicehost_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/service"
)

// echo answers with the headers of the request, and with those that the request asks for in "Answer".
func echo(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Early") != "" {
		w.Header().Set("Set-Cookie", "early=1; Domain="+domain)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Set-Cookie")
	}
	for _, line := range r.Header["Answer"] {
		name, value, _ := strings.Cut(line, "=")
		w.Header().Add(name, value)
	}
	if r.URL.Path == "/moved" {
		w.Header().Set("Location", "http://"+r.Host+"/there?x=1#y")
		w.WriteHeader(http.StatusFound)
	}
	head := r.Header.Clone()
	head.Set("Host", r.Host)
	if err := json.NewEncoder(w).Encode(head); err != nil {
		panic(err)
	}
}

// seen is what the program saw.
func (r *rig) seen(a answer) http.Header {
	r.tb.Helper()
	var h http.Header
	if err := json.Unmarshal([]byte(a.body), &h); err != nil {
		r.tb.Fatalf("%d %s: %v", a.StatusCode, a.body, err)
	}
	return h
}

func TestGatewaysCredentialsStayOutside(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tls: true})
	e := r.expose("box", "web", "alice", http.HandlerFunc(echo))
	session := strings.TrimPrefix(r.signIn("alice", "box", "web"), "Cookie: ")
	host := r.host("box", "web")
	a := r.ask(http.MethodGet, host, "/", "Cookie: a=b; "+session, "Cookie: CF_Authorization=secret; cf-authorization=secret; c=d", "Cookie: =__Host-sallyport-service=x",
		"Authorization: Bearer other", "Proxy-Authorization: Basic secret", "Cf-Access-Jwt-Assertion: secret", "Cf-Access-Token: secret",
		"X-Forwarded-Client-Cert: secret", "X-Ssl-Client-Cert: secret", "X-Client-Cert: secret", "X-Sandbox-Secret: secret", "X-Sandbox-Token: secret",
		"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil", "X-Forwarded-Proto: gopher", "X-Forwarded-Port: 1", "X-Real-Ip: 1.2.3.4", "Forwarded: for=1.2.3.4",
		"Connection: X-Hop, close", "X-Hop: hop", "Keep-Alive: timeout=1", "Te: trailers", "Accept-Encoding: br", "X-Request-Id: id-1")
	if a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	got := r.seen(a)
	for name, want := range map[string][]string{
		"Host": {fmt.Sprintf("127.0.0.1:%d", e.Port)}, "Cookie": {"a=b; c=d"}, "X-Forwarded-For": {"127.0.0.1"},
		"X-Forwarded-Host": {host}, "X-Forwarded-Proto": {"https"}, "Accept-Encoding": {"br"}, "X-Request-Id": {"id-1"},
		"Authorization": nil, "Proxy-Authorization": nil, "X-Hop": nil, "Keep-Alive": nil, "Forwarded": nil, "X-Real-Ip": nil, "X-Forwarded-Port": nil,
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s: %q, want %q", name, got[name], want)
		}
	}
	if strings.Contains(a.body, "secret") || strings.Contains(a.body, strings.TrimPrefix(session, "__Host-sallyport-service=")) {
		t.Errorf("a credential got through: %s", a.body)
	}
	withToken := r.ask(http.MethodGet, host, "/", bearer+"alice", "Cookie: "+session+"; "+session)
	if got := r.seen(withToken); got["Authorization"] != nil || got["Cookie"] != nil {
		t.Errorf("a credential got through: %s", withToken.body)
	}
}

func TestOriginIsTheProgramsOwnToTheProgram(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	e := r.expose("box", "web", "alice", http.HandlerFunc(echo))
	host := r.host("box", "web")
	for origin, want := range map[string]string{
		"http://" + host:   fmt.Sprintf("http://127.0.0.1:%d", e.Port),
		"https://" + host:  fmt.Sprintf("http://127.0.0.1:%d", e.Port),
		"https://evil.com": "https://evil.com",
		"null":             "null",
	} {
		if got := r.seen(r.ask(http.MethodGet, host, "/", bearer+"alice", "Origin: "+origin)); got.Get("Origin") != want {
			t.Errorf("%s: %q, want %q", origin, got.Get("Origin"), want)
		}
	}
}

func TestBearerPassthrough(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	e := r.expose("box", "web", "alice", http.HandlerFunc(echo))
	if _, err := r.services.Expose(as(t.Context(), "alice"), service.ExposeRequest{Name: e.Name, Port: uint32(e.Port), Mode: service.BearerPassthrough}); err != nil {
		t.Fatal(err)
	}
	session, host := r.signIn("alice", "box", "web"), r.host("box", "web")
	for name, c := range map[string]struct {
		headers []string
		want    string
	}{
		"the program's":         {[]string{session, "Authorization: Bearer app"}, "Bearer app"},
		"beside another header": {[]string{"Sallyport-Authorization: Bearer user-alice", "Authorization: Bearer app"}, "Bearer app"},
		"the gateway's":         {[]string{bearer + "alice"}, ""},
		"another user's":        {[]string{session, bearer + "bob"}, ""},
		"a sandbox's":           {[]string{session, "Authorization: Bearer sandbox-x"}, ""},
		"two":                   {[]string{session, "Authorization: Bearer a", "Authorization: Bearer b"}, ""},
		"no bearer":             {[]string{session, "Authorization: Basic x"}, ""},
	} {
		a := r.ask(http.MethodGet, host, "/", c.headers...)
		if got := r.seen(a); got.Get("Authorization") != c.want || got["Sallyport-Authorization"] != nil {
			t.Errorf("%s: %q, want %q", name, got["Authorization"], c.want)
		}
	}
}

func TestProgramStaysInsideItsHost(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(echo))
	host := r.host("box", "web")
	a := r.ask(http.MethodGet, host, "/", bearer+"alice", "Early: 1",
		"Answer: Set-Cookie=a=b; Domain="+domain+"; Path=/; domain = .example; HttpOnly", "Answer: Set-Cookie=plain=1",
		"Answer: Set-Cookie=__Host-sallyport-service=x; Path=/", "Answer: Set-Cookie=__HOST-Sallyport-Service=x", "Answer: Set-Cookie=CF_Authorization=x",
		"Answer: Set-Cookie==__Host-sallyport-service=x", "Answer: Set-Cookie=nameless",
		"Answer: Clear-Site-Data=\"cookies\"", "Answer: Alt-Svc=h3=\"evil:443\"", "Answer: X-Other=kept", "Answer: Connection=X-Hop", "Answer: X-Hop=1")
	if got, want := a.Header["Set-Cookie"], []string{"a=b; Path=/; HttpOnly", "plain=1"}; !slices.Equal(got, want) {
		t.Errorf("cookies %q, want %q", got, want)
	}
	for name, want := range map[string]string{"Clear-Site-Data": "", "Alt-Svc": "", "Connection": "", "X-Other": "kept", "X-Hop": ""} {
		if got := a.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if moved := r.ask(http.MethodGet, host, "/moved", bearer+"alice"); moved.Header.Get("Location") != "http://"+host+"/there?x=1#y" {
		t.Errorf("moved to %q", moved.Header.Get("Location"))
	}
	for _, location := range []string{"/there", "https://elsewhere.example/", "http://127.0.0.1:1/", "there"} {
		if a := r.ask(http.MethodGet, host, "/", bearer+"alice", "Answer: Location="+location); a.Header.Get("Location") != location {
			t.Errorf("%q became %q", location, a.Header.Get("Location"))
		}
	}
}

func TestForeignPagesAreRefused(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	session, host := r.signIn("alice", "box", "web"), r.host("box", "web")
	sibling := "http://" + r.host("evil", "web")
	for name, c := range map[string]struct {
		method  string
		headers []string
		status  int
	}{
		"its own page":            {"POST", []string{"Origin: http://" + host, "Sec-Fetch-Site: same-origin"}, 200},
		"its own page, no origin": {"POST", []string{"Sec-Fetch-Site: same-origin"}, 200},
		"its own form, null":      {"POST", []string{"Origin: null", "Sec-Fetch-Site: same-origin"}, 200},
		"typed":                   {"GET", []string{"Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200},
		"followed a link":         {"GET", []string{"Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 200},
		"old browser":             {"GET", []string{"Referer: https://elsewhere.example/"}, 200},
		"old browser, own form":   {"POST", []string{"Referer: http://" + host + "/form"}, 200},
		"sibling's script":        {"POST", []string{"Origin: " + sibling, "Sec-Fetch-Site: same-site"}, 403},
		"sibling's image":         {"GET", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"}, 403},
		"sibling's frame":         {"GET", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, 403},
		"sibling's form":          {"POST", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"}, 403},
		"sibling's socket":        {"GET", []string{"Origin: " + sibling, "Connection: Upgrade", "Upgrade: websocket"}, 403},
		"opaque page":             {"POST", []string{"Origin: null", "Sec-Fetch-Site: cross-site"}, 403},
		"opaque page, old":        {"GET", []string{"Origin: null"}, 403},
		"two origins":             {"GET", []string{"Origin: http://" + host, "Origin: http://" + host}, 403},
		"old browser's form":      {"POST", []string{"Referer: https://elsewhere.example/"}, 403},
		"nobody knows who":        {"POST", nil, 403},
	} {
		a := r.ask(c.method, host, "/", append([]string{session}, c.headers...)...)
		if a.StatusCode != c.status || c.status == 403 && !strings.HasPrefix(a.body, "Cross-origin service request rejected") {
			t.Errorf("%s: %d %q, want %d", name, a.StatusCode, a.body, c.status)
		}
	}
	if a := r.ask(http.MethodPost, host, "/", bearer+"alice", "Origin: https://elsewhere.example"); a.StatusCode != http.StatusOK {
		t.Errorf("a program with a token: %d", a.StatusCode)
	}
}
