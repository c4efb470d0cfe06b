package store

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// How much one commit takes at most, so that one disk sync never makes others wait for long.
const (
	batchTransactions = 512
	batchBytes        = 8 << 20
)

// transaction is one Write on its way through the writer.
type transaction struct {
	ops  []Op
	done chan struct{} // closed when objects or err hold the answer

	objects []*Object
	err     error
}

func (t *transaction) finish(objects []*Object, err error) {
	t.objects, t.err = objects, err
	close(t.done)
}

// Write applies the operations in order, all or none, and returns their new objects in the same order, nil for
// deletes. It returns once the commit is durable and every reader sees it. A context that ends before the
// transaction is queued aborts it; afterwards the outcome is always awaited. Errors wrap ErrExists, ErrNotFound,
// ErrConflict or ErrClosed; with any other error of the database itself, nothing has become visible.
func (s *Store) Write(ctx context.Context, ops ...Op) ([]*Object, error) {
	if err := checkOps(ops); err != nil {
		return nil, err
	}
	end := s.begin(ctx)
	t := &transaction{ops: ops, done: make(chan struct{})}
	if err := s.enqueue(ctx, t); err != nil {
		t.err = err
	} else {
		<-t.done
	}
	if end != nil {
		end(t.err)
	}
	return t.objects, t.err
}

func (s *Store) enqueue(ctx context.Context, t *transaction) error {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if s.closed {
		return ErrClosed
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write to store: %w", err)
	}
	select {
	case s.queue <- t:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("write to store: %w", ctx.Err())
	}
}

// writer is the state of the one goroutine that commits.
type writer struct {
	s        *Store
	revision uint64 // highest one given out, also to transactions that failed

	batch   []*transaction
	changes [][]change // of each transaction in batch
	rows    []Tx
	bytes   int
	// claimed holds the ids and names that transactions of this batch, or earlier ones that must wait, write.
	ids   map[string]struct{}
	names map[nameKey]struct{}

	// unsettled is the batch whose outcome the database could not tell; nothing is planned before it is known.
	unsettled *unsettled
}

// run commits queued transactions until the queue is closed and empty. All that came in while one batch was
// being synced share the next sync.
func (s *Store) run(revision uint64) {
	defer close(s.done)
	w := &writer{s: s, revision: revision, ids: map[string]struct{}{}, names: map[nameKey]struct{}{}}
	var waiting []*transaction
	for {
		if len(waiting) == 0 {
			t, ok := w.next()
			if !ok {
				return
			}
			waiting = append(waiting, t)
		}
		waiting = s.drain(waiting)
		if err := w.settle(); err != nil {
			refuse(waiting, err)
			waiting = nil
			continue
		}
		waiting = w.commit(waiting)
	}
}

// drain adds what is queued right now.
func (s *Store) drain(waiting []*transaction) []*transaction {
	for len(waiting) < batchTransactions {
		select {
		case t, ok := <-s.queue:
			if !ok {
				return waiting
			}
			waiting = append(waiting, t)
		default:
			return waiting
		}
	}
	return waiting
}

// commit answers the transactions that fail against memory, commits the others, and returns those that have to
// wait for the next batch because they touch what an earlier one of this batch touches.
func (w *writer) commit(waiting []*transaction) (later []*transaction) {
	now := time.UnixMilli(w.s.now().UnixMilli()).UTC()
	for _, t := range waiting {
		if w.claimed(t) || w.bytes > batchBytes {
			w.claim(t)
			later = append(later, t)
			continue
		}
		changes, err := w.plan(t.ops, now)
		if err != nil {
			t.finish(nil, err)
			continue
		}
		w.claim(t)
		w.add(t, changes)
	}
	if len(w.batch) > 0 {
		w.flush()
	}
	w.reset()
	return later
}

func (w *writer) claimed(t *transaction) bool {
	for _, op := range t.ops {
		_, id := op.target()
		if _, ok := w.ids[id]; ok {
			return true
		}
		if op.object != nil && op.object.Name != "" {
			if _, ok := w.names[nameOf(op.object)]; ok {
				return true
			}
		}
	}
	return false
}

func (w *writer) claim(t *transaction) {
	for _, op := range t.ops {
		_, id := op.target()
		w.ids[id] = struct{}{}
		if op.object != nil && op.object.Name != "" {
			w.names[nameOf(op.object)] = struct{}{}
		}
	}
}

// plan checks the operations against memory and builds the versions they make.
func (w *writer) plan(ops []Op, now time.Time) ([]change, error) {
	changes := make([]change, 0, len(ops))
	start := w.revision
	for _, op := range ops {
		c, err := w.planOp(op, changes, now)
		if err != nil {
			w.revision = start
			return nil, op.fail(err)
		}
		changes = append(changes, c)
	}
	return changes, nil
}

