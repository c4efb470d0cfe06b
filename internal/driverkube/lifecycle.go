package driverkube

import (
	"context"
	"errors"
	"time"

	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
	"sallyport.dev/sallyport/internal/fault"
)

// stopWait bounds the wait for a stopped sandbox's pod: its time to end and some more.
const stopWait = 40 * time.Second

// deleteAttempts bounds how often a deletion is tried again because the object changed in between.
const deleteAttempts = 5

// mode is what a change of a sandbox's mode writes: one field, which is another one in each version.
type mode struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   manifest.Metadata `json:"metadata"`
	Spec       struct {
		OperatingMode string `json:"operatingMode,omitempty"`
		Replicas      *int32 `json:"replicas,omitempty"`
	} `json:"spec"`
}

// setMode has the controller run or stop a sandbox. It returns NotFound where there is none or it is being deleted.
func (d *Driver) setMode(ctx context.Context, id string, run bool) error {
	s, err := d.lookUp(ctx, id)
	if err != nil {
		return err
	}
	if s == nil || s.Metadata.DeletionTimestamp != nil {
		return errNotFound()
	}
	if verdict.OfSandbox(s).Stop != run {
		return nil
	}
	resource, err := d.versions.Sandboxes(ctx)
	if err != nil {
		return err
	}
	change := mode{APIVersion: resource.GroupVersion, Kind: "Sandbox", Metadata: manifest.Metadata{
		Name: s.Metadata.Name, Namespace: s.Metadata.Namespace, UID: s.Metadata.UID,
	}}
	if resource.GroupVersion == kubeapi.V1Alpha1 {
		replicas := int32(0)
		if run {
			replicas = 1
		}
		change.Spec.Replicas = &replicas
	} else {
		change.Spec.OperatingMode = "Suspended"
		if run {
			change.Spec.OperatingMode = "Running"
		}
	}
	var changed verdict.Sandbox
	_, err = d.api.Apply(ctx, resource, s.Metadata.Namespace, s.Metadata.Name, manifest.FieldManager, true, &change, &changed)
	if kubeapi.IsNotFound(err) || kubeapi.IsConflict(err) {
		// The uid makes sure that no other object of this name is meant; ours is gone then.
		return errNotFound()
	}
	if err != nil {
		d.versions.Forget()
		return kubeapi.Explain("change the sandbox's mode", err)
	}
	return nil
}

// stop has the sandbox's pod ended and waits for that; the object and its claims stay.
func (d *Driver) stop(ctx context.Context, id, name string) error {
	id, err := d.resolve(ctx, id, name)
	if err != nil {
		return err
	}
	if err := d.setMode(ctx, id, false); err != nil {
		return err
	}
	wait, cancel := context.WithTimeout(ctx, stopWait)
	defer cancel()
	gone := false
	var refused *verdict.Problem
	err = d.mirror.Await(wait, id, func(s verdict.Status, found bool) bool {
		gone = !found || s.Deleting
		if s.Problem != nil && s.Problem.Reason == verdict.NameTaken {
			refused = s.Problem
		}
		return gone || s.Suspended || refused != nil
	})
	switch {
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return fault.Wrap(err, fault.Unavailable, "SANDBOX_STOPPING", "the sandbox is still stopping").
			WithNext("ask again; if it stays, look at the pod's node and at the agent-sandbox controller")
	case err != nil:
		return err
	case gone:
		return errNotFound()
	case refused != nil:
		return fault.New(fault.FailedPrecondition, "SANDBOX_NOT_STOPPED", "%s", refused.Detail).WithNext("%s", refused.Next)
	}
	d.logger.Info("sandbox stopped", "sandbox", id)
	return nil
}

// start has a stopped sandbox run again.
func (d *Driver) start(ctx context.Context, id, name string) error {
	id, err := d.resolve(ctx, id, name)
	if err != nil {
		return err
	}
	if err := d.setMode(ctx, id, true); err != nil {
		return err
	}
	// Whoever asks next is not told of the stop that is over.
	wait, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	err = d.mirror.Await(wait, id, func(s verdict.Status, found bool) bool { return !found || !s.Suspended })
	if err != nil && ctx.Err() != nil {
		return err
	}
	return nil
}

// settle is how long a start waits for its own change to come back from the API.
const settle = 5 * time.Second

// remove deletes a sandbox's object: in the foreground, so that it goes when its pod and its claims are gone. It
// returns false where there is nothing to delete.
func (d *Driver) remove(ctx context.Context, id, name string) (bool, error) {
	id, err := d.resolve(ctx, id, name)
	if fault.Is(err, fault.NotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for range deleteAttempts {
		s, err := d.lookUp(ctx, id)
		if err != nil {
			return false, err
		}
		if s == nil {
			return false, nil
		}
		if s.Metadata.DeletionTimestamp != nil {
			return true, nil
		}
		resource, err := d.versions.Sandboxes(ctx)
		if err != nil {
			return false, err
		}
		err = d.api.Delete(ctx, resource, s.Metadata.Namespace, s.Metadata.Name,
			kubeapi.Precondition{UID: s.Metadata.UID, ResourceVersion: s.Metadata.ResourceVersion}, true)
		switch {
		case err == nil:
			d.logger.Info("sandbox deleted", "sandbox", id, "namespace", s.Metadata.Namespace)
			return true, nil
		case kubeapi.IsNotFound(err), kubeapi.IsConflict(err):
			// Gone, replaced or only changed: another look tells which.
		default:
			return false, kubeapi.Explain("delete sandbox", err)
		}
	}
	return false, fault.New(fault.Unavailable, "SANDBOX_CHANGING", "the sandbox's object changes faster than it can be deleted").
		WithNext("try again")
}
