//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// wantSupervisor checks that another program's crash left the sandbox's supervisor alone.
func (s *system) wantSupervisor(t *testing.T, id string, want []int) {
	t.Helper()
	got := pidsRunning(t, id, "sallyport-supervisor")
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("supervisor's processes are %v, want those from before the crash, %v", got, want)
	}
}

func TestGatewayKilledWhileIdle(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.createProvider(t, "kept", cachedCredential)
	id := s.createReady(t, "idle", "kept")
	supervisor := pidsRunning(t, id, "sallyport-supervisor")
	if len(supervisor) == 0 {
		t.Fatal("no supervisor runs")
	}

	s.gateway.kill(t)
	s.gateway.restart(t)
	began := time.Now()
	s.waitReady()
	s.waitPhase(t, id, "READY")
	t.Logf("ready again %s after the restart", time.Since(began).Round(time.Millisecond))

	if got := s.sh(t, id, "echo still here"); got != "still here\n" {
		t.Errorf("exec printed %q", got)
	}
	s.wantSupervisor(t, id, supervisor)
	resp, err := s.user.GetSandbox(t.Context(), &openshellpb.GetSandboxRequest{Name: "idle"})
	if err != nil || resp.GetSandbox().GetMetadata().GetId() != id {
		t.Errorf("sandbox idle is %s, want %s; error %v", resp.GetSandbox().GetMetadata().GetId(), id, err)
	}
	provider, err := s.user.GetProvider(t.Context(), &openshellpb.GetProviderRequest{Name: "kept"})
	if err != nil || provider.GetProvider().GetMetadata().GetName() != "kept" {
		t.Errorf("provider after the crash: %v, error %v", provider, err)
	}
	s.remove(t, id, "idle")
}

// burst has many callers create a sandbox each, calls midway when so many calls have been answered, or for 0 when the
// first intent is stored, and returns what was acknowledged, id to name.
func (s *system) burst(t *testing.T, prefix string, calls, answered int, midway func()) map[string]string {
	t.Helper()
	var mu sync.Mutex
	acknowledged := map[string]string{}
	var group sync.WaitGroup
	answers := make(chan struct{}, calls)
	for i := range calls {
		group.Go(func() {
			name := fmt.Sprintf("%s-%d", prefix, i)
			if id, err := s.tryCreate(t.Context(), name); err == nil {
				mu.Lock()
				acknowledged[id] = name
				mu.Unlock()
			} else if status.Code(err) != codes.Unavailable {
				t.Errorf("create %s: %v, want success or UNAVAILABLE", name, err)
			}
			answers <- struct{}{}
		})
	}
	for range answered {
		<-answers
	}
	if answered == 0 {
		eventually(t, "first sandbox stored", func() error {
			if len(s.stored(t)) == 0 {
				return errors.New("none")
			}
			return nil
		})
	}
	midway()
	group.Wait()
	return acknowledged
}

// wantConsistent waits until every acknowledged sandbox is ready, every other one is ready or gone, and the driver
// has exactly what the gateway has.
func (s *system) wantConsistent(t *testing.T, acknowledged map[string]string) {
	t.Helper()
	eventually(t, "gateway and driver agree", func() error {
		stored, driven := s.stored(t), s.driven(t)
		for id, phase := range stored {
			if phase != "READY" {
				return fmt.Errorf("sandbox %s is %s", id, phase)
			}
			if !driven[id] {
				return fmt.Errorf("sandbox %s is unknown to the driver", id)
			}
		}
		for id := range driven {
			if stored[id] == "" {
				return fmt.Errorf("the driver's sandbox %s is unknown to the gateway", id)
			}
		}
		return nil
	})
	stored := s.stored(t)
	for id, name := range acknowledged {
		if stored[id] == "" {
			t.Errorf("acknowledged sandbox %s (%s) is lost", name, id)
		}
	}
	t.Logf("%d acknowledged, %d there", len(acknowledged), len(stored))
}

func (s *system) removeAll(t *testing.T) {
	t.Helper()
	for id := range s.stored(t) {
		s.mu.Lock()
		name := s.sandboxes[id]
		s.mu.Unlock()
		if _, err := s.user.DeleteSandbox(t.Context(), &openshellpb.DeleteSandboxRequest{Name: name}); err != nil {
			t.Errorf("delete %s: %v", name, err)
		}
	}
	eventually(t, "all sandboxes gone", func() error {
		if n := len(s.stored(t)); n > 0 {
			return fmt.Errorf("%d left", n)
		}
		return nil
	})
	if n := len(s.driven(t)); n > 0 {
		t.Errorf("the driver still has %d sandboxes", n)
	}
}

