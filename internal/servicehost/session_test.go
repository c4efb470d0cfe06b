package servicehost_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/servicehost"
)

func TestLinkSignsOneBrowserInOnce(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{tls: true})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	r.program("box", "other", "alice", http.HandlerFunc(hello))
	a, link := r.link("alice", "box", "web")
	u, err := url.Parse(link)
	if err != nil || u.Host != r.host("box", "web") || u.Scheme != "https" || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %v %v", link, err, a.Header)
	}
	for name, c := range map[string]struct {
		method  string
		headers []string
		status  int
	}{
		"a frame":     {"GET", []string{"Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: iframe"}, 403},
		"a script":    {"GET", []string{"Sec-Fetch-Mode: cors", "Sec-Fetch-Dest: empty"}, 403},
		"looks ahead": {"GET", []string{"Sec-Purpose: prefetch"}, 403},
		"a check":     {"HEAD", nil, 204},
		"a form":      {"POST", nil, 404},
	} {
		if got := r.ask(c.method, u.Host, u.RequestURI(), c.headers...); got.StatusCode != c.status || len(got.Cookies()) > 0 {
			t.Errorf("%s: %d, want %d", name, got.StatusCode, c.status)
		}
	}
	in := r.ask(http.MethodGet, u.Host, u.RequestURI())
	if in.StatusCode != http.StatusSeeOther || in.Header.Get("Location") != "/" || in.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Fatalf("%d %v", in.StatusCode, in.Header)
	}
	cookie := in.Cookies()[0]
	if cookie.Name != servicehost.Cookie || cookie.Domain != "" || cookie.Path != "/" || !cookie.Secure || !cookie.HttpOnly ||
		cookie.SameSite != http.SameSiteLaxMode || cookie.MaxAge != 8*3600 || len(cookie.Value) != 43 {
		t.Errorf("cookie %+v", cookie)
	}
	session := "Cookie: " + cookie.Name + "=" + cookie.Value
	if got := r.ask(http.MethodGet, u.Host, "/"); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("without the cookie: %d", got.StatusCode)
	}
	if got := r.ask(http.MethodGet, u.Host, "/", session); got.StatusCode != http.StatusOK {
		t.Errorf("with the cookie: %d %s", got.StatusCode, got.body)
	}
	if got := r.ask(http.MethodGet, r.host("box", "other"), "/", session); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("at another service: %d", got.StatusCode)
	}
	if got := r.ask(http.MethodGet, u.Host, u.RequestURI()); got.StatusCode != http.StatusForbidden || !strings.HasPrefix(got.body, "This link has been used") {
		t.Errorf("used again: %d %s", got.StatusCode, got.body)
	}
	if got := r.ask(http.MethodGet, u.Host, "/.sallyport/anything", session); got.StatusCode != http.StatusNotFound {
		t.Errorf("the gateway's own paths: %d", got.StatusCode)
	}
	if got := r.ask(http.MethodPost, u.Host, servicehost.PathSignOut, session, "Origin: https://evil.example"); got.StatusCode != http.StatusForbidden {
		t.Errorf("signed out by another: %d", got.StatusCode)
	}
	out := r.ask(http.MethodPost, u.Host, servicehost.PathSignOut, session, "Sec-Fetch-Site: same-origin")
	if out.StatusCode != http.StatusOK || len(out.Cookies()) != 1 || out.Cookies()[0].MaxAge >= 0 {
		t.Errorf("signed out: %d %v", out.StatusCode, out.Cookies())
	}
	if got := r.ask(http.MethodGet, u.Host, "/", session); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("signed out and in: %d", got.StatusCode)
	}
	opened, closed := r.records.of(audit.ActionSessionOpen), r.records.of(audit.ActionSessionClose)
	if len(opened) != 1 || len(closed) != 1 || opened[0].Details["session"] == "" || opened[0].Details["session"] != closed[0].Details["session"] ||
		opened[0].Actor != idp+"|alice" || closed[0].Target != "sandbox/default/box/service/web" {
		t.Errorf("recorded %+v and %+v", opened, closed)
	}
	if links := r.records.of(servicehost.ActionLink); len(links) != 1 || links[0].Target != "sandbox/default/box/service/web" {
		t.Errorf("recorded %+v", links)
	}
	for _, record := range append(opened, closed...) {
		for _, v := range record.Details {
			if strings.Contains(v, cookie.Value) || strings.Contains(link, v) && len(v) > 20 {
				t.Errorf("a secret was recorded: %+v", record)
			}
		}
	}
}

