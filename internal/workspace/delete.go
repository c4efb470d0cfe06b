package workspace

import (
	"context"
	"errors"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

// finishInterval is how often deletions that the compute driver has not finished are tried again.
const finishInterval = 30 * time.Second

// leavingMark is the payload of a workspace that is being deleted; others have none.
const leavingMark = `{"leaving":true}`

func leaving(o *store.Object) bool { return string(o.Payload) == leavingMark }

// Delete removes a workspace, its memberships, and what the compute driver keeps for it; deleted is false where there is
// none of the name. Only platform administrators may. The default workspace stays, and so does one that holds anything.
// When the driver cannot be asked, the workspace takes nothing new, and Run or another Delete finishes the job.
func (s *Service) Delete(ctx context.Context, name string) (deleted bool, err error) {
	p := principal.From(ctx)
	if err := s.access.PlatformAdmin(p); err != nil {
		return false, err
	}
	if err := limits.Required("name", name); err != nil {
		return false, err
	}
	if name == Default {
		return false, fault.New(fault.FailedPrecondition, ReasonDefault, "workspace '%s' cannot be deleted", Default).
			WithNext("delete what is in it, and let it be")
	}
	if marked, err := s.markLeaving(ctx, name); err != nil || !marked {
		return false, err
	}
	if err := s.finish(ctx, name); err != nil {
		return false, err
	}
	s.log.Info("workspace deleted", "workspace", name, "actor", p.Actor())
	return true, nil
}

// markLeaving notes that an empty workspace takes nothing any more; marked is false where there is none of the name.
func (s *Service) markLeaving(ctx context.Context, name string) (marked bool, err error) {
	s.using.Lock()
	defer s.using.Unlock()
	o, err := s.store.ByName(Kind, "", name)
	if err != nil {
		return false, nil
	}
	if leaving(o) {
		return true, nil
	}
	for _, kind := range s.contents {
		if len(s.store.List(kind, store.Query{Workspace: name, Limit: 1})) > 0 {
			return false, fault.New(fault.FailedPrecondition, ReasonNotEmpty, "workspace '%s' is not empty: it holds a %s", name, kind).
				WithNext("delete the sandboxes and providers of the workspace first")
		}
	}
	edited := o.Edit()
	edited.Payload = []byte(leavingMark)
	if _, err := s.store.Write(ctx, store.Put(edited, o.Version)); err != nil {
		return false, storeFault(err)
	}
	return true, nil
}

// finish deletes a workspace that is marked: first what the driver has of it, since nobody would ask for that later.
func (s *Service) finish(ctx context.Context, name string) error {
	if err := s.platform(ctx, name); err != nil {
		f := fault.From(err)
		return &fault.Error{
			Kind: f.Kind, Reason: f.Reason, Cause: err, Message: "workspace '" + name + "' is being deleted: " + f.Message,
			Next: "nothing: it is tried again by itself. Else: " + f.Next,
		}
	}
	o, err := s.store.ByName(Kind, "", name)
	if err != nil || !leaving(o) {
		return nil //nolint:nilerr // Somebody else was faster.
	}
	ops := []store.Op{store.Delete(Kind, o.ID, o.Version)}
	for _, member := range s.store.List(MemberKind, store.Query{Workspace: name}) {
		ops = append(ops, store.Delete(MemberKind, member.ID, 0))
	}
	switch _, err := s.store.Write(ctx, ops...); {
	case errors.Is(err, store.ErrNotFound): // Somebody else was faster, or took a member out this moment.
		return s.finish(ctx, name)
	case err != nil:
		return storeFault(err)
	}
	s.left()
	return nil
}

// Run finishes deletions that were cut off, by the driver or by the end of the process, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(finishInterval)
	defer ticker.Stop()
	for {
		for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true}) {
			if !leaving(o) {
				continue
			}
			if err := s.finish(ctx, o.Name); err != nil {
				s.log.Warn("workspace is not deleted yet", "workspace", o.Name, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticker.C:
		}
	}
}