// burstSize is how many sandboxes are created at once.
const burstSize = 6

// Each round kills at another moment: before, amid and after the first answers.
func TestGatewayKilledWhileCreating(t *testing.T) {
	t.Parallel()
	s := start(t)
	for _, answered := range []int{0, 1, 3} {
		acknowledged := s.burst(t, fmt.Sprintf("round-%d", answered), burstSize, answered, func() { s.gateway.kill(t) })
		s.gateway.restart(t)
		s.waitReady()
		s.wantConsistent(t, acknowledged)
		s.removeAll(t)
	}
}

func TestGatewayKilledWhileDeleting(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "doomed")
	s.sh(t, id, "setsid sleep 3600 </dev/null >/dev/null 2>&1 & echo started")

	deleted := s.beginDelete(t, id, "doomed")
	s.gateway.kill(t)
	if err := <-deleted; err != nil && status.Code(err) != codes.Unavailable {
		t.Errorf("delete interrupted by a crash: %v", err)
	}
	s.gateway.restart(t)
	s.waitReady()
	s.waitGone(t, id, "doomed")
	if s.driven(t)[id] {
		t.Error("the driver still has the sandbox")
	}
}

// beginDelete deletes a sandbox, returns as soon as the intent is seen, and delivers the answer.
func (s *system) beginDelete(t *testing.T, id, name string) <-chan error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := s.user.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{Id: id, FollowStatus: true})
	if err != nil {
		t.Fatal(err)
	}
	// The first event says that the watch is in place.
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	deleted := make(chan error, 1)
	go func() {
		_, err := s.user.DeleteSandbox(t.Context(), &openshellpb.DeleteSandboxRequest{Name: name})
		deleted <- err
	}()
	for {
		event, err := stream.Recv()
		// The stream ends with its sandbox: a deletion may be quicker than the news of it.
		if err != nil || phaseOf(event.GetSandbox()) == "DELETING" {
			return deleted
		}
	}
}

func TestGatewayKilledWhileExecuting(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "busy")
	ended := s.execSleeping(t, id)
	s.gateway.kill(t)
	wantBroken(t, ended)
	eventually(t, "the command's processes ended", func() error { return noProcess(t, id, "sleep 3600") })
	s.gateway.restart(t)
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.sh(t, id, "true")
	s.remove(t, id, "busy")
}

// execSleeping runs a command that never ends, waits until it runs, and delivers how the call ended.
func (s *system) execSleeping(t *testing.T, id string) <-chan error {
	t.Helper()
	stream, err := s.user.ExecSandbox(t.Context(), &openshellpb.ExecSandboxRequest{
		SandboxId: id, Command: []string{"sh", "-c", "sleep 3600 & echo running; wait"},
	})
	if err != nil {
		t.Fatal(err)
	}
	waitOutput(t, stream)
	ended := make(chan error, 1)
	go func() {
		_, err := collect(stream)
		ended <- err
	}()
	return ended
}

func waitOutput(t *testing.T, stream grpc.ServerStreamingClient[openshellpb.ExecSandboxEvent]) {
	t.Helper()
	event, err := stream.Recv()
	if err != nil || len(event.GetStdout().GetData()) == 0 {
		t.Fatalf("first event %v, error %v, want output", event, err)
	}
}

func wantBroken(t *testing.T, ended <-chan error) {
	t.Helper()
	select {
	case err := <-ended:
		if status.Code(err) != codes.Unavailable {
			t.Errorf("interrupted exec ended with %v, want UNAVAILABLE", err)
		}
	case <-time.After(patience):
		t.Fatal("interrupted exec hangs")
	}
}

func noProcess(t *testing.T, id, text string) error {
	t.Helper()
	if pids := pidsRunning(t, id, text); len(pids) > 0 {
		return fmt.Errorf("%q still runs: %v", text, pids)
	}
	return nil
}

func TestGatewayEndsInOrder(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "orderly")
	supervisor := pidsRunning(t, id, "sallyport-supervisor")
	ended := s.execSleeping(t, id)
	began := time.Now()
	if err := s.gateway.terminate(); err != nil {
		t.Errorf("gateway ended with %v after SIGTERM, want exit status 0", err)
	}
	if took := time.Since(began); took > 12*time.Second {
		t.Errorf("gateway took %s to end, grace is 5s", took)
	}
	wantBroken(t, ended)
	s.gateway.restart(t)
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.wantSupervisor(t, id, supervisor)
	s.remove(t, id, "orderly")
}
