//go:build linux

package e2e_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// killSupervisor is kill -9 of all processes of the sandbox that run the supervisor's program.
func (s *system) killSupervisor(t *testing.T, id string) {
	t.Helper()
	pids := pidsRunning(t, id, "sallyport-supervisor")
	if len(pids) == 0 {
		t.Fatal("no supervisor runs")
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
}

func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "crashing")
	s.sh(t, id, "echo kept >file; setsid sleep 3600 </dev/null >/dev/null 2>&1 & echo")

	phases := make(chan string, 64)
	stream, err := s.user.WatchSandbox(t.Context(), &openshellpb.WatchSandboxRequest{Id: id, FollowStatus: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(phases)
		for {
			event, err := stream.Recv()
			if err != nil {
				return
			}
			if event.GetSandbox() != nil {
				phases <- phaseOf(event.GetSandbox())
			}
		}
	}()
	ended := s.execSleeping(t, id)
	s.killSupervisor(t, id)
	wantBroken(t, ended)

	var seen []string
	for phase := range phases {
		seen = append(seen, phase)
		if len(seen) > 1 && phase == "READY" && slices.Contains(seen, "PROVISIONING") {
			break
		}
		if phase == "ERROR" {
			t.Fatalf("phases %v", seen)
		}
	}
	if !slices.Contains(seen, "PROVISIONING") || seen[len(seen)-1] != "READY" {
		t.Fatalf("phases %v, want READY left and reached again", seen)
	}
	if got := s.sh(t, id, "cat file"); got != "kept\n" {
		t.Errorf("the sandbox's file holds %q", got)
	}
	if err := noProcess(t, id, "sleep 3600"); err != nil {
		t.Errorf("a process of before the crash: %v", err)
	}
	s.remove(t, id, "crashing")
}

// A sandbox that crashed while nobody watched it is brought back by the driver's next start.
func TestSupervisorAndDriverKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "both")
	s.compute.kill(t)
	s.killSupervisor(t, id)
	eventually(t, "all of the sandbox ended", func() error { return noProcess(t, id, "sallyport-supervisor") })
	s.waitPhase(t, id, "PROVISIONING")
	s.compute.restart(t)
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.sh(t, id, "true")
	s.remove(t, id, "both")
}

// Everything at once is what a lost machine looks like, but for the files.
func TestEverythingKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.createProvider(t, "kept", cachedCredential)
	id := s.createReady(t, "all", "kept")
	s.gateway.kill(t)
	s.compute.kill(t)
	s.credentials.kill(t)
	s.killSupervisor(t, id)
	for _, p := range []*program{s.gateway, s.compute, s.credentials} {
		p.restart(t)
	}
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.waitCredential(t, id)
	s.remove(t, id, "all")
}

// Without namespaces nothing but the driver's own marks tells which processes belong to a sandbox.
func TestNothingOutlivesASandboxWithoutIsolation(t *testing.T) {
	t.Parallel()
	s := start(t, "--isolation", "none")
	id := s.createReady(t, "bare")
	// A process that left its session and its parent behind, and one that has no environment to be known by.
	s.sh(t, id, "(setsid sleep 3603 </dev/null >/dev/null 2>&1 &); (setsid env -i sleep 3604 </dev/null >/dev/null 2>&1 &)")
	waitSleepers(t, "3603", "3604")
	s.killSupervisor(t, id)
	s.waitPhase(t, id, "PROVISIONING", "READY")
	eventually(t, "exec after the crash", func() error {
		_, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}})
		return err
	})
	if err := noProcess(t, id, "sleep 3603"); err != nil {
		t.Errorf("a process of before the crash: %v", err)
	}
	s.sh(t, id, "(setsid sleep 3605 </dev/null >/dev/null 2>&1 &); (setsid env -i sleep 3606 </dev/null >/dev/null 2>&1 &)")
	waitSleepers(t, "3605", "3606")
	s.remove(t, id, "bare")
	for _, seconds := range []string{"3603", "3604", "3605", "3606"} {
		if pid := sleeper(t, seconds); pid != 0 {
			t.Errorf("sleep %s outlived its sandbox", seconds)
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func waitSleepers(t *testing.T, all ...string) {
	t.Helper()
	eventually(t, "background processes run", func() error {
		for _, seconds := range all {
			if sleeper(t, seconds) == 0 {
				return errors.New("no sleep " + seconds)
			}
		}
		return nil
	})
}

// sleeper finds a process that runs sleep with the argument, whatever its environment, and returns 0 if there is none.
func sleeper(t *testing.T, seconds string) int {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		line, err := os.ReadFile(path)
		if err == nil && string(line) == "sleep\x00"+seconds+"\x00" {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	return 0
}
