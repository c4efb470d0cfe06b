package dev

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func noEnv(string) string { return "" }

func TestStateIsPrivateAndLockedAndKept(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "s")
	l, err := openLayout(dir, noEnv)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(l.path("oauth2", "secrets")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	lock, err := l.lock()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.lock(); err == nil || !strings.Contains(err.Error(), "another `sallyport dev`") {
		t.Errorf("second lock: %v", err)
	}
	if err := lock.Unlock(); err != nil {
		t.Fatal(err)
	}
	want := ports{Gateway: 1, Identity: 2, Health: 3, Metrics: 4}
	if err := l.savePorts(want); err != nil {
		t.Fatal(err)
	}
	if got, err := l.loadPorts(preferredPorts()); err != nil || got != want {
		t.Errorf("ports %v, error %v", got, err)
	}
	if err := os.Chmod(l.path("tls"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := openLayout(dir, noEnv); err == nil {
		t.Error("a directory that others can write to was accepted")
	}
}

func TestLongStateGetsShortSockets(t *testing.T) {
	t.Parallel()
	runtimeDir, err := os.MkdirTemp("", "rt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(runtimeDir) })
	env := func(key string) string {
		if key == "XDG_RUNTIME_DIR" {
			return runtimeDir
		}
		return ""
	}
	l, err := openLayout(filepath.Join(t.TempDir(), strings.Repeat("long", 30)), env)
	if err != nil {
		t.Fatal(err)
	}
	if filepath.Dir(l.sockets) != runtimeDir || len(l.credentialsSocket()) > maxSocketPath {
		t.Errorf("sockets in %s", l.sockets)
	}
	if dir, err := defaultStateDir(func(k string) string { return map[string]string{"HOME": "/h"}[k] }); err != nil || dir != "/h/.local/state/sallyport/dev" {
		t.Errorf("default %s, error %v", dir, err)
	}
	if _, err := defaultStateDir(noEnv); err == nil {
		t.Error("no home, and no error")
	}
}

func TestTakenPortIsReplaced(t *testing.T) {
	t.Parallel()
	lis, port, err := listen(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	a, b := port, 0
	if err := freePorts(t.Context(), &a, &b); err != nil {
		t.Fatal(err)
	}
	if a == port || a == 0 || b == 0 || a == b {
		t.Errorf("ports %d and %d beside the taken %d", a, b, port)
	}
}

func TestCertificatesServeAndAreKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	now := time.Now()
	first, err := ensureCertificates(dir, now)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{first.key, filepath.Join(dir, "ca.key")} {
		if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v, error %v", key, info.Mode(), err)
		}
	}
	again, err := ensureCertificates(dir, now.Add(time.Hour))
	if err != nil || !bytes.Equal(first.caPEM, again.caPEM) {
		t.Errorf("authority was not kept: %v", err)
	}
	before, err := os.ReadFile(first.cert)
	if err != nil {
		t.Fatal(err)
	}
	later, err := ensureCertificates(dir, now.Add(serverLife-renewBefore))
	if err != nil || !bytes.Equal(first.caPEM, later.caPEM) {
		t.Errorf("authority was not kept: %v", err)
	}
	if after, err := os.ReadFile(first.cert); err != nil || bytes.Equal(before, after) {
		t.Errorf("expiring server certificate was kept: %v", err)
	}

	pair, err := tls.LoadX509KeyPair(later.cert, later.key)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(later.caPEM)
	for _, name := range []string{"localhost", "127.0.0.1", "::1"} {
		if err := handshake(t, pair, roots, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := handshake(t, pair, roots, "gateway.test"); err == nil {
		t.Error("certificate speaks for a foreign name")
	}
}

func handshake(t *testing.T, pair tls.Certificate, roots *x509.CertPool, name string) error {
	t.Helper()
	server, client := net.Pipe()
	defer client.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer server.Close()
		_ = tls.Server(server, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}).Handshake()
	}()
	err := tls.Client(client, &tls.Config{
		RootCAs: roots, ServerName: name, MinVersion: tls.VersionTLS12,
		Time: func() time.Time { return pair.Leaf.NotBefore.Add(2 * time.Hour) },
	}).Handshake()
	_ = client.Close()
	<-done
	return err
}

// said collects what is told to the person at the terminal.
type said struct {
	mu    sync.Mutex
	lines []string
	ch    chan string
}

func newSaid() *said { return &said{ch: make(chan string, 100)} }

func (s *said) say(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	s.mu.Lock()
	s.lines = append(s.lines, line)
	s.mu.Unlock()
	s.ch <- line
}

func TestChildIsStartedAgainAndStopped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	script := filepath.Join(dir, "worker")
	// The first start fails, the second runs until it is told to stop.
	body := "#!/bin/sh\nif mkdir " + dir + "/ran 2>/dev/null; then echo broken >&2; exit 3; fi\ntrap 'echo bye; exit 0' TERM\necho up\nwhile :; do sleep 0.05; done\n"
	if err := os.WriteFile(script, []byte(body), 0o700); err != nil {
		t.Fatal(err)
	}
	s := newSaid()
	c := startChild(command{name: "worker", path: script, log: filepath.Join(dir, "log"), grace: 5 * time.Second}, s.say)
	line := <-s.ch
	if !strings.Contains(line, "worker ended (exit status 3)") || !strings.Contains(line, "starting it again") {
		t.Errorf("said %q", line)
	}
	waitFor(t, func() bool { return strings.Contains(tail(c.log, 5), "up") })
	if c.failed() != 1 {
		t.Errorf("%d failures", c.failed())
	}
	c.stop()
	if got := tail(c.log, 2); got != "up\nbye" {
		t.Errorf("log ends %q", got)
	}
}

func TestStubbornChildIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := startChild(command{
		name: "stubborn", path: "/bin/sh", args: []string{"-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"},
		log: filepath.Join(dir, "log"), grace: 50 * time.Millisecond,
	}, newSaid().say)
	var pid int
	waitFor(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		pid = c.pid
		return pid != 0 && tail(c.log, 1) == "up"
	})
	c.stop()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("process %d lives: %v", pid, err)
	}
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			t.Fatal("did not happen within 10 s")
		case <-tick.C:
		}
	}
}

