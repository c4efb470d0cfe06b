package sshconnect_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/relay/pipe"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/sshsession"
)

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

func handshake(t *testing.T, conn net.Conn) *ssh.Client {
	t.Helper()
	c, channels, requests, err := ssh.NewClientConn(conn, "sandbox", &ssh.ClientConfig{
		User: "sandbox", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	client := ssh.NewClient(c, channels, requests)
	t.Cleanup(func() { client.Close() })
	return client
}

func command(t *testing.T, c *ssh.Client, line string, in io.Reader) string {
	t.Helper()
	s, err := c.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.Stdin = in
	out, err := s.Output(line)
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return string(out)
}

// An SSH client talks through the port to the SSH server of a real supervisor, over plaintext and TLS.
func TestSSHThroughThePort(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]options{"plaintext": {}, "TLS": {tls: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, o)
			id := r.box("one", "alice")
			r.supervise(id)
			made := r.session("alice", id)
			client := handshake(t, r.open(id, made.Token))
			if got := command(t, client, "echo $((40+2))", nil); got != "42\n" {
				t.Errorf("got %q", got)
			}
			load := make([]byte, 3<<20)
			rand.Read(load)
			if got := command(t, client, "cat", bytes.NewReader(load)); got != string(load) {
				t.Errorf("%d bytes came back, not what was sent", len(got))
			}
			client.Close()
			r.eventually("the place is given back", func() bool { return r.sessions.Connections() == 0 && r.relays.Relays() == 0 })
			opened, closed := r.records.of(audit.ActionSessionOpen), r.records.of(audit.ActionSessionClose)
			if len(opened) != 1 || len(closed) != 1 || opened[0].Actor != idp+"|alice" || opened[0].Target != "sandbox/"+id ||
				opened[0].Remote != "127.0.0.1" || closed[0].Details["session"] != opened[0].Details["session"] {
				t.Errorf("records %+v, %+v", opened, closed)
			}
			for _, record := range append(opened, closed...) {
				for k, v := range record.Details {
					if strings.Contains(v, made.Token) {
						t.Errorf("%s holds the token", k)
					}
				}
			}
		})
	}
}

// What the client sends right behind its request is not lost, and the answer names the request.
func TestBytesBehindTheRequest(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	r.supervise(id)
	token := r.session("alice", id).Token
	a, conn := r.ask("CONNECT", "X-Sandbox-Id: "+id+"\r\nX-Sandbox-Token: "+token+"\r\nX-Request-Id: mine\r\n", "SSH-2.0-early\r\n")
	if a.code != http.StatusOK || a.header.Get("X-Request-Id") != "mine" {
		t.Fatalf("status %d, id %q", a.code, a.header.Get("X-Request-Id"))
	}
	line, err := conn.in.ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "SSH-2.0-") {
		t.Errorf("got %q, %v", line, err)
	}
	// The key exchange comes only after the server has read our line.
	if _, err := io.ReadFull(conn, make([]byte, 64)); err != nil {
		t.Error(err)
	}
}

