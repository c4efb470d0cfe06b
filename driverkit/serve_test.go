//go:build linux

package driverkit_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

func TestMain(m *testing.M) {
	// The test binary is also the client of another user.
	if path := os.Getenv("DRIVERKIT_DIAL"); path != "" {
		os.Exit(dialAs(path))
	}
	goleak.VerifyTestMain(m)
}

// dialAs returns 0 if the peer keeps the connection open, 3 if it closes it.
func dialAs(path string) int {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return 2
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return 3
	}
	return 0 // a server speaks first in HTTP/2
}

type driver struct {
	computepb.UnimplementedComputeDriverServer
	watching chan struct{}
}

func (d *driver) GetSandbox(context.Context, *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	panic("bad driver")
}

func (d *driver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, s grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	close(d.watching)
	<-s.Context().Done()
	return s.Context().Err()
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

// serve runs a driver until the test ends or stop is called, which returns what Serve returned.
func serve(t *testing.T, opts driverkit.Options, d *driver) (stop func() error) {
	t.Helper()
	opts.Logger = slog.New(slog.NewTextHandler(&syncBuffer{}, nil))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- driverkit.Serve(ctx, opts, func(s *grpc.Server) { computepb.RegisterComputeDriverServer(s, d) })
	}()
	var once sync.Once
	var result error
	stop = func() error {
		once.Do(func() {
			cancel()
			result = <-done
		})
		return result
	}
	t.Cleanup(func() { stop() })
	deadline := time.Now().Add(10 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if conn, err := net.Dial("unix", opts.Socket); err == nil {
			conn.Close()
			return stop
		}
		if time.Now().After(deadline) {
			t.Fatal("driver does not serve")
		}
		<-tick.C
	}
}

func dial(t *testing.T, socket string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func socketIn(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "run", "d.sock")
}

func TestServe(t *testing.T) {
	t.Parallel()
	socket := socketIn(t)
	d := &driver{watching: make(chan struct{})}
	stop := serve(t, driverkit.Options{Socket: socket, MaxMessageBytes: 1 << 16}, d)
	for path, want := range map[string]fs.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want %o", path, info, err, want)
		}
	}
	conn := dial(t, socket)
	health, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "openshell.compute.v1.ComputeDriver"})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health: %v %v", health, err)
	}
	client := computepb.NewComputeDriverClient(conn)
	if _, err := client.GetSandbox(t.Context(), &computepb.GetSandboxRequest{}); status.Code(err) != codes.Internal || strings.Contains(err.Error(), "bad driver") {
		t.Errorf("panic: got %v, want Internal without its text", err)
	}
	if _, err := client.StopSandbox(t.Context(), &computepb.StopSandboxRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("after the panic: %v", err)
	}
	big := &computepb.StopSandboxRequest{SandboxName: strings.Repeat("x", 1<<16)}
	if _, err := client.StopSandbox(t.Context(), big); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("message over the limit: %v", err)
	}
	watch, err := client.WatchSandboxes(t.Context(), &computepb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	<-d.watching
	began := time.Now()
	if err := stop(); err != nil {
		t.Errorf("stop: %v", err)
	}
	if took := time.Since(began); took > driverkit.DefaultStopTimeout {
		t.Errorf("an open watch held up the stop for %s", took)
	}
	if _, err := watch.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("watch ended with %v, want Unavailable", err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("socket left: %v", err)
	}
}

func TestListenReplacesStaleSocket(t *testing.T) {
	t.Parallel()
	socket := socketIn(t)
	if err := os.MkdirAll(filepath.Dir(socket), 0o700); err != nil {
		t.Fatal(err)
	}
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := driverkit.Listen(t.Context(), socket, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("a socket in use: got %v", err)
	}
	lis.SetUnlinkOnClose(false)
	lis.Close()
	next, err := driverkit.Listen(t.Context(), socket, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatalf("a stale socket: %v", err)
	}
	next.Close()
}

func TestListenRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		prepare func(t *testing.T, path string) error
		want    string
	}{
		"file":           {func(_ *testing.T, p string) error { return os.WriteFile(p, []byte("x"), 0o600) }, "no socket"},
		"link":           {func(_ *testing.T, p string) error { return os.Symlink("/nowhere", p) }, "no socket"},
		"folder":         {func(_ *testing.T, p string) error { return os.Mkdir(p, 0o700) }, "no socket"},
		"open to others": {func(_ *testing.T, p string) error { return os.Chmod(filepath.Dir(p), 0o777) }, "writable by others"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := socketIn(t)
			if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := c.prepare(t, path); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			existed := err == nil
			lis, err := driverkit.Listen(t.Context(), path, nil, slog.New(slog.DiscardHandler))
			if err == nil {
				lis.Close()
				t.Fatal("listened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if after, err := os.Lstat(path); existed && (err != nil || !os.SameFile(before, after)) {
				t.Errorf("what was there was touched: %v", err)
			}
		})
	}
	long := "/tmp/" + strings.Repeat("x", 103)
	if _, err := driverkit.Listen(t.Context(), long, nil, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "shorter") {
		t.Errorf("path of 108 bytes: %v", err)
	}
}

func TestPeers(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("only root can become another user")
	}
	socket := socketIn(t)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(filepath.Dir(socket)), 0o755); err != nil {
		t.Fatal(err)
	}
	serve(t, driverkit.Options{Socket: socket, AllowedUIDs: []uint32{65533}}, &driver{})
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	for uid, want := range map[uint32]int{0: 0, 65533: 0, 65534: 3} {
		cmd := exec.Command("/proc/self/fd/3")
		cmd.ExtraFiles = []*os.File{self}
		cmd.Env = []string{"DRIVERKIT_DIAL=" + socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		out, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != want {
			t.Errorf("uid %d: exit code %d (%v %s), want %d", uid, code, err, out, want)
		}
	}
}
