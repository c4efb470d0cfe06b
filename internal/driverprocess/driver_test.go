//go:build linux

package driverprocess_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/driverkit/computetest"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

// fixture is a driver process with its own state.
type fixture struct {
	t      testing.TB
	state  string
	socket string
	args   []string
	prefix []string // a command that runs the driver, as setpriv
	cmd    *exec.Cmd
	output *bytes.Buffer
	once   sync.Once
	conn   *grpc.ClientConn
}

type option func(*fixture)

func withArgs(args ...string) option { return func(f *fixture) { f.args = append(f.args, args...) } }

// unprivileged runs the driver without root's powers.
func unprivileged() option {
	return func(f *fixture) {
		if os.Getuid() != 0 {
			return
		}
		setpriv, err := exec.LookPath("setpriv")
		if err != nil {
			f.t.Skip("setpriv is not installed")
		}
		f.prefix = []string{setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"}
	}
}

func newFixture(t testing.TB, opts ...option) *fixture {
	t.Helper()
	// A short name: the socket's address has few bytes, and an unprivileged driver must get there.
	dir, err := os.MkdirTemp("", "sdp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("remove state: %v", err)
		}
	})
	f := &fixture{t: t, state: filepath.Join(dir, "state"), socket: filepath.Join(dir, "s", "driver.sock")}
	for _, o := range opts {
		o(f)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"driver", "sallyport-supervisor"} {
		if err := os.Link(os.Getenv(binaryVariable), filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{f.state, filepath.Dir(f.socket)} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if len(f.prefix) > 0 {
		for _, d := range []string{dir, f.state, filepath.Dir(f.socket)} {
			if err := os.Chown(d, 65534, 65534); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.args = append([]string{
		filepath.Join(bin, "driver"), "driver", "--socket", f.socket, "--state-dir", f.state,
		"--gateway-endpoint", "https://127.0.0.1:8443",
	}, f.args...)
	f.start()
	t.Cleanup(f.end)
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	args := append(slices.Clone(f.prefix), f.args...)
	f.output = &bytes.Buffer{}
	f.cmd = exec.Command(args[0], args[1:]...)
	f.cmd.Stderr = f.output
	f.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LEAK=1", "HOME=/nonexistent"}
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	// A client that finds no socket tries again only after a second.
	eventually(f.t, "the driver's socket", func() bool {
		conn, err := net.Dial("unix", f.socket)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

func (f *fixture) kill() {
	f.t.Helper()
	if err := f.cmd.Process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	f.cmd.Wait()
}

func (f *fixture) restart(testing.TB) {
	f.t.Helper()
	f.kill()
	f.start()
	f.redial()
}

// redial leaves the connections to an earlier driver behind.
func (f *fixture) redial() {
	f.t.Helper()
	if f.conn != nil {
		f.conn.Close()
	}
	f.once = sync.Once{}
}

// end deletes every sandbox and checks that the driver leaves nothing.
func (f *fixture) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	defer func() {
		if f.t.Failed() {
			f.t.Logf("driver's log:\n%s", f.output)
		}
	}()
	c := f.client()
	resp, err := c.ListSandboxes(ctx, &computepb.ListSandboxesRequest{})
	if err != nil {
		f.t.Errorf("list at the end: %v", err)
	}
	for _, sb := range resp.GetSandboxes() {
		if _, err := c.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()}); err != nil {
			f.t.Errorf("delete at the end: %v", err)
		}
	}
	f.conn.Close()
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Errorf("stop driver: %v", err)
	}
	if err := f.cmd.Wait(); err != nil {
		f.t.Errorf("driver ended with %v", err)
	}
	if left := f.processes(); len(left) > 0 {
		f.t.Errorf("processes left: %v", left)
	}
	for _, dir := range []string{"sandboxes", "trash"} {
		if left, err := os.ReadDir(filepath.Join(f.state, dir)); err != nil || len(left) > 0 {
			f.t.Errorf("left in %s: %v %v", dir, left, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), f.state) {
		f.t.Errorf("mounts left: %v", err)
	}
}

// processes lists those whose command line or environment names the fixture's directory.
func (f *fixture) processes() []string {
	var found []string
	entries, err := os.ReadDir("/proc")
	if err != nil {
		f.t.Fatal(err)
	}
	for _, e := range entries {
		line, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if err != nil || len(line) == 0 {
			continue
		}
		if strings.Contains(string(line), filepath.Dir(f.state)) {
			found = append(found, e.Name()+" "+strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return found
}

func (f *fixture) client() computepb.ComputeDriverClient {
	f.t.Helper()
	f.once.Do(func() {
		conn, err := grpc.NewClient("unix:"+f.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
		if err != nil {
			f.t.Fatal(err)
		}
		f.conn = conn
	})
	return computepb.NewComputeDriverClient(f.conn)
}

func (f *fixture) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	f.t.Cleanup(cancel)
	return ctx
}

func (f *fixture) create(sb *computepb.DriverSandbox) {
	f.t.Helper()
	if _, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: sb}); err != nil {
		f.t.Fatalf("create: %v", err)
	}
}

func (f *fixture) delete(sb *computepb.DriverSandbox) {
	f.t.Helper()
	resp, err := f.client().DeleteSandbox(f.context(), &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()})
	if err != nil || !resp.GetDeleted() {
		f.t.Fatalf("delete: %v %v", resp, err)
	}
}

// await returns the sandbox's snapshot once ok accepts it.
func (f *fixture) await(sb *computepb.DriverSandbox, what string, ok func(*computepb.DriverSandbox) bool) *computepb.DriverSandbox {
	f.t.Helper()
	var last *computepb.DriverSandbox
	eventually(f.t, what, func() bool {
		resp, err := f.client().GetSandbox(f.context(), &computepb.GetSandboxRequest{SandboxId: sb.GetId()})
		if err != nil {
			f.t.Fatalf("get: %v", err)
		}
		last = resp.GetSandbox()
		return ok(last)
	})
	return last
}

func (f *fixture) report(sb *computepb.DriverSandbox) report {
	f.t.Helper()
	var r report
	path := filepath.Join(f.state, "sandboxes", sb.GetId(), "work", "report.json")
	eventually(f.t, "the supervisor's report", func() bool {
		b, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return false
		}
		if err != nil {
			f.t.Fatal(err)
		}
		if err := json.Unmarshal(b, &r); err != nil {
			f.t.Fatal(err)
		}
		return true
	})
	return r
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func find(sb *computepb.DriverSandbox, kind string) *computepb.DriverCondition {
	for _, c := range sb.GetStatus().GetConditions() {
		if c.GetType() == kind {
			return c
		}
	}
	return &computepb.DriverCondition{}
}

func isReady(sb *computepb.DriverSandbox) bool { return find(sb, "Ready").GetStatus() == "True" }

// variants are the ways a driver can run.
func variants(t *testing.T, run func(*testing.T, ...option)) {
	t.Helper()
	for name, opts := range map[string][]option{
		"privileged":        nil,
		"privileged-none":   {withArgs("--isolation", "none")},
		"unprivileged":      {unprivileged()},
		"unprivileged-none": {unprivileged(), withArgs("--isolation", "none")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, opts...)
		})
	}
}

func TestConformance(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		computetest.Run(t, func(t *testing.T) computetest.Driver {
			f := newFixture(t, opts...)
			return computetest.Driver{Socket: f.socket, Restart: f.restart}
		})
	})
}
