//go:build linux

package driverprocess_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport.dev/sallyport/driverkit/computetest"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

// withToken makes a sandbox whose supervisor does something to its token's file, and waits for that.
func (f *fixture) withToken(how string) *computepb.DriverSandbox {
	f.t.Helper()
	sb := computetest.Sandbox()
	sb.GetSpec().SandboxToken = "first-token"
	sb.GetSpec().GetEnvironment()["FAKE_TOKEN"] = how
	sb.GetSpec().GetEnvironment()["FIXTURE"] = f.state
	f.create(sb)
	if got := f.report(sb).Token; got != "first-token" {
		f.t.Fatalf("a new sandbox has the token %q", got)
	}
	f.touched(sb)
	return sb
}

// touched waits until the supervisor has had its way with the token's file, and forgets its report.
func (f *fixture) touched(sb *computepb.DriverSandbox) {
	f.t.Helper()
	work := filepath.Join(f.state, "sandboxes", sb.GetId(), "work")
	eventually(f.t, "the token's file to be touched", func() bool {
		_, err := os.Stat(filepath.Join(work, "touched"))
		return !errors.Is(err, fs.ErrNotExist)
	})
	for _, name := range []string{"touched", "report.json"} {
		if err := os.Remove(filepath.Join(work, name)); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *fixture) stop(sb *computepb.DriverSandbox) {
	f.t.Helper()
	if _, err := f.client().StopSandbox(f.context(), &computepb.StopSandboxRequest{SandboxId: sb.GetId()}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) startAgain(sb *computepb.DriverSandbox) {
	f.t.Helper()
	if _, err := f.client().StartSandbox(f.context(), &computepb.StartSandboxRequest{SandboxId: sb.GetId()}); err != nil {
		f.t.Fatal(err)
	}
}

// The first token may have expired long ago when a sandbox is started again; what its supervisor renewed has not.
func TestRenewedTokenOutlivesItsSupervisor(t *testing.T) {
	t.Parallel()
	variants(t, func(t *testing.T, opts ...option) {
		f := newFixture(t, opts...)
		sb := f.withToken("renewed")
		f.stop(sb)
		f.startAgain(sb)
		if got := strings.TrimSpace(f.report(sb).Token); got != "renewed-token" {
			t.Errorf("after stop and start the token is %q", got)
		}
		f.touched(sb)
		for _, pid := range f.supervisors() {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		if got := strings.TrimSpace(f.report(sb).Token); got != "renewed-token" {
			t.Errorf("after a crash the token is %q", got)
		}
		f.touched(sb)
		info, err := os.Lstat(filepath.Join(f.state, "sandboxes", sb.GetId(), "run", "token"))
		if err != nil || info.Mode() != 0o600 {
			t.Errorf("the token's file has mode %v: %v", info.Mode(), err)
		}
	})
}

// Processes of the sandbox may do to the file what they like: the driver reads nothing else for it, does not wait,
// and starts a supervisor that has a token.
func TestTokenFileThatTheSandboxTouched(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	for how, want := range map[string]string{
		"stale": "first-token", "linked": "first-token", "pipe": "first-token", "directory": "first-token",
		"largest": strings.Repeat("x", 64<<10), "larger": "first-token", "empty": "first-token", "words": "first-token",
		"removed": "first-token",
	} {
		sb := f.withToken(how)
		f.stop(sb)
		f.startAgain(sb)
		if got := f.report(sb).Token; got != want {
			t.Errorf("%s: the token is %.30q of %d bytes, want %.30q", how, got, len(got), want)
		}
		f.delete(sb)
	}
}
