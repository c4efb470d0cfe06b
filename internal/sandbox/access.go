package sandbox

import (
	"context"
	"strings"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

// Access decides what a caller may do in a workspace and with the sandboxes in it. *authz.Current implements it.
type Access interface {
	// Workspace refuses a caller who lacks the role in the workspace.
	Workspace(p *principal.Principal, workspace string, need authz.Role) error
	// PlatformAdmin refuses who is no administrator of the platform.
	PlatformAdmin(p *principal.Principal) error
	// Sees tells whether a caller who may act in the workspace may know of a sandbox of this owner.
	Sees(p *principal.Principal, workspace, owner string) bool
	// Limit returns the owner whose sandboxes alone the caller sees, if there is such a limit; an empty workspace
	// stands for all.
	Limit(p *principal.Principal, workspace string) (owner string, limited bool)
}

// Workspaces tells which workspaces there are.
type Workspaces interface {
	// Check refuses a workspace that does not exist.
	Check(name string) error
	// Use runs write while the workspace cannot be deleted, or refuses one that does not exist.
	Use(name string, write func() error) error
}

// Lookup returns a sandbox by its id to a caller who may know of it. To all others it does not exist, whatever the
// reason.
func (s *Service) Lookup(ctx context.Context, id string) (*Sandbox, error) {
	if id == "" {
		return nil, fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "sandbox_id is required")
	}
	o, err := s.Store.Get(Kind, id)
	if err != nil {
		return nil, notFound(err)
	}
	if !s.permits(principal.From(ctx), o.Workspace, o.Owner) {
		return nil, NotFound()
	}
	return s.compose(o)
}

// permits tells whether a caller may know of a sandbox of this owner in the workspace, and act on it.
func (s *Service) permits(p *principal.Principal, workspace, owner string) bool {
	return s.Access.Workspace(p, workspace, authz.User) == nil && s.Access.Sees(p, workspace, owner)
}

// find returns the row of a name to a caller who may know of it. That the caller may act in the workspace is checked
// first, so that nobody else learns which names there are.
func (s *Service) find(ctx context.Context, workspace, name string) (*store.Object, error) {
	p := principal.From(ctx)
	if err := s.Access.Workspace(p, workspace, authz.User); err != nil {
		return nil, err
	}
	if name == "" {
		return nil, fault.New(fault.InvalidArgument, "NAME_REQUIRED", "name is required")
	}
	o, err := s.Store.ByName(Kind, workspace, name)
	if err != nil {
		return nil, notFound(err)
	}
	if !s.Access.Sees(p, workspace, o.Owner) {
		return nil, NotFound()
	}
	return o, nil
}

// LabelOwner is set by the gateway to the subject of the user who created the sandbox. It is for reading and selecting;
// who owns a sandbox is stored beside the labels.
const LabelOwner = "openshell.ai/owner"

// reservedLabels are prefixes of label keys that only the gateway and drivers set.
var reservedLabels = [...]string{"openshell.ai/", "sallyport.dev/"}

// unreserved returns the labels without the reserved ones, which are dropped rather than refused, as in the reference.
func unreserved(labels map[string]string) map[string]string {
	out := make(map[string]string, len(labels)+1)
	for k, v := range labels {
		if !reserved(k) {
			out[k] = v
		}
	}
	return out
}

func reserved(key string) bool {
	for _, prefix := range reservedLabels {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// own fills in what the gateway alone says of a new sandbox: owner and labels.
func own(p *principal.Principal, req *CreateRequest) {
	req.Labels = unreserved(req.Labels)
	if len(req.Spec.Template.Labels) > 0 {
		req.Spec.Template.Labels = unreserved(req.Spec.Template.Labels)
	}
	if req.Owner == "" || p.Kind == principal.User {
		req.Owner = p.Actor()
	}
	if p.Kind == principal.User && selectable(p.Subject) {
		req.Labels[LabelOwner] = p.Subject
	}
}

// selectable tells whether a label selector can name the value, and a terminal show it. Subjects are longer and freer
// than the values that callers may set.
func selectable(value string) bool {
	return limits.Name("owner", value) == nil && !strings.ContainsAny(value, ",") && strings.TrimSpace(value) == value &&
		!strings.HasPrefix(value, "=")
}
