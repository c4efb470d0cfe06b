package supervisor_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
)

func TestSessionReturnsSoonAfterGatewayRestart(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, true)
	start(t, g, nil)
	first := g.Session(t)
	for range 3 {
		g.Stop()
		g.Start(t)
		began := time.Now()
		session := g.Session(t)
		if d := time.Since(began); d > 10*time.Second {
			t.Errorf("back after %v", d)
		}
		if session.Hello.GetInstanceId() != first.Hello.GetInstanceId() {
			t.Error("instance id changed without a restart of the supervisor")
		}
		if res := collect(t, openExec(t, session, &sallyportpb.ExecStart{Command: []string{"echo", "back"}})); res.out.String() != "back\n" {
			t.Errorf("out = %q", res.out.String())
		}
	}
}

func TestSessionBackoffStartsAnewAfterSuccess(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	g.Set(func(g *gatewaytest.Gateway) { g.Reject = "not now" })
	start(t, g, nil)
	// Four refusals take the pause to more than two seconds.
	eventually(t, "refused attempts", func() bool { return g.Calls("ConnectSupervisor") >= 4 })
	g.Set(func(g *gatewaytest.Gateway) { g.Reject = "" })
	session := g.Session(t)
	// Long enough to count as success.
	time.AfterFunc(5500*time.Millisecond, func() { session.End(status.Error(codes.Unavailable, "restart")) })
	session = g.Session(t)
	began := time.Now()
	session.End(nil)
	g.Session(t)
	// Without the reset the pause would be seconds, and twice that the next time.
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("back after %v", d)
	}
}

func TestSessionLeavesSilentGateway(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	g.Set(func(g *gatewaytest.Gateway) { g.Mute, g.Heartbeat = true, 1 })
	start(t, g, nil)
	g.Session(t)
	began := time.Now()
	g.Session(t)
	// The interval is at least five seconds, and three may be missed.
	if d := time.Since(began); d < 14*time.Second || d > 25*time.Second {
		t.Errorf("reconnected after %v", d)
	}
	if g.Calls("heartbeat") < 2 {
		t.Errorf("heartbeats = %d", g.Calls("heartbeat"))
	}
}

func listenEcho(tb testing.TB) uint32 {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if _, err := io.Copy(c, c); err != nil {
					return
				}
			}()
		}
	}()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

func tcpTarget(host string, port uint32) *openshellpb.RelayOpen {
	return &openshellpb.RelayOpen{Target: &openshellpb.RelayOpen_Tcp{Tcp: &openshellpb.TcpRelayTarget{Host: host, Port: port}}}
}

func TestRelayTCP(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	session := g.Session(t)
	port := listenEcho(t)
	for _, host := range []string{"127.0.0.1", "localhost", "LOCALHOST", "127.3.2.1"} {
		r, err := session.Open(tcpTarget(host, port))
		if host == "127.3.2.1" {
			if err == nil {
				r.Close()
			}
			continue
		}
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		if _, err := r.Write([]byte("ping")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 4)
		if _, err := io.ReadFull(r, buf); err != nil || string(buf) != "ping" {
			t.Errorf("%s: %q %v", host, buf, err)
		}
		r.Close()
	}
	for _, tc := range []struct {
		host string
		port uint32
		want string
	}{
		{"10.0.0.1", port, "not loopback"},
		{"example.com", port, "not loopback"},
		{"0.0.0.0", port, "not loopback"},
		{"127.0.0.1", 0, "1..=65535"},
		{"127.0.0.1", 65536, "1..=65535"},
		{"127.0.0.1", freePort(t), "refused"},
	} {
		if _, err := session.Open(tcpTarget(tc.host, tc.port)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s:%d: %v, want %q", tc.host, tc.port, err, tc.want)
		}
	}
}

func freePort(tb testing.TB) uint32 {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	return uint32(l.Addr().(*net.TCPAddr).Port)
}

