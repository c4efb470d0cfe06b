package sandbox

import (
	"context"
	"errors"
	"time"

	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/store"
)

// retryInterval is how often unfinished creates and deletes are tried again while the driver stays connected.
const retryInterval = 15 * time.Second

// Follow feeds subscribers from committed writes until ctx ends.
func (s *Service) Follow(ctx context.Context) error {
	for ctx.Err() == nil {
		w := s.Store.Watch(s.Store.Revision())
		// Whatever was committed between two watchers is covered by one wake-up of everybody.
		s.notify.pokeAll()
		err := s.follow(ctx, w)
		w.Close()
		if ctx.Err() == nil && !errors.Is(err, store.ErrLagged) {
			return err
		}
	}
	return nil
}

func (s *Service) follow(ctx context.Context, w *store.Watcher) error {
	for {
		change, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if change.Object.Kind == Kind {
			s.notify.poke(change.Object.ID)
		}
	}
}

// Retry finishes creates, deletes, stops and starts that a crash or an absent driver left unfinished, until ctx ends.
func (s *Service) Retry(ctx context.Context) error {
	ticker := time.NewTicker(retryInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			s.retry(ctx)
		}
	}
}

// retry goes on with the next sandbox only while the driver answers: where it is away, the list after its return
// has all of them repaired.
func (s *Service) retry(ctx context.Context) {
	for _, o := range s.Store.List(Kind, store.Query{AllWorkspaces: true}) {
		r, err := decode(o)
		if err != nil {
			continue
		}
		switch {
		case !r.DeletionTimestamp.IsZero():
			if time.Since(r.DeletionTimestamp) < retryInterval {
				continue
			}
			err = s.release(ctx, o.ID, o.Name, false)
		case !r.Accepted && !s.underWay(o):
			err = s.resume(ctx, o, r)
		case r.moving():
			s.redo(ctx, o)
		}
		if err != nil {
			s.Logger.Warn("finish an interrupted create or delete; will be retried", "sandbox_id", o.ID, "error", err)
		}
		if ctx.Err() != nil || fault.Is(err, fault.Unavailable) {
			return
		}
	}
}

// Listed applies the driver's complete list, which it sends after every (re)connection: rows whose resource is
// gone are removed, interrupted creates, deletes, stops and starts are finished. It implements compute.Sink.
func (s *Service) Listed(ctx context.Context, snapshots []compute.Snapshot) {
	listed := make(map[string]bool, len(snapshots))
	for _, snap := range snapshots {
		listed[snap.ID] = true
		s.Changed(ctx, snap)
	}
	for _, o := range s.Store.List(Kind, store.Query{AllWorkspaces: true}) {
		if ctx.Err() != nil {
			return
		}
		r, err := decode(o)
		if err != nil {
			s.Logger.Error("read a stored sandbox", "sandbox_id", o.ID, "error", err)
			continue
		}
		if err := s.repair(ctx, o, r, listed[o.ID]); err != nil {
			s.Logger.Warn("repair a sandbox; will be retried", "sandbox_id", o.ID, "error", err)
		}
	}
	s.startWithGateway(ctx)
}

// accept records that the driver has the sandbox.
func (s *Service) accept(ctx context.Context, id string) error {
	err := s.edit(ctx, id, func(r *Record) error {
		if r.Accepted {
			return store.ErrNoChange
		}
		r.Accepted = true
		return nil
	})
	return err
}

// settleTime is how old an unaccepted row must be before it counts as interrupted rather than under way.
const settleTime = 2 * driverTimeout

// repair brings one row and the driver's resource back together.
func (s *Service) repair(ctx context.Context, o *store.Object, r *Record, listed bool) error {
	switch {
	case !r.DeletionTimestamp.IsZero():
		return s.release(ctx, o.ID, o.Name, false)
	case listed && !r.Accepted:
		return s.accept(ctx, o.ID)
	case listed && r.moving():
		s.redo(ctx, o)
		return nil
	case listed, r.Failure != nil:
		return nil
	case !r.Accepted:
		if s.underWay(o) {
			return nil
		}
		return s.resume(ctx, o, r)
	}
	// A list may be older than the row; only the driver's word about this very sandbox counts.
	_, err := s.Driver.Get(ctx, o.ID, o.Name)
	if fault.Is(err, fault.NotFound) && r.Course != CourseRun {
		s.Logger.Warn("a stopped sandbox's resource is gone", "sandbox_id", o.ID, "sandbox", o.Name)
		return s.lose(ctx, o.ID, ConditionComputeLost, "the compute driver no longer has this sandbox, which was not running")
	}
	if fault.Is(err, fault.NotFound) {
		s.Logger.Warn("remove a sandbox whose resource is gone", "sandbox_id", o.ID, "sandbox", o.Name)
		return s.remove(ctx, o.ID)
	}
	return err
}

