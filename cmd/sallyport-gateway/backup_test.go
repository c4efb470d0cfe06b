package main

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// gatewayArgs makes the test binary the gateway: its arguments, one a line.
const gatewayArgs = "SALLYPORT_TEST_GATEWAY_ARGS"

func TestMain(m *testing.M) {
	if args := os.Getenv(gatewayArgs); args != "" {
		playGateway(strings.Split(args, "\n"))
	}
	os.Exit(m.Run())
}

func playGateway(args []string) {
	env := func(k string) (string, bool) { v, ok := variables[k]; return v, ok && k != "OPENSHELL_DB_URL" }
	os.Exit(run(context.Background(), args, process{env: env, stdout: os.Stdout, stderr: os.Stderr}))
}

// memoryDriver keeps what it was asked to create.
type memoryDriver struct {
	computepb.UnimplementedComputeDriverServer
	mu    sync.Mutex
	boxes map[string]*computepb.DriverSandbox
}

func (d *memoryDriver) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "memory", DriverVersion: "1", DefaultImage: "image"}, nil
}

func (d *memoryDriver) ValidateSandboxCreate(context.Context, *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

func (d *memoryDriver) CreateSandbox(_ context.Context, r *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boxes[r.Sandbox.Id] = r.Sandbox
	return &computepb.CreateSandboxResponse{}, nil
}

func (d *memoryDriver) GetSandbox(_ context.Context, r *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if sb := d.boxes[r.SandboxId]; sb != nil {
		return &computepb.GetSandboxResponse{Sandbox: &computepb.DriverSandbox{Id: sb.Id, Name: sb.Name}}, nil
	}
	return nil, status.Error(codes.NotFound, "none")
}

func (d *memoryDriver) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := &computepb.ListSandboxesResponse{}
	for sb := range maps.Values(d.boxes) {
		r.Sandboxes = append(r.Sandboxes, &computepb.DriverSandbox{Id: sb.Id, Name: sb.Name})
	}
	return r, nil
}

func (d *memoryDriver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, s grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	<-s.Context().Done()
	return nil
}

// child is a gateway in a process of its own.
type child struct {
	cmd    *exec.Cmd
	client openshellpb.OpenShellClient
	log    *journal
}

func startChild(t *testing.T, state, socket string) *child {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	l.Close()
	c := &child{cmd: exec.Command(os.Args[0]), log: &journal{grew: make(chan struct{}, 1)}}
	c.cmd.Env = append(os.Environ(), gatewayArgs+"="+strings.Join([]string{
		"--db-url", "sqlite:" + filepath.Join(state, "x.db"), "--disable-tls", "--bind-address", "127.0.0.1", "--port", port,
		"--drivers", "external", "--compute-driver-socket", socket, "--allow-unauthenticated-users",
	}, "\n"))
	c.cmd.Stderr = c.log
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	c.log.await(t, "gateway serving")
	conn, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c.client = openshellpb.NewOpenShellClient(conn)
	return c
}

func (c *child) kill() {
	_ = c.cmd.Process.Kill()
	_ = c.cmd.Wait()
}

