//go:build linux

package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	stormWorkers = 4
	stormKills   = 12
)

// storm is what the callers of TestStorm were told, and so may rely on.
type storm struct {
	s       *system
	mu      sync.Mutex
	kept    map[string]string // acknowledged and never asked to be deleted, id to name
	deleted map[string]string // deletion acknowledged
	calls   map[codes.Code]int
}

// TestStorm works with the system while its processes are killed at moments of chance, then takes stock.
func TestStorm(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.createProvider(t, "stormy", cachedCredential)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	chance := rand.New(rand.NewPCG(seed, 1)) // it chooses whom to kill
	st := &storm{s: s, kept: map[string]string{}, deleted: map[string]string{}, calls: map[codes.Code]int{}}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var workers sync.WaitGroup
	for i := range stormWorkers {
		workers.Go(func() { st.work(ctx, t, i) })
	}
	for range stormKills {
		// Chance decides when as well: nothing is waited for here.
		<-time.After(time.Duration(100+chance.IntN(600)) * time.Millisecond)
		st.kill(t, chance)
	}
	cancel()
	workers.Wait()
	s.waitReady()
	t.Logf("answers %v; %d sandboxes kept, %d deleted", st.calls, len(st.kept), len(st.deleted))

	s.wantConsistent(t, st.kept)
	stored := s.stored(t)
	for id, name := range st.deleted {
		if stored[id] != "" {
			t.Errorf("%s was deleted and is %s", name, stored[id])
		}
		if pids := pidsWith(t, sandboxMarker+id); len(pids) > 0 {
			t.Errorf("%s was deleted and has processes %v", name, pids)
		}
	}
	for id := range stored {
		s.waitCredential(t, id)
	}
	s.removeAll(t)
}

// kill ends one process of chance's choice and starts it again; a supervisor is started again by its driver.
func (st *storm) kill(t *testing.T, chance *rand.Rand) {
	t.Helper()
	switch chance.IntN(5) {
	case 0, 1:
		st.s.gateway.kill(t)
		st.s.gateway.restart(t)
	case 2:
		st.s.compute.kill(t)
		st.s.compute.restart(t)
	case 3:
		st.s.credentials.kill(t)
		st.s.credentials.restart(t)
	case 4:
		st.s.mu.Lock()
		var ids []string
		for id := range st.s.sandboxes {
			ids = append(ids, id)
		}
		st.s.mu.Unlock()
		for _, id := range ids {
			if pids := pidsRunning(t, id, "sallyport-supervisor"); len(pids) > 0 {
				_ = syscall.Kill(pids[0], syscall.SIGKILL)
				return
			}
		}
	}
}

// work creates sandboxes, runs a command in each and deletes all but every third, until ctx ends.
func (st *storm) work(ctx context.Context, t *testing.T, worker int) {
	for n := 0; ctx.Err() == nil; n++ {
		name := fmt.Sprintf("storm-%d-%d", worker, n)
		id, err := st.s.tryCreate(context.WithoutCancel(ctx), name, "stormy")
		st.count(t, err)
		if err != nil {
			pause(ctx)
			continue
		}
		st.mu.Lock()
		st.kept[id] = name
		st.mu.Unlock()
		if !st.command(ctx, t, id) || n%3 == 0 {
			continue
		}
		st.mu.Lock()
		delete(st.kept, id)
		st.mu.Unlock()
		_, err = st.s.user.DeleteSandbox(ctx, &openshellpb.DeleteSandboxRequest{Name: name}, grpc.WaitForReady(true))
		st.count(t, err)
		if err == nil {
			st.mu.Lock()
			st.deleted[id] = name
			st.mu.Unlock()
		}
	}
}

// command runs one command, however often it takes, and tells whether it was answered.
func (st *storm) command(ctx context.Context, t *testing.T, id string) bool {
	for ctx.Err() == nil {
		r, err := st.s.exec(ctx, &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"sh", "-c", "cat; exit 3"}, Stdin: []byte(id)})
		st.count(t, err)
		if err == nil {
			if r.code != 3 || string(r.stdout) != id {
				t.Errorf("command in %s: exit code %d, output %q", id, r.code, r.stdout)
			}
			return true
		}
		pause(ctx)
	}
	return false
}

// pause keeps a caller that was refused from asking in a tight loop.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(pollEvery):
	}
}

// count keeps the answer and fails the test for one that a crash does not explain.
func (st *storm) count(t *testing.T, err error) {
	code := status.Code(err)
	st.mu.Lock()
	st.calls[code]++
	st.mu.Unlock()
	switch code {
	case codes.OK, codes.Unavailable, codes.Canceled, codes.FailedPrecondition, codes.DeadlineExceeded:
	default:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("call ended with %v", err)
		}
	}
}
