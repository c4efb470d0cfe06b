package sandbox_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
)

// running makes a sandbox whose supervisor is connected.
func (f *fixture) running(t *testing.T, name string) string {
	t.Helper()
	id := f.create(t, name).Object.ID
	f.Changed(t.Context(), ready(id, "True", "Running"))
	f.connect(t, id, "main-1")
	if got := f.phase(t, id); got != sandbox.PhaseReady {
		t.Fatalf("phase = %d, want READY", got)
	}
	return id
}

// connect has a supervisor come.
func (f *fixture) connect(t *testing.T, id, instance string) {
	t.Helper()
	f.sessions.mu.Lock()
	f.sessions.instance = instance
	f.sessions.connected[id] = true
	f.sessions.mu.Unlock()
	f.Connected(t.Context(), id, "session-of-"+instance, instance)
}

func TestStopAndStart(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.driver.reports = true
	id := f.running(t, "x")
	sb, err := f.Stop(t.Context(), "", "x")
	if err != nil || sb.Phase != sandbox.PhaseStopped || sb.Status[0].Reason != "Stopped" {
		t.Fatalf("Stop = %+v, %v", sb, err)
	}
	if _, connected := f.sessions.Connected(id); connected || !f.driver.stopped[id] {
		t.Error("the sandbox is stopped, and its session or its processes are left")
	}
	// What is older than the stop changes nothing, nor does a supervisor that has still to end.
	f.Changed(t.Context(), ready(id, "True", "Running"))
	f.connect(t, id, "main-1")
	if _, connected := f.sessions.Connected(id); connected || f.phase(t, id) != sandbox.PhaseStopped {
		t.Errorf("phase = %d after stale news", f.phase(t, id))
	}
	if err := f.MainProcessExited(t.Context(), id, "main-1", 137); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Stop(t.Context(), "", "x"); err != nil || f.driver.stops != 1 {
		t.Errorf("stop of a stopped sandbox: %v, %d calls of the driver", err, f.driver.stops)
	}

	sb, err = f.Start(t.Context(), "", "x")
	if err != nil || sb.Phase != sandbox.PhaseStarting || f.driver.stopped[id] {
		t.Fatalf("Start = %+v, %v", sb, err)
	}
	f.Changed(t.Context(), ready(id, "False", "ContainerStopped"))
	if got := f.phase(t, id); got != sandbox.PhaseStarting {
		t.Errorf("a snapshot of the stopped time: phase = %d, want STARTING", got)
	}
	f.sessions.set(id, true)
	if got := f.phase(t, id); got != sandbox.PhaseStarting {
		t.Errorf("the supervisor that was stopped makes the sandbox phase %d", got)
	}
	if err := f.MainProcessExited(t.Context(), id, "main-1", 137); err != nil {
		t.Fatal(err)
	}
	f.Changed(t.Context(), ready(id, "True", "Running"))
	f.connect(t, id, "main-2")
	sb, err = f.ByID(id)
	if err != nil || sb.Phase != sandbox.PhaseReady || sb.Exited != nil || sb.Course != sandbox.CourseRun {
		t.Errorf("after the start: %+v, %v", sb, err)
	}
	if _, err := f.Start(t.Context(), "", "x"); err != nil || f.driver.starts != 1 {
		t.Errorf("start of a ready sandbox: %v, %d calls of the driver", err, f.driver.starts)
	}
	// From here on it is a sandbox like any other.
	f.sessions.set(id, false)
	if got := f.phase(t, id); got != sandbox.PhaseProvisioning {
		t.Errorf("session lost after a start: phase = %d, want PROVISIONING", got)
	}
}

