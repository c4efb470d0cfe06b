//go:build linux

package e2e_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/devidp"
)

// cli is the command line client of one user, with state of its own.
type cli struct {
	s    *system
	home string
}

// client registers the gateway for a user whose token is in a file.
func (s *system) client(t *testing.T) *cli {
	t.Helper()
	c := &cli{s: s, home: t.TempDir()}
	if err := os.WriteFile(c.token(), []byte(s.token(devidp.CLIClient, "user@test", "user")), 0o600); err != nil {
		t.Fatal(err)
	}
	c.must(t, "gateway", "add", "https://"+s.address(), "--name", "e2e", "--ca", s.tls.ca, "--oidc-issuer", s.idp.Issuer())
	return c
}

func (c *cli) token() string { return filepath.Join(c.home, "token") }

// command is the client as its user would call it.
func (c *cli) command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(binDir(t), "sallyport"), args...)
	cmd.Dir = c.home
	cmd.Env = append(cleanEnv(), "HOME="+c.home, "XDG_CONFIG_HOME="+filepath.Join(c.home, "config"), "OPENSHELL_TOKEN_FILE="+c.token(), "NO_COLOR=1",
		runMarker+c.s.run)
	return cmd
}

// run returns the exit code and the output.
func (c *cli) run(t *testing.T, stdin string, args ...string) (int, string, string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := c.command(t, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errOut
	if err := cmd.Run(); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok {
			t.Fatalf("sallyport %v: %v", args, err)
		}
	}
	return cmd.ProcessState.ExitCode(), out.String(), errOut.String()
}

// must runs what has to succeed.
func (c *cli) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errOut := c.run(t, "", args...)
	if code != 0 {
		t.Fatalf("sallyport %s: exit code %d\n%s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// fails runs what has to fail with the code, and returns what it says.
func (c *cli) fails(t *testing.T, want int, args ...string) string {
	t.Helper()
	code, out, errOut := c.run(t, "", args...)
	if code != want {
		t.Errorf("sallyport %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), code, want, out, errOut)
	}
	return errOut
}

// TestStopAndStart stops a sandbox and starts it again, as its user does.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.client(t)
	id := s.createReady(t, "box")
	s.sh(t, id, "echo kept > file")
	ended := s.execSleeping(t, id)

	if out := c.must(t, "sandbox", "stop", "box"); out != "Stopped sandbox: box\n" {
		t.Errorf("stop printed %q", out)
	}
	if pids := pidsWith(t, sandboxMarker+id); len(pids) > 0 {
		t.Errorf("the stopped sandbox has processes %v", describe(pids))
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("a command of a stopped sandbox ended without error")
		}
	case <-time.After(patience):
		t.Error("a command outlived the stop of its sandbox")
	}
	if out := c.must(t, "sandbox", "get", "box"); !strings.Contains(out, "Phase: Stopped") ||
		!strings.Contains(out, "What to do: start it: `sallyport sandbox start box`") {
		t.Errorf("get printed\n%s", out)
	}
	_, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}})
	wantFault(t, err, codes.FailedPrecondition)
	if said := c.fails(t, 1, "sandbox", "exec", "-n", "box", "--", "true"); !strings.Contains(said, "sallyport sandbox start box") {
		t.Errorf("exec in a stopped sandbox says %q", said)
	}
	c.must(t, "sandbox", "stop", "box")

	if out := c.must(t, "sandbox", "start", "box", "-o", "json"); !strings.Contains(out, `"phase": "Ready"`) {
		t.Errorf("start printed %s", out)
	}
	if got := s.sh(t, id, "cat file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
	c.must(t, "sandbox", "start", "box")

	// One that has failed says why and what helps, and that does help.
	if err := syscall.Kill(pidsRunning(t, id, "sallyport-supervisor")[0], syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	s.waitPhase(t, id, "ERROR")
	if out := c.must(t, "sandbox", "get", "box"); !strings.Contains(out, "SupervisorExited") || !strings.Contains(out, "What to do: ") ||
		!strings.Contains(out, "Isolation: pid=") {
		t.Errorf("get printed\n%s", out)
	}
	c.must(t, "sandbox", "stop", "box")
	c.must(t, "sandbox", "start", "box")
	if got := s.sh(t, id, "cat file"); got != "kept\n" {
		t.Errorf("the file holds %q", got)
	}
	c.must(t, "sandbox", "stop", "box")
	s.remove(t, id, "box")
}

// TestStopAndStartAtKills has the gateway and the driver killed while a sandbox is stopped and started.
func TestStopAndStartAtKills(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "box")
	stop := func() error {
		_, err := s.user.StopSandbox(t.Context(), &openshellpb.StopSandboxRequest{Name: "box"})
		return err
	}
	begin := func() error {
		_, err := s.user.StartSandbox(t.Context(), &openshellpb.StartSandboxRequest{Name: "box"})
		return err
	}
	for round, victim := range []*program{s.gateway, s.compute, s.gateway, s.compute} {
		for _, step := range []struct {
			do    func() error
			phase string
		}{{stop, "STOPPED"}, {begin, "READY"}} {
			answered := make(chan error, 1)
			go func() { answered <- step.do() }()
			// Chance decides how far the call is.
			<-time.After(time.Duration(round*3) * time.Millisecond)
			victim.kill(t)
			err := <-answered
			victim.restart(t)
			s.waitReady()
			if err != nil {
				// Nobody knows whether it was heard; once it is, it is carried out.
				eventually(t, "the call again", func() error {
					return step.do()
				})
			}
			s.waitPhase(t, id, step.phase)
			running := len(pidsRunning(t, id, "sallyport-supervisor")) > 0
			if running != (step.phase == "READY") {
				t.Errorf("round %d: phase %s, running %t", round, step.phase, running)
			}
		}
	}
	// A sandbox that is stopped stays so, whoever is started anew.
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	for _, p := range []*program{s.compute, s.gateway} {
		p.kill(t)
		p.restart(t)
		s.waitReady()
	}
	s.waitPhase(t, id, "STOPPED")
	if pids := pidsWith(t, sandboxMarker+id); len(pids) > 0 {
		t.Errorf("a stopped sandbox runs again: %v", describe(pids))
	}
	s.remove(t, id, "box")
}

// TestProvidersOfALiveSandbox attaches a provider to a sandbox that runs, and detaches it.
func TestProvidersOfALiveSandbox(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.client(t)
	s.createProvider(t, "hub", cachedCredential)
	id := s.createReady(t, "box")
	value := func(want bool) func() error {
		return func() error {
			r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"sh", "-c", "test -n \"$" + credentialKey + "\""}})
			if err == nil && (r.code == 0) != want {
				err = fmt.Errorf("the variable is there: %t", r.code == 0)
			}
			return err
		}
	}
	eventually(t, "no variable", value(false))
	c.must(t, "sandbox", "provider", "attach", "box", "hub")
	if out := c.must(t, "sandbox", "provider", "list", "box"); !strings.Contains(out, "hub") {
		t.Errorf("list printed %q", out)
	}
	eventually(t, "the variable of the attached provider", value(true))
	c.must(t, "sandbox", "provider", "detach", "box", "hub")
	eventually(t, "the variable gone with the provider", value(false))
	s.remove(t, id, "box")
}
