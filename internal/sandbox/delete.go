package sandbox

import (
	"context"
	"errors"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// Delete marks a sandbox for deletion and has the driver remove it. The mark is durable before the driver is
// asked, so a deletion that was answered, or only begun, is finished whatever crashes. deleted is false if the
// driver had nothing left to remove.
func (s *Service) Delete(ctx context.Context, workspace, name string) (deleted bool, err error) {
	o, err := s.find(ctx, workspaceOr(workspace), name)
	if err != nil {
		return false, err
	}
	id := o.ID
	if err := s.markDeleted(ctx, id); err != nil {
		return false, notFound(err)
	}
	type result struct {
		deleted bool
		err     error
	}
	done := make(chan result, 1)
	s.background.Go(func() {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), driverTimeout)
		defer cancel()
		ok, err := s.driverDelete(detached, id, name)
		done <- result{ok, err}
	})
	select {
	case r := <-done:
		return r.deleted, r.err
	case <-ctx.Done():
		return false, fault.Wrap(context.Cause(ctx), fault.Canceled, "CALLER_GONE", "the caller ended the call").
			WithNext("the deletion goes on by itself")
	}
}

// markDeleted stores the intent to delete.
func (s *Service) markDeleted(ctx context.Context, id string) error {
	err := s.edit(ctx, id, func(r *Record) error {
		if !r.DeletionTimestamp.IsZero() {
			return store.ErrNoChange
		}
		r.DeletionTimestamp = time.Now()
		return nil
	})
	return err
}

func (s *Service) driverDelete(ctx context.Context, id, name string) (bool, error) {
	deleted, err := s.Driver.Delete(ctx, id, name)
	if err != nil {
		return false, err
	}
	if !deleted {
		return false, s.remove(ctx, id)
	}
	return true, nil
}

// release asks the driver to remove a sandbox and forgets the row when the driver has nothing of it, or at once
// if now is set.
func (s *Service) release(ctx context.Context, id, name string, now bool) error {
	deleted, err := s.Driver.Delete(ctx, id, name)
	if err != nil {
		return err
	}
	if deleted && !now {
		return nil
	}
	return s.remove(ctx, id)
}

// remove forgets a sandbox's row, the revisions of its policy, session and logs.
func (s *Service) remove(ctx context.Context, id string) error {
	if err := s.removeRows(ctx, id); err != nil {
		return storeFault(err)
	}
	s.Sessions.Disconnect(id, "sandbox deleted")
	s.Logs.Drop(id)
	s.notify.poke(id)
	return nil
}

// removeRows deletes the sandbox with its revisions. One that is added meanwhile changes the sandbox too, so that the
// attempt fails and starts over. A sandbox that is gone is no error.
func (s *Service) removeRows(ctx context.Context, id string) error {
	for attempt := 1; ; attempt++ {
		o, err := s.Store.Get(Kind, id)
		if errors.Is(err, store.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = s.Store.Write(ctx, s.removal(o)...)
		raced := errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound)
		if !raced || attempt == changeAttempts {
			return err
		}
	}
}

// removal returns the operations that delete a sandbox as it is now.
func (s *Service) removal(o *store.Object) []store.Op {
	r, err := decode(o)
	if err != nil {
		s.Logger.Error("read a stored sandbox", "sandbox_id", o.ID, "error", err)
		return []store.Op{store.Delete(Kind, o.ID, 0)}
	}
	return append([]store.Op{store.Delete(Kind, o.ID, o.Version)}, s.history(o.ID).Drop(r.PolicyNewest)...)
}
