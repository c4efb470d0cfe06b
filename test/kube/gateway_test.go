//go:build linux

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// obligingDriver is a compute driver that takes every sandbox over and makes nothing: the test makes the pods.
type obligingDriver struct {
	computepb.UnimplementedComputeDriverServer
}

func (obligingDriver) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "obliging", DriverVersion: "1", DefaultImage: "image"}, nil
}

func (obligingDriver) ValidateSandboxCreate(context.Context, *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

func (obligingDriver) CreateSandbox(context.Context, *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	return &computepb.CreateSandboxResponse{}, nil
}

func (obligingDriver) DeleteSandbox(context.Context, *computepb.DeleteSandboxRequest) (*computepb.DeleteSandboxResponse, error) {
	return &computepb.DeleteSandboxResponse{}, nil
}

func (obligingDriver) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	return &computepb.ListSandboxesResponse{}, nil
}

func (obligingDriver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// outside is a gateway on this machine, outside of the cluster, and a client of it.
type outside struct {
	client openshellpb.OpenShellClient
	log    string
}

// startOutside runs the gateway's program with a configuration file, and waits until it is ready. Further arguments come
// behind those that it always gets.
func startOutside(t *testing.T, configuration string, args ...string) *outside {
	t.Helper()
	// Not t.TempDir: a socket's path may have 107 bytes only.
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket, file := filepath.Join(dir, "run", "c.sock"), filepath.Join(dir, "gateway.toml")
	if err := os.WriteFile(file, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	serveDriver(t, socket)
	port, health := freePort(t), freePort(t)
	o := &outside{log: filepath.Join(dir, "gateway.log")}
	cmd := exec.Command(program(t, "sallyport-gateway"), append([]string{
		"--config", file, "--bind-address", "127.0.0.1", "--port", port, "--health-port", health, "--disable-tls",
		"--drivers", "external", "--compute-driver-socket", socket, "--db-url", "sqlite:" + filepath.Join(dir, "state", "x.db"),
		"--sandbox-key-dir", filepath.Join(dir, "keys"), "--shutdown-grace-secs", "1", "--log-level", "debug",
	}, args...)...)
	run(t, cmd, o.log)
	conn, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	o.client = openshellpb.NewOpenShellClient(conn)
	eventually(t, "gateway ready", func() error { return answers("http://127.0.0.1:" + health + "/readyz") })
	return o
}

// run starts a program whose output goes into a file, and stops it with the test.
func run(t *testing.T, cmd *exec.Cmd, log string) {
	t.Helper()
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	started, done := make(chan error, 1), make(chan error, 1)
	go func() {
		// The kernel signals a child when the thread that started it ends, so this one has to live as long. It is given
		// back then: it may have started others before.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			err = cmd.Wait()
		}
		done <- errors.Join(err, out.Close())
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := <-done; err != nil {
			t.Errorf("%s ended with %v", filepath.Base(cmd.Path), err)
		}
		if t.Failed() {
			t.Logf("end of its log:\n%s", tail(log, 60))
		}
	})
}

func serveDriver(t *testing.T, socket string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: slog.New(slog.DiscardHandler)}, func(s *grpc.Server) {
			computepb.RegisterComputeDriverServer(s, obligingDriver{})
		}); err != nil {
			t.Errorf("driver: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
}

func freePort(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	_, port, err := net.SplitHostPort(lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// plainHTTP keeps no connections, so that a test leaves no goroutine behind.
var plainHTTP = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// answers asks for a page.
func answers(url string) error {
	resp, err := plainHTTP.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// as carries a token.
func as(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// wantRefused checks the code of a call's end and its stable reason.
func wantRefused(t *testing.T, what string, err error, code codes.Code, reason string) {
	t.Helper()
	if status.Code(err) != code || reasonOf(err) != reason {
		t.Errorf("%s: %v (reason %s), want %s with reason %s", what, err, reasonOf(err), code, reason)
	}
}

func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}
