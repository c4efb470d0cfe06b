package sandbox

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

// driverTimeout bounds a driver call that no longer hangs on a caller's context.
const driverTimeout = 60 * time.Second

// CreateRequest is what a caller asks for.
type CreateRequest struct {
	Workspace   string
	Name        string
	Labels      map[string]string
	Annotations map[string]string
	// Spec is required.
	Spec *Spec
	// Owner is the creating actor where the context has no user, as principal.Actor names it.
	Owner string
}

// Create validates the request, stores the intent and has the driver make the sandbox. The call to the driver is
// carried through even if the caller goes away meanwhile: an intent that is stored either becomes a sandbox or
// disappears with everything the driver made for it.
func (s *Service) Create(ctx context.Context, req CreateRequest) (*Sandbox, error) {
	workspace := workspaceOr(req.Workspace)
	if err := s.Access.Workspace(principal.From(ctx), workspace, authz.User); err != nil {
		return nil, err
	}
	if err := validateCreate(&req); err != nil {
		return nil, err
	}
	if err := s.Workspaces.Check(workspace); err != nil {
		return nil, err
	}
	own(principal.From(ctx), &req)
	if err := s.Providers.CheckAttachable(ctx, workspace, req.Spec.Providers); err != nil {
		return nil, err
	}
	if req.Spec.Template.Image == "" {
		image, err := s.image.get(ctx, s.Driver)
		if err != nil {
			return nil, err
		}
		req.Spec.Template.Image = image
	}
	if req.Name == "" {
		req.Name = s.generateName(workspace)
	}
	o := &store.Object{
		Kind: Kind, ID: uuid.NewString(), Workspace: workspace, Name: req.Name, Owner: req.Owner, Labels: req.Labels,
	}
	spec := driverSpec(o, req.Spec)
	if err := s.Driver.Validate(ctx, spec); err != nil {
		return nil, err
	}
	record := &Record{Annotations: req.Annotations, Spec: *req.Spec, DriverPhase: PhaseProvisioning}
	var err error
	if o.Payload, err = record.encode(); err != nil {
		return nil, err
	}
	var written []*store.Object
	err = s.Workspaces.Use(workspace, func() error {
		return s.Providers.Attach(ctx, workspace, req.Spec.Providers, func() error {
			var err error
			written, err = s.Store.Write(ctx, store.Create(o))
			return err
		})
	})
	if errors.Is(err, store.ErrExists) {
		return nil, fault.New(fault.AlreadyExists, "SANDBOX_EXISTS", "sandbox '%s' already exists", req.Name).
			WithNext("choose another name, or delete the sandbox first")
	}
	if err != nil {
		return nil, storeFault(err)
	}
	return s.finishCreate(ctx, written[0], spec)
}

// finishCreate runs the driver's part of a create detached from the caller, who gets the answer as soon as the driver
// has accepted. That it has is recorded afterwards: a gateway that dies in between finds out from the driver's list.
func (s *Service) finishCreate(ctx context.Context, o *store.Object, spec compute.Spec) (*Sandbox, error) {
	done := make(chan error, 1)
	s.background.Go(func() {
		detached, cancel := context.WithTimeout(context.WithoutCancel(ctx), driverTimeout)
		defer cancel()
		err := s.launch(detached, o, spec)
		if err != nil {
			s.undo(detached, o, err)
		}
		done <- err
		if err == nil {
			s.confirm(detached, o)
		}
	})
	if err := await(ctx, done, "the sandbox is still being created; look it up by name"); err != nil {
		return nil, err
	}
	r, err := decode(o)
	if err != nil {
		return nil, err
	}
	return &Sandbox{Object: o, Record: r, Phase: PhaseProvisioning, Status: r.Conditions}, nil
}

// launch has the driver create what is stored.
func (s *Service) launch(ctx context.Context, o *store.Object, spec compute.Spec) error {
	token, _, err := s.Tokens.Mint(o.ID)
	if err != nil {
		return fault.Wrap(err, fault.Unavailable, "SANDBOX_TOKEN_MINT", "sandbox identity cannot be minted").WithNext("retry")
	}
	spec.Token = token
	return s.Driver.Create(ctx, spec)
}

