//go:build linux

// Package keycloak is a real Keycloak for tests: it starts the server of run, asks its realm for tokens, and holds the ten
// cases that a gateway which trusts the realm has to pass. It knows of gateways what their wire contract says, and not how
// one is started.
package keycloak

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
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
	"time"
)

// RequireEnv is the variable that decides what happens where no Keycloak is to be had: 1 fails the tests, unset skips them.
// 0 leaves them out in any case, for a run beside others.
const RequireEnv = "SALLYPORT_REQUIRE_KEYCLOAK"

// patience bounds every wait; the machine may be busy with other things.
const patience = 4 * time.Minute

// Available says why there is no Keycloak to be started, nil if there is one. With required it prepares one if need be,
// which loads 170 MiB and takes minutes.
func Available(ctx context.Context, required bool) error {
	run, err := script()
	if err != nil {
		return err
	}
	verb := "prepared"
	if required {
		verb = "prepare"
	}
	if out, err := exec.CommandContext(ctx, run, verb).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}

// script is the program that starts servers, found from wherever in the repository a test runs.
var script = sync.OnceValues(func() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return filepath.Join(dir, "test", "keycloak", "run"), nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working folder")
		}
	}
})

// Server is one Keycloak. It can be stopped and started again with the same port, keys and sessions.
type Server struct {
	// State is the server's folder, where its log is, too.
	State string
	args  []string
	// base is the server's URL, ca the file of its authority; ca is empty where it serves plain HTTP.
	base, ca string

	cmd   *exec.Cmd
	stdin io.Closer
	done  chan struct{}
}

// NewServer describes a server with its state in a folder. The arguments are options of run's start.
func NewServer(state string, args ...string) *Server { return &Server{State: state, args: args} }

// Start returns when the realm answers.
func (s *Server) Start() error {
	run, err := script()
	if err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	var said bytes.Buffer
	// It ends with its standard input at the latest, so that it does not outlive the tests however they end.
	cmd := exec.CommandContext(context.Background(), run, append([]string{"start", "--until-eof", "--state", s.State}, s.args...)...)
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
		case "base":
			s.base = value
		case "ca":
			s.ca = value
		case "ready":
			return nil
		}
	}
	return fmt.Errorf("start Keycloak: it ended: %w: %s", s.Stop(), said.String())
}

// Stop ends the server and returns when its port is closed.
func (s *Server) Stop() error {
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

// Freeze makes the server accept connections and answer nothing, until Thaw.
func (s *Server) Freeze() error { return s.cmd.Process.Signal(syscall.SIGSTOP) }

// Thaw ends what Freeze began.
func (s *Server) Thaw() error { return s.cmd.Process.Signal(syscall.SIGCONT) }

// Realm is the realm of tests, openshell.
func (s *Server) Realm() Realm {
	var config *tls.Config
	if s.ca != "" {
		pool := x509.NewCertPool()
		if pem, err := os.ReadFile(s.ca); err == nil {
			pool.AppendCertsFromPEM(pem)
		}
		config = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return Realm{Name: "openshell", Base: s.base, CA: s.ca, HTTP: NewHTTP(config)}
}

// NewHTTP returns a client that trusts a server and keeps no connection, so that a test leaves no goroutine behind.
func NewHTTP(config *tls.Config) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}}
}
