//go:build linux

package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

func TestComputeDriverKilledWhileIdle(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "steady")
	supervisor := pidsRunning(t, id, "sallyport-supervisor")
	s.compute.kill(t)
	if got := s.sh(t, id, "echo alone"); got != "alone\n" {
		t.Errorf("without the driver exec printed %q", got)
	}

	began := time.Now()
	_, err := s.tryCreate(t.Context(), "refused")
	wantFault(t, err, codes.Unavailable)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("refusal took %s", took)
	}
	eventually(t, "gateway not ready, for want of the driver", func() error {
		r, code, err := s.readiness()
		if err != nil || code == 200 || r.Checks["compute_driver"].Error == "" {
			return fmt.Errorf("HTTP %d, %+v, error %w", code, r, orNone(err))
		}
		return nil
	})
	// A deletion that was begun meanwhile is carried out once the driver is back.
	_, err = s.user.DeleteSandbox(t.Context(), &openshellpb.DeleteSandboxRequest{Name: "steady"})
	wantFault(t, err, codes.Unavailable)
	s.wantSupervisor(t, id, supervisor)

	s.compute.restart(t)
	s.waitReady()
	s.waitGone(t, id, "steady")
	if left := s.stored(t); len(left) != 0 {
		t.Errorf("the refused create left %v", left)
	}
	if left := s.driven(t); len(left) != 0 {
		t.Errorf("the driver has %v", left)
	}
	again := s.createReady(t, "refused")
	s.sh(t, again, "true")
	s.remove(t, again, "refused")
}

func TestComputeDriverRestartKeepsSandboxes(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "kept")
	supervisor := pidsRunning(t, id, "sallyport-supervisor")
	ended := s.execSleeping(t, id)
	s.compute.kill(t)
	s.compute.restart(t)
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.wantSupervisor(t, id, supervisor)
	select {
	case err := <-ended:
		t.Errorf("a command running meanwhile ended with %v", err)
	default:
	}
	s.remove(t, id, "kept")
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the command of a deleted sandbox ended without error")
		}
	case <-time.After(patience):
		t.Error("the command of a deleted sandbox hangs")
	}
}

func TestComputeDriverKilledWhileCreating(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, answered := range []int{0, 1, 3} {
		acknowledged := s.burst(t, fmt.Sprintf("round-%d", answered), burstSize, answered, func() { s.compute.kill(t); s.compute.restart(t) })
		s.waitReady()
		s.wantConsistent(t, acknowledged)
		s.removeAll(t)
	}
}

func TestComputeDriverKilledWhileDeleting(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "doomed")
	s.sh(t, id, "setsid sleep 3600 </dev/null >/dev/null 2>&1 & echo started")
	deleted := s.beginDelete(t, id, "doomed")
	s.compute.kill(t)
	s.compute.restart(t)
	if err := <-deleted; err != nil {
		wantFault(t, err, codes.Unavailable)
	}
	s.waitReady()
	s.waitGone(t, id, "doomed")
	if len(s.driven(t)) != 0 {
		t.Error("the driver still has the sandbox")
	}
}

func TestCredentialsDriverKilled(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.createProvider(t, "early", cachedCredential)
	s.createProvider(t, "late", lateCredential)
	first := s.createReady(t, "first", "early")
	s.waitCredential(t, first)

	s.credentials.kill(t)
	second := s.createReady(t, "second", "early")
	s.waitCredential(t, second)

	third := s.createReady(t, "third", "late")
	eventually(t, "the missing credential named in the sandbox's log", func() error {
		resp, err := s.user.GetSandboxLogs(t.Context(), &openshellpb.GetSandboxLogsRequest{SandboxId: third})
		if err != nil {
			return err
		}
		var all strings.Builder
		for _, l := range resp.GetLogs() {
			fmt.Fprintln(&all, l.GetLevel(), l.GetMessage(), l.GetFields())
		}
		if !strings.Contains(all.String(), lateCredential) || !strings.Contains(all.String(), "cannot be resolved") {
			return fmt.Errorf("log is\n%s", all.String())
		}
		return nil
	})
	if got := s.sh(t, third, `printf %s "$`+credentialKey+`"`); got != "" {
		t.Errorf("a credential arrived that nobody could fetch")
	}

	s.credentials.restart(t)
	s.waitReady()
	// The sandbox that has been waiting gets it as well as a new one.
	s.waitCredential(t, third)
	fourth := s.createReady(t, "fourth", "late")
	s.waitCredential(t, fourth)
	s.removeAll(t)
}

// waitCredential waits until commands in the sandbox get the credential and returns it.
func (s *system) waitCredential(t *testing.T, id string) string {
	t.Helper()
	var value string
	eventually(t, "the credential in the sandbox", func() error {
		value = s.sh(t, id, `printf %s "$`+credentialKey+`"`)
		if strings.Count(value, ".") != 2 {
			return fmt.Errorf("%s holds %d bytes, no token", credentialKey, len(value))
		}
		return nil
	})
	return value
}
