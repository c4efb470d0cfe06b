//go:build linux

package driverprocess

import (
	"time"

	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Bounds of a watcher that reads slower than things change: only the newest state of each sandbox waits for
// it, and of passing events and removals so many.
const (
	maxWaitingEvents   = 64
	maxWaitingRemovals = 10_000
)

// watcher is one open watch. Its fields are guarded by the driver's mutex.
type watcher struct {
	// wake holds a token while something waits.
	wake chan struct{}
	// order lists what waits, oldest first; snapshots and removals by sandbox are in byID as well.
	order    []*queued
	byID     map[string]*queued
	events   int
	removals int
	lagged   bool
}

type queued struct {
	id    string
	event *computepb.WatchSandboxesEvent
}

func newWatcher() *watcher {
	return &watcher{wake: make(chan struct{}, 1), byID: make(map[string]*queued)}
}

// put queues the newest state of a sandbox in the place of an older one that still waits.
func (w *watcher) put(id string, event *computepb.WatchSandboxesEvent) {
	q := w.byID[id]
	if q == nil {
		q = &queued{id: id}
		w.byID[id] = q
		w.order = append(w.order, q)
	} else if q.event.GetDeleted() != nil {
		w.removals--
	}
	q.event = event
	if event.GetDeleted() != nil {
		w.removals++
		w.lagged = w.lagged || w.removals > maxWaitingRemovals
	}
	w.notify()
}

// pass queues an event that tells of a moment; when too many wait it is dropped.
func (w *watcher) pass(event *computepb.WatchSandboxesEvent) {
	if w.events >= maxWaitingEvents {
		return
	}
	w.events++
	w.order = append(w.order, &queued{event: event})
	w.notify()
}

func (w *watcher) notify() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []*computepb.WatchSandboxesEvent {
	events := make([]*computepb.WatchSandboxesEvent, 0, len(w.order))
	for _, q := range w.order {
		events = append(events, q.event)
	}
	w.order, w.events, w.removals = nil, 0, 0
	clear(w.byID)
	return events
}

// watch registers a watcher that first gets a snapshot of every sandbox.
func (d *Driver) watch() *watcher {
	d.mu.Lock()
	defer d.mu.Unlock()
	w := newWatcher()
	for _, s := range d.sorted() {
		w.put(s.id, snapshotEvent(s.view.snapshot()))
	}
	d.watchers[w] = struct{}{}
	return w
}

func (d *Driver) unwatch(w *watcher) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.watchers, w)
}

func (d *Driver) takeFrom(w *watcher) (events []*computepb.WatchSandboxesEvent, lagged bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return w.take(), w.lagged
}

func snapshotEvent(sb *computepb.DriverSandbox) *computepb.WatchSandboxesEvent {
	return &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Sandbox{
		Sandbox: &computepb.WatchSandboxesSandboxEvent{Sandbox: sb},
	}}
}

func deletedEvent(id string) *computepb.WatchSandboxesEvent {
	return &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Deleted{
		Deleted: &computepb.WatchSandboxesDeletedEvent{SandboxId: id},
	}}
}

// warn tells watchers of something that passed by. The event is shared: nobody changes it once it is queued.
func (d *Driver) warn(id, reason, message string) {
	event := &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_PlatformEvent{
		PlatformEvent: &computepb.WatchSandboxesPlatformEvent{SandboxId: id, Event: &computepb.DriverPlatformEvent{
			TimestampMs: time.Now().UnixMilli(), Source: DriverName, Type: "Warning", Reason: reason, Message: message,
		}},
	}}
	d.mu.Lock()
	defer d.mu.Unlock()
	for w := range d.watchers {
		w.pass(event)
	}
}
