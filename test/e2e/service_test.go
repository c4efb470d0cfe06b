//go:build linux

package e2e_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/devidp"
)

// greeter is a program that answers every request with what it was asked, on the port behind it.
const greeter = `use IO::Socket::INET;
my $s = IO::Socket::INET->new(LocalAddr => "127.0.0.1", LocalPort => shift, Listen => 16, ReuseAddr => 1) or die $!;
while (my $c = $s->accept) {
  my $line = <$c>; my $secret = 0;
  while (my $h = <$c>) { last if $h =~ /^\r?\n$/; $secret = 1 if $h =~ /^(authorization|cookie):/i; }
  $line =~ s/\s+$//; my $body = "box heard $line, credentials $secret";
  print $c "HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Domain=openshell.localhost\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
  close $c;
}`

// visitor is a browser that finds every host at the gateway.
type visitor struct {
	s      *system
	client *http.Client
}

func (s *system) visitor(t *testing.T) *visitor {
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: s.tls.pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}, DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, s.address())
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &visitor{s, &http.Client{
		Transport: transport, Timeout: patience,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// seen is what a visitor sees.
type seen struct {
	status  int
	cookies []*http.Cookie
	body    string
}

func (v *visitor) get(t *testing.T, at, header, value string) seen {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, at, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != "" {
		req.Header.Set(header, value)
	}
	resp, err := v.client.Do(req)
	if err != nil {
		return seen{body: err.Error()}
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return seen{resp.StatusCode, resp.Cookies(), string(body)}
}

// until asks again and again, as long as something comes back or starts.
func (v *visitor) until(t *testing.T, status int, at, header, value string) string {
	t.Helper()
	deadline := time.After(patience)
	for {
		got := v.get(t, at, header, value)
		if got.status == status {
			return got.body
		}
		select {
		case <-deadline:
			t.Fatalf("%s: %d %s, want %d", at, got.status, got.body, status)
		case <-time.After(pollEvery):
		}
	}
}

// TestService opens a program in a sandbox by its URL, as a program with a token and as a browser with a link, before and
// after the gateway was killed.
func TestService(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.client(t)
	id := s.createReady(t, "box")
	port := strconv.Itoa(freePort(t))
	if r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{
		SandboxId: id, Command: []string{"sh", "-c", `setsid perl -e "$0" "$1" </dev/null >/dev/null 2>&1 &`, greeter, port},
	}); err != nil || r.code != 0 {
		t.Fatalf("start the program: exit code %d, error %v, %s", r.code, err, r.stderr)
	}
	at := strings.TrimSpace(c.must(t, "service", "expose", "box", port, "web"))
	if want := "https://default--box--web.openshell.localhost:" + strconv.Itoa(s.port) + "/"; at != want {
		t.Errorf("exposed at %s, want %s", at, want)
	}
	v, token := s.visitor(t), "Bearer "+s.token(devidp.CLIClient, "user@test", "user")
	if got := v.get(t, at, "", ""); got.status != http.StatusUnauthorized || !strings.Contains(got.body, "sallyport service open box web") {
		t.Errorf("nobody: %d %s", got.status, got.body)
	}
	if body := v.until(t, 200, at+"path?q=1", "Authorization", token); body != "box heard GET /path?q=1 HTTP/1.1, credentials 0" {
		t.Errorf("with a token: %s", body)
	}
	signIn := func() string {
		t.Helper()
		link := strings.TrimSpace(c.must(t, "service", "open", "box", "web", "--print"))
		got := v.get(t, link, "", "")
		if got.status != http.StatusSeeOther || len(got.cookies) != 1 {
			t.Fatalf("%s: %d %s", link, got.status, got.body)
		}
		if again := v.get(t, link, "", ""); again.status != http.StatusForbidden {
			t.Errorf("the link twice: %d", again.status)
		}
		return got.cookies[0].Name + "=" + got.cookies[0].Value
	}
	session := signIn()
	got := v.get(t, at, "Cookie", session)
	if got.status != http.StatusOK || got.body != "box heard GET / HTTP/1.1, credentials 0" || len(got.cookies) != 1 || got.cookies[0].Domain != "" {
		t.Errorf("signed in: %d %s %v", got.status, got.body, got.cookies)
	}

	s.gateway.kill(t)
	s.gateway.start(t)
	s.waitReady()
	if got := v.get(t, at, "Cookie", session); got.status != http.StatusUnauthorized {
		t.Errorf("a session of the gateway before: %d %s", got.status, got.body)
	}
	v.until(t, 200, at, "Authorization", token)
	v.until(t, 200, at, "Cookie", signIn())

	u, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	if out := c.must(t, "service", "list"); !strings.Contains(out, u.Host) {
		t.Errorf("list: %s", out)
	}
	s.remove(t, id, "box")
	if got := v.get(t, at, "Authorization", token); got.status != http.StatusNotFound {
		t.Errorf("after the sandbox: %d %s", got.status, got.body)
	}
	if out := c.must(t, "service", "list"); !strings.Contains(out, "No services found") {
		t.Errorf("list: %s", out)
	}
}