// planOp builds one change; before holds the earlier ones of the same transaction.
func (w *writer) planOp(op Op, before []change, now time.Time) (change, error) {
	kind, id := op.target()
	old := w.s.mem.get(kind, id)
	switch {
	case op.verb == VerbCreate:
		if w.s.mem.byID[id] != nil {
			return change{}, ErrExists
		}
	case old == nil:
		return change{}, ErrNotFound
	case op.expect != old.Version && (op.expect != 0 || op.verb == VerbPut):
		return change{}, fmt.Errorf("expected version %d, stored is %d: %w", op.expect, old.Version, ErrConflict)
	}
	c := change{old: old, revision: w.revision + 1}
	if op.verb != VerbDelete {
		if w.nameTaken(op.object, before) {
			return change{}, ErrExists
		}
		c.new = nextVersion(op.object, old, c.revision, now)
	}
	w.revision++
	return c, nil
}

// nameTaken reports whether another object has o's name at this point of the transaction.
func (w *writer) nameTaken(o *Object, before []change) bool {
	if o.Name == "" {
		return false
	}
	key := nameOf(o)
	holder := w.s.mem.byName[key]
	for _, c := range before {
		if holder != nil && c.old == holder {
			holder = nil
		}
		if c.new != nil && c.new.Name == o.Name && nameOf(c.new) == key {
			holder = c.new
		}
	}
	return holder != nil && holder.ID != o.ID
}

// nextVersion builds the version of o that is written over old, which is nil for a create.
func nextVersion(o, old *Object, revision uint64, now time.Time) *Object {
	n := o.Edit()
	n.Revision = revision
	n.UpdatedAt = now
	if len(n.Labels) == 0 {
		n.Labels = nil
	}
	if len(n.Payload) == 0 {
		n.Payload = nil
	}
	switch {
	case old != nil:
		n.Version = old.Version + 1
		n.CreatedAt = old.CreatedAt
	case n.CreatedAt.IsZero():
		n.Version = 1
		n.CreatedAt = now
	default:
		n.Version = 1
		n.CreatedAt = time.UnixMilli(n.CreatedAt.UnixMilli()).UTC()
	}
	return n
}

// add puts a planned transaction into the batch.
func (w *writer) add(t *transaction, changes []change) {
	rows := make([]Row, len(changes))
	for i, c := range changes {
		r := Row{Verb: t.ops[i].verb, Object: c.new}
		if c.new == nil {
			r.Object = c.old
		} else {
			w.bytes += len(c.new.Payload)
		}
		if c.old != nil {
			r.Expect = c.old.Version
		}
		rows[i] = r
	}
	w.batch = append(w.batch, t)
	w.changes = append(w.changes, changes)
	w.rows = append(w.rows, Tx{Rows: rows})
}

// flush commits the batch, shows it to readers and watchers, and answers the callers.
func (w *writer) flush() {
	// The batch belongs to many callers, so that no context of one of them may end it.
	began := time.Now()
	results, err := w.s.backend.Apply(context.Background(), w.revision, w.rows)
	if err == nil && len(results) != len(w.batch) {
		err = fmt.Errorf("database gave %d results for %d transactions", len(results), len(w.batch))
	}
	w.s.observe(Commit{Transactions: len(w.batch), Took: time.Since(began), Err: err})
	if err != nil {
		if errors.Is(err, ErrUnsettled) {
			w.unsettled = &unsettled{revision: w.revision, changes: slices.Clone(w.changes)}
		}
		refuse(w.batch, err)
		return
	}
	w.show(w.changes, results)
	for i, t := range w.batch {
		w.answer(t, w.changes[i], results[i])
	}
}

// show gives readers and watchers what was committed of a batch.
func (w *writer) show(batch [][]change, results []error) {
	var committed []change
	for i, changes := range batch {
		if results[i] == nil {
			committed = append(committed, changes...)
		}
	}
	if len(committed) > 0 {
		w.s.mem.apply(committed)
		w.s.ring.append(committed)
	}
}

// refuse answers transactions that the database did not take, or did not say that it took.
func refuse(waiting []*transaction, err error) {
	for _, t := range waiting {
		t.finish(nil, fmt.Errorf("write to store: %w", err))
	}
}

func (w *writer) answer(t *transaction, changes []change, err error) {
	if err != nil {
		if errors.Is(err, ErrConflict) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrExists) {
			// Memory allowed it, so that a row must have been changed without the store.
			kind, id := t.ops[0].target()
			w.s.log.Error("stored rows differ from memory; restart the gateway and let nothing else write to its database",
				"kind", string(kind), "id", id, "error", err)
		}
		t.finish(nil, fmt.Errorf("write to store: %w", err))
		return
	}
	objects := make([]*Object, len(changes))
	for i, c := range changes {
		objects[i] = c.new
	}
	t.finish(objects, nil)
}

// reset empties the batch and keeps its memory, within reason.
func (w *writer) reset() {
	clear(w.batch)
	clear(w.changes)
	clear(w.rows)
	w.batch, w.changes, w.rows, w.bytes = w.batch[:0], w.changes[:0], w.rows[:0], 0
	clear(w.ids)
	clear(w.names)
}
