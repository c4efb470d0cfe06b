package sandbox

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/policy"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

// createdRevision is the number of the revision that a sandbox is created with. It is stored with the sandbox alone until
// there is something to remember of it.
const createdRevision uint32 = 1

// NewestPolicy is the number of the newest revision of the sandbox's own policy, 0 if it has none.
func (r *Record) NewestPolicy() uint32 {
	if r.PolicyNewest == 0 && len(r.Spec.Policy) > 0 {
		return createdRevision
	}
	return r.PolicyNewest
}

func (s *Service) history(id string) policy.History {
	return policy.History{Store: s.Store, Scope: id}
}

// Policy returns the newest revision of the sandbox's own policy, nil if it has none.
func (s *Service) Policy(sb *Sandbox) (*policy.Revision, error) {
	newest := sb.NewestPolicy()
	if newest == 0 {
		return nil, nil
	}
	return s.revision(sb.Object, sb.Record, newest)
}

type createdKey struct{}

// revision returns a revision of a sandbox's policy, or a fault.
func (s *Service) revision(o *store.Object, r *Record, version uint32) (*policy.Revision, error) {
	if r.PolicyNewest == 0 && version == r.NewestPolicy() && version != 0 {
		return memo(o, createdKey{}, func() (*policy.Revision, error) {
			created, err := policy.DecodeRevision(createdRevision, r.Spec.Policy, o.CreatedAt)
			if err != nil {
				return nil, err
			}
			// Rows of earlier versions say here what supervisors reported.
			switch {
			case r.PolicyError != "":
				created, _ = created.Reported(false, r.PolicyError, time.Time{})
			case r.PolicyVersion >= createdRevision:
				created, _ = created.Reported(true, "", time.Time{})
			}
			return created, nil
		})
	}
	found, err := s.history(o.ID).Get(version)
	if errors.Is(err, store.ErrNotFound) {
		return nil, revisionNotFound("policy revision not found")
	}
	return found, err
}

func revisionNotFound(message string) error {
	return fault.New(fault.NotFound, "POLICY_REVISION_NOT_FOUND", "%s", message).
		WithNext("list the policy's revisions; only the newest are kept")
}

// PolicyRevision returns one revision of a sandbox's own policy, the newest for version 0, to a caller who may know of
// the sandbox, with the sandbox it belongs to.
func (s *Service) PolicyRevision(ctx context.Context, workspace, name string, version uint32) (*policy.Revision, *Sandbox, error) {
	sb, err := s.ByName(ctx, workspace, name)
	if err != nil {
		return nil, nil, err
	}
	if version == 0 {
		version = sb.NewestPolicy()
	}
	r, err := s.revision(sb.Object, sb.Record, version)
	if fault.Is(err, fault.NotFound) {
		return nil, nil, revisionNotFound("no policy revision found for this sandbox")
	}
	return r, sb, err
}

// PolicyRevisions returns a page of the kept revisions of a sandbox's own policy, newest first.
func (s *Service) PolicyRevisions(ctx context.Context, workspace, name string, offset, limit int) ([]*policy.Revision, *Sandbox, error) {
	sb, err := s.ByName(ctx, workspace, name)
	if err != nil {
		return nil, nil, err
	}
	if sb.PolicyNewest == 0 {
		r, err := s.Policy(sb)
		if err != nil || r == nil || offset > 0 || limit <= 0 {
			return nil, sb, err
		}
		return []*policy.Revision{r}, sb, nil
	}
	list, err := s.history(sb.Object.ID).List(sb.PolicyNewest, offset, limit)
	return list, sb, err
}

// remembered returns the operations that store the revision the sandbox was created with, if they have still to be.
func (s *Service) remembered(o *store.Object, r *Record) ([]store.Op, error) {
	if r.PolicyNewest != 0 || r.NewestPolicy() == 0 {
		return nil, nil
	}
	created, err := s.revision(o, r, createdRevision)
	if err != nil {
		return nil, err
	}
	r.PolicyNewest, r.PolicyError = createdRevision, ""
	return s.history(o.ID).Add(created, o.Workspace)
}

