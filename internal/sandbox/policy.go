package sandbox

import (
	"context"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// PolicyRevision is the number of the one revision that a sandbox created with a policy has.
const PolicyRevision uint32 = 1

// maxLoadError bounds what is kept of a supervisor's error text.
const maxLoadError = 4096

// PolicyReported records whether a supervisor could load a policy revision.
func (s *Service) PolicyReported(ctx context.Context, id string, version uint32, loaded bool, loadError string) error {
	err := s.edit(ctx, id, func(r *Record) error {
		if len(r.Spec.Policy) == 0 || version != PolicyRevision {
			return fault.New(fault.NotFound, "POLICY_REVISION_NOT_FOUND", "policy revision not found")
		}
		next := *r
		if loaded {
			next.PolicyVersion, next.PolicyError = version, ""
		} else {
			next.PolicyError = loadError[:min(len(loadError), maxLoadError)]
		}
		if next.PolicyVersion == r.PolicyVersion && next.PolicyError == r.PolicyError {
			return store.ErrNoChange
		}
		*r = next
		return nil
	})
	return notFound(err)
}