// TestBackupUnderLoad backs up a gateway that is being written to, kills it, restores elsewhere, and finds everything
// that was acknowledged before: sandboxes, their tokens, and a secret that needs the key.
func TestBackupUnderLoad(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "bk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "run", "d.sock")
	driver := &memoryDriver{boxes: map[string]*computepb.DriverSandbox{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: slog.New(slog.DiscardHandler)}, func(s *grpc.Server) {
			computepb.RegisterComputeDriverServer(s, driver)
		}); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	live := startChild(t, filepath.Join(dir, "live"), socket)
	call, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	if _, err := live.client.CreateProvider(call, &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: "p"}, Type: "generic", Credentials: map[string]string{"SECRET": "hunter2"},
	}}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	acknowledged := map[string]string{}
	reached, enough := make(chan struct{}), 60
	loading, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	for w := range 4 {
		load.Go(func() {
			for i := 0; loading.Err() == nil; i++ {
				name := fmt.Sprintf("s%d-%d", w, i)
				r, err := live.client.CreateSandbox(loading, &openshellpb.CreateSandboxRequest{Name: name, Spec: &openshellpb.SandboxSpec{Providers: []string{"p"}}}, grpc.WaitForReady(true))
				if err != nil {
					if loading.Err() == nil && status.Code(err) != codes.Unavailable {
						t.Errorf("create: %v", err)
					}
					return
				}
				mu.Lock()
				acknowledged[name] = r.Sandbox.Metadata.Id
				if len(acknowledged) == enough {
					close(reached)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-reached:
	case <-call.Done():
		t.Fatalf("the load gets nowhere: %s", live.log)
	}
	mu.Lock()
	before := maps.Clone(acknowledged)
	mu.Unlock()

	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	identityFile, archive := filepath.Join(dir, "identity"), filepath.Join(dir, "b.tar.age")
	if err := os.WriteFile(identityFile, []byte(identity.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errs := bare(t, "backup", "--to", archive, "--recipient", identity.Recipient().String(), "--with-audit", "--db-url", "sqlite:"+filepath.Join(dir, "live", "x.db"))
	if code != 0 || !strings.Contains(out, "manifest SHA-256 ") || errs != "" {
		t.Fatalf("backup: %d %s%s", code, out, errs)
	}
	digest := strings.TrimSpace(out[strings.LastIndex(out, " "):])
	live.kill()
	stop()
	load.Wait()

	url := "sqlite:" + filepath.Join(dir, "next", "x.db")
	for _, args := range [][]string{
		{"restore", "--verify", "--from", archive, "--identity", identityFile, "--manifest-sha256", digest, "--db-url", url},
		{"restore", "--from", archive, "--identity=" + identityFile, "--db-url", url},
	} {
		if code, out, errs := bare(t, args...); code != 0 || !strings.Contains(out, archive) {
			t.Fatalf("%q: %d %s%s", args, code, out, errs)
		}
	}
	if code, _, errs := bare(t, "restore", "--from", archive, "--identity", identityFile, "--db-url", url); code != 1 || !strings.Contains(errs, "is there already") {
		t.Errorf("restoring twice: %d %s", code, errs)
	}
	next := startChild(t, filepath.Join(dir, "next"), socket)
	token := ""
	for name, id := range before {
		sb, err := next.client.GetSandbox(call, &openshellpb.GetSandboxRequest{Name: name}, grpc.WaitForReady(true))
		if err != nil || sb.Sandbox.Metadata.Id != id {
			t.Errorf("%s is not there: %v", name, err)
		}
		driver.mu.Lock()
		token = driver.boxes[id].GetSpec().GetSandboxToken()
		driver.mu.Unlock()
		as := metadata.AppendToOutgoingContext(call, "authorization", "Bearer "+token)
		env, err := next.client.GetSandboxProviderEnvironment(as, &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
		if err != nil || env.Environment["SECRET"] != "hunter2" {
			t.Errorf("with the token of %s: %v %v", name, env.GetEnvironment(), err)
		}
	}
	if token == "" {
		t.Error("no token was tried")
	}
	if n, _ := filepath.Glob(filepath.Join(dir, "next", "audit", "*.jsonl")); len(n) == 0 {
		t.Error("the audit log is not there")
	}
}

// bare runs the program with an environment that has nothing.
func bare(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return call(t, map[string]string{"HOME": "/nonexistent"}, args...)
}

func TestBackupRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	url := "sqlite:" + filepath.Join(dir, "x.db")
	if err := os.WriteFile(filepath.Join(dir, "no-identity"), []byte("s3cret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"backup", "--db-url", url}, 2, "needs one --to"},
		{[]string{"backup", "--to"}, 2, "--to needs a value"},
		{[]string{"backup", "--to", filepath.Join(dir, "b")}, 2, "no compute driver"},
		{[]string{"backup", "--to", filepath.Join(dir, "b"), "--db-url", url}, 1, "no such file"},
		{[]string{"backup", "--to", filepath.Join(dir, "b"), "--db-url", "sqlite::memory:"}, 1, "in memory"},
		{[]string{"backup", "--to", filepath.Join(dir, "b"), "--recipient", "age1x", "--db-url", url}, 2, "--recipient must be"},
		{[]string{"backup", "--to", filepath.Join(dir, "b"), "--recipient", "@/nonexistent", "--db-url", url}, 2, "read the recipients"},
		{[]string{"backup", "--with-audit=yes"}, 2, "takes no value"},
		{[]string{"restore", "--db-url", url}, 2, "needs one --from"},
		{[]string{"restore", "--from", filepath.Join(dir, "none"), "--db-url", url}, 1, "no such file"},
		{[]string{"restore", "--from", dir, "--db-url", url}, 1, "this is no backup"},
		{[]string{"restore", "--from", dir, "--identity", filepath.Join(dir, "no-identity"), "--db-url", url}, 2, "holds no age identity"},
	} {
		code, out, errs := bare(t, tc.args...)
		if code != tc.code || !strings.Contains(errs, tc.want) || out != "" || strings.Contains(errs, "s3cret") {
			t.Errorf("%q: %d %q %q", tc.args, code, out, errs)
		}
	}
	for _, args := range [][]string{{"backup", "--help"}, {"restore", "--help"}} {
		if code, out, _ := bare(t, args...); code != 0 || !strings.Contains(out, "Usage:") {
			t.Errorf("%q: %d %s", args, code, out)
		}
	}
}

// TestBackupOfKeysAlone has the database elsewhere: the keys are copied, and the command says what is missing.
func TestBackupOfKeysAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	state, next := filepath.Join(dir, "state"), filepath.Join(dir, "next")
	for name, content := range map[string]string{"state/credential.key": strings.Repeat("k", 32), "state/sandbox-keys/0001.pem": "pem", "given": "ring"} {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const url = "postgres://u@db.test/x"
	to := filepath.Join(dir, "b")
	code, out, errs := bare(t, "backup", "--to", to, "--db-url", url, "--state-dir", state, "--credential-key-file", filepath.Join(dir, "given"))
	if code != 0 || !strings.Contains(out, "3 files, no database") || !strings.Contains(errs, "pg_dump") {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	if code, _, errs := bare(t, "restore", "--from", to, "--db-url", "sqlite:"+filepath.Join(next, "x.db")); code != 1 || !strings.Contains(errs, "another kind of database") {
		t.Errorf("to SQLite: %d %s", code, errs)
	}
	if code, _, errs := bare(t, "restore", "--from", to, "--db-url", url, "--state-dir", next); code != 1 || !strings.Contains(errs, "credential/keys") {
		t.Errorf("without a place for the given keys: %d %s", code, errs)
	}
	if code, out, errs := bare(t, "restore", "--from", to, "--db-url", url, "--state-dir", next, "--credential-key-file", filepath.Join(next, "given")); code != 0 || !strings.Contains(out, "restored") {
		t.Fatalf("%d %s%s", code, out, errs)
	}
	for name, want := range map[string]string{"credential.key": strings.Repeat("k", 32), "sandbox-keys/0001.pem": "pem", "given": "ring"} {
		if got, err := os.ReadFile(filepath.Join(next, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
}
