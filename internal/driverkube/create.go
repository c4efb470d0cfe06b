package driverkube

import (
	"context"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
	"sallyport.dev/sallyport/internal/fault"
)

func errExists(name string) error {
	return fault.New(fault.AlreadyExists, "SANDBOX_EXISTS", "sandbox %q already exists", name)
}

func errTaken(object string) error {
	return fault.New(fault.AlreadyExists, "SANDBOX_EXISTS", "the cluster already has a Sandbox object %q that is not this sandbox's", object).
		WithNext("choose another name, or remove that object")
}

// plan builds a sandbox's object after everything that can be checked without making it was checked.
func (d *Driver) plan(ctx context.Context, sb *computepb.DriverSandbox, resource kubeapi.Resource, ensure bool) (*manifest.Sandbox, error) {
	settings, err := d.build(ctx)
	if err != nil {
		return nil, err
	}
	claims, err := manifest.Claims(settings, sb)
	if err != nil {
		return nil, err
	}
	workspace := manifest.Workspace(sb.GetWorkspace())
	namespace, err := d.spaces.of(ctx, workspace, ensure)
	if err != nil {
		return nil, err
	}
	for _, claim := range claims {
		if err := d.mountable(ctx, namespace, claim, workspace); err != nil {
			return nil, err
		}
	}
	return manifest.Build(settings, sb, manifest.Target{
		APIVersion: resource.GroupVersion, Namespace: namespace, Shared: d.opts.WorkspaceMode == Shared,
	})
}

// mountable refuses a claim that nobody opened to sandboxes: the namespace may hold others, the gateway's among them.
func (d *Driver) mountable(ctx context.Context, namespace, claim, workspace string) error {
	var c struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	}
	err := d.api.Get(ctx, kubeapi.Resource{GroupVersion: "v1", Plural: "persistentvolumeclaims"}, namespace, claim, &c)
	if err != nil && !kubeapi.IsNotFound(err) {
		return kubeapi.Explain("read claim "+claim, err)
	}
	if open := c.Metadata.Labels[manifest.LabelMountable]; err != nil || open != "true" && open != workspace {
		return fault.New(fault.FailedPrecondition, "CLAIM_NOT_MOUNTABLE", "spec.template.driver_config.mounts: claim %q does not exist or is not open to sandboxes of workspace %q", claim, workspace).
			WithNext("have the operator create it in namespace %s and label it %s=true, or with the workspace's name", namespace, manifest.LabelMountable)
	}
	return nil
}

// create makes the object. Whether its pod runs is told by the watch.
func (d *Driver) create(ctx context.Context, sb *computepb.DriverSandbox) error {
	resource, err := d.versions.Sandboxes(ctx)
	if err != nil {
		return err
	}
	object, err := d.plan(ctx, sb, resource, true)
	if err != nil {
		return err
	}
	if _, ok := d.mirror.Find(sb.GetId()); ok {
		return errExists(sb.GetName())
	}
	// An apply to an object that is there would be merged with it.
	var there verdict.Sandbox
	err = d.api.Get(ctx, resource, object.Metadata.Namespace, object.Metadata.Name, &there)
	switch {
	case err == nil && d.own(&there) && there.Metadata.Labels.ID == sb.GetId():
		return errExists(sb.GetName())
	case err == nil:
		return errTaken(object.Metadata.Name)
	case !kubeapi.IsNotFound(err):
		return kubeapi.Explain("create sandbox", err)
	}
	var made verdict.Sandbox
	created, err := d.api.Apply(ctx, resource, object.Metadata.Namespace, object.Metadata.Name, manifest.ManagerOf(sb.GetId()), false, object, &made)
	switch {
	case kubeapi.IsConflict(err):
		// Somebody was faster, between our look and our write.
		return errTaken(object.Metadata.Name)
	case err != nil:
		d.versions.Forget()
		return kubeapi.Explain("create sandbox", err)
	case !created && made.Metadata.Labels.ID == sb.GetId():
		return errExists(sb.GetName())
	case !created:
		return errTaken(object.Metadata.Name)
	}
	d.mirror.Made(&made)
	d.logger.Info("sandbox created", "sandbox", sb.GetId(), "name", sb.GetName(), "namespace", object.Metadata.Namespace)
	return nil
}
