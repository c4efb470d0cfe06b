package servicehost_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/servicehost"
)

// TestCertificatesAreShownByThemselves sees that a page of another host cannot use a certificate that a browser shows
// whoever asks.
func TestCertificatesAreShownByThemselves(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{private: true})
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	host := r.host("box", "web")
	ask := func(who, method string, headers ...string) *httptest.ResponseRecorder {
		req := httptest.NewRequestWithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, net.Addr(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1)})),
			method, "/", nil)
		req.Host = host
		req.TLS = &tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{{Subject: pkix.Name{CommonName: who}}}}}
		for _, h := range headers {
			name, value, _ := strings.Cut(h, ": ")
			req.Header.Set(name, value)
		}
		w := httptest.NewRecorder()
		r.handler.Alone().ServeHTTP(w, req)
		return w
	}
	for name, c := range map[string]struct {
		who, method string
		headers     []string
		status      int
	}{
		"its holder":       {"alice", "GET", []string{"Sec-Fetch-Site: none"}, 200},
		"its own page":     {"alice", "POST", []string{"Origin: https://" + host, "Sec-Fetch-Site: same-origin"}, 200},
		"another's":        {"bob", "GET", nil, 404},
		"a foreign page":   {"alice", "POST", []string{"Origin: https://evil.example", "Sec-Fetch-Site: cross-site"}, 403},
		"a sibling's page": {"alice", "GET", []string{"Sec-Fetch-Site: same-site", "Sec-Fetch-Mode: no-cors"}, 403},
		"without TLS":      {"alice", "POST", []string{"Origin: http://" + host}, 403},
	} {
		if w := ask(c.who, c.method, c.headers...); w.Code != c.status {
			t.Errorf("%s: %d %s, want %d", name, w.Code, w.Body, c.status)
		}
	}
}

func TestStrangersToAWorkspaceSeeNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{scheme: authz.Workspaces})
	_, err := r.workspaces.AddMember(as(t.Context(), "root"), "", "alice", authz.User)
	r.must(err)
	r.expose("box", "web", "alice", http.HandlerFunc(hello))
	for who, want := range map[string]int{"alice": 200, "root": 200, "bob": 404} {
		if a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+who); a.StatusCode != want {
			t.Errorf("%s: %d %s, want %d", who, a.StatusCode, a.body, want)
		}
	}
	absent, foreign := r.ask(http.MethodGet, r.host("none", "web"), "/", bearer+"bob", "X-Request-Id: 1"), r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"bob", "X-Request-Id: 1")
	if absent.body != foreign.body {
		t.Errorf("%q and %q can be told apart", absent.body, foreign.body)
	}
}

// TestWaitsForTheSupervisor sees that a supervisor that is away for a moment is waited for.
func TestWaitsForTheSupervisor(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("box", "alice")
	stop := r.supervise(id)
	r.program("box", "web", "alice", http.HandlerFunc(hello))
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"alice"); a.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", a.StatusCode, a.body)
	}
	stop()
	r.eventually("the supervisor has gone", func() bool { return r.relays.Sessions() == 0 })
	done := make(chan answer, 1)
	go func() { done <- r.ask(http.MethodPost, r.host("box", "web"), "/", bearer+"alice") }()
	r.eventually("the request waits", func() bool { return r.handler.Open() == 1 })
	r.supervise(id)
	if a := <-done; a.StatusCode != http.StatusOK {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
}

// TestClosingEndsWhatIsOpen sees that a gateway that stops leaves no request behind, and takes no more.
func TestClosingEndsWhatIsOpen(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	asked := make(chan struct{})
	r.expose("box", "web", "alice", http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		close(asked)
		<-req.Context().Done()
	}))
	done := make(chan answer, 1)
	go func() { done <- r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"alice") }()
	<-asked
	r.handler.Close()
	if a := <-done; a.StatusCode != http.StatusServiceUnavailable || !strings.HasPrefix(a.body, "Gateway is shutting down") {
		t.Errorf("%d %s", a.StatusCode, a.body)
	}
	if a := r.ask(http.MethodGet, r.host("box", "web"), "/", bearer+"alice"); a.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("after the end: %d", a.StatusCode)
	}
}

func TestWhatAHandlerNeeds(t *testing.T) {
	t.Parallel()
	if _, err := servicehost.New(servicehost.Config{}); err == nil {
		t.Error("a handler of nothing")
	}
}