func TestStatuses(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{wait: 50 * time.Millisecond})
	ready, other, cold, away, gone := r.box("ready", "alice"), r.box("other", "alice"), r.box("cold", "alice"), r.box("away", "alice"), r.box("gone", "alice")
	r.supervise(ready)
	r.supervise(other)
	tokenOf := func(id string) string { return r.session("alice", id).Token }
	// Those of sandboxes that are not ready now were made when they were.
	before := map[string]string{}
	for _, id := range []string{cold, away, gone} {
		stop := r.supervise(id)
		before[id] = tokenOf(id)
		stop()
		r.eventually("the supervisor is gone", func() bool { _, ok := r.relays.Connected(id); return !ok })
	}
	r.running(away)
	if _, err := r.sandboxes.Delete(principal.With(t.Context(), user("alice")), "", "gone"); err != nil {
		t.Fatal(err)
	}
	head := func(id, token string) string { return "X-Sandbox-Id: " + id + "\r\nX-Sandbox-Token: " + token + "\r\n" }
	mine := tokenOf(ready)
	for name, c := range map[string]struct {
		method, headers string
		want            int
	}{
		"GET":                     {"GET", head(ready, mine), 405},
		"POST":                    {"POST", head(ready, mine) + "Content-Length: 0\r\n", 405},
		"a body":                  {"CONNECT", head(ready, mine) + "Content-Length: 3\r\n", 400},
		"a chunked body":          {"CONNECT", head(ready, mine) + "Transfer-Encoding: chunked\r\n", 400},
		"no header":               {"CONNECT", "", 401},
		"no id":                   {"CONNECT", "X-Sandbox-Token: " + mine + "\r\n", 401},
		"no token":                {"CONNECT", "X-Sandbox-Id: " + ready + "\r\n", 401},
		"empty id":                {"CONNECT", head("", mine), 400},
		"empty token":             {"CONNECT", head(ready, ""), 400},
		"empty id, no token":      {"CONNECT", "X-Sandbox-Id: \r\n", 400},
		"id that is no ASCII":     {"CONNECT", head("é", mine), 400},
		"token that is no ASCII":  {"CONNECT", head(ready, "é"), 400},
		"two tokens":              {"CONNECT", head(ready, mine) + "X-Sandbox-Token: " + mine + "\r\n", 400},
		"unknown token":           {"CONNECT", head(ready, strings.Repeat("0", 64)), 401},
		"long token":              {"CONNECT", head(ready, strings.Repeat("0", sshsession.MaxToken+1)), 401},
		"token of another box":    {"CONNECT", head(ready, tokenOf(other)), 401},
		"bearer token alone":      {"CONNECT", "X-Sandbox-Id: " + ready + "\r\nAuthorization: Bearer user;alice\r\n", 401},
		"sandbox that is gone":    {"CONNECT", head(gone, before[gone]), 404},
		"sandbox not ready":       {"CONNECT", head(cold, before[cold]), 412},
		"supervisor is away":      {"CONNECT", head(away, before[away]), 502},
		"everything in its place": {"CONNECT", head(ready, mine), 200},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := r.ask(c.method, c.headers, "")
			if a.code != c.want || strings.Contains(a.body, mine) {
				t.Errorf("%d %s, want %d", a.code, a.body, c.want)
			}
			if a.header.Get("X-Request-Id") == "" {
				t.Error("no request id")
			}
		})
	}
	r.eventually("places are given back", func() bool { return r.sessions.Connections() <= 1 })
}

// The path counts, not what stands where CONNECT usually names a host.
func TestOtherTargets(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	for _, target := range []string{"/connect", "/connect/ssh/", "/connect/../connect/ssh", "sandbox:22", "127.0.0.1:22"} {
		conn := r.dial()
		if _, err := io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		head := make([]byte, len("HTTP/1.1 404"))
		if _, err := io.ReadFull(conn, head); err != nil || string(head) == "HTTP/1.1 200" {
			t.Errorf("%s: %q, %v", target, head, err)
		}
	}
}

// A request waits for the supervisor as long as the reference does, then 502 is the answer.
func TestWaitForTheSupervisor(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	stop := r.supervise(id)
	token := r.session("alice", id).Token
	stop()
	r.eventually("the supervisor is gone", func() bool { _, ok := r.relays.Connected(id); return !ok })
	r.running(id)
	conn := r.dial()
	_, err := io.WriteString(conn, "CONNECT /connect/ssh HTTP/1.1\r\nHost: x\r\nX-Sandbox-Id: "+id+"\r\nX-Sandbox-Token: "+token+"\r\n\r\n")
	r.must(err)
	r.eventually("the request waits", func() bool { return r.sessions.Connections() == 1 })
	r.supervise(id)
	head := make([]byte, len("HTTP/1.1 200"))
	if _, err := io.ReadFull(conn, head); err != nil || string(head) != "HTTP/1.1 200" {
		t.Errorf("%q, %v after the supervisor came", head, err)
	}
}

func TestHalfAMinute(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	stop := r.supervise(id)
	token := r.session("alice", id).Token
	stop()
	r.eventually("the supervisor is gone", func() bool { _, ok := r.relays.Connected(id); return !ok })
	r.running(id)
	synctest.Test(t, func(t *testing.T) {
		req := httptest.NewRequestWithContext(t.Context(), http.MethodConnect, "/connect/ssh", http.NoBody)
		req.Header.Set(sshconnect.HeaderSandboxID, id)
		req.Header.Set(sshconnect.HeaderToken, token)
		handler, err := sshconnect.New(sshconnect.Config{Sessions: r.sessions, Relays: r.relays})
		if err != nil {
			t.Fatal(err)
		}
		defer handler.Close()
		began, w := time.Now(), httptest.NewRecorder()
		handler.ServeHTTP(w, req)
		if took := time.Since(began); w.Code != http.StatusBadGateway || took != 30*time.Second {
			t.Errorf("status %d after %s", w.Code, took)
		}
	})
}

