// Package storefault words what the store returns for callers, once for all services. It knows no object: who another
// writer's change concerns, and what to do about it, is the service's to say.
package storefault

import (
	"context"
	"errors"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// Why a store does not take writes. ReasonUnavailable is for what has no word of its own.
const (
	ReasonUnavailable = "STORE_UNAVAILABLE"
	ReasonUnreachable = "STORE_UNREACHABLE"
	ReasonOverloaded  = "STORE_OVERLOADED"
	ReasonFull        = "STORE_FULL"
	ReasonReadOnly    = "STORE_READ_ONLY"
	// ReasonUnsettled alone does not say that nothing was written: that is not known yet.
	ReasonUnsettled = "STORE_OUTCOME_UNKNOWN"
	ReasonLeaseLost = "STORE_LEASE_LOST"
	ReasonDiverged  = "STORE_DIVERGED"
)

// words are what callers are told about each failure of a database.
var words = []struct {
	err                   error
	reason, message, next string
}{
	// The first two come together with others, and say more.
	{store.ErrUnsettled, ReasonUnsettled, "the connection to the database was lost during a commit, and it is not known yet whether it was made", "read the object again before you repeat the call"},
	{store.ErrLeaseLost, ReasonLeaseLost, "another gateway has taken over the database", "call again: the gateway that answers next has the database"},
	{store.ErrDiverged, ReasonDiverged, "the database lost writes that it had confirmed, so that the gateway starts again", "wait for the gateway to be ready, then read the object again"},
	{store.ErrFull, ReasonFull, "the database has no room", "ask the operator to make room on the database's disk"},
	{store.ErrReadOnly, ReasonReadOnly, "the database takes no writes", "ask the operator whether the database is a standby or was set read-only"},
	{store.ErrOverloaded, ReasonOverloaded, "the database takes too long", "retry after a moment"},
	{store.ErrUnreachable, ReasonUnreachable, "the database cannot be reached", "retry after a moment; if it persists, see the gateway's log"},
}

// Of returns the fault for an error of a write. One that is a fault already, as the function that a write calls may
// return, stays what it is. Where another writer came first, so that err is store.ErrConflict or one of others, it is
// conflict with err as its cause; conflict must be a new one, since it is changed. Anything else means that the store
// cannot take writes, and why.
func Of(err error, conflict *fault.Error, others ...error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	for _, other := range append(others, store.ErrConflict) {
		if errors.Is(err, other) {
			conflict.Cause = err
			return conflict
		}
	}
	return unavailable(err)
}

// unavailable words an error of the database. Nothing of its own text is in the message.
func unavailable(err error) *fault.Error {
	for _, w := range words {
		if errors.Is(err, w.err) {
			return fault.Wrap(err, fault.Unavailable, w.reason, "%s", w.message).WithNext("%s", w.next)
		}
	}
	return fault.Wrap(err, fault.Unavailable, ReasonUnavailable, "the store cannot take writes").
		WithNext("retry; if it persists, see the gateway's log and disk")
}

// Probe returns ping with its errors worded for everybody, as a readiness page shows them.
func Probe(ping func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := ping(ctx)
		if err == nil || errors.Is(err, store.ErrClosed) || ctx.Err() != nil {
			return err
		}
		return unavailable(err)
	}
}
