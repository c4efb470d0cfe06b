//go:build linux

package e2e_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/devidp"
)

// TestEdgeSignIn signs in through the page that hands a proxy's cookie over, and works through the WebSocket tunnel. The
// test takes the places of the browser and of the proxy, whose token here is one of the gateway's own issuer.
func TestEdgeSignIn(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.gateway.kill(t)
	s.gateway.args = append(s.gateway.args, "--edge-auth", "--websocket-tunnel")
	s.gateway.restart(t)
	s.waitReady()
	c := &cli{s: s, home: t.TempDir()}
	origin := "https://" + s.address()
	token := s.token(devidp.CLIClient, "user@test", "user")

	cmd := c.command(t, "gateway", "add", origin, "--name", "edge", "--ca", s.tls.ca, "--edge")
	cmd.Env = append(cmd.Env, "OPENSHELL_NO_BROWSER=1", "OPENSHELL_TOKEN_FILE=")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	address := ""
	for address == "" && lines.Scan() {
		if line := strings.TrimSpace(lines.Text()); strings.HasPrefix(line, origin+"/auth/connect?") {
			address = line
		}
	}
	said := make(chan string, 1)
	go func() {
		var rest strings.Builder
		for lines.Scan() {
			rest.WriteString(lines.Text() + "\n")
		}
		said <- rest.String()
	}()
	browser := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: s.tls.pool, MinVersion: tls.VersionTLS12},
	}}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.AddCookie(&http.Cookie{Name: "CF_Authorization", Value: token})
	resp, err := browser.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	page, err := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	u, parseErr := url.Parse(address)
	if err != nil || parseErr != nil || resp.StatusCode != http.StatusOK || !bytes.Contains(page, []byte(u.Query().Get("code"))) {
		t.Fatalf("the page for %s: %d, %v, %v", address, resp.StatusCode, err, parseErr)
	}
	post := func(origin, code, token string) int {
		t.Helper()
		body, err := json.Marshal(map[string]string{"token": token, "code": code})
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:"+u.Query().Get("callback_port")+"/callback", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Origin", origin)
		req.Header.Set("Content-Type", "application/json")
		resp, err := plainHTTP.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		return resp.StatusCode
	}
	// Nobody else ends the login, or puts a token of their own in its place.
	for _, other := range []struct {
		origin, code, token string
		want                int
	}{
		{"https://evil.example", u.Query().Get("code"), "evil", http.StatusForbidden},
		{origin, "AAA-AAAA", "evil", http.StatusForbidden},
		{origin, u.Query().Get("code"), "two words", http.StatusBadRequest},
		{origin, "", "", http.StatusBadRequest},
	} {
		if got := post(other.origin, other.code, other.token); got != other.want {
			t.Errorf("%+v was answered with %d", other, got)
		}
	}
	if got := post(origin, u.Query().Get("code"), token); got != http.StatusOK {
		t.Errorf("the token was answered with %d", got)
	}
	text := <-said
	if err := cmd.Wait(); err != nil || !strings.Contains(text, "Authenticated successfully") || strings.Contains(text, token) {
		t.Fatalf("%v\n%s", err, text)
	}

	if err := os.WriteFile(c.token(), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(want int, args ...string) string {
		t.Helper()
		cmd := c.command(t, args...)
		cmd.Env = append(cmd.Env, "OPENSHELL_TOKEN_FILE=")
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != want {
			t.Errorf("sallyport %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	if out := run(0, "whoami"); !strings.Contains(out, "user@test") {
		t.Errorf("whoami printed %s", out)
	}
	id := s.createReady(t, "box")
	if out := run(0, "sandbox", "exec", "-n", "box", "--", "echo", "through the tunnel"); !strings.Contains(out, "through the tunnel") {
		t.Errorf("exec printed %s", out)
	}
	if info, err := os.Stat(filepath.Join(c.home, "config", "openshell", "gateways", "edge", "edge_token")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	s.remove(t, id, "box")
	run(0, "gateway", "logout", "edge")
	if out := run(1, "whoami"); !strings.Contains(out, "not signed in") {
		t.Errorf("after the logout: %s", out)
	}
}