// The target's end must reach the gateway while the gateway's side is still open.
func TestRelayPassesOnLocalEnd(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	session := g.Session(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		if _, err := io.WriteString(c, "bye"); err != nil {
			return
		}
		if err := c.(*net.TCPConn).CloseWrite(); err != nil {
			return
		}
		rest, err := io.ReadAll(c)
		got <- fmt.Sprint(string(rest), err)
	}()
	r, err := session.Open(tcpTarget("127.0.0.1", uint32(l.Addr().(*net.TCPAddr).Port)))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(r)
	if string(all) != "bye" || err != nil {
		t.Fatalf("read %q %v", all, err)
	}
	if _, err := r.Write([]byte("still here")); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if s := <-got; s != "still here<nil>" {
		t.Errorf("target read %q", s)
	}
}

func TestRelayLimitAndWithdrawal(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	session := g.Session(t)
	port := listenEcho(t)
	var open []*gatewaytest.Relay
	for range 256 {
		r, err := session.Open(tcpTarget("", port))
		if err != nil {
			t.Fatalf("relay %d: %v", len(open), err)
		}
		open = append(open, r)
	}
	if _, err := session.Open(tcpTarget("", port)); err == nil || !strings.Contains(err.Error(), "capacity") {
		t.Errorf("relay over the limit: %v", err)
	}
	for _, r := range open {
		r.Close()
	}
	eventually(t, "relays are free again", func() bool {
		r, err := session.Open(tcpTarget("", port))
		if err != nil {
			return false
		}
		r.Close()
		return true
	})
}

func TestLogsReachTheGateway(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, map[string]string{"OPENSHELL_SANDBOX_TOKEN": "very-secret"})
	session := g.Session(t)
	collect(t, openExec(t, session, shell("echo private-words")))
	has := func(text string) bool {
		for _, l := range g.Logs() {
			if strings.Contains(l.GetMessage(), text) {
				return true
			}
		}
		return false
	}
	eventually(t, "log line", func() bool { return has("gateway session established") })
	s.stop(t)
	if !has("supervisor ends") {
		t.Error("last line is missing")
	}
	for _, l := range g.Logs() {
		if line := l.String(); strings.Contains(line, "very-secret") || strings.Contains(line, "private-words") {
			t.Errorf("line says too much: %s", line)
		}
		if l.GetSandboxId() != sandboxID || l.GetTimestampMs() == 0 || l.GetLevel() == "" || l.GetSource() != "sandbox" {
			t.Errorf("line = %v", l)
		}
	}
	if out := s.log.String(); strings.Contains(out, "very-secret") || strings.Contains(out, "private-words") {
		t.Error("local log says too much")
	}
}

func TestTokenIsSentRefreshedAndReadAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	first, second, third := jwt(time.Now().Add(5*time.Second), "1"), jwt(time.Now().Add(time.Hour), "2"), jwt(time.Now().Add(time.Hour), "3")
	if err := os.WriteFile(file, []byte(first+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.New(t, true)
	g.Set(func(g *gatewaytest.Gateway) { g.Token, g.NextToken = first, second })
	start(t, g, map[string]string{"OPENSHELL_SANDBOX_TOKEN_FILE": file, "OPENSHELL_SSH_HANDSHAKE_SECRET": "shared", "OPENSHELL_POLICY_POLL_INTERVAL_SECS": "1"})
	session := g.Session(t)
	if got := session.Metadata.Get("x-sandbox-secret"); len(got) != 0 {
		t.Error("the session carries the shared secret")
	}
	if got := g.Metadata("GetSandboxConfig").Get("x-sandbox-secret"); len(got) != 1 || got[0] != "shared" {
		t.Errorf("x-sandbox-secret = %q", got)
	}
	eventually(t, "refresh", func() bool { return g.Calls("RefreshSandboxToken") > 0 })
	eventually(t, "use of the new token", func() bool {
		return strings.HasSuffix(strings.Join(g.Metadata("GetSandboxConfig").Get("authorization"), ""), second)
	})
	// The gateway forgets the token; the driver has put a new one into the file.
	if err := os.WriteFile(file, []byte(third), 0o600); err != nil {
		t.Fatal(err)
	}
	g.Set(func(g *gatewaytest.Gateway) { g.Token = third })
	session.End(status.Error(codes.Unavailable, "restart"))
	g.Session(t)
}

// The gateway was away for longer than the token lived, or the supervisor was: both get back in by themselves.
func TestExpiredTokenIsRenewed(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]time.Time{
		"by its own clock": time.Now().Add(-time.Hour), "by the gateway's clock alone": time.Now().Add(time.Hour),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			old, fresh := jwt(end, "old"), jwt(time.Now().Add(time.Hour), "fresh")
			g := gatewaytest.New(t, true)
			g.Set(func(g *gatewaytest.Gateway) { g.Token, g.Expired, g.NextToken = fresh, old, fresh })
			s := start(t, g, map[string]string{"OPENSHELL_SANDBOX_TOKEN": old})
			session := g.Session(t)
			if got := session.Metadata.Get("authorization"); len(got) != 1 || got[0] != "Bearer "+fresh {
				t.Error("the session does not carry the new token")
			}
			if out := s.log.String(); strings.Contains(out, old) || strings.Contains(out, fresh) {
				t.Error("a token is in the log")
			}
		})
	}
}

