package computetest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

func capabilities(t *testing.T, c *client) {
	got, err := c.GetCapabilities(c.context(t), &computepb.GetCapabilitiesRequest{})
	if err != nil {
		t.Fatalf("GetCapabilities: %v", err)
	}
	if got.GetDriverName() == "" || got.GetDriverVersion() == "" {
		t.Errorf("driver must have a name and a version: %v", got)
	}
	if got.GetDefaultImage() == "" {
		t.Error("driver must have a default image: gateways put it into sandboxes that name none")
	}
}

func validate(t *testing.T, c *client) {
	_, err := c.ValidateSandboxCreate(c.context(t), &computepb.ValidateSandboxCreateRequest{Sandbox: c.prepared(t)})
	wantCode(t, "an ordinary sandbox", err, codes.OK)

	_, err = c.ValidateSandboxCreate(c.context(t), &computepb.ValidateSandboxCreateRequest{})
	if code := status.Code(err); code != codes.InvalidArgument && code != codes.FailedPrecondition {
		t.Errorf("no sandbox at all: got %v, want InvalidArgument or FailedPrecondition", err)
	}
	resp, err := c.ListSandboxes(c.context(t), &computepb.ListSandboxesRequest{})
	if err != nil || len(resp.GetSandboxes()) > 0 {
		t.Errorf("validating must create nothing: got %v, %v", resp, err)
	}
}

func createUntilReady(t *testing.T, c *client) {
	sb := c.create(t)
	got, err := c.get(t, sb)
	if err != nil {
		t.Fatalf("GetSandbox right after create: %v", err)
	}
	if p := phase(got); p != "provisioning" && p != "ready" {
		t.Errorf("right after create the sandbox is %s: %v", p, got.GetStatus())
	}
	c.await(t, sb, "ready")
}

func createTwice(t *testing.T, c *client) {
	sb := c.create(t)
	_, err := c.CreateSandbox(c.context(t), &computepb.CreateSandboxRequest{Sandbox: sb})
	wantCode(t, "second create", err, codes.AlreadyExists)
	c.await(t, sb, "ready")
}

func getAbsent(t *testing.T, c *client) {
	_, err := c.get(t, Sandbox())
	wantCode(t, "get of an absent sandbox", err, codes.NotFound)
}

func list(t *testing.T, c *client) {
	want := map[string]bool{c.create(t).GetId(): true, c.create(t).GetId(): true, c.create(t).GetId(): true}
	resp, err := c.ListSandboxes(c.context(t), &computepb.ListSandboxesRequest{})
	if err != nil {
		t.Fatalf("ListSandboxes: %v", err)
	}
	for _, sb := range resp.GetSandboxes() {
		if !want[sb.GetId()] {
			t.Errorf("listed %s twice or for nothing", sb.GetId())
		}
		delete(want, sb.GetId())
	}
	if len(want) > 0 {
		t.Errorf("not listed: %v", want)
	}
}

func deletes(t *testing.T, c *client) {
	sb := c.create(t)
	c.await(t, sb, "ready")
	if !c.delete(t, sb) {
		t.Error("delete of a sandbox must answer deleted")
	}
	c.await(t, sb, "absent")
	if c.delete(t, sb) {
		t.Error("delete of a deleted sandbox must answer not deleted")
	}
}

func deleteAbsent(t *testing.T, c *client) {
	if c.delete(t, Sandbox()) {
		t.Error("delete of an absent sandbox must answer not deleted")
	}
}

func deleteTwiceAtOnce(t *testing.T, c *client) {
	sb := c.create(t)
	ctx := c.context(t)
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			_, err := c.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
			wantCode(t, "one of several deletes", err, codes.OK)
		})
	}
	calls.Wait()
	c.await(t, sb, "absent")
}

func createAgain(t *testing.T, c *client) {
	sb := c.create(t)
	c.delete(t, sb)
	c.await(t, sb, "absent")
	if _, err := c.CreateSandbox(c.context(t), &computepb.CreateSandboxRequest{Sandbox: sb}); err != nil {
		t.Fatalf("create after delete: %v", err)
	}
	c.await(t, sb, "ready")
}

type watch struct {
	stream grpc.ServerStreamingClient[computepb.WatchSandboxesEvent]
	cancel context.CancelFunc
	// timeout bounds each wait for an event, not the watch: it lives as long as what the part does meanwhile.
	timeout time.Duration
}

func (c *client) watch(t *testing.T) watch {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	stream, err := c.WatchSandboxes(ctx, &computepb.WatchSandboxesRequest{})
	if err != nil {
		cancel()
		t.Fatalf("WatchSandboxes: %v", err)
	}
	return watch{stream: stream, cancel: cancel, timeout: c.driver.Timeout}
}

// until reads events until one satisfies want.
func (w watch) until(t *testing.T, what string, want func(*computepb.WatchSandboxesEvent) bool) {
	t.Helper()
	timer := time.AfterFunc(w.timeout, w.cancel)
	defer timer.Stop()
	for {
		e, err := w.stream.Recv()
		if err != nil {
			t.Fatalf("watch ended, or %s had passed, before %s: %v", w.timeout, what, err)
		}
		if sb := e.GetSandbox().GetSandbox(); sb != nil && (sb.GetId() == "" || sb.GetName() == "") {
			t.Errorf("snapshot without id or name: %v", sb)
		}
		if want(e) {
			return
		}
	}
}

func (w watch) end(t *testing.T) {
	t.Helper()
	w.cancel()
	for {
		if _, err := w.stream.Recv(); err != nil {
			if code := status.Code(err); code != codes.Canceled && !errors.Is(err, context.Canceled) {
				t.Errorf("watch ended with %v, want Canceled", err)
			}
			return
		}
	}
}