// underWay tells whether a create may still be running in this process.
func (s *Service) underWay(o *store.Object) bool {
	return o.Revision > s.bootRevision && time.Since(o.CreatedAt) < settleTime
}

// resume carries out a create whose gateway died between storing the intent and hearing from the driver.
func (s *Service) resume(ctx context.Context, o *store.Object, r *Record) error {
	spec := r.Spec
	err := s.launch(ctx, o, driverSpec(o, &spec))
	switch {
	case err == nil, fault.Is(err, fault.AlreadyExists):
		// The driver finished it after it made its list; its next snapshot tells.
		return s.accept(ctx, o.ID)
	case fault.Is(err, fault.FailedPrecondition), fault.Is(err, fault.InvalidArgument):
		s.undo(ctx, o, err)
	}
	return err
}

// Changed applies one snapshot. Snapshots of unknown sandboxes are ignored, and a driver's own name for a
// sandbox never renames it. It implements compute.Sink.
func (s *Service) Changed(ctx context.Context, snap compute.Snapshot) {
	// Most snapshots of a list say what is known; a look is far cheaper than an attempt to write.
	o, err := s.Store.Get(Kind, snap.ID)
	if err != nil {
		return
	}
	settle := !s.turns.busy(snap.ID)
	if r, err := decode(o); err == nil && sameStatus(r, observed(r, snap, settle)) {
		return
	}
	stopped := false
	err = s.edit(ctx, snap.ID, func(r *Record) error {
		next := observed(r, snap, settle)
		if sameStatus(r, next) {
			return store.ErrNoChange
		}
		stopped = next.Course == CourseStopped && r.Course != CourseStopped
		*r = *next
		return nil
	})
	if err == nil && stopped {
		s.silence(snap.ID)
	}
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		s.Logger.Error("apply a driver's snapshot", "sandbox_id", snap.ID, "error", err)
	}
}

// observed is the record as the snapshot would have it. With settle a snapshot may end a stop: while the driver is being
// called, its answer does, since a snapshot may be older.
func observed(r *Record, snap compute.Snapshot, settle bool) *Record {
	next := *r
	// Whoever reports on a sandbox has it.
	next.Accepted, next.Failure = true, nil
	next.DriverPhase = driverPhase(snap, r.DriverPhase)
	if snap.HasStatus {
		next.Conditions = conditions(snap.Conditions)
		next.InstanceID, next.AgentFD, next.SandboxFD = snap.InstanceID, snap.AgentFD, snap.SandboxFD
		next.DriverName = snap.SandboxName
	}
	if settle && next.Course == CourseStopping && snap.HasStatus && standingOf(next.Conditions) == standingStopped {
		next.take(CourseStopped)
	}
	return &next
}

// Deleted removes the row of a sandbox that the driver has removed. It implements compute.Sink.
func (s *Service) Deleted(ctx context.Context, id string) {
	if _, err := s.Store.Get(Kind, id); err != nil {
		return
	}
	if err := s.remove(ctx, id); err != nil {
		s.Logger.Error("remove a deleted sandbox", "sandbox_id", id, "error", err)
	}
}

// Happened keeps a platform event. It implements compute.Sink.
func (s *Service) Happened(_ context.Context, id string, e compute.PlatformEvent) {
	if _, err := s.Store.Get(Kind, id); err != nil {
		return
	}
	s.Logs.AddEvent(id, &sandboxlog.Event{
		Time: e.Time, Source: e.Source, Type: e.Type, Reason: e.Reason, Message: e.Message, Metadata: e.Metadata,
	})
}

func conditions(in []compute.Condition) []Condition {
	out := make([]Condition, len(in))
	for i, c := range in {
		out[i] = Condition{Type: c.Type, Status: c.Status, Reason: c.Reason, Message: c.Message, LastTransition: c.LastTransition}
	}
	return out
}

func sameStatus(a, b *Record) bool {
	if a.Accepted != b.Accepted || a.Course != b.Course || (a.Failure == nil) != (b.Failure == nil) ||
		a.DriverPhase != b.DriverPhase || a.InstanceID != b.InstanceID || a.AgentFD != b.AgentFD ||
		a.SandboxFD != b.SandboxFD || a.DriverName != b.DriverName || len(a.Conditions) != len(b.Conditions) {
		return false
	}
	for i := range a.Conditions {
		if a.Conditions[i] != b.Conditions[i] {
			return false
		}
	}
	return true
}
