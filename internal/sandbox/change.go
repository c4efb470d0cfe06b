package sandbox

import (
	"context"
	"errors"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// changeAttempts bounds how often a change starts over because another writer came first.
const changeAttempts = 128

// change edits a sandbox's record by compare-and-swap together with further operations, all or nothing. A version that is
// not 0 must be the sandbox's when the change begins. Plan gets the stored object and a copy of its record; it may run
// several times, and ends the change with store.ErrNoChange, which is no error.
func (s *Service) change(ctx context.Context, id string, expect uint64, plan func(*store.Object, *Record) ([]store.Op, error)) error {
	for attempt := 1; ; attempt++ {
		o, err := s.Store.Get(Kind, id)
		if err != nil {
			return notFound(err)
		}
		if expect != 0 && expect != o.Version {
			return fault.New(fault.Aborted, ReasonModified, "sandbox was modified concurrently (current resource_version: %d)", o.Version).
				WithNext("read the sandbox again and retry")
		}
		old, err := decode(o)
		if err != nil {
			return err
		}
		r := *old
		more, err := plan(o, &r)
		if errors.Is(err, store.ErrNoChange) {
			return nil
		}
		if err != nil {
			return err
		}
		edited := o.Edit()
		if edited.Payload, err = r.encode(); err != nil {
			return err
		}
		_, err = s.Store.Write(ctx, append([]store.Op{store.Put(edited, o.Version)}, more...)...)
		// What else is written belongs to the sandbox, so that its being there or not tells of another writer, too.
		raced := errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrExists)
		if err == nil || !raced || attempt == changeAttempts {
			if err != nil {
				return storeFault(err)
			}
			return nil
		}
	}
}
