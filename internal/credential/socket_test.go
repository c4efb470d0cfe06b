package credential_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/mvp/credentialspb"
	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
)

// process is a credentials driver on a real socket.
type process struct {
	credentialspb.UnimplementedCredentialsDriverServer
	mu     sync.Mutex
	values map[string]*credentialspb.ResolveCredentialResponse
	asked  int
}

func (p *process) put(name, token string, life time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.values[name] = &credentialspb.ResolveCredentialResponse{Token: token, ExpiresAtMs: time.Now().Add(life).UnixMilli()}
}

func (p *process) ResolveCredential(_ context.Context, r *credentialspb.ResolveCredentialRequest) (*credentialspb.ResolveCredentialResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
	if v := p.values[r.GetName()]; v != nil {
		return v, nil
	}
	return nil, status.Errorf(codes.NotFound, "credential %q not configured", r.GetName())
}

// serve starts the driver on socket and returns what kills it.
func (p *process) serve(t *testing.T, socket string) (kill func()) {
	t.Helper()
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	desc := credentialspb.CredentialsDriver_ServiceDesc
	desc.ServiceName = "openshell.credentials.v1.CredentialsDriver"
	srv.RegisterService(&desc, p)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	kill = func() { srv.Stop(); <-done }
	t.Cleanup(kill)
	return kill
}

func TestOverARealSocket(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "c.sock")
	log := slog.New(slog.DiscardHandler)
	conn, err := driver.Dial(driver.Config{Name: "credentials", Socket: socket, Logger: log, Grace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	r := credential.NewResolver(credential.Options{Driver: credentials.New(conn), Logger: log})
	t.Cleanup(func() { r.Close(); conn.Close() })

	// Not there yet.
	e := wantReason(t, r, "a", credential.ReasonDriverUnavailable)
	if !strings.Contains(e.Message, socket) {
		t.Errorf("message %q does not say where", e.Message)
	}
	// There: the driver is found without being asked for, and a failure is forgotten after a second.
	p := &process{values: map[string]*credentialspb.ResolveCredentialResponse{}}
	p.put("a", "value-1", time.Hour)
	kill := p.serve(t, socket)
	await(t, func(ctx context.Context) error { _, err := r.Resolve(ctx, "a"); return err })
	wantReason(t, r, "b", credential.ReasonUnknown)

	// Gone: what is cached stays, what is not says why.
	kill()
	want(t, r, "a", "value-1")
	if e := wantReason(t, r, "c", credential.ReasonDriverUnavailable); e.Kind != fault.Unavailable {
		t.Errorf("kind %d", e.Kind)
	}
	// Back.
	p.put("c", "value-c", time.Hour)
	p.serve(t, socket)
	await(t, func(ctx context.Context) error { _, err := r.Resolve(ctx, "c"); return err })
	want(t, r, "a", "value-1")
	// A driver that lies is named, and nothing of its answer is kept.
	p.mu.Lock()
	p.values["liar"] = &credentialspb.ResolveCredentialResponse{}
	p.mu.Unlock()
	if e := wantReason(t, r, "liar", credential.ReasonFetchFailed); !strings.Contains(e.Message, "empty") {
		t.Errorf("message %q", e.Message)
	}
}

// await tries until fn succeeds.
func await(t *testing.T, fn func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := fn(ctx)
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never succeeded: %v", err)
		}
	}
}
