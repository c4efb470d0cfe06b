package mirror

import (
	"context"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
	"sallyport.dev/sallyport/internal/fault"
)

// The streams that feed the mirror.
const (
	streamSandboxes = iota
	streamPods
	streamEvents
	streamCount
)

var streamNames = [streamCount]string{"sandboxes", "pods", "events"}

// stream is how one of them is.
type stream struct {
	synced bool
	err    error
}

func (s *stream) sync() { s.synced, s.err = true, nil }

// Ready returns nil while sandboxes and pods are followed; otherwise a fault that says what is wrong. Events are
// useful and not needed.
func (m *Mirror) Ready() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.streams[:streamEvents] {
		s := &m.streams[i]
		switch {
		case s.err != nil:
			return kubeapi.Explain("follow "+streamNames[i], s.err)
		case !s.synced:
			return fault.New(fault.Unavailable, "DRIVER_NOT_SYNCED", "the driver has not read the cluster's %s yet", streamNames[i]).
				WithNext("try again in some seconds")
		}
	}
	return nil
}

// AwaitSync waits until sandboxes and pods were read for the first time, or cannot be, or ctx ends.
func (m *Mirror) AwaitSync(ctx context.Context) {
	for {
		m.mu.Lock()
		done := true
		for _, s := range m.streams[:streamEvents] {
			done = done && (s.synced || s.err != nil)
		}
		changed := m.changed
		m.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// wake has waiters look again. The caller holds the mutex.
func (m *Mirror) wake() {
	close(m.changed)
	m.changed = make(chan struct{})
}

// Trouble returns what keeps a stream from being followed, by stream, for logs and metrics.
func (m *Mirror) Trouble() map[string]error {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make(map[string]error, streamCount)
	for i, name := range streamNames {
		out[name] = m.streams[i].err
	}
	return out
}

func (m *Mirror) watching(i int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.streams[i].err = nil
}

func (m *Mirror) failed(i int, err error) {
	m.mu.Lock()
	first := m.streams[i].err == nil
	m.streams[i].err = err
	m.wake()
	m.mu.Unlock()
	f := fault.From(kubeapi.Explain("follow "+streamNames[i], err))
	if first {
		m.c.Logger.Warn("the cluster cannot be followed; trying again", "stream", streamNames[i], "problem", f.Message, "next", f.Next, "error", err)
	}
}

type sandboxes struct{ m *Mirror }

func (h *sandboxes) Put(s *verdict.Sandbox, epoch uint64) { h.m.put(s, epoch) }
func (h *sandboxes) Listed(epoch uint64)                  { h.m.listed(epoch) }
func (h *sandboxes) Watching()                            { h.m.watching(streamSandboxes) }
func (h *sandboxes) Failed(err error)                     { h.m.failed(streamSandboxes, err) }

func (h *sandboxes) Gone(s *verdict.Sandbox) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.forget(s.Metadata.Labels.ID, s.Metadata.UID)
}

type pods struct{ m *Mirror }

func (h *pods) Put(p *verdict.Pod, epoch uint64) { h.m.putPod(p, epoch) }
func (h *pods) Listed(epoch uint64)              { h.m.listedPods(epoch) }
func (h *pods) Watching()                        { h.m.watching(streamPods) }
func (h *pods) Failed(err error)                 { h.m.failed(streamPods, err) }

func (h *pods) Gone(p *verdict.Pod) {
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.dropPod(verdict.OfPod(p).Owner, p.Metadata.UID)
}

// events keeps none: each is passed on once, and the last that explains something stays with its sandbox.
type events struct {
	m *Mirror
	// listed is the epoch of the last complete list; what belongs to another one is being listed now.
	listed uint64
	// newest is when the newest event that was passed on happened: a list repeats old ones.
	newest time.Time
}

func (h *events) Put(e *verdict.Event, epoch uint64) {
	at := e.Time()
	h.m.happened(e, epoch == h.listed || at.After(h.newest))
	if epoch == h.listed && at.After(h.newest) {
		h.newest = at
	}
}

func (h *events) Gone(*verdict.Event) {}
func (h *events) Watching()           { h.m.watching(streamEvents) }
func (h *events) Failed(err error)    { h.m.failed(streamEvents, err) }

func (h *events) Listed(epoch uint64) {
	h.listed = epoch
	h.newest = maxTime(h.newest, h.m.c.Now())
	h.m.mu.Lock()
	defer h.m.mu.Unlock()
	h.m.streams[streamEvents].sync()
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// happened finds the sandbox that an event is about, keeps what explains its state and, where it is news, passes it on.
func (m *Mirror) happened(e *verdict.Event, news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	entry := m.about(e)
	if entry == nil {
		return
	}
	m.events++
	if note := verdict.OfEvent(e); note != nil && (entry.note == nil || !note.Time.Before(entry.note.Time)) && (entry.pod == nil || !entry.pod.Ready) {
		entry.note = note
		m.refresh(entry)
	}
	if !news {
		return
	}
	event := platformEvent(entry.id, e)
	for w := range m.watchers {
		w.pass(event)
	}
}

// about finds a sandbox by the object that an event is about: its own, its pod, whose name is its own, or one of
// its claims, whose name ends with its own. A pod's and an object's uid must be the sandbox's.
func (m *Mirror) about(e *verdict.Event) *entry {
	namespace, name := e.Involved.Namespace, e.Involved.Name
	switch e.Involved.Kind {
	case "Sandbox":
		if found := m.named[key(namespace, name)]; found != nil && found.uid == e.Involved.UID {
			return found
		}
	case "Pod":
		found := m.named[key(namespace, name)]
		if found != nil && (found.pod == nil || found.pod.UID == e.Involved.UID) {
			return found
		}
	case "PersistentVolumeClaim":
		for at := strings.IndexByte(name, '-'); at >= 0; {
			if found := m.named[key(namespace, name[at+1:])]; found != nil {
				return found
			}
			next := strings.IndexByte(name[at+1:], '-')
			if next < 0 {
				return nil
			}
			at += 1 + next
		}
	}
	return nil
}

func key(namespace, name string) string { return namespace + "/" + name }