// The renewed token is where the next supervisor of the sandbox looks for it.
func TestRenewedTokenSurvivesTheSupervisor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "token")
	old, fresh := jwt(time.Now().Add(-time.Hour), "old"), jwt(time.Now().Add(time.Hour), "fresh")
	if err := os.WriteFile(file, []byte(old), 0o644); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.New(t, true)
	g.Set(func(g *gatewaytest.Gateway) { g.Token, g.Expired, g.NextToken = fresh, old, fresh })
	start(t, g, map[string]string{"OPENSHELL_SANDBOX_TOKEN_FILE": file})
	g.Session(t)
	raw, err := os.ReadFile(file)
	if err != nil || strings.TrimSpace(string(raw)) != fresh {
		t.Errorf("the file was not replaced: %v", err)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
	// The next one needs no renewal.
	g.Set(func(g *gatewaytest.Gateway) { g.Expired = "" })
	calls := g.Calls("RefreshSandboxToken")
	start(t, g, map[string]string{"OPENSHELL_SANDBOX_TOKEN_FILE": file})
	g.Session(t)
	if got := g.Calls("RefreshSandboxToken"); got != calls {
		t.Errorf("%d refreshes more", got-calls)
	}
}

// A gateway that does not know our token any more gets the service account's again.
func TestServiceAccountIsExchangedAgain(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "sa")
	if err := os.WriteFile(file, []byte("service-account"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.New(t, false)
	first, second := jwt(time.Now().Add(time.Hour), "1"), jwt(time.Now().Add(time.Hour), "2")
	g.Set(func(g *gatewaytest.Gateway) { g.Token, g.NextToken = first, first })
	start(t, g, map[string]string{"OPENSHELL_K8S_SA_TOKEN_FILE": file})
	session := g.Session(t)
	g.Set(func(g *gatewaytest.Gateway) { g.Token, g.NextToken = second, second })
	if err := os.WriteFile(file, []byte("rotated"), 0o600); err != nil {
		t.Fatal(err)
	}
	session.End(status.Error(codes.Unavailable, "restart"))
	g.Session(t)
	if got := g.Metadata("IssueSandboxToken").Get("authorization"); len(got) != 1 || got[0] != "Bearer rotated" {
		t.Errorf("authorization = %q", got)
	}
}

// A supervisor that enforces nothing must not say that it does.
func TestPolicyWithRulesIsNotCalledLoaded(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	g.Set(func(g *gatewaytest.Gateway) {
		g.Config = &sandboxpb.GetSandboxConfigResponse{Version: 1, PolicySource: sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX, Policy: &sandboxpb.SandboxPolicy{
			Filesystem: &sandboxpb.FilesystemPolicy{ReadOnly: []string{"/usr"}},
		}}
	})
	start(t, g, nil)
	g.Session(t)
	if r := g.PolicyReports(); len(r) != 1 || r[0].GetStatus() != openshellpb.PolicyStatus_POLICY_STATUS_FAILED || !strings.Contains(r[0].GetLoadError(), "does not enforce") {
		t.Errorf("reports = %v", r)
	}
}

func TestTokenFromServiceAccount(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "sa")
	if err := os.WriteFile(file, []byte("service-account"), 0o600); err != nil {
		t.Fatal(err)
	}
	g := gatewaytest.New(t, false)
	token := jwt(time.Now().Add(time.Hour), "sandbox")
	g.Set(func(g *gatewaytest.Gateway) { g.Token, g.NextToken = token, token })
	start(t, g, map[string]string{"OPENSHELL_K8S_SA_TOKEN_FILE": file})
	g.Session(t)
	if got := g.Metadata("IssueSandboxToken").Get("authorization"); len(got) != 1 || got[0] != "Bearer service-account" {
		t.Errorf("authorization = %q", got)
	}
}

