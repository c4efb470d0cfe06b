//go:build linux

package driverprocess

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverfault"
	"sallyport.dev/sallyport/internal/fault"
)

// Service answers the compute contract for a Driver.
type Service struct {
	computepb.UnimplementedComputeDriverServer
	driver *Driver
}

var _ computepb.ComputeDriverServer = (*Service)(nil)

// NewService returns the service of a driver.
func NewService(d *Driver) *Service { return &Service{driver: d} }

func errExists(name string) error {
	return fault.New(fault.AlreadyExists, "SANDBOX_EXISTS", "sandbox %q already exists", name)
}

func errFull() error {
	return fault.New(fault.ResourceExhausted, "DRIVER_FULL", "this driver runs as many sandboxes as it can").
		WithNext("delete sandboxes that are not needed")
}

func errNotFound() error {
	return fault.New(fault.NotFound, "SANDBOX_NOT_FOUND", "sandbox not found")
}

// GetCapabilities implements ComputeDriver. Sandboxes outlive the gateway, so it need not manage them.
func (s *Service) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{
		DriverName: DriverName, DriverVersion: s.driver.opts.Version, DefaultImage: Image,
	}, nil
}

// ValidateSandboxCreate implements ComputeDriver: it says what CreateSandbox would refuse.
func (s *Service) ValidateSandboxCreate(_ context.Context, req *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	if _, err := s.driver.newRecord(req.GetSandbox()); err != nil {
		return nil, s.edge("ValidateSandboxCreate", req.GetSandbox().GetId(), err)
	}
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

// CreateSandbox implements ComputeDriver. It answers when the sandbox is stored and its first process started;
// whether the supervisor runs is told by the watch.
func (s *Service) CreateSandbox(_ context.Context, req *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	// A caller that gives up does not stop it halfway.
	if err := s.driver.create(req.GetSandbox()); err != nil {
		return nil, s.edge("CreateSandbox", req.GetSandbox().GetId(), err)
	}
	return &computepb.CreateSandboxResponse{}, nil
}

func (d *Driver) create(sb *computepb.DriverSandbox) error {
	if d.life.Err() != nil {
		return fault.New(fault.Unavailable, "DRIVER_STOPPING", "the driver is stopping").WithNext("try again")
	}
	rec, err := d.newRecord(sb)
	if err != nil {
		return err
	}
	rec.Key, rec.Groups = newKey(), d.groups.paths(rec.ID)
	box, err := d.reserve(rec)
	if err != nil {
		return err
	}
	defer box.unlock()
	if err := box.create(sb.GetSpec().GetSandboxToken()); err != nil {
		d.forget(box)
		return fault.Wrap(err, fault.Internal, "SANDBOX_NOT_STARTED", "the sandbox could not be started").
			WithNext("the driver's log has the cause")
	}
	d.mu.Lock()
	box.visible = true
	d.mu.Unlock()
	d.publish(box, func(*view) {})
	d.logger.Info("sandbox created", "sandbox", rec.ID, "name", rec.Name)
	return nil
}

// find returns a sandbox by id or, without one, by name.
func (d *Driver) find(id, name string) (*sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id != "" {
		if err := checkID(id); err != nil {
			return nil, err
		}
		if s := d.sandboxes[id]; s != nil && s.visible {
			return s, nil
		}
		return nil, errNotFound()
	}
	if name == "" {
		return nil, fault.New(fault.InvalidArgument, "SANDBOX_UNNAMED", "sandbox id or name is required")
	}
	var found *sandbox
	for _, s := range d.sorted() {
		if s.view.name != name {
			continue
		}
		if found != nil {
			return nil, fault.New(fault.FailedPrecondition, "SANDBOX_AMBIGUOUS", "several workspaces have a sandbox %q", name).WithNext("give the id")
		}
		found = s
	}
	if found == nil {
		return nil, errNotFound()
	}
	return found, nil
}

// GetSandbox implements ComputeDriver.
func (s *Service) GetSandbox(_ context.Context, req *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	box, err := s.driver.find(req.GetSandboxId(), req.GetSandboxName())
	if err != nil {
		return nil, s.edge("GetSandbox", req.GetSandboxId(), err)
	}
	s.driver.mu.Lock()
	defer s.driver.mu.Unlock()
	return &computepb.GetSandboxResponse{Sandbox: box.view.snapshot()}, nil
}

// ListSandboxes implements ComputeDriver: all of them, by id.
func (s *Service) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	s.driver.mu.Lock()
	defer s.driver.mu.Unlock()
	resp := &computepb.ListSandboxesResponse{}
	for _, box := range s.driver.sorted() {
		resp.Sandboxes = append(resp.Sandboxes, box.view.snapshot())
	}
	return resp, nil
}

