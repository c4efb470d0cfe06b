package store

import (
	"context"
	"fmt"
	"sort"
	"sync"
)

// How much of the past the ring keeps for watchers: so many changes, holding so many payload bytes.
const (
	ringChanges = 4096
	ringBytes   = 32 << 20
)

// Change is one committed write.
type Change struct {
	Revision uint64
	// Object is the new version, or the last one when Deleted.
	Object  *Object
	Deleted bool
}

// ring holds the newest changes for all watchers together. It grows as it fills.
type ring struct {
	mu      sync.Mutex
	changes []Change // a circle: n changes from start on
	start   int
	n       int
	bytes   int
	// floor is the revision up to which changes are no longer held.
	floor  uint64
	wake   chan struct{} // closed at the next append; nil while nobody waits
	closed bool
}

func (r *ring) at(i int) *Change { return &r.changes[(r.start+i)%len(r.changes)] }

func (r *ring) append(changes []change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range changes {
		ch := Change{Revision: c.revision, Object: c.new}
		if c.new == nil {
			ch.Object, ch.Deleted = c.old, true
		}
		r.push(ch)
	}
	r.signal()
}

func (r *ring) push(c Change) {
	size := len(c.Object.Payload)
	for r.n > 0 && (r.n == ringChanges || r.bytes+size > ringBytes) {
		oldest := r.at(0)
		r.floor = oldest.Revision
		r.bytes -= len(oldest.Object.Payload)
		*oldest = Change{}
		r.start = (r.start + 1) % len(r.changes)
		r.n--
	}
	if r.n == len(r.changes) {
		grown := make([]Change, min(max(16, 2*r.n), ringChanges))
		for i := range r.n {
			grown[i] = *r.at(i)
		}
		r.changes, r.start = grown, 0
	}
	r.n++
	r.bytes += size
	*r.at(r.n - 1) = c
}

// signal wakes all who wait. The caller holds mu.
func (r *ring) signal() {
	if r.wake != nil {
		close(r.wake)
		r.wake = nil
	}
}

func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.signal()
}

// next returns the first change after a revision, or the channel that closes when there may be one.
func (r *ring) next(after uint64) (Change, <-chan struct{}, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if after < r.floor {
		return Change{}, nil, fmt.Errorf("watch after revision %d: changes up to %d are gone: %w", after, r.floor, ErrLagged)
	}
	if i := sort.Search(r.n, func(i int) bool { return r.at(i).Revision > after }); i < r.n {
		return *r.at(i), nil, nil
	}
	if r.closed {
		return Change{}, nil, ErrClosed
	}
	if r.wake == nil {
		r.wake = make(chan struct{})
	}
	return Change{}, r.wake, nil
}

// Watcher reads committed changes in order. It holds nothing but its position, so that a slow or forgotten one
// costs the store nothing; what the ring drops before it was read is reported as ErrLagged.
type Watcher struct {
	ring *ring
	done chan struct{}
	once sync.Once

	mu    sync.Mutex // serialises Next
	after uint64
}

// Watch returns a reader of the changes whose revision is greater than after. To miss nothing take Revision,
// then List, then Watch from that revision; changes may then repeat what the list already showed.
func (s *Store) Watch(after uint64) *Watcher {
	return &Watcher{ring: &s.ring, done: make(chan struct{}), after: after}
}

// Next returns the next change, waiting for it. It fails with ErrLagged, from then on always, when changes were
// missed; with ErrClosed after Close of the watcher, or of the store once all kept changes were read; and with
// the context's error.
func (w *Watcher) Next(ctx context.Context) (Change, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		select {
		case <-w.done:
			return Change{}, ErrClosed
		default:
		}
		c, wake, err := w.ring.next(w.after)
		if err != nil {
			return Change{}, err
		}
		if wake == nil {
			w.after = c.Revision
			return c, nil
		}
		select {
		case <-wake:
		case <-w.done:
		case <-ctx.Done():
			return Change{}, ctx.Err()
		}
	}
}

// Close ends the watcher and a Next that waits. It may be called more than once.
func (w *Watcher) Close() { w.once.Do(func() { close(w.done) }) }
