package driver_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a driver process: a gRPC server on a real Unix socket that can be stopped and started again.
type fake struct {
	computepb.UnimplementedComputeDriverServer
	socket  string
	calls   atomic.Int64
	running atomic.Int64
	most    atomic.Int64
	// answer is what GetCapabilities does.
	answer atomic.Pointer[func(context.Context) (*computepb.GetCapabilitiesResponse, error)]

	mu  sync.Mutex
	srv *grpc.Server
}

func (f *fake) GetCapabilities(ctx context.Context, _ *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	f.calls.Add(1)
	n := f.running.Add(1)
	defer f.running.Add(-1)
	for m := f.most.Load(); n > m && !f.most.CompareAndSwap(m, n); m = f.most.Load() {
	}
	if a := f.answer.Load(); a != nil {
		return (*a)(ctx)
	}
	return &computepb.GetCapabilitiesResponse{DriverName: "fake"}, nil
}

func (f *fake) WatchSandboxes(_ *computepb.WatchSandboxesRequest, s grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	if err := s.Send(&computepb.WatchSandboxesEvent{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func (f *fake) answers(fn func(context.Context) (*computepb.GetCapabilitiesResponse, error)) {
	f.answer.Store(&fn)
}

func (f *fake) start(t *testing.T) {
	t.Helper()
	if err := os.Remove(f.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	computepb.RegisterComputeDriverServer(srv, f)
	f.mu.Lock()
	f.srv = srv
	f.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
}

func (f *fake) kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.srv.Stop()
}

func newFake(t *testing.T) *fake {
	t.Helper()
	return &fake{socket: filepath.Join(t.TempDir(), "d.sock")}
}

func dial(t *testing.T, cfg driver.Config) (*driver.Conn, computepb.ComputeDriverClient) {
	t.Helper()
	cfg.Name = "compute"
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	c, err := driver.Dial(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, computepb.NewComputeDriverClient(c)
}

func wantFault(t *testing.T, err error, kind fault.Kind, reason string) *fault.Error {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != kind || f.Reason != reason {
		t.Fatalf("got %v, want kind %d reason %s", err, kind, reason)
	}
	return f
}

func TestSocketMissingAtStartThenThere(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	c, client := dial(t, driver.Config{Socket: f.socket, Grace: 20 * time.Millisecond})
	_, err := client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{})
	e := wantFault(t, err, fault.Unavailable, driver.ReasonUnavailable)
	if !strings.Contains(e.Message, "compute driver") || !strings.Contains(e.Message, f.socket) ||
		!strings.Contains(e.Message, "no such file") || e.Next == "" {
		t.Errorf("message does not help: %q next %q", e.Message, e.Next)
	}
	wantFault(t, c.Ready(), fault.Unavailable, driver.ReasonUnavailable)
	if driver.Answered(err) || driver.CodeOf(err) != codes.Unavailable {
		t.Errorf("answered %v code %v", driver.Answered(err), driver.CodeOf(err))
	}

	f.start(t)
	started := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := c.WaitReady(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(started); took > 1500*time.Millisecond {
		t.Errorf("found after %s", took)
	}
	if err := c.Ready(); err != nil {
		t.Error(err)
	}
	if _, err := client.GetCapabilities(ctx, &computepb.GetCapabilitiesRequest{}); err != nil {
		t.Fatal(err)
	}
}

func TestGraceCoversRestart(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start(t)
	c, client := dial(t, driver.Config{Socket: f.socket, Grace: 10 * time.Second})
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.kill()
		result := make(chan error, 1)
		go func() {
			_, err := client.GetCapabilities(context.Background(), &computepb.GetCapabilitiesRequest{}, driver.Retryable())
			result <- err
		}()
		f.start(t)
		if err := <-result; err != nil {
			t.Fatalf("call during restart: %v", err)
		}
	}
}

func TestDriversOwnErrorIsKept(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start(t)
	c, client := dial(t, driver.Config{Socket: f.socket})
	for _, code := range []codes.Code{codes.AlreadyExists, codes.FailedPrecondition, codes.Unavailable, codes.DeadlineExceeded, codes.Internal} {
		f.answers(func(context.Context) (*computepb.GetCapabilitiesResponse, error) {
			return nil, status.Error(code, "because \x1b[31m"+code.String())
		})
		for range 10 { // More than the breaker's threshold: an answer never opens it.
			_, err := client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{})
			if !driver.Answered(err) || driver.CodeOf(err) != code {
				t.Fatalf("%s: answered %v, code %s: %v", code, driver.Answered(err), driver.CodeOf(err), err)
			}
			wantFault(t, err, driver.KindOf(code), driver.ReasonRefused)
			if m := driver.MessageOf(err); !strings.HasSuffix(m, code.String()) || strings.Contains(m, "\x1b") {
				t.Fatalf("message %q", m)
			}
		}
	}
	if err := c.Ready(); err != nil {
		t.Error(err)
	}
}

func TestHangingDriverOpensBreakerAndComesBack(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start(t)
	f.answers(func(ctx context.Context) (*computepb.GetCapabilitiesResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c, client := dial(t, driver.Config{Socket: f.socket, RPCTimeout: 20 * time.Millisecond})
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	var opened bool
	for range 50 {
		_, err := client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{})
		if fault.From(err).Reason == driver.ReasonUnavailable {
			opened = true
			break
		}
		wantFault(t, err, fault.Unavailable, driver.ReasonTimeout)
	}
	if !opened {
		t.Fatal("breaker never opened")
	}
	wantFault(t, c.Ready(), fault.Unavailable, driver.ReasonUnavailable)
	before := f.calls.Load()
	_, err := client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{})
	wantFault(t, err, fault.Unavailable, driver.ReasonUnavailable)
	if f.calls.Load() != before {
		t.Error("a call went out although the breaker is open")
	}

	f.answers(func(context.Context) (*computepb.GetCapabilitiesResponse, error) {
		return &computepb.GetCapabilitiesResponse{}, nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err = client.GetCapabilities(ctx, &computepb.GetCapabilitiesRequest{}); err == nil {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("never came back: %v", err)
		}
	}
	if err := c.Ready(); err != nil {
		t.Error(err)
	}
}

func TestCallersOwnDeadlineIsNotTheDriversFault(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start(t)
	f.answers(func(ctx context.Context) (*computepb.GetCapabilitiesResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	c, client := dial(t, driver.Config{Socket: f.socket})
	for range 10 {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
		_, err := client.GetCapabilities(ctx, &computepb.GetCapabilitiesRequest{})
		cancel()
		if k := fault.From(err).Kind; k != fault.DeadlineExceeded {
			t.Fatalf("kind %d: %v", k, err)
		}
	}
	if err := c.WaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.Ready(); err != nil {
		t.Errorf("breaker opened: %v", err)
	}
}

func TestConcurrencyAndQueueAreBounded(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start(t)
	release := make(chan struct{})
	f.answers(func(context.Context) (*computepb.GetCapabilitiesResponse, error) {
		<-release
		return &computepb.GetCapabilitiesResponse{}, nil
	})
	_, client := dial(t, driver.Config{Socket: f.socket, MaxConcurrent: 2, MaxQueued: 3})
	results := make(chan error, 20)
	for range 20 {
		go func() {
			_, err := client.GetCapabilities(context.Background(), &computepb.GetCapabilitiesRequest{})
			results <- err
		}()
	}
	for range 15 { // 2 run, 3 wait, the other 15 are refused at once.
		wantFault(t, <-results, fault.ResourceExhausted, driver.ReasonBusy)
	}
	close(release)
	for range 5 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
	if m := f.most.Load(); m > 2 {
		t.Errorf("%d calls at once, want at most 2", m)
	}
}

func TestOversizedAnswer(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.start(t)
	f.answers(func(context.Context) (*computepb.GetCapabilitiesResponse, error) {
		return &computepb.GetCapabilitiesResponse{DriverName: strings.Repeat("x", 5000)}, nil
	})
	_, client := dial(t, driver.Config{Socket: f.socket, MaxMessage: 4096})
	if _, err := client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{}); fault.From(err).Kind != fault.ResourceExhausted {
		t.Fatalf("got %v", err)
	}
}

func TestStream(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	_, client := dial(t, driver.Config{Socket: f.socket})
	f.start(t)
	s, err := client.WatchSandboxes(t.Context(), &computepb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); err != nil {
		t.Fatal(err)
	}
	f.kill()
	_, err = s.Recv()
	if errors.Is(err, io.EOF) {
		t.Fatal("a lost driver looks like an orderly end")
	}
	wantFault(t, err, fault.Unavailable, driver.ReasonUnavailable)
	if _, err = client.StartSandbox(t.Context(), &computepb.StartSandboxRequest{}); err == nil {
		t.Fatal("no error")
	}
}

func TestWrongPeer(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root to serve a socket as somebody else")
	}
	dir, err := os.MkdirTemp("", "peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "d.sock")
	serveAs(t, 4242, socket)
	var logs syncBuffer
	c, client := dial(t, driver.Config{Socket: socket, Grace: time.Second, Logger: slog.New(slog.NewTextHandler(&logs, nil))})
	_, err = client.GetCapabilities(t.Context(), &computepb.GetCapabilitiesRequest{})
	e := wantFault(t, err, fault.Unavailable, driver.ReasonUnavailable)
	if !strings.Contains(e.Message, "uid 4242") {
		t.Errorf("message %q does not name the peer", e.Message)
	}
	wantFault(t, c.Ready(), fault.Unavailable, driver.ReasonUnavailable)

	allowed, _ := dial(t, driver.Config{Socket: socket, AllowedUIDs: []uint32{4242}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := allowed.WaitReady(ctx); err != nil {
		t.Errorf("allowed peer: %v", err)
	}
}

func TestDialRefusesUnusableConfig(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)
	for name, cfg := range map[string]driver.Config{
		"no name":     {Socket: "/x", Logger: log},
		"no socket":   {Name: "x", Logger: log},
		"no logger":   {Name: "x", Socket: "/x"},
		"long socket": {Name: "x", Socket: "/" + strings.Repeat("x", 200), Logger: log},
	} {
		if _, err := driver.Dial(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}
func (s *syncBuffer) String() string { s.mu.Lock(); defer s.mu.Unlock(); return s.b.String() }

func BenchmarkInvoke(b *testing.B) {
	dir := b.TempDir()
	f := &fake{socket: filepath.Join(dir, "d.sock")}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		b.Fatal(err)
	}
	srv := grpc.NewServer()
	computepb.RegisterComputeDriverServer(srv, f)
	go func() { _ = srv.Serve(l) }()
	b.Cleanup(srv.Stop)
	c, err := driver.Dial(driver.Config{Name: "bench", Socket: f.socket, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { c.Close() })
	client := computepb.NewComputeDriverClient(c)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := client.GetCapabilities(b.Context(), &computepb.GetCapabilitiesRequest{}); err != nil {
			b.Fatal(fmt.Errorf("call: %w", err))
		}
	}
}