// StopSandbox implements ComputeDriver: its processes end, its files stay.
func (s *Service) StopSandbox(ctx context.Context, req *computepb.StopSandboxRequest) (*computepb.StopSandboxResponse, error) {
	err := s.driver.locked(ctx, req.GetSandboxId(), req.GetSandboxName(), (*sandbox).stop)
	if err != nil {
		return nil, s.edge("StopSandbox", req.GetSandboxId(), err)
	}
	return &computepb.StopSandboxResponse{}, nil
}

// StartSandbox implements ComputeDriver: a stopped sandbox runs again with the files it had.
func (s *Service) StartSandbox(ctx context.Context, req *computepb.StartSandboxRequest) (*computepb.StartSandboxResponse, error) {
	err := s.driver.locked(ctx, req.GetSandboxId(), req.GetSandboxName(), (*sandbox).resume)
	if err != nil {
		return nil, s.edge("StartSandbox", req.GetSandboxId(), err)
	}
	return &computepb.StartSandboxResponse{}, nil
}

// DeleteSandbox implements ComputeDriver. It answers when no process of the sandbox is left; an absent one is
// no error.
func (s *Service) DeleteSandbox(ctx context.Context, req *computepb.DeleteSandboxRequest) (*computepb.DeleteSandboxResponse, error) {
	err := s.driver.locked(ctx, req.GetSandboxId(), req.GetSandboxName(), (*sandbox).remove)
	if fault.Is(err, fault.NotFound) {
		return &computepb.DeleteSandboxResponse{}, nil
	}
	if err != nil {
		return nil, s.edge("DeleteSandbox", req.GetSandboxId(), err)
	}
	return &computepb.DeleteSandboxResponse{Deleted: true}, nil
}

// locked runs an operation on a sandbox alone. The caller may give up waiting for its turn, but not stop the
// operation halfway.
func (d *Driver) locked(ctx context.Context, id, name string, operate func(*sandbox, context.Context) error) error {
	box, err := d.find(id, name)
	if err != nil {
		return err
	}
	if err := box.lock(ctx); err != nil {
		return err
	}
	defer box.unlock()
	d.mu.Lock()
	gone := d.sandboxes[box.id] != box
	d.mu.Unlock()
	if gone {
		return errNotFound()
	}
	if d.life.Err() != nil {
		return fault.New(fault.Unavailable, "DRIVER_STOPPING", "the driver is stopping").WithNext("try again")
	}
	return operate(box, context.WithoutCancel(ctx))
}

func (s *sandbox) stop(ctx context.Context) error {
	if s.rec.Want == wantDeleted {
		return errNotFound()
	}
	if err := s.decide(wantStopped); err != nil {
		return err
	}
	if err := s.halt(ctx, s.d.opts.Grace); err != nil {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	s.d.publish(s, func(v *view) { v.set(false, reasonStopped, "the sandbox is stopped") })
	return nil
}

func (s *sandbox) resume(ctx context.Context) error {
	if s.rec.Want == wantDeleted {
		return errNotFound()
	}
	if s.keeping() {
		return nil
	}
	s.endKeeper()
	if err := s.want(wantRunning); err != nil {
		return err
	}
	if err := s.sweep(ctx); err != nil {
		return fmt.Errorf("clear up before start: %w", err)
	}
	s.d.publish(s, func(v *view) { v.set(false, reasonStarting, "the supervisor is being started") })
	if err := s.launch(); err != nil {
		s.d.publish(s, func(v *view) { v.set(false, reasonExited, "the supervisor could not be started") })
		return fmt.Errorf("start sandbox: %w", err)
	}
	return nil
}

func (s *sandbox) remove(ctx context.Context) error {
	if err := s.decide(wantDeleted); err != nil {
		return err
	}
	if err := s.erase(ctx); err != nil {
		return fmt.Errorf("delete sandbox: %w", err)
	}
	s.d.logger.Info("sandbox deleted", "sandbox", s.id)
	return nil
}

// WatchSandboxes implements ComputeDriver: a snapshot of each sandbox, then each change as it happens. A
// watcher that is slow gets the newest state of a sandbox and not each before it.
func (s *Service) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	w := s.driver.watch()
	defer s.driver.unwatch(w)
	// The headers tell a gateway that its watch is open even when there is nothing to send yet.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-w.wake:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.driver.life.Done():
			return status.Error(codes.Unavailable, "driver is stopping; open the stream again")
		}
		events, lagged := s.driver.takeFrom(w)
		if lagged {
			return status.Error(codes.ResourceExhausted, "watch lagged; list the sandboxes and open it again")
		}
		for _, e := range events {
			if err := stream.Send(e); err != nil {
				return err
			}
		}
	}
}

// edge turns an error into a status; the private cause goes to the log.
func (s *Service) edge(method, id string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return status.FromContextError(err).Err()
	}
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		f = fault.Wrap(err, fault.Internal, "DRIVER_FAILED", "the driver could not do it").WithNext("the driver's log has the cause")
	}
	if f.Cause != nil {
		s.driver.logger.Error("call failed", "method", method, "sandbox", id, "reason", f.Reason, "error", f.Cause)
	}
	return driverfault.Status(f)
}