func TestLinkIsForOneServiceAndExpires(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	r.program("box", "other", "alice", http.HandlerFunc(hello))
	code := func() string {
		_, link := r.link("alice", "box", "web")
		_, code, _ := strings.Cut(link, "?")
		return servicehost.PathSignIn + "?" + code
	}
	if got := r.ask(http.MethodGet, r.host("box", "other"), code()); got.StatusCode != http.StatusForbidden {
		t.Errorf("at another service: %d", got.StatusCode)
	}
	path := code()
	r.ahead.Store(int64(servicehost.LinkTTL))
	if got := r.ask(http.MethodGet, r.host("box", "web"), path); got.StatusCode != http.StatusForbidden {
		t.Errorf("expired: %d", got.StatusCode)
	}
	for _, path := range []string{"", "?code=", "?code=x", "?code=" + strings.Repeat("a", 43)} {
		if got := r.ask(http.MethodGet, r.host("box", "web"), servicehost.PathSignIn+path); got.StatusCode != http.StatusForbidden || len(got.Cookies()) > 0 {
			t.Errorf("%q: %d", path, got.StatusCode)
		}
	}
}

func TestWhoGetsALink(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{private: true})
	r.box("box", "alice")
	r.port("box", "web", "alice", 8080)
	const body = `{"sandbox":"box","service":"web"}`
	for name, c := range map[string]struct {
		method, body string
		headers      []string
		status       int
		reason       string
	}{
		"owner":      {"POST", body, []string{bearer + "alice", "Content-Type: application/json; charset=utf-8"}, 200, `"url":"http`},
		"nobody":     {"POST", body, []string{"Content-Type: application/json"}, 401, "MISSING_AUTHORIZATION"},
		"stranger":   {"POST", body, []string{bearer + "bob", "Content-Type: application/json"}, 404, "SERVICE_NOT_FOUND"},
		"no role":    {"POST", body, []string{bearer + "nobody", "Content-Type: application/json"}, 403, "ROLE_REQUIRED"},
		"sandbox":    {"POST", body, []string{"Authorization: Bearer sandbox-x", "Content-Type: application/json"}, 403, "SANDBOX_PRINCIPAL_FORBIDDEN"},
		"a page":     {"POST", body, []string{bearer + "alice", "Content-Type: application/json", "Origin: http://" + r.address}, 403, "CROSS_ORIGIN"},
		"a form":     {"POST", body, []string{bearer + "alice", "Content-Type: text/plain"}, 400, "SERVICE_REQUEST"},
		"no body":    {"POST", "", []string{bearer + "alice", "Content-Type: application/json"}, 400, "SERVICE_REQUEST"},
		"two bodies": {"POST", body + body, []string{bearer + "alice", "Content-Type: application/json"}, 400, "SERVICE_REQUEST"},
		"too much":   {"POST", `{"sandbox":"` + strings.Repeat("a", 5000) + `"}`, []string{bearer + "alice", "Content-Type: application/json"}, 400, "SERVICE_REQUEST"},
		"no sandbox": {"POST", "{}", []string{bearer + "alice", "Content-Type: application/json"}, 400, "FIELD_REQUIRED"},
		"read":       {"GET", "", []string{bearer + "alice"}, 400, "SERVICE_REQUEST"},
	} {
		a := r.askWith(r.client(false), c.method, r.address, servicehost.PathLink, strings.NewReader(c.body), c.headers...)
		if a.StatusCode != c.status || !strings.Contains(a.body, c.reason) {
			t.Errorf("%s: %d %s, want %d %s", name, a.StatusCode, a.body, c.status, c.reason)
		}
	}
}

