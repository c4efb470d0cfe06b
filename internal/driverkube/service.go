package driverkube

import (
	"context"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverfault"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
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

// GetCapabilities implements ComputeDriver. Sandboxes outlive the gateway, so it need not manage them.
func (s *Service) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{
		DriverName: DriverName, DriverVersion: s.driver.opts.Version, DefaultImage: s.driver.opts.DefaultImage, SupportsGpu: true,
	}, nil
}

// ValidateSandboxCreate implements ComputeDriver: it says what CreateSandbox would refuse by itself. What the API
// server would refuse shows only then.
func (s *Service) ValidateSandboxCreate(ctx context.Context, req *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	resource, err := s.driver.versions.Sandboxes(ctx)
	if err == nil {
		_, err = s.driver.plan(ctx, req.GetSandbox(), resource, false)
	}
	if err != nil {
		return nil, s.edge("ValidateSandboxCreate", req.GetSandbox().GetId(), err)
	}
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

// CreateSandbox implements ComputeDriver. It answers when the object is stored.
func (s *Service) CreateSandbox(ctx context.Context, req *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	// A caller that gives up does not stop it halfway.
	if err := s.driver.create(context.WithoutCancel(ctx), req.GetSandbox()); err != nil {
		return nil, s.edge("CreateSandbox", req.GetSandbox().GetId(), err)
	}
	return &computepb.CreateSandboxResponse{}, nil
}

// GetSandbox implements ComputeDriver.
func (s *Service) GetSandbox(ctx context.Context, req *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	sb, err := s.driver.get(ctx, req.GetSandboxId(), req.GetSandboxName())
	if err != nil {
		return nil, s.edge("GetSandbox", req.GetSandboxId(), err)
	}
	return &computepb.GetSandboxResponse{Sandbox: sb}, nil
}

// ListSandboxes implements ComputeDriver: all of them, by id; an error while not all are known.
func (s *Service) ListSandboxes(ctx context.Context, _ *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	if err := s.driver.await(ctx); err != nil {
		return nil, s.edge("ListSandboxes", "", unavailable(err))
	}
	return &computepb.ListSandboxesResponse{Sandboxes: s.driver.mirror.All()}, nil
}

// unavailable keeps what is wrong and has the caller ask again.
func unavailable(err error) error {
	f := fault.From(err)
	return &fault.Error{Kind: fault.Unavailable, Reason: f.Reason, Message: f.Message, Next: f.Next, Cause: f.Cause}
}

// StopSandbox implements ComputeDriver: its pod ends, its claims stay.
func (s *Service) StopSandbox(ctx context.Context, req *computepb.StopSandboxRequest) (*computepb.StopSandboxResponse, error) {
	if err := s.driver.stop(ctx, req.GetSandboxId(), req.GetSandboxName()); err != nil {
		return nil, s.edge("StopSandbox", req.GetSandboxId(), err)
	}
	return &computepb.StopSandboxResponse{}, nil
}

// StartSandbox implements ComputeDriver: a stopped sandbox runs again with the claims it had.
func (s *Service) StartSandbox(ctx context.Context, req *computepb.StartSandboxRequest) (*computepb.StartSandboxResponse, error) {
	if err := s.driver.start(ctx, req.GetSandboxId(), req.GetSandboxName()); err != nil {
		return nil, s.edge("StartSandbox", req.GetSandboxId(), err)
	}
	return &computepb.StartSandboxResponse{}, nil
}

// DeleteSandbox implements ComputeDriver. It answers when the deletion is stored; the watch tells its end, when pod
// and claims are gone. An absent sandbox is no error.
func (s *Service) DeleteSandbox(ctx context.Context, req *computepb.DeleteSandboxRequest) (*computepb.DeleteSandboxResponse, error) {
	deleted, err := s.driver.remove(context.WithoutCancel(ctx), req.GetSandboxId(), req.GetSandboxName())
	if err != nil {
		return nil, s.edge("DeleteSandbox", req.GetSandboxId(), err)
	}
	return &computepb.DeleteSandboxResponse{Deleted: deleted}, nil
}

// EnsureWorkspace implements ComputeDriver: in managed mode it makes the workspace's namespace.
func (s *Service) EnsureWorkspace(ctx context.Context, req *computepb.EnsureWorkspaceRequest) (*computepb.EnsureWorkspaceResponse, error) {
	if _, err := s.driver.spaces.of(ctx, req.GetWorkspace(), true); err != nil {
		return nil, s.edge("EnsureWorkspace", "", err)
	}
	return &computepb.EnsureWorkspaceResponse{}, nil
}

// DeleteWorkspace implements ComputeDriver: in managed mode it removes the workspace's namespace with all it holds.
func (s *Service) DeleteWorkspace(ctx context.Context, req *computepb.DeleteWorkspaceRequest) (*computepb.DeleteWorkspaceResponse, error) {
	if err := s.driver.spaces.remove(ctx, req.GetWorkspace()); err != nil {
		return nil, s.edge("DeleteWorkspace", "", err)
	}
	return &computepb.DeleteWorkspaceResponse{}, nil
}

// WatchSandboxes implements ComputeDriver: a snapshot of each sandbox, then each change as it happens. A watcher that
// is slow gets the newest state of a sandbox and not each before it.
func (s *Service) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	w := s.driver.mirror.Watch()
	defer s.driver.mirror.Unwatch(w)
	// The headers tell a gateway that its watch is open even when there is nothing to send yet.
	if err := stream.SendHeader(nil); err != nil {
		return err
	}
	for {
		select {
		case <-w.Wake:
		case <-stream.Context().Done():
			return status.FromContextError(stream.Context().Err()).Err()
		case <-s.driver.life.Done():
			return status.Error(codes.Unavailable, "driver is stopping; open the stream again")
		}
		events, lagged := s.driver.mirror.Take(w)
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
	f, ok := errors.AsType[*fault.Error](err)
	if !ok {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err).Err()
		}
		f = fault.Wrap(err, fault.Internal, "DRIVER_FAILED", "the driver could not do it").WithNext("the driver's log has the cause")
	}
	switch {
	case f.Reason == kubeapi.ReasonRefused:
		// What Kubernetes says of an object may quote its user's values.
		s.driver.logger.Warn("call refused by Kubernetes", "method", method, "sandbox", id, "reason", f.Reason)
	case f.Cause != nil:
		s.driver.logger.Error("call failed", "method", method, "sandbox", id, "reason", f.Reason, "error", f.Cause)
	}
	s.driver.calls.WithLabelValues(method, f.Reason).Inc()
	return driverfault.Status(f)
}
