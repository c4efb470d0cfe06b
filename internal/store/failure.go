package store

import (
	"context"
	"errors"
)

// Why a database did not do what it was asked. Backends wrap them around their own errors, and others word them for
// callers. An error without any of them is the database's own.
var (
	// ErrUnreachable says that there is no connection to the database. Nothing was written; a later write may succeed.
	ErrUnreachable = errors.New("database cannot be reached")
	// ErrOverloaded says that the database took too long or has no connection to spare. Nothing was written.
	ErrOverloaded = errors.New("database is overloaded")
	// ErrFull says that the database has no room. Nothing was written.
	ErrFull = errors.New("database has no room")
	// ErrReadOnly says that the database takes no writes, as a standby does. Nothing was written.
	ErrReadOnly = errors.New("database is read-only")
	// ErrUnsettled says that the connection was lost while the database committed, so that nobody can tell yet whether
	// it did. The store finds out, and lets nobody write before it has.
	ErrUnsettled = errors.New("outcome of the write is not known yet")
	// ErrLeaseLost says, for good, that another process owns the database.
	ErrLeaseLost = errors.New("another process owns the database")
	// ErrDiverged says, for good, that the database lost writes that it had confirmed, so that memory and rows differ.
	ErrDiverged = errors.New("database lost writes that it had confirmed")
)

// Settler is a Backend whose connection can be lost in the middle of a commit, so that Apply answers ErrUnsettled.
type Settler interface {
	// Settle returns what became of the batch that Apply left unsettled: its results if it was committed, nil if it was
	// not. It fails when this cannot be found out now.
	Settle(ctx context.Context, revision uint64) (results []error, err error)
}

// Leaser is a Backend that owns its database only as long as nobody takes it away.
type Leaser interface {
	// Lost is closed when the backend can write no more for good; Err then says why.
	Lost() <-chan struct{}
	Err() error
}

// Guard waits until ctx ends, which returns nil, or until the store can write no more for good, which returns why: its
// owner should end, and start again with what the database holds then.
func (s *Store) Guard(ctx context.Context) error {
	l, ok := s.backend.(Leaser)
	if !ok {
		<-ctx.Done()
		return nil
	}
	select {
	case <-ctx.Done():
		return nil
	case <-l.Lost():
		return l.Err()
	}
}