// TestSessionEnds tries each way in which a browser's session must end.
func TestSessionEnds(t *testing.T) {
	t.Parallel()
	web := service.Name{Sandbox: "box", Service: "web"}
	for name, end := range map[string]func(*rig, *service.Endpoint){
		"time": func(r *rig, _ *service.Endpoint) { r.ahead.Store(int64(servicehost.DefaultSessionTTL)) },
		"revocation": func(r *rig, _ *service.Endpoint) {
			_, _, err := r.revoked.Revoke(r.tb.Context(), user("root"), revocation.Revocation{Issuer: idp, Subject: "alice"})
			r.must(err)
		},
		"service deleted": func(r *rig, _ *service.Endpoint) {
			_, err := r.services.Delete(as(r.tb.Context(), "alice"), web)
			r.must(err)
		},
		"service made anew": func(r *rig, e *service.Endpoint) {
			_, err := r.services.Delete(as(r.tb.Context(), "alice"), web)
			r.must(err)
			r.port("box", "web", "alice", uint32(e.Port))
		},
		"sandbox deleted": func(r *rig, _ *service.Endpoint) {
			_, err := r.sandboxes.Delete(as(r.tb.Context(), "alice"), "", "box")
			r.must(err)
		},
		"membership": func(r *rig, _ *service.Endpoint) {
			_, err := r.workspaces.RemoveMember(as(r.tb.Context(), "root"), "", "alice")
			r.must(err)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{scheme: authz.Workspaces})
			_, err := r.workspaces.AddMember(as(t.Context(), "root"), "", "alice", authz.User)
			r.must(err)
			asked, release := make(chan struct{}), make(chan struct{})
			e := r.expose("box", "web", "alice", http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				if req.URL.Path == "/hold" {
					w.WriteHeader(http.StatusOK)
					w.(http.Flusher).Flush()
					close(asked)
					select {
					case <-release:
					case <-req.Context().Done():
					}
				}
			}))
			defer close(release)
			session := r.signIn("alice", "box", "web")
			if a := r.ask(http.MethodGet, r.host("box", "web"), "/", session); a.StatusCode != http.StatusOK {
				t.Fatalf("%d %s", a.StatusCode, a.body)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+r.host("box", "web")+"/hold", nil)
				if err != nil {
					return
				}
				kind, value, _ := strings.Cut(session, ": ")
				req.Header.Set(kind, value)
				resp, err := r.client(false).Do(req)
				if err != nil {
					return
				}
				defer resp.Body.Close()
				for err == nil {
					_, err = resp.Body.Read(make([]byte, 1))
				}
			}()
			<-asked
			end(r, e)
			if a := r.ask(http.MethodGet, r.host("box", "web"), "/", session); a.StatusCode != http.StatusUnauthorized && a.StatusCode != http.StatusNotFound {
				t.Errorf("after the end: %d %s", a.StatusCode, a.body)
			}
			select {
			case <-ended:
			case <-time.After(20 * time.Second):
				t.Error("an open request did not end")
			}
			r.eventually("the session is forgotten", func() bool { return r.handler.Sessions() == 0 })
			if closed := r.records.of(audit.ActionSessionClose); len(closed) != 1 || closed[0].Details["reason"] == "" {
				t.Errorf("recorded %+v", closed)
			}
		})
	}
}

func TestSessionsAreBounded(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	first := r.signIn("alice", "box", "web")
	for range 63 {
		r.signIn("alice", "box", "web")
	}
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", first); a.StatusCode != http.StatusOK || r.handler.Sessions() != 64 {
		t.Errorf("at the limit: %d, %d sessions", a.StatusCode, r.handler.Sessions())
	}
	last := r.signIn("alice", "box", "web")
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", first); a.StatusCode != http.StatusUnauthorized || r.handler.Sessions() != 64 {
		t.Errorf("past the limit: %d, %d sessions", a.StatusCode, r.handler.Sessions())
	}
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", last); a.StatusCode != http.StatusOK {
		t.Errorf("the newest: %d", a.StatusCode)
	}
}
