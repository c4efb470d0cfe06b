// Package storefault words what the store returns for callers, once for all services. It knows no object: who another
// writer's change concerns, and what to do about it, is the service's to say.
package storefault

import (
	"errors"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// ReasonUnavailable is for a store that cannot take writes.
const ReasonUnavailable = "STORE_UNAVAILABLE"

// Of returns the fault for an error of a write. One that is a fault already, as the function that a write calls may
// return, stays what it is. Where another writer came first, so that err is store.ErrConflict or one of others, it is
// conflict with err as its cause; conflict must be a new one, since it is changed. Anything else means that the store
// cannot take writes.
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
	return fault.Wrap(err, fault.Unavailable, ReasonUnavailable, "the store cannot take writes").
		WithNext("retry; if it persists, see the gateway's log and disk")
}
