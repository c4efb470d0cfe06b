//go:build linux

// Package e2e tests the whole system as its users run it: the real programs as processes that can be killed at any
// moment, and clients that talk to the gateway over the public contract. It owns the set-up of such systems and
// what must hold after a crash; it looks at the machine itself, not only at what the gateway says, and knows
// nothing of the programs' inside.
package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/devidp"
)

const (
	// patience bounds every wait; the machine may be busy with other things.
	patience  = 45 * time.Second
	pollEvery = 20 * time.Millisecond
	// runMarker is the variable that marks every process of one system but those of its sandboxes. Its name is none
	// of the product's own, which are not handed on.
	runMarker = "E2E_RUN="

	cachedCredential = "demo-service"
	lateCredential   = "demo-late"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// binaries is the folder of the programs that `make build` made.
var binaries = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the test's folder")
		}
		dir = up
	}
	dir = filepath.Join(dir, "bin")
	for _, name := range []string{"sallyport", "sallyport-gateway", "sallyport-supervisor", "sallyport-driver-process", "sallyport-driver-oauth2"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return "", fmt.Errorf("run make build: %w", err)
		}
	}
	return dir, nil
})

func binDir(t *testing.T) string {
	t.Helper()
	dir, err := binaries()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// system is one whole system in a folder of its own. Its processes are started, killed and started again with the
// same state, ports and sockets.
type system struct {
	t    *testing.T
	dir  string
	run  string
	tls  certificates
	idp  *devidp.Provider
	stop func()

	port, health, metrics, idpPort int

	gateway, compute, credentials *program
	user, admin                   *client

	mu        sync.Mutex
	sandboxes map[string]string // id to name, of all that a test created
}

// start brings a system up and ends it with the test, which fails if anything is left. The arguments are for the
// compute driver.
func start(t *testing.T, args ...string) *system {
	t.Helper()
	bin := binDir(t)
	// Not t.TempDir: a socket's path may have 107 bytes only.
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := &system{t: t, dir: dir, run: rand.Text(), sandboxes: map[string]string{}}
	for _, sub := range []string{"log", "gateway", "process", "secrets", "idp", "run"} {
		if err := os.Mkdir(s.path(sub), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.tls = makeCertificates(t, dir)
	s.port, s.health, s.metrics, s.idpPort = freePort(t), freePort(t), freePort(t), freePort(t)
	s.startIdentity()
	t.Cleanup(func() { s.stopIdentity() })
	s.writeCredentials()
	s.define(bin)
	s.compute.args = append(s.compute.args, args...)
	t.Cleanup(s.finish)
	for _, p := range []*program{s.credentials, s.compute, s.gateway} {
		p.start(t)
	}
	s.waitReady()
	s.user = s.connect(devidp.CLIClient, "user@test", "user")
	s.admin = s.connect(devidp.CLIClient, "admin@test", "admin")
	return s
}

func (s *system) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func (s *system) define(bin string) {
	env := []string{runMarker + s.run}
	socket := func(name string) string { return s.path("run", name) }
	s.credentials = &program{
		name: "driver-oauth2", path: filepath.Join(bin, "sallyport-driver-oauth2"), log: s.path("log", "driver-oauth2.log"), env: env,
		args: []string{"--socket", socket("c.sock"), "--config", s.path("credentials.yaml"), "--secrets-dir", s.path("secrets")},
	}
	s.compute = &program{
		name: "driver-process", path: filepath.Join(bin, "sallyport-driver-process"), log: s.path("log", "driver-process.log"), env: env,
		args: []string{
			"--socket", socket("p.sock"), "--state-dir", s.path("process"), "--gateway-endpoint", "https://" + s.address(),
			"--gateway-ca", s.tls.ca, "--shutdown-sandboxes", "--hide", s.path("secrets"), "--log-level", "debug",
		},
	}
	s.gateway = &program{
		name: "gateway", path: filepath.Join(bin, "sallyport-gateway"), log: s.path("log", "gateway.log"), env: env,
		args: []string{
			"--bind-address", "127.0.0.1", "--port", strconv.Itoa(s.port), "--health-port", strconv.Itoa(s.health),
			"--metrics-port", strconv.Itoa(s.metrics), "--tls-cert", s.tls.cert, "--tls-key", s.tls.key,
			"--db-url", "sqlite:" + s.path("gateway", "gateway.db"), "--drivers", "external",
			"--compute-driver-socket", socket("p.sock"), "--credentials-driver-socket", socket("c.sock"),
			"--sandbox-key-dir", s.path("gateway"), "--oidc-issuer", s.idp.Issuer(), "--oidc-audience", devidp.CLIClient,
			"--oidc-scopes-claim", "scope", "--log-level", "debug",
		},
	}
}

func (s *system) address() string { return "127.0.0.1:" + strconv.Itoa(s.port) }

// startIdentity serves the identity provider in this process, on the same port each time.
func (s *system) startIdentity() {
	s.t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(s.idpPort))
	if err != nil {
		s.t.Fatal(err)
	}
	s.idp, err = devidp.New(devidp.Config{
		Issuer: fmt.Sprintf("http://127.0.0.1:%d/realms/%s", s.idpPort, devidp.Realm), StateDir: s.path("idp"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(errors.Join(err, lis.Close()))
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.idp.Serve(ctx, lis) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Errorf("identity provider: %v", err)
		}
	})
}

func (s *system) stopIdentity() { s.stop() }

// writeCredentials configures two credentials, one of which a test asks for early and one only when it matters.
func (s *system) writeCredentials() {
	s.t.Helper()
	if err := os.WriteFile(s.path("secrets", devidp.DemoClient), []byte(s.idp.DemoSecret()), 0o600); err != nil {
		s.t.Fatal(err)
	}
	config := "credentials:\n"
	for _, name := range []string{cachedCredential, lateCredential} {
		config += fmt.Sprintf("  %s:\n    client_id: %s\n    client_secret_ref: %[2]s\n    token_endpoint: %s\n", name, devidp.DemoClient, s.idp.TokenEndpoint())
	}
	if err := os.WriteFile(s.path("credentials.yaml"), []byte(config), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// finish stops what still runs, in the order of `sallyport dev`, and fails the test for whatever is left.
func (s *system) finish() {
	for _, c := range []*client{s.user, s.admin} {
		if c != nil {
			c.close()
		}
	}
	for _, p := range []*program{s.gateway, s.compute, s.credentials} {
		if !p.running() {
			continue
		}
		if err := p.terminate(); err != nil {
			s.t.Errorf("%s ended with %v after SIGTERM, want exit status 0", p.name, err)
		}
	}
	var left []string
	for deadline := time.Now().Add(patience); ; {
		if left = s.processes(); len(left) == 0 || time.Now().After(deadline) {
			break
		}
		<-time.After(pollEvery)
	}
	if len(left) > 0 {
		s.t.Errorf("processes left behind: %s", strings.Join(left, "; "))
	}
	if s.t.Failed() {
		for _, p := range []*program{s.gateway, s.compute, s.credentials} {
			s.t.Logf("end of %s's log:\n%s", p.name, tail(p.log, 40))
		}
	}
}

// processes describes all processes of the system and of its sandboxes.
func (s *system) processes() []string {
	s.mu.Lock()
	markers := []string{runMarker + s.run}
	for id := range s.sandboxes {
		markers = append(markers, sandboxMarker+id)
	}
	s.mu.Unlock()
	return describe(pidsWith(s.t, markers...))
}

// describe adds the command lines to process ids.
func describe(pids []int) []string {
	out := make([]string, 0, len(pids))
	for _, pid := range pids {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			line = []byte("ended meanwhile")
		}
		out = append(out, fmt.Sprintf("%d %.300s", pid, bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
	}
	return out
}

// ports are those that freePort gave out.
var ports sync.Map

// freePort finds a port below those that the kernel gives to outgoing connections, so that none of them takes it
// while the gateway is away. No two calls of a test run get the same one.
func freePort(t *testing.T) int {
	t.Helper()
	for {
		port := 20000 + mathrand.IntN(10000) // no secret
		if _, taken := ports.LoadOrStore(port, true); taken {
			continue
		}
		lis, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := lis.Close(); err != nil {
			t.Fatal(err)
		}
		return port
	}
}

// eventually calls try until it returns nil, and fails the test with its last error when patience runs out.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	began := time.Now()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("%s: not after %s: %v", what, patience, err)
		}
		<-tick.C
	}
}