func TestChildEnvironmentHasNoForeignSettings(t *testing.T) {
	t.Parallel()
	got := childEnv([]string{"PATH=/bin", "OPENSHELL_DISABLE_TLS=true", "SALLYPORT_X=1", "NOTIFY_SOCKET=/s", "HOME=/h"})
	if strings.Join(got, " ") != "PATH=/bin HOME=/h" {
		t.Errorf("got %v", got)
	}
}

func TestSandboxProcessesAreFoundByTheirMarker(t *testing.T) {
	t.Parallel()
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{"A=1", sandboxMarker + "marked-for-test"}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	waitFor(t, func() bool {
		pids, err := sandboxProcesses("marked-for-test")
		return err == nil && len(pids) == 1 && pids[0] == cmd.Process.Pid
	})
	if pids, err := sandboxProcesses("marked-for"); err != nil || len(pids) != 0 {
		t.Errorf("part of an id matched: %v, %v", pids, err)
	}
}

func TestReporterPrintsOneLineAStep(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	r := &reporter{out: &out, json: true}
	if !r.step(t.Context(), "one", func(context.Context) (string, error) { return "fine", nil }) || r.failed {
		t.Error("a good step failed")
	}
	if r.step(t.Context(), "two", func(context.Context) (string, error) { return "", errors.New("broken") }) || !r.failed {
		t.Error("a bad step succeeded")
	}
	var got []result
	for line := range strings.Lines(out.String()) {
		var res result
		if err := json.Unmarshal([]byte(line), &res); err != nil {
			t.Fatal(err)
		}
		got = append(got, res)
	}
	if len(got) != 2 || got[0].Detail != "fine" || got[1].OK || got[1].Detail != "broken" {
		t.Errorf("got %+v", got)
	}
}

// TestScripts runs the demo's shell scripts outside of a sandbox.
func TestScripts(t *testing.T) {
	t.Parallel()
	run := func(script string, env ...string) (string, string) {
		cmd := exec.Command("sh", "-c", script)
		cmd.Env, cmd.Dir = append(os.Environ(), env...), t.TempDir()
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, errs.String())
		}
		if left, err := os.ReadDir(cmd.Dir); err != nil || len(left) != 0 {
			t.Errorf("left %v", left)
		}
		return out.String(), errs.String()
	}
	for value, want := range map[string]string{
		"":                         "missing",
		"head.claims.signature":    "token 21 claims",
		"openshell:resolve:env:A":  "placeholder openshell:resolve:env:A",
		"an opaque value of a key": "opaque 24",
	} {
		out, _ := run(showCredential, credentialKey+"="+value)
		if !strings.Contains(out, "\n"+want+"\n") || strings.Contains(out, "signature") {
			t.Errorf("%q shown as %q", value, out)
		}
	}
	out, errs := run(fmt.Sprintf(sendStream, 1<<20))
	sum := counterOf(out)
	if len(out) != 1<<20 || !strings.HasPrefix(errs, sum) {
		t.Errorf("%d bytes, sums %s and %s", len(out), sum, errs)
	}
}

func counterOf(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

func argumentOf(n int) string { return strconv.Itoa(n) }

// processesWith finds processes by a part of their arguments.
func processesWith(part string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		args, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err == nil && strings.Contains(string(args), part) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
