package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/service"
)

type serviceHandler struct {
	services *service.Service
}

// on returns the service.
func (h serviceHandler) on() (*service.Service, error) {
	if h.services == nil {
		return nil, fault.New(fault.FailedPrecondition, "SERVICES_OFF", "this gateway serves no services of sandboxes").
			WithNext("use ForwardTcp")
	}
	return h.services, nil
}

func (h serviceHandler) ExposeService(ctx context.Context, req *openshellpb.ExposeServiceRequest) (*openshellpb.ServiceEndpointResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	e, err := s.Expose(ctx, service.ExposeRequest{
		Name: service.Name{Workspace: req.Workspace, Sandbox: req.Sandbox, Service: req.Service}, Port: req.TargetPort,
	})
	if err != nil {
		return nil, err
	}
	return serviceToWire(s, e), nil
}

func (h serviceHandler) GetService(ctx context.Context, req *openshellpb.GetServiceRequest) (*openshellpb.ServiceEndpointResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	e, err := s.Get(ctx, service.Name{Workspace: req.Workspace, Sandbox: req.Sandbox, Service: req.Service})
	if err != nil {
		return nil, err
	}
	return serviceToWire(s, e), nil
}

func (h serviceHandler) ListServices(ctx context.Context, req *openshellpb.ListServicesRequest) (*openshellpb.ListServicesResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	list, err := s.List(ctx, service.Query{
		Workspace: req.Workspace, AllWorkspaces: req.AllWorkspaces, Sandbox: req.Sandbox, Limit: req.Limit, Offset: req.Offset,
	})
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.ListServicesResponse{Services: make([]*openshellpb.ServiceEndpointResponse, len(list))}
	for i, e := range list {
		resp.Services[i] = serviceToWire(s, e)
	}
	return resp, nil
}

func (h serviceHandler) DeleteService(ctx context.Context, req *openshellpb.DeleteServiceRequest) (*openshellpb.DeleteServiceResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	deleted, err := s.Delete(ctx, service.Name{Workspace: req.Workspace, Sandbox: req.Sandbox, Service: req.Service})
	if err != nil {
		return nil, err
	}
	return &openshellpb.DeleteServiceResponse{Deleted: deleted}, nil
}

func serviceToWire(s *service.Service, e *service.Endpoint) *openshellpb.ServiceEndpointResponse {
	return &openshellpb.ServiceEndpointResponse{
		Endpoint: &openshellpb.ServiceEndpoint{
			Metadata: &datamodelpb.ObjectMeta{
				Id: e.ID, Name: e.Name.Key(), Workspace: e.Name.Workspace, CreatedAtMs: millis(e.Created), Labels: e.Labels,
				ResourceVersion: e.Version,
			},
			SandboxId: e.SandboxID, SandboxName: e.Name.Sandbox, ServiceName: e.Name.Service, TargetPort: uint32(e.Port), Domain: true,
		},
		Url: s.URL(e),
	}
}