func TestPolicyIsAcknowledged(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	g.Set(func(g *gatewaytest.Gateway) {
		g.Config = &sandboxpb.GetSandboxConfigResponse{Version: 3, Policy: &sandboxpb.SandboxPolicy{}, PolicySource: sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX}
		g.Fail["GetSandboxProviderEnvironment"] = status.Error(codes.FailedPrecondition, "provider 'x' not found")
	})
	s := start(t, g, map[string]string{"OPENSHELL_POLICY_POLL_INTERVAL_SECS": "1"})
	g.Session(t)
	if r := g.PolicyReports(); len(r) != 1 || r[0].GetVersion() != 3 || r[0].GetStatus() != openshellpb.PolicyStatus_POLICY_STATUS_LOADED || r[0].GetSandboxId() != sandboxID {
		t.Errorf("reports = %v", r)
	}
	if !strings.Contains(s.log.String(), "provider environment not loaded") {
		t.Error("the failed environment is not in the log")
	}
	g.Set(func(g *gatewaytest.Gateway) {
		g.Config = &sandboxpb.GetSandboxConfigResponse{Version: 4, PolicySource: sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX}
		g.Fail = nil
	})
	eventually(t, "report of the broken policy", func() bool {
		r := g.PolicyReports()
		return len(r) == 2 && r[1].GetVersion() == 4 && r[1].GetStatus() == openshellpb.PolicyStatus_POLICY_STATUS_FAILED && r[1].GetLoadError() != ""
	})
	eventually(t, "environment after all", func() bool { return strings.Contains(s.log.String(), "provider environment loaded") })
}

func TestMainProcess(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]error{"reported": nil, "unknown call": status.Error(codes.Unimplemented, "no")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatewaytest.New(t, false)
			g.Set(func(g *gatewaytest.Gateway) { g.Fail["ReportMainProcessExit"] = fail })
			s := start(t, g, map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": `{"version":1,"command":["sh","-c","sleep 1; echo from-main; exit 5"],"tty":true}`})
			session := g.Session(t)
			select {
			case <-s.done:
			case <-time.After(15 * time.Second):
				t.Fatal("supervisor goes on")
			}
			if s.code != 5 || s.err != nil {
				t.Errorf("code %d err %v", s.code, s.err)
			}
			if !strings.Contains(s.log.String(), "from-main") {
				t.Error("output is missing")
			}
			if r := g.Exits(); fail == nil && (len(r) != 1 || r[0].GetExitCode() != 5 || r[0].GetInstanceId() != session.Hello.GetInstanceId()) {
				t.Errorf("reports = %v", r)
			}
		})
	}
}

func TestCommandsEndWithTheSupervisor(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, nil)
	session := g.Session(t)
	r := openExec(t, session, shell("trap '' TERM; echo $$ > pid; while :; do sleep 0.1; done"))
	pid := readPID(t, filepath.Join(s.dir, "pid"))
	began := time.Now()
	s.stop(t)
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("took %v", d)
	}
	if !gone(pid) {
		t.Error("command is still there")
	}
	if _, err := r.Recv(); err == nil {
		// Output may precede the end.
		_, err = r.Recv()
		if err == nil {
			t.Error("relay is still open")
		}
	}
}