// await returns what became of a job in the background. A caller that ends the call is told what goes on without it.
func await(ctx context.Context, done <-chan error, goesOn string) error {
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fault.Wrap(context.Cause(ctx), fault.Canceled, "CALLER_GONE", "the caller ended the call").WithNext("%s", goesOn)
	}
}

// confirm records that the driver took a sandbox over, unless its own report was faster or the sandbox is gone again.
func (s *Service) confirm(ctx context.Context, o *store.Object) {
	s.Logs.Append(o.ID, gatewayLine("INFO", "sandbox handed to the compute driver"))
	err := s.accept(ctx, o.ID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		s.Logs.Drop(o.ID)
	case err != nil:
		s.Logger.Warn("record that the driver took a sandbox over", "sandbox_id", o.ID, "error", err)
	}
}

// undo takes back a create that failed. A driver that clearly refused has made nothing, and asking it to delete by
// name might hit somebody else's resource; after any other failure it may have carried the create out, so it is
// asked to delete. If it cannot be asked, the row stays marked for deletion and reconciliation finishes the job.
func (s *Service) undo(ctx context.Context, o *store.Object, cause error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), driverTimeout)
	defer cancel()
	var err error
	switch {
	case fault.Is(cause, fault.AlreadyExists), fault.Is(cause, fault.FailedPrecondition), fault.Is(cause, fault.InvalidArgument):
		err = s.remove(ctx, o.ID)
	default:
		if err = s.markDeleted(ctx, o.ID); err == nil {
			err = s.release(ctx, o.ID, o.Name, true)
		}
	}
	if err != nil {
		s.Logger.Warn("take back a failed create; will be retried", "sandbox_id", o.ID, "error", err)
	}
}

// edit changes a sandbox's record by compare-and-swap.
func (s *Service) edit(ctx context.Context, id string, change func(*Record) error) error {
	_, err := s.Store.Update(ctx, Kind, id, func(o *store.Object) error {
		old, err := s.record(o)
		if err != nil {
			return err
		}
		r := *old
		if err := change(&r); err != nil {
			return err
		}
		o.Payload, err = r.encode()
		return err
	})
	return err
}

// record decodes a copy that is being edited; the stored object has most likely been decoded already.
func (s *Service) record(o *store.Object) (*Record, error) {
	if stored, err := s.Store.Get(Kind, o.ID); err == nil && stored.Version == o.Version {
		return decode(stored)
	}
	return decode(o)
}

// driverSpec is what the driver gets to see of a sandbox.
func driverSpec(o *store.Object, spec *Spec) compute.Spec {
	t := spec.Template
	return compute.Spec{
		ID: o.ID, Name: o.Name, Workspace: o.Workspace, LogLevel: spec.LogLevel, Environment: spec.Environment,
		Template: compute.Template{
			Image: t.Image, AgentSocket: t.AgentSocket, Labels: t.Labels, Environment: t.Environment,
			Annotations: t.Annotations, RuntimeClass: t.RuntimeClassName, Resources: t.Resources,
			VolumeClaimTemplates: t.VolumeClaimTemplates, DriverConfig: t.DriverConfig, UserNamespaces: t.UserNamespaces,
		},
		GPUs: spec.GPUs, GPUDevice: spec.GPUDevice, Command: spec.Command, TTY: spec.TTY,
	}
}

func storeFault(err error) error {
	return storefault.Of(err, fault.New(fault.Aborted, "CONCURRENT_MODIFICATION", "failed due to concurrent modification").
		WithNext("read the object again and retry"))
}

// defaultImage remembers the driver's default image once the driver could be asked.
type defaultImage struct {
	mu    sync.Mutex
	known bool
	image string
}

// get asks the driver outside the lock: one that hangs must hold up only the creates that wait for it.
func (d *defaultImage) get(ctx context.Context, driver Driver) (string, error) {
	d.mu.Lock()
	known, image := d.known, d.image
	d.mu.Unlock()
	if known {
		return image, nil
	}
	caps, err := driver.Capabilities(ctx)
	if err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.known, d.image = true, caps.DefaultImage
	return d.image, nil
}
