package store

import (
	"context"
	"time"
)

// Commit is what one commit was like, for whoever counts.
type Commit struct {
	// Transactions is how many writes shared it.
	Transactions int
	// Took is the time that the database needed.
	Took time.Duration
	// Err tells that nothing of it was committed.
	Err error
}

// Tracer follows one write from its caller to the disk. It returns nil for a write that nobody follows, else a function
// that is called once with the write's outcome.
type Tracer func(ctx context.Context) (end func(error))

// Measure is how a database fares right now. What a database does not have is 0.
type Measure struct {
	// DataBytes and LogBytes are the sizes of the database file and of its write-ahead log.
	DataBytes, LogBytes int64
	// Connections are open, InUse of them busy, MaxConnections the most that may be open. Waited counts how often one
	// had to be waited for since the start.
	Connections, InUse, MaxConnections int
	Waited                             uint64
}

// Measured is a Backend that knows how it fares. Measure may be called at any time before Close and must return at once.
type Measured interface{ Measure() Measure }

// Queued is the number of writes that wait to be committed.
func (s *Store) Queued() int { return len(s.queue) }

// Measure is how the database fares; false if it does not say, or the store is closed.
func (s *Store) Measure() (Measure, bool) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	m, ok := s.backend.(Measured)
	if !ok || s.closed {
		return Measure{}, false
	}
	return m.Measure(), true
}

// begin returns what ends the tracing of a write; it does nothing where nobody traces.
func (s *Store) begin(ctx context.Context) func(error) {
	if s.trace == nil {
		return nil
	}
	return s.trace(ctx)
}
