package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// queueLength bounds the transactions that wait for the writer; further callers wait to be queued.
const queueLength = 1024

// updateAttempts bounds how often Update starts over; each attempt that fails saw another writer succeed.
const updateAttempts = 128

// Options are what a store needs beside its database.
type Options struct {
	// Logger receives what no caller can be told; nil discards it.
	Logger *slog.Logger
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Observe is told of each commit, by the one goroutine that commits: it must return at once. Nil is nobody.
	Observe func(Commit)
	// Trace follows writes; nil follows none.
	Trace Tracer
}

// Query selects from the objects of a kind.
type Query struct {
	// Workspace is the one to list, unless AllWorkspaces is set.
	Workspace     string
	AllWorkspaces bool
	// Owner, when not empty, must be the object's owner.
	Owner string
	// Labels must all be there with exactly these values.
	Labels map[string]string
	// Offset skips that many matching objects; Limit 0 is no limit.
	Offset, Limit int
}

// Store is the object store. All methods may be called concurrently.
type Store struct {
	backend Backend
	log     *slog.Logger
	now     func() time.Time
	observe func(Commit)
	trace   Tracer

	mem  *memory
	ring ring

	gate   sync.RWMutex // held for reading while a transaction is being queued
	closed bool
	queue  chan *transaction
	done   chan struct{} // closed when the writer has ended
	once   sync.Once
	err    error // of Close
}

// Open reads all objects of the backend into memory and starts the writer. The store owns the backend from then
// on, and closes it also when Open fails.
func Open(ctx context.Context, b Backend, opts Options) (*Store, error) {
	s := &Store{
		backend: b, log: opts.Logger, now: opts.Now, observe: opts.Observe, trace: opts.Trace,
		mem:   newMemory(),
		queue: make(chan *transaction, queueLength),
		done:  make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.observe == nil {
		s.observe = func(Commit) {}
	}
	var objects []*Object
	revision, err := b.Load(ctx, func(o *Object) error {
		objects = append(objects, o)
		return nil
	})
	if err == nil {
		err = s.mem.load(objects, revision)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store: %w", err), b.Close())
	}
	s.ring.floor = revision
	go s.run(revision)
	return s, nil
}

// Get returns the object of this kind with this id, or ErrNotFound.
func (s *Store) Get(kind Kind, id string) (*Object, error) {
	s.mem.mu.RLock()
	o := s.mem.get(kind, id)
	s.mem.mu.RUnlock()
	if o == nil {
		return nil, fmt.Errorf("get %s %q: %w", kind, id, ErrNotFound)
	}
	return o, nil
}

// ByName returns the object of this kind with this name in the workspace, or ErrNotFound. Case matters.
func (s *Store) ByName(kind Kind, workspace, name string) (*Object, error) {
	s.mem.mu.RLock()
	o := s.mem.byName[nameKey{kind: kind, workspace: workspace, name: name}]
	s.mem.mu.RUnlock()
	if o == nil {
		return nil, fmt.Errorf("get %s %q in workspace %q: %w", kind, name, workspace, ErrNotFound)
	}
	return o, nil
}

// List returns the objects that q selects, ordered by CreatedAt, then Name, then ID. The slice is the caller's.
// A page without owner and labels costs the same however many objects there are.
func (s *Store) List(kind Kind, q Query) []*Object {
	key := listKey{kind: kind, workspace: q.Workspace}
	if q.AllWorkspaces {
		key = listKey{kind: kind, all: true}
	}
	s.mem.mu.RLock()
	l := s.mem.lists[key]
	s.mem.mu.RUnlock()
	if l == nil {
		return nil
	}
	return l.page(q.Offset, q.Limit, q.filter())
}

// filter returns the test that each object must pass, nil for none.
func (q Query) filter() func(*Object) bool {
	if q.Owner == "" && len(q.Labels) == 0 {
		return nil
	}
	return func(o *Object) bool {
		if q.Owner != "" && o.Owner != q.Owner {
			return false
		}
		for k, want := range q.Labels {
			if got, ok := o.Labels[k]; !ok || got != want {
				return false
			}
		}
		return true
	}
}

// Count returns how many objects of a kind there are, in all workspaces.
func (s *Store) Count(kind Kind) int {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	if l := s.mem.lists[listKey{kind: kind, all: true}]; l != nil {
		return l.n
	}
	return 0
}

// Revision returns the revision of the newest write that readers see.
func (s *Store) Revision() uint64 {
	s.mem.mu.RLock()
	defer s.mem.mu.RUnlock()
	return s.mem.revision
}

// Update reads an object, lets edit change a copy and puts it back, starting over when another writer came
// first; after many attempts it gives up with ErrConflict. When edit returns ErrNoChange the stored object is
// returned unchanged; any other error of edit is returned as it is. Edit may run several times.
func (s *Store) Update(ctx context.Context, kind Kind, id string, edit func(*Object) error) (*Object, error) {
	for attempt := 1; ; attempt++ {
		o, err := s.Get(kind, id)
		if err != nil {
			return nil, err
		}
		edited := o.Edit()
		if err := edit(edited); errors.Is(err, ErrNoChange) {
			return o, nil
		} else if err != nil {
			return nil, err
		}
		written, err := s.Write(ctx, Put(edited, o.Version))
		if err == nil {
			return written[0], nil
		}
		if !errors.Is(err, ErrConflict) || attempt == updateAttempts {
			return nil, err
		}
	}
}

// Ping answers whether the store is open and its database can be read.
func (s *Store) Ping(ctx context.Context) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.closed {
		return ErrClosed
	}
	if err := s.backend.Ping(ctx); err != nil {
		return fmt.Errorf("ping store: %w", err)
	}
	return nil
}

// Close commits what is queued, then closes the database and ends all watchers. Reads still answer from memory
// afterwards; writes fail with ErrClosed. It may be called more than once.
func (s *Store) Close() error {
	s.once.Do(func() {
		s.gate.Lock()
		s.closed = true
		close(s.queue)
		s.gate.Unlock()
		<-s.done
		s.ring.close()
		if err := s.backend.Close(); err != nil {
			s.err = fmt.Errorf("close store: %w", err)
		}
	})
	return s.err
}
