package driverkube

import (
	"context"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/mirror"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
	"sallyport.dev/sallyport/internal/fault"
)

func errNotFound() error {
	return fault.New(fault.NotFound, "SANDBOX_NOT_FOUND", "sandbox not found")
}

// lookUp asks the API for the object of a sandbox, by label: names are anybody's to use. It returns nil where there
// is none.
func (d *Driver) lookUp(ctx context.Context, id string) (*verdict.Sandbox, error) {
	if !manifest.ValidLabel(id) {
		return nil, fault.New(fault.InvalidArgument, "SANDBOX_ID_INVALID", "sandbox id must be 1 to 63 letters, digits, hyphens, dots or underscores")
	}
	resource, err := d.versions.Sandboxes(ctx)
	if err != nil {
		return nil, err
	}
	// One that the mirror knows is read by name, which costs the API server less than a search.
	if at, ok := d.mirror.Find(id); ok {
		var s verdict.Sandbox
		err := d.api.Get(ctx, resource, at.Namespace, at.Name, &s)
		switch {
		case err == nil && d.own(&s) && s.Metadata.Labels.ID == id:
			return &s, nil
		case err != nil && !kubeapi.IsNotFound(err):
			return nil, kubeapi.Explain("read sandbox", err)
		}
	}
	var found, outside *verdict.Sandbox
	err = kubeapi.List(ctx, d.api, resource, d.scope(), d.selector(id), func(s *verdict.Sandbox) {
		if !d.own(s) {
			outside = s
			return
		}
		// Should there be two, one that is not going is meant, and of those the older.
		if found == nil || older(s, found) {
			found = s
		}
	})
	if err != nil {
		d.versions.Forget()
		return nil, kubeapi.Explain("find sandbox", err)
	}
	if found == nil && outside != nil {
		// It may be somebody's imitation, or a namespace that the operator took away by mistake: it is not gone.
		return nil, fault.New(fault.Unavailable, "NAMESPACE_NOT_SERVED", "the sandbox's object is in namespace %q, where this driver has no sandboxes", outside.Metadata.Namespace).
			WithNext("check --workspace-mode, --namespace-prefix and the labels of that namespace; or remove the object")
	}
	return found, nil
}

// older tells whether the first of two objects that claim to be one sandbox is it.
func older(a, b *verdict.Sandbox) bool {
	if goes := a.Metadata.DeletionTimestamp != nil; goes != (b.Metadata.DeletionTimestamp != nil) {
		return !goes
	}
	return a.Metadata.CreationTimestamp.Before(b.Metadata.CreationTimestamp)
}

// scope is the namespace to search, empty for all.
func (d *Driver) scope() string {
	if d.opts.WorkspaceMode == Shared {
		return d.opts.Namespace
	}
	return ""
}

// own tells whether an object is this driver's to touch.
func (d *Driver) own(s *verdict.Sandbox) bool {
	return s.Metadata.Labels.ManagedBy == manifest.ManagedBy && s.Metadata.Labels.GatewayID == d.opts.GatewayID &&
		d.spaces.accepts(s.Metadata.Namespace)
}

// resolve turns the id or, without one, the name of a request into an id.
func (d *Driver) resolve(ctx context.Context, id, name string) (string, error) {
	if id != "" {
		return id, nil
	}
	if name == "" {
		return "", fault.New(fault.InvalidArgument, "SANDBOX_UNNAMED", "sandbox id or name is required")
	}
	if err := d.await(ctx); err != nil {
		return "", unavailable(err)
	}
	switch ids := d.mirror.Named(name); len(ids) {
	case 0:
		return "", errNotFound()
	case 1:
		return ids[0], nil
	}
	return "", fault.New(fault.FailedPrecondition, "SANDBOX_AMBIGUOUS", "several workspaces have a sandbox %q", name).WithNext("give the id")
}

// get returns a sandbox's snapshot. That there is none is never said from memory.
func (d *Driver) get(ctx context.Context, id, name string) (*computepb.DriverSandbox, error) {
	id, err := d.resolve(ctx, id, name)
	if err != nil {
		return nil, err
	}
	if d.Ready() == nil {
		if sb := d.mirror.Get(id); sb != nil {
			return sb, nil
		}
	}
	s, err := d.lookUp(ctx, id)
	if err != nil {
		return nil, err
	}
	if s == nil {
		return nil, errNotFound()
	}
	pod, err := d.podOf(ctx, s)
	if err != nil {
		return nil, err
	}
	return mirror.Snapshot(s, pod), nil
}

// podOf reads the pod of a sandbox, nil if there is none.
func (d *Driver) podOf(ctx context.Context, s *verdict.Sandbox) (*verdict.Pod, error) {
	var p verdict.Pod
	err := d.api.Get(ctx, kubeapi.Resource{GroupVersion: "v1", Plural: "pods"}, s.Metadata.Namespace, s.Metadata.Name, &p)
	if kubeapi.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, kubeapi.Explain("read the sandbox's pod", err)
	}
	return &p, nil
}
