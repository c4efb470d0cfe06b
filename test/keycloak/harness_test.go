//go:build linux

// Package keycloak_test proves the gateway and the command line client against a real Keycloak: its tokens, its keys and
// their rotation, its login page, and its absence. It owns how that server is started (see README.md) and knows of the
// gateway what its configuration and its wire contract say.
package keycloak_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// requireEnv decides what happens where no Keycloak is to be had: 1 fails the tests, unset skips them. 0 leaves them
	// out in any case, for a run beside others.
	requireEnv = "SALLYPORT_REQUIRE_KEYCLOAK"
	// patience bounds every wait; the machine may be busy with other things.
	patience  = 4 * time.Minute
	pollEvery = 20 * time.Millisecond
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(withServer{m}, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// withServer stops the server that the tests share when the last one has ended.
type withServer struct{ *testing.M }

func (m withServer) Run() int {
	code := m.M.Run()
	if shared.server != nil {
		if err := errors.Join(shared.server.stop(), os.RemoveAll(shared.server.state)); err != nil {
			fmt.Fprintln(os.Stderr, "stop the shared Keycloak:", err)
			return max(code, 1)
		}
	}
	return code
}

// available says why there is no Keycloak to be started, nil if there is one. It prepares one only where it is required:
// that loads 170 MiB and takes minutes.
var available = sync.OnceValue(func() error {
	mode := os.Getenv(requireEnv)
	if mode == "0" {
		return errors.New(requireEnv + "=0 leaves it out")
	}
	verb := "prepared"
	if mode == "1" {
		verb = "prepare"
	}
	out, err := exec.Command("./run", verb).CombinedOutput()
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	fmt.Fprintf(os.Stderr, "NOT PROVEN against a real Keycloak: %v\n", err)
	return err
})

func require(t *testing.T) {
	t.Helper()
	err := available()
	switch {
	case err == nil:
	case os.Getenv(requireEnv) == "1":
		t.Fatalf("no Keycloak: %v", err)
	default:
		t.Skipf("no Keycloak: %v", err)
	}
}

// shared is the server of all tests that neither stop it nor change its realm.
var shared struct {
	once   sync.Once
	making sync.Mutex // held while a realm is made
	server *server
	err    error
}

// keycloak returns the realm of the shared server, which the first test starts.
func keycloak(t *testing.T) realm {
	t.Helper()
	require(t)
	shared.once.Do(func() {
		var state string
		if state, shared.err = os.MkdirTemp("", "kc"); shared.err == nil {
			shared.server = newServer(state)
			shared.err = shared.server.start()
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return shared.server.realm()
}

// server is one Keycloak. It can be stopped and started again with the same port, keys and sessions.
type server struct {
	state string
	args  []string
	// issuer, base and ca are what it said of itself; ca is a file, and empty where it serves plain HTTP.
	issuer, base, ca string

	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
}

func newServer(state string, args ...string) *server { return &server{state: state, args: args} }

// own starts a server that a test has for itself.
func own(t *testing.T, args ...string) *server {
	t.Helper()
	require(t)
	s := newServer(t.TempDir(), args...)
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of Keycloak's log:\n%s", tail(filepath.Join(s.state, "server.log"), 20))
		}
	})
	return s
}

// start returns when the realm answers.
func (s *server) start() error {
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	var said bytes.Buffer
	// It ends with its standard input at the latest, so that it does not outlive these tests however they end.
	cmd := exec.Command("./run", append([]string{"start", "--until-eof", "--state", s.state}, s.args...)...)
	cmd.Stdout, cmd.Stderr = write, &said
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	write.Close()
	if err != nil {
		return fmt.Errorf("start Keycloak: %w", err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // The JVM ends with 143 when it was asked to end; whether it was is known elsewhere.
	}()
	s.cmd, s.stdin, s.done = cmd, stdin, done
	for lines := bufio.NewScanner(read); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), "=")
		switch key {
		case "issuer":
			s.issuer = value
		case "base":
			s.base = value
		case "ca":
			s.ca = value
		case "ready":
			return nil
		}
	}
	return fmt.Errorf("start Keycloak: it ended: %w: %s", s.stop(), said.String())
}

// stop ends the server and returns when its port is closed.
func (s *server) stop() error {
	if s.cmd == nil {
		return nil
	}
	s.stdin.Close()
	select {
	case <-s.done:
	case <-time.After(patience):
		return errors.Join(errors.New("stop Keycloak: it does not end"), s.cmd.Process.Kill())
	}
	s.cmd = nil
	return nil
}

// freeze makes the server accept connections and answer nothing, until thaw.
func (s *server) freeze() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }
func (s *server) thaw() error   { return s.cmd.Process.Signal(syscall.SIGCONT) }

func tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// eventually calls try until it returns nil, and fails the test with its last error when patience runs out.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after %s: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

// newHTTP returns a client that trusts the server and keeps no connection, so that a test leaves no goroutine behind.
func newHTTP(roots *tls.Config) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: roots}}
}