func becomesReady(sb *computepb.DriverSandbox) func(*computepb.WatchSandboxesEvent) bool {
	return func(e *computepb.WatchSandboxesEvent) bool {
		got := e.GetSandbox().GetSandbox()
		return got.GetId() == sb.GetId() && phase(got) == "ready"
	}
}

func isDeleted(sb *computepb.DriverSandbox) func(*computepb.WatchSandboxesEvent) bool {
	return func(e *computepb.WatchSandboxesEvent) bool { return e.GetDeleted().GetSandboxId() == sb.GetId() }
}

func watchSnapshots(t *testing.T, c *client) {
	missing := map[string]bool{c.create(t).GetId(): true, c.create(t).GetId(): true}
	w := c.watch(t)
	defer w.end(t)
	w.until(t, "a snapshot of every sandbox", func(e *computepb.WatchSandboxesEvent) bool {
		delete(missing, e.GetSandbox().GetSandbox().GetId())
		return len(missing) == 0
	})
}

func watchChanges(t *testing.T, c *client) {
	first := c.create(t)
	w := c.watch(t)
	defer w.end(t)
	w.until(t, "the first sandbox is ready", becomesReady(first))
	second := c.create(t)
	w.until(t, "the second sandbox is ready", becomesReady(second))
	c.delete(t, first)
	w.until(t, "the first sandbox is deleted", isDeleted(first))
}

// slowWatcher checks that a watcher that does not read holds up nobody.
func slowWatcher(t *testing.T, c *client) {
	idle := c.watch(t)
	defer idle.end(t)
	for range 20 {
		sb := c.create(t)
		c.await(t, sb, "ready")
		c.delete(t, sb)
	}
	last := c.create(t)
	idle.until(t, "the last sandbox is ready", becomesReady(last))
}

func stopAndStart(t *testing.T, c *client) {
	if c.driver.NoLifecycle {
		_, err := c.StopSandbox(c.context(t), &computepb.StopSandboxRequest{SandboxId: Sandbox().GetId()})
		wantCode(t, "stop", err, codes.Unimplemented)
		return
	}
	sb := c.create(t)
	c.await(t, sb, "ready")
	stop := func() error {
		_, err := c.StopSandbox(c.context(t), &computepb.StopSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
		return err
	}
	start := func() error {
		_, err := c.StartSandbox(c.context(t), &computepb.StartSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
		return err
	}
	wantCode(t, "start of a running sandbox", start(), codes.OK)
	wantCode(t, "stop", stop(), codes.OK)
	c.await(t, sb, "stopped")
	wantCode(t, "second stop", stop(), codes.OK)
	c.await(t, sb, "stopped")
	wantCode(t, "start", start(), codes.OK)
	wantCode(t, "second start", start(), codes.OK)
	c.await(t, sb, "ready")
	wantCode(t, "stop again", stop(), codes.OK)
	if !c.delete(t, sb) {
		t.Error("delete of a stopped sandbox must answer deleted")
	}
	c.await(t, sb, "absent")
	wantCode(t, "stop of an absent sandbox", stop(), codes.NotFound)
	wantCode(t, "start of an absent sandbox", start(), codes.NotFound)
}

// createSameName checks that a name is taken as long as a sandbox has it, and that whoever comes second harms nobody.
func createSameName(t *testing.T, c *client) {
	first := c.create(t)
	second := c.prepared(t)
	second.Name, second.Workspace = first.GetName(), first.GetWorkspace()
	_, err := c.CreateSandbox(c.context(t), &computepb.CreateSandboxRequest{Sandbox: second})
	wantCode(t, "another sandbox of the same name", err, codes.AlreadyExists)
	c.await(t, first, "ready")
	_, err = c.get(t, second)
	wantCode(t, "get of the one that was refused", err, codes.NotFound)
	if c.delete(t, second) {
		t.Error("delete of the one that was refused must answer not deleted")
	}
	c.await(t, first, "ready")
}

// stopWhileStarting stops a sandbox before it is ready.
func stopWhileStarting(t *testing.T, c *client) {
	if c.driver.NoLifecycle {
		t.Log("the driver declares that it cannot stop sandboxes")
		return
	}
	sb := c.create(t)
	_, err := c.StopSandbox(c.context(t), &computepb.StopSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
	wantCode(t, "stop right after create", err, codes.OK)
	c.await(t, sb, "stopped")
	_, err = c.StartSandbox(c.context(t), &computepb.StartSandboxRequest{SandboxId: sb.GetId(), SandboxName: sb.GetName()})
	wantCode(t, "start", err, codes.OK)
	c.await(t, sb, "ready")
}

func restart(t *testing.T, c *client) {
	if c.driver.Restart == nil {
		t.Log("the driver declares that it keeps nothing of its own")
		return
	}
	running := c.create(t)
	c.await(t, running, "ready")
	stopped := c.create(t)
	c.await(t, stopped, "ready")
	if !c.driver.NoLifecycle {
		if _, err := c.StopSandbox(c.context(t), &computepb.StopSandboxRequest{SandboxId: stopped.GetId()}); err != nil {
			t.Fatalf("StopSandbox: %v", err)
		}
	}
	deleted := c.create(t)
	c.delete(t, deleted)

	c.driver.Restart(t)
	c.await(t, running, "ready")
	if !c.driver.NoLifecycle {
		c.await(t, stopped, "stopped")
	}
	c.await(t, deleted, "absent")
	w := c.watch(t)
	defer w.end(t)
	w.until(t, "a snapshot after the restart", becomesReady(running))
	c.delete(t, running)
	w.until(t, "the deletion after the restart", isDeleted(running))
}