func TestLimits(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	r.supervise(id)
	token := r.session("alice", id).Token
	var open []*tunnel
	for range sshsession.MaxPerToken {
		open = append(open, r.open(id, token))
	}
	if status, _ := r.connect(id, token); status != http.StatusTooManyRequests {
		t.Errorf("the 4th connection of a token: %d", status)
	}
	for len(open) < sshsession.MaxPerSandbox {
		next := r.session("alice", id).Token
		for range min(sshsession.MaxPerToken, sshsession.MaxPerSandbox-len(open)) {
			open = append(open, r.open(id, next))
		}
	}
	if status, _ := r.connect(id, r.session("alice", id).Token); status != http.StatusTooManyRequests {
		t.Errorf("the 21st connection of a sandbox: %d", status)
	}
	open[0].Close()
	r.eventually("a place is free", func() bool { return r.sessions.Connections() == sshsession.MaxPerSandbox-1 })
	handshake(t, r.open(id, token))
}

// A relay that fails gives the places back.
func TestPlacesAfterFailure(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{wait: 10 * time.Millisecond})
	id := r.box("one", "alice")
	stop := r.supervise(id)
	token := r.session("alice", id).Token
	stop()
	r.eventually("the supervisor is gone", func() bool { _, ok := r.relays.Connected(id); return !ok })
	r.running(id)
	for range 2 * sshsession.MaxPerToken {
		if status, _ := r.connect(id, token); status != http.StatusBadGateway {
			t.Fatalf("status %d", status)
		}
	}
	r.supervise(id)
	handshake(t, r.open(id, token))
}

// ends waits for the end of an open connection, and makes sure that it stands until cut does its work.
func (r *rig) ends(conn *tunnel, cut func()) {
	r.t.Helper()
	client := handshake(r.t, conn)
	if got := command(r.t, client, "echo on", nil); got != "on\n" {
		r.t.Fatalf("got %q", got)
	}
	cut()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = client.Wait()
	}()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		r.t.Error("the connection stands")
	}
	r.eventually("the place is given back", func() bool { return r.sessions.Connections() == 0 })
}

func TestWhatEndsConnections(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cut    func(r *rig, id, token string)
		reason string
		after  int
	}{
		"session revoked": {func(r *rig, _, token string) {
			resp, err := r.client.RevokeSshSession(r.as("alice"), &openshellpb.RevokeSshSessionRequest{Token: token})
			if err != nil || !resp.Revoked {
				r.t.Errorf("revoke: %v, %v", resp, err)
			}
			resp, err = r.client.RevokeSshSession(r.as("alice"), &openshellpb.RevokeSshSessionRequest{Token: token})
			if err != nil || resp.Revoked {
				r.t.Errorf("revoke again: %v, %v", resp, err)
			}
		}, sshsession.ReasonTokenRevoked, 401},
		"session expired": {func(r *rig, _, _ string) {
			r.ahead.Store(int64(sshsession.DefaultTTL))
		}, sshsession.ReasonTokenExpired, 401},
		"user revoked": {func(r *rig, _, _ string) {
			_, _, err := r.revoked.Revoke(r.t.Context(), user("root"), revocation.Revocation{Issuer: idp, Subject: "alice"})
			r.must(err)
		}, revocation.ReasonRevoked, 401},
		"sandbox deleted": {func(r *rig, _, _ string) {
			_, err := r.sandboxes.Delete(principal.With(r.t.Context(), user("alice")), "", "one")
			r.must(err)
		}, "", 404},
		"supervisor gone": {func(r *rig, id, _ string) { r.relays.Disconnect(id, "test") }, "SUPERVISOR_DISCONNECTED", 0},
		"gateway ends":    {func(r *rig, _, _ string) { r.handler.Close() }, "SHUTTING_DOWN", 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t, options{tls: name == "user revoked"})
			id := r.box("one", "alice")
			r.supervise(id)
			token := r.session("alice", id).Token
			r.ends(r.open(id, token), func() { c.cut(r, id, token) })
			closed := r.records.of(audit.ActionSessionClose)
			if len(closed) != 1 || c.reason != "" && closed[0].Details["reason"] != c.reason {
				t.Errorf("records %+v, want reason %s", closed, c.reason)
			}
			if c.after == 0 {
				return
			}
			if status, _ := r.connect(id, token); status != c.after {
				t.Errorf("then %d, want %d", status, c.after)
			}
		})
	}
}