// at brings a sandbox into a phase.
func (f *fixture) at(t *testing.T, phase sandbox.Phase) string {
	t.Helper()
	f.driver.reports = true
	busy := func() error { return fault.New(fault.Unavailable, "X", "busy") }
	quiet := func(err error) {
		if err != nil && !fault.Is(err, fault.Unavailable) {
			t.Fatal(err)
		}
	}
	id := f.running(t, "x")
	switch phase {
	case sandbox.PhaseProvisioning:
		f.sessions.set(id, false)
		f.Changed(t.Context(), ready(id, "False", "ContainerStarting"))
	case sandbox.PhaseError:
		f.Changed(t.Context(), ready(id, "False", "Exploded"))
	case sandbox.PhaseDeleting:
		_, err := f.Delete(t.Context(), "", "x")
		quiet(err)
	case sandbox.PhaseStopping:
		f.driver.onStop, f.driver.onGet = busy, busy
		_, err := f.Stop(t.Context(), "", "x")
		quiet(err)
	case sandbox.PhaseStopped, sandbox.PhaseStarting:
		_, err := f.Stop(t.Context(), "", "x")
		quiet(err)
		if phase == sandbox.PhaseStarting {
			f.driver.onStart, f.driver.onGet = busy, busy
			_, err = f.Start(t.Context(), "", "x")
			quiet(err)
		}
	}
	f.driver.onStop, f.driver.onStart, f.driver.onGet = nil, nil, nil
	if got := f.phase(t, id); got != phase {
		t.Fatalf("phase = %d, want %d", got, phase)
	}
	return id
}

func TestStopStartAndDeleteFromEveryPhase(t *testing.T) {
	t.Parallel()
	const refused = sandbox.PhaseUnspecified
	for _, tc := range []struct {
		from        sandbox.Phase
		stop, start sandbox.Phase
	}{
		{sandbox.PhaseProvisioning, refused, refused},
		{sandbox.PhaseReady, sandbox.PhaseStopped, sandbox.PhaseReady},
		{sandbox.PhaseError, sandbox.PhaseStopped, refused},
		{sandbox.PhaseDeleting, refused, refused},
		{sandbox.PhaseStopping, sandbox.PhaseStopped, refused},
		{sandbox.PhaseStopped, sandbox.PhaseStopped, sandbox.PhaseStarting},
		{sandbox.PhaseStarting, refused, sandbox.PhaseStarting},
	} {
		check := func(verb, text string, want sandbox.Phase, sb *sandbox.Sandbox, err error) {
			t.Helper()
			switch {
			case want == refused && (!fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), text)):
				t.Errorf("%s from phase %d: %v", verb, tc.from, err)
			case want == refused && fault.From(err).Next == "":
				t.Errorf("%s from phase %d names no next step", verb, tc.from)
			case want != refused && (err != nil || sb.Phase != want):
				t.Errorf("%s from phase %d: %+v, %v; want phase %d", verb, tc.from, sb, err, want)
			}
		}
		f := open(t)
		f.at(t, tc.from)
		sb, err := f.Stop(t.Context(), "", "x")
		check("stop", "sandbox must be Ready to stop", tc.stop, sb, err)
		f = open(t)
		f.at(t, tc.from)
		sb, err = f.Start(t.Context(), "", "x")
		check("start", "sandbox must be Stopped to start", tc.start, sb, err)
		f = open(t)
		id := f.at(t, tc.from)
		f.driver.deleteIsFinal = true
		if _, err := f.Delete(t.Context(), "", "x"); err != nil {
			t.Errorf("delete in phase %d: %v", tc.from, err)
		}
		if _, err := f.ByID(id); !fault.Is(err, fault.NotFound) {
			t.Errorf("after a delete in phase %d: %v", tc.from, err)
		}
	}
}

// A driver that fails is asked how the sandbox is.
func TestStopAndStartThatTheDriverFails(t *testing.T) {
	t.Parallel()
	broken := fault.New(fault.Internal, "X", "stop sandbox failed: no")
	slow := fault.New(fault.Unavailable, "X", "no answer in time")
	none := fault.New(fault.Unimplemented, "X", "unknown method")
	for name, tc := range map[string]struct {
		err    error
		report func(id string) (compute.Snapshot, error)
		kind   fault.Kind
		reason string
		// stop and start are what comes of it.
		stop, start sandbox.Phase
	}{
		"no lifecycle": {
			none, nil, fault.Unimplemented, sandbox.ReasonNoLifecycle, sandbox.PhaseReady, sandbox.PhaseStopped,
		},
		"runs": {
			broken, func(id string) (compute.Snapshot, error) { return ready(id, "True", ""), nil },
			fault.Internal, "X", sandbox.PhaseReady, sandbox.PhaseStarting,
		},
		"is stopped": {
			broken, func(id string) (compute.Snapshot, error) { return ready(id, "False", "ContainerExited"), nil },
			fault.Internal, "X", sandbox.PhaseStopped, sandbox.PhaseStopped,
		},
		"is on its way": {
			broken, func(id string) (compute.Snapshot, error) {
				s := ready(id, "True", "")
				s.Conditions = append(s.Conditions, compute.Condition{Type: "Suspended", Status: "False", Reason: "PodTerminating"})
				return s, nil
			},
			fault.Internal, "X", sandbox.PhaseStopping, sandbox.PhaseStarting,
		},
		"takes long": {
			slow, func(id string) (compute.Snapshot, error) { return ready(id, "False", "Deleting"), nil },
			fault.Unavailable, "X", sandbox.PhaseStopping, sandbox.PhaseStarting,
		},
		"is gone": {
			broken, func(string) (compute.Snapshot, error) {
				return compute.Snapshot{}, fault.New(fault.NotFound, "X", "gone")
			}, fault.FailedPrecondition, sandbox.ReasonBackendLost, sandbox.PhaseError, sandbox.PhaseError,
		},
		"nobody knows": {
			broken, func(string) (compute.Snapshot, error) {
				return compute.Snapshot{}, fault.New(fault.Unavailable, "X", "away")
			}, fault.Internal, "X", sandbox.PhaseStopping, sandbox.PhaseStarting,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check := func(verb string, f *fixture, id string, err error, want sandbox.Phase, fails bool) {
				t.Helper()
				if got := f.phase(t, id); got != want {
					t.Errorf("%s: phase = %d, want %d", verb, got, want)
				}
				if (err != nil) != fails || err != nil && (!fault.Is(err, tc.kind) || fault.From(err).Reason != tc.reason) {
					t.Errorf("%s: %v (%s), want kind %d, reason %s", verb, err, fault.From(err).Reason, tc.kind, tc.reason)
				}
			}
			f := open(t)
			id := f.running(t, "x")
			f.driver.onStop, f.driver.report = func() error { return tc.err }, tc.report
			_, err := f.Stop(t.Context(), "", "x")
			check("stop", f, id, err, tc.stop, !slices.Contains([]string{"is stopped", "is on its way", "takes long"}, name))
			if connected := f.sessions.has(id); connected != (tc.stop == sandbox.PhaseReady || tc.stop == sandbox.PhaseStopping) {
				t.Errorf("stop: phase %d, session %t", tc.stop, connected)
			}

			f = open(t)
			id = f.at(t, sandbox.PhaseStopped)
			f.driver.onStart, f.driver.report = func() error { return tc.err }, tc.report
			_, err = f.Start(t.Context(), "", "x")
			check("start", f, id, err, tc.start, name != "runs" && name != "takes long")
		})
	}
}

// A stopped sandbox whose resource vanished says so instead of vanishing too, and is well again if the resource is.
func TestVanishedResourceOfAStoppedSandbox(t *testing.T) {
	t.Parallel()
	f := open(t)
	id := f.at(t, sandbox.PhaseStopped)
	spec := f.driver.boxes[id]
	delete(f.driver.boxes, id)
	f.Listed(t.Context(), nil)
	sb, err := f.ByID(id)
	if err != nil || sb.Phase != sandbox.PhaseError || sb.Status[0].Reason != "ComputeResourceMissing" {
		t.Fatalf("after the list: %+v, %v", sb, err)
	}
	f.driver.boxes[id] = spec
	f.Listed(t.Context(), f.driver.list())
	if got := f.phase(t, id); got != sandbox.PhaseStopped {
		t.Errorf("the resource is back: phase = %d, want STOPPED", got)
	}
	delete(f.driver.boxes, id)
	if _, err := f.Start(t.Context(), "", "x"); fault.From(err).Reason != sandbox.ReasonBackendLost {
		t.Errorf("start of nothing: %v", err)
	}
	if sb, err := f.ByID(id); err != nil || sb.Phase != sandbox.PhaseError || sb.Status[0].Reason != "BackendResourceMissing" {
		t.Errorf("after the start: %+v, %v", sb, err)
	}
	if _, err := f.Delete(t.Context(), "", "x"); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// Watchers see each step of a stop and a start, and callers that leave change nothing.
func TestStopIsWatchedAndOutlivesItsCaller(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.driver.reports = true
	following, end := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() { followed <- f.Follow(following) }()
	id := f.running(t, "x")
	sub := f.Subscribe(id)
	defer sub.Close()
	await := func(want sandbox.Phase) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for f.phase(t, id) != want {
			select {
			case <-sub.C():
			case <-deadline:
				t.Fatalf("never saw phase %d, but %d", want, f.phase(t, id))
			}
		}
	}
	proceed := make(chan struct{})
	held := func() error {
		<-proceed
		return nil
	}
	f.driver.onStop, f.driver.onStart = held, held
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := f.Stop(ctx, "", "x")
		left <- err
	}()
	await(sandbox.PhaseStopping)
	leave()
	if err := <-left; !fault.Is(err, fault.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	proceed <- struct{}{}
	await(sandbox.PhaseStopped)
	go func() {
		_, err := f.Start(t.Context(), "", "x")
		left <- err
	}()
	await(sandbox.PhaseStarting)
	f.connect(t, id, "main-2")
	await(sandbox.PhaseReady)
	proceed <- struct{}{}
	if err := <-left; err != nil {
		t.Error(err)
	}
	end()
	if err := <-followed; err != nil {
		t.Error(err)
	}
}

// A stop and a start whose driver was away go on by themselves when it is back.
func TestStopAndStartAreRetried(t *testing.T) {
	for _, to := range []sandbox.Phase{sandbox.PhaseStopping, sandbox.PhaseStarting} {
		synctest.Test(t, func(t *testing.T) {
			f := open(t)
			id := f.at(t, to)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- f.Retry(ctx) }()
			time.Sleep(time.Minute)
			synctest.Wait()
			if f.driver.stopped[id] != (to == sandbox.PhaseStopping) {
				t.Errorf("phase %d was not carried out", to)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			f.Wait()
		})
	}
}

func TestDriverThatLeavesItsLifecycleToTheGateway(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.driver.managed, f.driver.reports = true, true
	runs, rests := f.running(t, "runs"), f.running(t, "rests")
	lost := f.running(t, "lost")
	if _, err := f.Stop(t.Context(), "", "rests"); err != nil {
		t.Fatal(err)
	}
	if err := f.Suspend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !f.driver.stopped[runs] {
		t.Fatal("a sandbox runs on without the gateway")
	}
	next := reopen(t, f.store, f.driver)
	list := f.driver.list()
	delete(f.driver.boxes, lost)
	next.Listed(t.Context(), list)
	next.Wait()
	if f.driver.stopped[runs] || !f.driver.stopped[rests] {
		t.Errorf("after the gateway's return: stopped are %v", f.driver.stopped)
	}
	if sb, err := next.ByID(lost); err != nil || sb.Phase != sandbox.PhaseError || sb.Status[0].Reason != "BackendResourceMissing" {
		t.Errorf("one that cannot be started: %+v, %v", sb, err)
	}
	f.driver.managed = false
	if err := next.Suspend(t.Context()); err != nil || f.driver.stopped[runs] {
		t.Errorf("a driver that minds its sandboxes itself was asked to stop them: %v", err)
	}
}

func TestEndedWork(t *testing.T) {
	t.Parallel()
	broken := fault.New(fault.Unavailable, "RELAY_BROKEN", "gone")
	f := open(t)
	id := f.running(t, "x")
	if err := f.Ended(id, broken); fault.From(err) != broken {
		t.Errorf("of a sandbox that runs: %v", err)
	}
	if _, err := f.Stop(t.Context(), "", "x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Ended(id, broken); fault.From(err).Reason != sandbox.ReasonStopped || fault.From(err).Next == "" {
		t.Errorf("of a stopped one: %v", err)
	}
	sb, err := f.ByID(id)
	if err != nil {
		t.Fatal(err)
	}
	if no := sb.NotReady(); no.Reason != sandbox.ReasonStopped || !strings.Contains(no.Next, "sallyport sandbox start x") {
		t.Errorf("work in a stopped one: %+v", no)
	}
	f.Deleted(t.Context(), id)
	if err := f.Ended(id, broken); fault.From(err).Reason != "SANDBOX_DELETED" {
		t.Errorf("of a deleted one: %v", err)
	}
}
