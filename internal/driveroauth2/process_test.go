package driveroauth2_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/mvp/credentialspb"
)

// buildDriver compiles the command; a cold build takes some seconds.
func buildDriver(t *testing.T) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), "driver")
	cmd := exec.Command("go", "build", "-o", bin, "sallyport.dev/sallyport/cmd/sallyport-driver-oauth2")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	return bin
}

// process is the driver running as its own process.
type process struct {
	*exec.Cmd
	stderr strings.Builder
}

func start(t *testing.T, bin string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(bin, args...)}
	p.Stderr = &p.stderr
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Process.Kill(); _ = p.Wait() })
	return p
}

func callResolve(t *testing.T, conn *grpc.ClientConn, name string) (*credentialspb.ResolveCredentialResponse, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	out := &credentialspb.ResolveCredentialResponse{}
	err := conn.Invoke(ctx, "/openshell.credentials.v1.CredentialsDriver/ResolveCredential",
		&credentialspb.ResolveCredentialRequest{Name: name}, out, grpc.WaitForReady(true))
	return out, err
}

func TestProcessSurvivesKillAndKeepsItsSocketPrivate(t *testing.T) {
	t.Parallel()
	bin := buildDriver(t)
	idp := newProvider(t)
	f := writeFiles(t, configFor(map[string]string{"demo": idp.URL}))
	dir, err := os.MkdirTemp("", "drv")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "run", "c.sock")
	args := []string{"--socket", socket, "--config", f.config, "--secrets-dir", f.secrets}

	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })

	first := start(t, bin, args...)
	got, err := callResolve(t, conn, "demo")
	if err != nil || got.GetToken() != "token-1" || got.GetTokenType() != "Bearer" {
		t.Fatalf("got %v, error %v", got, err)
	}
	if left := time.Until(time.UnixMilli(got.GetExpiresAtMs())); left < 290*time.Second || left > 301*time.Second {
		t.Errorf("expires in %s", left)
	}
	if _, err := callResolve(t, conn, "other"); status.Code(err) != codes.NotFound {
		t.Errorf("unknown credential: %v", err)
	}
	list := &credentialspb.ListCredentialsResponse{}
	if err := conn.Invoke(t.Context(), "/openshell.credentials.v1.CredentialsDriver/ListCredentials",
		&credentialspb.ListCredentialsRequest{}, list); err != nil || len(list.GetCredentials()) != 1 ||
		strings.Join(list.GetCredentials()[0].GetScopes(), " ") != "a b" {
		t.Errorf("list %v, error %v", list, err)
	}
	for path, want := range map[string]os.FileMode{socket: 0o600, filepath.Dir(socket): 0o700} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: mode %v, error %v", path, info.Mode(), err)
		}
	}

	// A second driver must not take over a socket that is served.
	if out, err := exec.Command(bin, args...).CombinedOutput(); err == nil || !strings.Contains(string(out), "another process serves") {
		t.Errorf("second driver: %v\n%s", err, out)
	}

	probe := func() error { return exec.Command(bin, "--probe", "--socket", socket).Run() }
	if err := probe(); err != nil {
		t.Errorf("probe of a driver that serves: %v", err)
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = first.Wait()
	if err := probe(); err == nil {
		t.Error("probe of a driver that was killed: no error")
	}
	second := start(t, bin, args...)
	if got, err := callResolve(t, conn, "demo"); err != nil || got.GetToken() != "token-2" {
		t.Fatalf("after kill: %v, error %v", got, err)
	}
	if err := second.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := second.Wait(); err != nil {
		t.Errorf("stop: %v\n%s", err, second.stderr.String())
	}
	if strings.Contains(second.stderr.String(), "s3cret") || strings.Contains(second.stderr.String(), "token-2") {
		t.Error("a secret reached the log")
	}
	if _, err := os.Lstat(socket); !os.IsNotExist(err) {
		t.Errorf("socket left behind: %v", err)
	}
}

func TestProcessLeavesWhatIsNoSocketAlone(t *testing.T) {
	t.Parallel()
	bin := buildDriver(t)
	f := writeFiles(t, minimal)
	dir := t.TempDir()
	regular, link, target := filepath.Join(dir, "regular"), filepath.Join(dir, "link"), filepath.Join(dir, "target")
	writeFile(t, regular, "precious")
	lis, err := net.Listen("unix", target)
	if err != nil {
		t.Fatal(err)
	}
	lis.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = lis.Close()
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{regular, link} {
		out, err := exec.Command(bin, "--socket", path, "--config", f.config, "--secrets-dir", f.secrets).CombinedOutput()
		if err == nil {
			t.Errorf("%s: the driver started\n%s", path, out)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Errorf("%s was removed", path)
		}
	}
	if out, err := exec.Command(bin, "--config", filepath.Join(dir, "none.yaml")).CombinedOutput(); err == nil ||
		!strings.Contains(string(out), "none.yaml: cannot be read: no such file or directory; create it") {
		t.Errorf("missing configuration: %v\n%s", err, out)
	}
}
