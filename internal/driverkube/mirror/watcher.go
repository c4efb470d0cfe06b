package mirror

import (
	"strings"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
)

// Bounds of a watcher that reads slower than things change: of each sandbox only its id waits, and it is judged when
// it is sent; of passing events so many.
const (
	maxWaitingEvents = 256
	maxWaiting       = 100_000
	batch            = 64
)

// Watcher is one open watch. Its fields are guarded by the mirror's mutex.
type Watcher struct {
	// Wake holds a token while something waits.
	Wake chan struct{}

	order   []string
	waiting map[string]struct{}
	events  []*computepb.WatchSandboxesEvent
	lagged  bool
}

// Watch registers a watcher that first gets a snapshot of every sandbox.
func (m *Mirror) Watch() *Watcher {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := &Watcher{Wake: make(chan struct{}, 1), waiting: make(map[string]struct{})}
	for id := range m.entries {
		w.put(id)
	}
	m.watchers[w] = struct{}{}
	return w
}

// Unwatch ends a watch.
func (m *Mirror) Unwatch(w *Watcher) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.watchers, w)
}

// Take returns some of what waits; there is more while Wake holds a token. lagged tells that something was lost.
func (m *Mirror) Take(w *Watcher) (events []*computepb.WatchSandboxesEvent, lagged bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := min(batch, len(w.order))
	events = make([]*computepb.WatchSandboxesEvent, 0, n+len(w.events))
	for _, id := range w.order[:n] {
		delete(w.waiting, id)
		if e := m.entries[id]; e != nil {
			events = append(events, &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Sandbox{
				Sandbox: &computepb.WatchSandboxesSandboxEvent{Sandbox: e.snapshot()},
			}})
			continue
		}
		events = append(events, &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Deleted{
			Deleted: &computepb.WatchSandboxesDeletedEvent{SandboxId: id},
		}})
	}
	if w.order = w.order[n:]; len(w.order) == 0 {
		w.order = nil
	}
	events = append(events, w.events...)
	w.events = nil
	if len(w.order) > 0 {
		w.notify()
	}
	return events, w.lagged
}

func (w *Watcher) put(id string) {
	if _, ok := w.waiting[id]; ok {
		return
	}
	if len(w.order) >= maxWaiting {
		w.lagged = true
		w.notify()
		return
	}
	w.waiting[id] = struct{}{}
	w.order = append(w.order, id)
	w.notify()
}

// pass queues an event that tells of a moment; when too many wait it is dropped.
func (w *Watcher) pass(event *computepb.WatchSandboxesEvent) {
	if len(w.events) >= maxWaitingEvents {
		return
	}
	w.events = append(w.events, event)
	w.notify()
}

func (w *Watcher) notify() {
	select {
	case w.Wake <- struct{}{}:
	default:
	}
}

// platformEvent passes an event of Kubernetes on, with the stable reason where it explains one.
func platformEvent(id string, e *verdict.Event) *computepb.WatchSandboxesEvent {
	source := e.Reporter
	if source == "" {
		source = e.Source.Component
	}
	metadata := map[string]string{"kind": e.Involved.Kind, "object": e.Involved.Namespace + "/" + e.Involved.Name}
	if c := strings.TrimSuffix(strings.TrimPrefix(e.Involved.FieldPath, "spec.containers{"), "}"); c != "" && c != e.Involved.FieldPath {
		metadata["container"] = c
	}
	message := kubeapi.Clean(e.Message)
	if note := verdict.OfEvent(e); note != nil {
		metadata["problem"] = note.Word
		message = note.Message()
	}
	return happening(id, &computepb.DriverPlatformEvent{
		TimestampMs: e.Time().UnixMilli(), Source: source, Type: e.Type, Reason: e.Reason, Message: message, Metadata: metadata,
	})
}

// happening wraps an event. It is shared: nobody changes it once it is queued.
func happening(id string, e *computepb.DriverPlatformEvent) *computepb.WatchSandboxesEvent {
	return &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_PlatformEvent{
		PlatformEvent: &computepb.WatchSandboxesPlatformEvent{SandboxId: id, Event: e},
	}}
}