// An older revocation of a user does not open or end the user's other streams.
func TestConnectingRenewsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{})
	id := r.box("one", "alice")
	r.supervise(id)
	token := r.session("alice", id).Token
	ended := make(chan error, 1)
	soon := user("alice")
	soon.Expires = time.Now().Add(time.Second)
	defer r.revoked.Enter(soon, func(err error) { ended <- err })()
	handshake(t, r.open(id, token))
	select {
	case err := <-ended:
		if err == nil {
			t.Error("no cause")
		}
	case <-time.After(20 * time.Second):
		t.Error("the stream outlives its credential")
	}
}

// Private sandboxes are reached by their owners alone, and a token serves only its own user.
func TestWhoseSessions(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{private: true})
	id := r.box("one", "alice")
	r.supervise(id)
	_, err := r.client.CreateSshSession(r.as("bob"), &openshellpb.CreateSshSessionRequest{SandboxId: id})
	want(t, err, codes.NotFound, "sandbox not found")
	made := r.session("alice", id)
	_, err = r.client.RevokeSshSession(r.as("bob"), &openshellpb.RevokeSshSessionRequest{Token: made.Token})
	want(t, err, codes.NotFound, "SSH session not found")
	resp, err := r.client.RevokeSshSession(r.as("bob"), &openshellpb.RevokeSshSessionRequest{Token: strings.Repeat("0", 64)})
	if err != nil || resp.Revoked {
		t.Errorf("unknown token: %v, %v", resp, err)
	}
	host, port, _ := net.SplitHostPort(r.address)
	if made.GatewayHost != host || port != itoa(made.GatewayPort) || made.GatewayScheme != "http" || made.ConnectPath != "/connect/ssh" ||
		made.SandboxId != id || len(made.Token) != 64 || made.ExpiresAtMs < time.Now().Add(23*time.Hour).UnixMilli() {
		t.Errorf("session %v", made)
	}
	handshake(t, r.open(id, made.Token))
}

func want(t *testing.T, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("got %v, want %s %q", err, code, text)
	}
}

// Guessing costs the address, and a good token from the same address still works.
func TestGuessing(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{limits: ratelimit.Config{
		Failed: ratelimit.Window(3, time.Hour), Anonymous: ratelimit.Window(2, time.Hour),
	}})
	id := r.box("one", "alice")
	r.supervise(id)
	token := r.session("alice", id).Token
	for i := range 5 {
		wanted := http.StatusUnauthorized
		if i >= 3 {
			wanted = http.StatusTooManyRequests
		}
		if status, _ := r.connect(id, strings.Repeat("0", 64)); status != wanted {
			t.Errorf("guess %d: %d, want %d", i, status, wanted)
		}
	}
	for i, wanted := range []int{401, 401, 429} {
		if a, _ := r.ask("CONNECT", "X-Sandbox-Id: "+id+"\r\n", ""); a.code != wanted {
			t.Errorf("without a token, %d: %d, want %d", i, a.code, wanted)
		}
	}
	handshake(t, r.open(id, token))
}

// A client that says nothing more gets what is still to come, and a silent connection ends.
func TestEndsOfBytes(t *testing.T) {
	t.Parallel()
	r := newRig(t, options{pipe: pipe.Options{Idle: 2 * time.Second, HalfOpen: 200 * time.Millisecond}})
	id := r.box("one", "alice")
	r.supervise(id)
	conn := r.open(id, r.session("alice", id).Token)
	if _, err := conn.in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := conn.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, conn); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the end of ours: %v", err)
	}
	silent := r.open(id, r.session("alice", id).Token)
	if _, err := io.Copy(io.Discard, silent); err != nil {
		t.Errorf("silent: %v", err)
	}
	r.eventually("places are given back", func() bool { return r.sessions.Connections() == 0 })
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }
