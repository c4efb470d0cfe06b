package sandbox_test

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
)

// world is one sandbox, its driver and the gateways that come one after another, with what was asked for.
type world struct {
	t     *testing.T
	f     *fixture
	id    string
	name  string
	asked string // run, stop or delete
	way   string // one of how
}

// how are the ways in which a driver answers, as errors before and after it does what it is asked.
var how = []string{"well", "away", "refuses", "does and is away"}

// answer makes the driver answer a stop or start in a way, until it is told otherwise.
func (w *world) answer(way string) {
	d := w.f.driver
	w.way = way
	d.onStop, d.onStart, d.onGet, d.onDelete, d.after = nil, nil, nil, nil, nil
	away := func() error { return fault.New(fault.Unavailable, "X", "away") }
	switch way {
	case "away":
		d.onStop, d.onStart, d.onGet, d.onDelete = away, away, away, away
	case "refuses":
		refuse := func() error { return fault.New(fault.Internal, "X", "no") }
		d.onStop, d.onStart = refuse, refuse
	case "does and is away":
		d.after, d.onGet = away, away
	}
}

func (w *world) phase() sandbox.Phase {
	sb, err := w.f.ByID(w.id)
	if fault.Is(err, fault.NotFound) {
		return sandbox.PhaseUnspecified
	}
	if err != nil {
		w.t.Fatal(err)
	}
	return sb.Phase
}

// runs tells what the driver has.
func (w *world) runs() (there, running bool) {
	d := w.f.driver
	d.mu.Lock()
	defer d.mu.Unlock()
	_, there = d.boxes[w.id]
	return there, there && !d.stopped[w.id]
}

func (w *world) stop(t *rapid.T) {
	before := w.phase()
	_, err := w.f.Stop(w.t.Context(), "", w.name)
	after := w.phase()
	switch {
	case err == nil && after != sandbox.PhaseStopped && after != sandbox.PhaseStopping:
		t.Fatalf("stop succeeded in phase %d and left phase %d", before, after)
	case fault.Is(err, fault.FailedPrecondition) && after != before:
		t.Fatalf("a refused stop changed phase %d to %d", before, after)
	case after == sandbox.PhaseStopped || after == sandbox.PhaseStopping:
		w.asked = "stop"
	case fault.Is(err, fault.Internal) && w.asked == "stop":
		// Nobody knew the end of the stop before; now the driver says that it will not be.
		w.asked = "run"
	}
}

func (w *world) start(t *rapid.T) {
	before := w.phase()
	_, err := w.f.Start(w.t.Context(), "", w.name)
	after := w.phase()
	switch {
	case err == nil && after != sandbox.PhaseStarting && after != sandbox.PhaseReady:
		t.Fatalf("start succeeded in phase %d and left phase %d", before, after)
	case fault.Is(err, fault.FailedPrecondition) && after != before:
		t.Fatalf("a refused start changed phase %d to %d", before, after)
	case after == sandbox.PhaseStarting || after == sandbox.PhaseReady:
		w.asked = "run"
	case after == sandbox.PhaseStopped:
		w.asked = "stop"
	}
}

func (w *world) delete(t *rapid.T) {
	_, err := w.f.Delete(w.t.Context(), "", w.name)
	if err != nil && !fault.Is(err, fault.NotFound) && !fault.Is(err, fault.Unavailable) {
		t.Fatalf("delete in phase %d: %v", w.phase(), err)
	}
	w.asked = "delete"
}

// supervise has the supervisor of what the driver runs come.
func (w *world) supervise() {
	if _, running := w.runs(); running {
		w.f.driver.mu.Lock()
		instance := fmt.Sprintf("main-%d", w.f.driver.starts)
		w.f.driver.mu.Unlock()
		w.f.connect(w.t, w.id, instance)
	}
}

// report delivers a snapshot: the present one, or while a stop or start is under way one of before.
func (w *world) report(stale bool) {
	w.f.driver.mu.Lock()
	snap := w.f.driver.snapshot(w.id)
	_, there := w.f.driver.boxes[w.id]
	running := !w.f.driver.stopped[w.id]
	w.f.driver.mu.Unlock()
	if !there {
		return
	}
	if stale && w.phase() == sandbox.PhaseStarting && running {
		snap = ready(w.id, "False", "ContainerStopped")
	}
	if stale && w.phase() == sandbox.PhaseStopped {
		snap = ready(w.id, "True", "Running")
	}
	w.f.Changed(w.t.Context(), snap)
}

// restart puts another gateway in the place of one that is killed.
func (w *world) restart() {
	w.f.Wait()
	w.f = reopen(w.t, w.f.store, w.f.driver)
}

// list is what a driver does when it is connected, and from time to time.
func (w *world) list() {
	if w.f.driver.onGet != nil {
		return
	}
	w.f.Listed(w.t.Context(), w.f.driver.list())
	w.f.Wait()
	if w.way != "refuses" || w.asked == "delete" {
		return
	}
	// Of a stop or start that nobody knew the end of, the driver now says that it will not be.
	switch w.phase() {
	case sandbox.PhaseStopped:
		w.asked = "stop"
	case sandbox.PhaseReady, sandbox.PhaseProvisioning:
		w.asked = "run"
	}
}

// hold checks what must be true at any moment.
func (w *world) hold(t *rapid.T) {
	phase := w.phase()
	in := func(all ...sandbox.Phase) bool {
		for _, p := range all {
			if p == phase {
				return true
			}
		}
		return false
	}
	var ok bool
	switch w.asked {
	case "stop":
		ok = in(sandbox.PhaseStopping, sandbox.PhaseStopped)
	case "delete":
		ok = in(sandbox.PhaseDeleting, sandbox.PhaseUnspecified)
	default:
		ok = in(sandbox.PhaseProvisioning, sandbox.PhaseReady, sandbox.PhaseStarting)
	}
	if !ok {
		t.Fatalf("asked to %s, and the phase is %d", w.asked, phase)
	}
	if phase == sandbox.PhaseReady && !w.f.sessions.has(w.id) {
		t.Fatal("ready without a supervisor")
	}
}

// settle brings everything back, after which what was asked for must be so.
func (w *world) settle(t *rapid.T) {
	w.answer("well")
	for range 3 {
		w.list()
		w.supervise()
	}
	phase := w.phase()
	there, running := w.runs()
	switch {
	case w.asked == "run" && (phase != sandbox.PhaseReady || !running),
		w.asked == "stop" && (phase != sandbox.PhaseStopped || running || !there || w.f.sessions.has(w.id)),
		w.asked == "delete" && (phase != sandbox.PhaseUnspecified || there):
		t.Fatalf("asked to %s: phase %d, the driver has it %t, running %t", w.asked, phase, there, running)
	}
}

// TestLifecycleProperty has a sandbox stopped, started and deleted at any moment, by a gateway that is killed at any
// moment, with a driver that fails in any way; in the end it is as was asked last.
func TestLifecycleProperty(t *testing.T) {
	t.Parallel()
	f := open(t)
	f.driver.reports, f.driver.deleteIsFinal = true, true
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		w := &world{t: t, f: reopen(t, f.store, f.driver), name: fmt.Sprintf("box-%d", n), asked: "run"}
		w.answer("well")
		w.id = w.f.create(t, w.name).Object.ID
		w.report(false)
		w.supervise()
		rt.Repeat(map[string]func(*rapid.T){
			"":      w.hold,
			"stop":  w.stop,
			"start": w.start,
			"delete": func(rt *rapid.T) {
				if rapid.IntRange(0, 3).Draw(rt, "delete") == 0 {
					w.delete(rt)
				}
			},
			"answer":    func(rt *rapid.T) { w.answer(rapid.SampledFrom(how).Draw(rt, "how")) },
			"supervise": func(*rapid.T) { w.supervise() },
			"lose":      func(*rapid.T) { w.f.sessions.set(w.id, false) },
			"report":    func(rt *rapid.T) { w.report(rapid.Bool().Draw(rt, "stale")) },
			"restart":   func(*rapid.T) { w.restart() },
			"list":      func(*rapid.T) { w.list() },
		})
		w.settle(rt)
		w.delete(rt)
		w.settle(rt)
	})
}
