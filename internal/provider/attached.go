package provider

import (
	"context"

	"sallyport.dev/sallyport/internal/authz"
)

// Attached returns the providers of these names, in order and each once, to a caller who may act in the workspace. It
// fails with FailedPrecondition where one of them does not exist.
func (s *Service) Attached(ctx context.Context, workspace string, names []string) ([]*Provider, error) {
	workspace = workspaceOr(workspace)
	if err := s.admit(ctx, workspace, authz.User); err != nil {
		return nil, err
	}
	found, err := s.load(workspace, names)
	if err != nil {
		return nil, err
	}
	out := make([]*Provider, len(found))
	for i, one := range found {
		if out[i], err = s.view(one.object); err != nil {
			return nil, err
		}
	}
	return out, nil
}
