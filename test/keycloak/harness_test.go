//go:build linux

// Package keycloak_test proves the gateway and the command line client against a real Keycloak: its tokens, its keys and
// their rotation, its login page, and its absence. It owns how that server is started (see README.md) and knows of the
// gateway what its configuration and its wire contract say.
package keycloak_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/test/keycloak"
)

const (
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
		if err := errors.Join(shared.server.Stop(), os.RemoveAll(shared.server.State)); err != nil {
			fmt.Fprintln(os.Stderr, "stop the shared Keycloak:", err)
			return max(code, 1)
		}
	}
	return code
}

// available says why there is no Keycloak to be started, nil if there is one. It prepares one only where it is required.
var available = sync.OnceValue(func() error {
	mode := os.Getenv(keycloak.RequireEnv)
	if mode == "0" {
		return errors.New(keycloak.RequireEnv + "=0 leaves it out")
	}
	err := keycloak.Available(context.Background(), mode == "1")
	if err != nil {
		fmt.Fprintf(os.Stderr, "NOT PROVEN against a real Keycloak: %v\n", err)
	}
	return err
})

func require(t *testing.T) {
	t.Helper()
	err := available()
	switch {
	case err == nil:
	case os.Getenv(keycloak.RequireEnv) == "1":
		t.Fatalf("no Keycloak: %v", err)
	default:
		t.Skipf("no Keycloak: %v", err)
	}
}

// shared is the server of all tests that neither stop it nor change its realm.
var shared struct {
	once   sync.Once
	making sync.Mutex // held while a realm is made
	server *keycloak.Server
	err    error
}

// sharedRealm returns the realm of the shared server, which the first test starts.
func sharedRealm(t *testing.T) realm {
	t.Helper()
	require(t)
	shared.once.Do(func() {
		var state string
		if state, shared.err = os.MkdirTemp("", "kc"); shared.err == nil {
			shared.server = keycloak.NewServer(state)
			shared.err = shared.server.Start()
		}
	})
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	return realm{shared.server.Realm()}
}

// own starts a server that a test has for itself.
func own(t *testing.T, args ...string) *keycloak.Server {
	t.Helper()
	require(t)
	s := keycloak.NewServer(t.TempDir(), args...)
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("end of Keycloak's log:\n%s", tail(filepath.Join(s.State, "server.log"), 20))
		}
	})
	return s
}

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
