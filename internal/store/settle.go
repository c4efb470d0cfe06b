package store

import (
	"context"
	"fmt"
	"time"
)

// settleEvery is how often the writer asks for an outcome while nobody writes; settleWait is how long one asking takes.
const (
	settleEvery = time.Second
	settleWait  = 5 * time.Second
)

// unsettled is a batch whose commit was cut off.
type unsettled struct {
	revision uint64
	changes  [][]change // of each transaction
}

// next waits for a transaction, and meanwhile for the outcome of an unsettled batch, so that readers see it although
// nobody writes. It returns false when the queue is closed and empty.
func (w *writer) next() (*transaction, bool) {
	for w.unsettled != nil {
		timer := time.NewTimer(settleEvery)
		select {
		case t, ok := <-w.s.queue:
			timer.Stop()
			return t, ok
		case <-timer.C:
			// What it fails with is for those who want to write.
			_ = w.settle()
		}
	}
	t, ok := <-w.s.queue
	return t, ok
}

// settle finds out what became of the unsettled batch, if there is one, and shows it if it was committed. Those who
// wrote it have had their answer: that the outcome is not known.
func (w *writer) settle() error {
	if w.unsettled == nil {
		return nil
	}
	b, ok := w.s.backend.(Settler)
	if !ok {
		return fmt.Errorf("database cannot tell the outcome: %w", ErrUnsettled)
	}
	ctx, cancel := context.WithTimeout(context.Background(), settleWait)
	defer cancel()
	results, err := b.Settle(ctx, w.unsettled.revision)
	if err != nil {
		return fmt.Errorf("outcome of an earlier write: %w", err)
	}
	if results != nil && len(results) != len(w.unsettled.changes) {
		return fmt.Errorf("database gave %d results for %d transactions", len(results), len(w.unsettled.changes))
	}
	w.s.log.Warn("the outcome of a write is known now", "revision", w.unsettled.revision, "committed", results != nil)
	if results != nil {
		w.show(w.unsettled.changes, results)
	}
	w.unsettled = nil
	return nil
}
