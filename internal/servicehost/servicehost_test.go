package servicehost_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/audit"
)

// hello answers with what it was asked.
func hello(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, "%s %s %s %s", r.Method, r.Host, r.URL.RequestURI(), body)
}

func TestServedToWhoShowsAToken(t *testing.T) {
	t.Parallel()
	for _, tls := range []bool{false, true} {
		for _, version2 := range []bool{false, true} {
			if version2 && !tls {
				continue
			}
			t.Run(fmt.Sprintf("tls %t, http2 %t", tls, version2), func(t *testing.T) {
				t.Parallel()
				r := newRig(t, options{tls: tls})
				e := r.expose("box", "web", "alice", http.HandlerFunc(hello))
				c := r.client(version2)
				if version2 {
					// A client that offers HTTP/2 alone is taken for one of gRPC.
					c.Transport.(*http.Transport).Protocols.SetHTTP1(true)
				}
				a := r.askWith(c, http.MethodPost, r.host("box", "web"), "/a%2Fb?x=1;y=%zz", strings.NewReader("body"), bearer+"alice")
				want := fmt.Sprintf("POST 127.0.0.1:%d /a%%2Fb?x=1;y=%%zz body", e.Port)
				if a.StatusCode != http.StatusOK || a.body != want || version2 != (a.ProtoMajor == 2) {
					t.Errorf("%d %s %q, want %q", a.StatusCode, a.Proto, a.body, want)
				}
				if got := r.askWith(c, http.MethodGet, r.address, "/", nil); got.body != "the gateway's own" {
					t.Errorf("the gateway's own host: %d %q", got.StatusCode, got.body)
				}
				if open := r.records.of(audit.ActionSessionOpen); len(open) != 1 || open[0].Actor != idp+"|alice" ||
					open[0].Target != "sandbox/default/box/service/web" || open[0].Details["by"] != "token" {
					t.Errorf("recorded: %+v", open)
				}
			})
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{private: true})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	r.port("box", "dead", "alice", 1)
	r.box("cold", "alice")
	r.port("cold", "", "alice", 8080)
	for name, c := range map[string]struct {
		box, service string
		headers      []string
		status       int
		text         string
	}{
		"nobody":            {"box", "web", nil, 401, "Missing authorization header"},
		"nobody, absent":    {"none", "web", nil, 401, "Missing authorization header"},
		"no user":           {"box", "web", []string{"Authorization: Bearer x"}, 401, "Invalid token"},
		"wrong cookie":      {"box", "web", []string{"Cookie: __Host-sallyport-service=" + strings.Repeat("a", 43)}, 401, "Missing authorization header"},
		"a sandbox":         {"box", "web", []string{"Authorization: Bearer sandbox-x"}, 403, "Sandbox principals may not call this method"},
		"without a role":    {"box", "web", []string{bearer + "nobody"}, 403, "Role 'openshell-user' required"},
		"no role, absent":   {"none", "web", []string{bearer + "nobody"}, 403, "Role 'openshell-user' required"},
		"another's":         {"box", "web", []string{bearer + "bob"}, 404, "Service endpoint not found"},
		"absent sandbox":    {"none", "web", []string{bearer + "bob"}, 404, "Service endpoint not found"},
		"absent service":    {"box", "none", []string{bearer + "alice"}, 404, "Service endpoint not found"},
		"administrator":     {"box", "web", []string{bearer + "root"}, 200, "GET 127.0.0.1"},
		"not ready":         {"cold", "", []string{bearer + "alice"}, 412, "Sandbox is not ready"},
		"nothing listens":   {"box", "dead", []string{bearer + "alice"}, 502, "Service endpoint is not reachable"},
		"two tokens":        {"box", "web", []string{bearer + "alice", bearer + "alice"}, 401, "Missing authorization header"},
		"other header":      {"box", "web", []string{"Sallyport-Authorization: Bearer user-alice", "Authorization: Bearer other"}, 200, "GET 127.0.0.1"},
		"other header only": {"box", "web", []string{"Sallyport-Authorization: Bearer x", bearer + "alice"}, 401, "Invalid token"},
	} {
		t.Run(name, func(t *testing.T) {
			a := r.ask(http.MethodGet, r.host(c.box, c.service), "/", c.headers...)
			if a.StatusCode != c.status || !strings.HasPrefix(a.body, c.text) {
				t.Errorf("%d %q, want %d %q", a.StatusCode, a.body, c.status, c.text)
			}
			if c.status != 200 && (a.Header.Get("X-Request-Id") == "" || a.Header.Get("Cache-Control") != "no-store" ||
				!strings.HasPrefix(a.Header.Get("Content-Type"), "text/plain")) {
				t.Errorf("headers: %v", a.Header)
			}
			if (c.status == 401) != (a.Header.Get("WWW-Authenticate") != "") {
				t.Errorf("WWW-Authenticate: %q", a.Header.Get("WWW-Authenticate"))
			}
		})
	}
	page := r.ask(http.MethodGet, r.host("box", "web"), "/", "Accept: text/html,*/*")
	if !strings.Contains(page.body, "sallyport service open box web --workspace default") || !strings.HasPrefix(page.Header.Get("Content-Type"), "text/html") ||
		!strings.HasPrefix(page.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("page: %v %s", page.Header, page.body)
	}
	// What says nothing of what there is must be the same for both.
	anon := func(box string) string {
		a := r.ask(http.MethodGet, r.host(box, "web"), "/", "X-Request-Id: 1")
		return strings.ReplaceAll(a.body, box, "")
	}
	if anon("box") != anon("none") {
		t.Errorf("%q differs from %q", anon("box"), anon("none"))
	}
	denied := 0
	for _, record := range r.records.of("service.request") {
		if record.Verdict == audit.Denied && record.Reason != "" && strings.HasPrefix(record.Target, "sandbox/default/") {
			denied++
		}
	}
	if denied < 10 {
		t.Errorf("%d denials recorded", denied)
	}
}
