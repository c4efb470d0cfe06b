package sandbox

import (
	"context"
	"errors"
	"slices"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/store"
)

// errMoved tells that a sandbox's providers are others than those that were checked.
var errMoved = errors.New("the sandbox's providers have changed")

// AttachProvider gives a sandbox the credentials of one more provider, under the rules of a create: the provider exists,
// no two set one variable, there are at most 32. Its supervisor notices by the revision of the environment. An expect that
// is not 0 must be the sandbox's version. attached is false where it was attached already.
func (s *Service) AttachProvider(ctx context.Context, workspace, name, provider string, expect uint64) (sb *Sandbox, attached bool, err error) {
	return s.changeProviders(ctx, workspace, name, provider, expect, func(names []string) []string {
		names = distinct(names)
		if slices.Contains(names, provider) {
			return names
		}
		return append(names, provider)
	})
}

// DetachProvider takes the credentials of a provider away from a sandbox: processes that are started from then on lack
// them. detached is false where it was not attached. It fails as AttachProvider does, but for the provider's absence.
func (s *Service) DetachProvider(ctx context.Context, workspace, name, provider string, expect uint64) (sb *Sandbox, detached bool, err error) {
	return s.changeProviders(ctx, workspace, name, provider, expect, func(names []string) []string {
		return slices.DeleteFunc(distinct(names), func(n string) bool { return n == provider })
	})
}

// distinct returns the names in order, each once.
func distinct(names []string) []string {
	out := make([]string, 0, len(names)+1)
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func (s *Service) changeProviders(ctx context.Context, workspace, name, provider string, expect uint64,
	edit func([]string) []string,
) (*Sandbox, bool, error) {
	o, err := s.find(ctx, workspaceOr(workspace), name)
	if err != nil {
		return nil, false, err
	}
	if provider == "" {
		return nil, false, fault.New(fault.InvalidArgument, "FIELD_REQUIRED", "provider_name is required")
	}
	if err := limits.Length("provider_name", provider, limits.MaxName); err != nil {
		return nil, false, err
	}
	id := o.ID
	for range changeAttempts {
		changed, err := s.tryProviders(ctx, id, provider, expect, edit)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return nil, false, err
		}
		sb, err := s.ByID(id)
		return sb, changed, err
	}
	return nil, false, storeFault(store.ErrConflict)
}

// tryProviders makes one attempt: it checks what the list would be, and stores it if the list is still the one it was
// made of.
func (s *Service) tryProviders(ctx context.Context, id, provider string, expect uint64, edit func([]string) []string) (bool, error) {
	o, err := s.Store.Get(Kind, id)
	if err != nil {
		return false, notFound(err)
	}
	if expect != 0 && expect != o.Version {
		return false, fault.New(fault.Aborted, ReasonModified,
			"change of the sandbox's providers failed due to concurrent modification (current resource_version: %d)", o.Version).
			WithNext("read the sandbox again and retry")
	}
	r, err := decode(o)
	if err != nil {
		return false, err
	}
	if !r.DeletionTimestamp.IsZero() {
		return false, fault.New(fault.FailedPrecondition, ReasonNotReady, "sandbox is being deleted").WithNext("create another")
	}
	next := edit(r.Spec.Providers)
	write := func() error {
		return s.change(ctx, id, expect, func(_ *store.Object, now *Record) ([]store.Op, error) {
			switch {
			case !slices.Equal(now.Spec.Providers, r.Spec.Providers):
				return nil, errMoved
			case slices.Equal(next, now.Spec.Providers):
				return nil, store.ErrNoChange
			}
			now.Spec.Providers = next
			return nil, nil
		})
	}
	before, after := slices.Contains(r.Spec.Providers, provider), slices.Contains(next, provider)
	if !after {
		// What is taken away cannot collide, also where another provider is gone.
		return before, write()
	}
	return !before, s.Providers.Attach(ctx, o.Workspace, next, write)
}