// updatePolicy puts a policy in the place of a sandbox's own. It takes effect when the supervisor next looks.
func (s *Service) updatePolicy(ctx context.Context, id string, u *ConfigUpdate) (ConfigResult, error) {
	global, err := s.Settings.Global()
	if err != nil {
		return ConfigResult{}, err
	}
	if global.InForce {
		return ConfigResult{}, fault.New(fault.FailedPrecondition, ReasonPolicyGlobal,
			"policy is managed globally; delete global policy before sandbox policy update").
			WithNext("have an administrator of the platform delete the global policy")
	}
	own := principal.From(ctx).Kind == principal.Sandbox
	p, err := policy.Submitted(u.Policy, own)
	if err != nil {
		return ConfigResult{}, err
	}
	next, err := policy.NewRevision(0, p, u.Annotations)
	if err != nil {
		return ConfigResult{}, err
	}
	var result *policy.Revision
	err = s.change(ctx, id, u.ExpectVersion, func(o *store.Object, r *Record) ([]store.Op, error) {
		var err error
		result, err = s.succeed(o, r, next, p, own)
		if err != nil {
			return nil, err
		}
		annotated, err := r.annotate(u.Annotations)
		if err != nil {
			return nil, err
		}
		if result != next {
			if !annotated {
				return nil, store.ErrNoChange
			}
			return nil, nil
		}
		return s.add(o, r, &result)
	})
	if err != nil {
		return ConfigResult{}, err
	}
	return ConfigResult{Version: result.Version, PolicyHash: result.Hash, Annotations: maps.Clone(result.Provenance)}, nil
}

// succeed checks that a revision may follow the present one, and returns the present one where both are the same.
func (s *Service) succeed(o *store.Object, r *Record, next *policy.Revision, p *sandboxpb.SandboxPolicy, own bool) (*policy.Revision, error) {
	newest := r.NewestPolicy()
	if newest == 0 {
		return next, nil
	}
	present, err := s.revision(o, r, newest)
	if err != nil {
		return nil, err
	}
	if own {
		if err := onlyStatic(present, p); err != nil {
			return nil, err
		}
	}
	if present.Hash == next.Hash && maps.Equal(present.Provenance, next.Provenance) {
		return present, nil
	}
	baseline, err := policy.DecodeRevision(createdRevision, r.Spec.Policy, o.CreatedAt)
	if err != nil {
		return nil, err
	}
	message, err := baseline.Message()
	if err != nil {
		return nil, err
	}
	return next, policy.CheckStatic(message, p)
}

// onlyStatic refuses a supervisor that would change what its programs may reach. It may bring in the policy of its
// image, and the paths that it found it needs; what else a running sandbox may do is for people to decide.
func onlyStatic(present *policy.Revision, p *sandboxpb.SandboxPolicy) error {
	was, err := present.Message()
	if err != nil {
		return err
	}
	if !policy.SameNetwork(was, p) {
		return fault.New(fault.PermissionDenied, ReasonPolicySyncOnly,
			"sandbox callers may only perform sandbox policy sync: the network rules of an existing policy are not the sandbox's to change").
			WithNext("change the policy as an administrator of the workspace")
	}
	return nil
}

// add makes *next the newest revision, and the sandbox's baseline where it has none.
func (s *Service) add(o *store.Object, r *Record, next **policy.Revision) ([]store.Op, error) {
	ops, err := s.remembered(o, r)
	if err != nil {
		return nil, err
	}
	numbered := (*next).As(r.PolicyNewest + 1)
	more, err := s.history(o.ID).Add(numbered, o.Workspace)
	if err != nil {
		return nil, err
	}
	r.PolicyNewest = numbered.Version
	if len(r.Spec.Policy) == 0 {
		r.Spec.Policy = slices.Clone(numbered.Policy)
	}
	*next = numbered
	return append(ops, more...), nil
}

// PolicyReported records whether a supervisor could load a policy revision. A late report about an older revision is
// kept with it, and changes nothing of what the sandbox is known to have loaded.
func (s *Service) PolicyReported(ctx context.Context, id string, version uint32, loaded bool, loadError string) error {
	return s.change(ctx, id, 0, func(o *store.Object, r *Record) ([]store.Op, error) {
		was, err := s.revision(o, r, version)
		if err != nil {
			return nil, err
		}
		now, news := was.Reported(loaded, loadError, time.Now())
		if !news && (!loaded || r.PolicyVersion >= version) {
			return nil, store.ErrNoChange
		}
		if loaded {
			r.PolicyVersion = max(r.PolicyVersion, version)
		}
		if r.PolicyNewest == 0 {
			r.PolicyNewest, r.PolicyError = createdRevision, ""
			return s.history(id).Add(now, o.Workspace)
		}
		op, err := s.history(id).Replace(now)
		return []store.Op{op}, err
	})
}

// EffectivePolicy returns the policy that holds for a sandbox, nil if none does: the one of all sandboxes if there is
// one, which global tells, else its own.
func (s *Service) EffectivePolicy(sb *Sandbox) (r *policy.Revision, global bool, err error) {
	if r, err = s.Settings.Policy(); r != nil || err != nil {
		return r, r != nil, err
	}
	r, err = s.Policy(sb)
	return r, false, err
}
