package gateway_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
)

// startPostgres starts a server that goes with the test.
func startPostgres(t *testing.T) *pgtest.Server {
	t.Helper()
	s, err := pgtest.Start()
	pgtest.Require(t, s, err)
	t.Cleanup(func() {
		if err := s.Stop(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// names lists all sandboxes that an administrator sees.
func (s *system) names() []string {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.admin(), 20*time.Second)
	defer cancel()
	resp, err := s.client.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		s.t.Fatal(err)
	}
	var names []string
	for _, box := range resp.Sandboxes {
		names = append(names, box.GetMetadata().GetName())
	}
	return names
}

// TestGatewayOnPostgres creates, lists, restarts and finds again, and waits for an earlier gateway to end.
func TestGatewayOnPostgres(t *testing.T) {
	t.Parallel()
	server := startPostgres(t)
	name := server.Database(t)
	args := []string{"--db-url", server.URL(name, "search_path=tenant"), "--state-dir", filepath.Join(t.TempDir(), "state")}
	t.Run("first", func(t *testing.T) {
		s := start(t, args...)
		s.create("one")
		s.create("two")
		if got := strings.Join(s.names(), " "); got != "one two" {
			t.Errorf("listed %q", got)
		}
		ctx, cancel := context.WithTimeout(s.user(), 20*time.Second)
		defer cancel()
		if _, err := s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: "one", Spec: &openshellpb.SandboxSpec{}}); status.Code(err) != codes.AlreadyExists {
			t.Errorf("the same name again: %v", err)
		}

		// A second one is told who has the database.
		cfg, err := config.Parse(append(append([]string(nil), s.args...), "--db-lease-wait-secs", "0",
			"--state-dir", t.TempDir()), home(t.TempDir()))
		if err != nil {
			t.Fatal(err)
		}
		_, err = gateway.New(t.Context(), cfg, gateway.Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
		if !errors.Is(err, store.ErrLeaseLost) || !strings.Contains(err.Error(), "owns it; stop that one") {
			t.Errorf("a second gateway: %v", err)
		}
	})
	t.Run("again", func(t *testing.T) {
		s := start(t, args...)
		if got := strings.Join(s.names(), " "); got != "one two" {
			t.Errorf("listed %q after a restart", got)
		}
		s.create("three")
	})
}

// TestGatewayEndsWithItsLease takes the database away from a gateway that serves: it ends with the reason, so that its
// supervisor starts it again.
func TestGatewayEndsWithItsLease(t *testing.T) {
	t.Parallel()
	server := startPostgres(t)
	name := server.Database(t)
	dir := t.TempDir()
	cfg, err := config.Parse([]string{
		"--disable-tls", "--port", "0", "--drivers", "external", "--compute-driver-socket", filepath.Join(dir, "c.sock"),
		"--allow-unauthenticated-users", "--db-url", server.URL(name), "--state-dir", filepath.Join(dir, "state"), "--shutdown-grace-secs", "1",
	}, home(dir))
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(t.Context(), cfg, gateway.Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- g.Run(t.Context()) }()
	if err := server.Exec(name, `UPDATE store_meta SET epoch = epoch + 1, owner_id = 'other', owner_name = 'pod-b'`); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, store.ErrLeaseLost) || !strings.Contains(err.Error(), "pod-b") {
		t.Errorf("the gateway ended with %v", err)
	}
}

// TestGatewayWithoutItsPostgres stops the server under a gateway and starts it again: callers are told why and what to
// do, in the gateway's own words; readiness tells; reads go on; and nobody has to start anything when it is back.
func TestGatewayWithoutItsPostgres(t *testing.T) {
	t.Parallel()
	server := startPostgres(t)
	s := start(t, "--db-url", server.URL(server.Database(t)), "--state-dir", filepath.Join(t.TempDir(), "state"))
	s.create("before")
	if err := server.Halt(); err != nil {
		t.Fatal(err)
	}
	create := func(name string) error {
		ctx, cancel := context.WithTimeout(s.user(), time.Minute)
		defer cancel()
		_, err := s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: name, Spec: &openshellpb.SandboxSpec{}})
		return err
	}
	err := create("meanwhile")
	wantReason(t, err, codes.Unavailable, "STORE_UNREACHABLE")
	if text := status.Convert(err).Message(); strings.Contains(text, "PGSQL") || strings.Contains(text, "postgres") {
		t.Errorf("the answer tells of the server: %s", text)
	}
	if got := strings.Join(s.names(), " "); got != "before" {
		t.Errorf("listed %q without the server", got)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ready := func() (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+s.conn.Target()+"/readyz", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for code, body := ready(); code != http.StatusServiceUnavailable || !strings.Contains(body, "the database cannot be reached"); code, body = ready() {
		<-time.After(50 * time.Millisecond)
	}
	if err := server.Run(); err != nil {
		t.Fatal(err)
	}
	for create("after") != nil {
		<-time.After(50 * time.Millisecond)
	}
	for code, _ := ready(); code != http.StatusOK; code, _ = ready() {
		<-time.After(50 * time.Millisecond)
	}
}
