package cli_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// fakeServices are the services of a gateway.
type fakeServices struct {
	mu  sync.Mutex
	all []*openshellpb.ServiceEndpointResponse
}

func (f *fakeServices) find(workspace, sandbox, service string) int {
	for i, r := range f.all {
		if r.Endpoint.Metadata.Workspace == workspace && r.Endpoint.SandboxName == sandbox && r.Endpoint.ServiceName == service {
			return i
		}
	}
	return -1
}

func noService() error {
	return refusal(codes.NotFound, "service endpoint not found", "SERVICE_NOT_FOUND", "list the services of this workspace")
}

// ExposeService knows every sandbox but "absent".
func (g *gateway) ExposeService(_ context.Context, r *openshellpb.ExposeServiceRequest) (*openshellpb.ServiceEndpointResponse, error) {
	f := &g.services
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Sandbox == "absent" {
		return nil, refusal(codes.NotFound, "sandbox not found", "SANDBOX_NOT_FOUND", "list the sandboxes of this workspace")
	}
	key := strings.TrimSuffix(r.Sandbox+"--"+r.Service, "--")
	made := &openshellpb.ServiceEndpointResponse{
		Endpoint: &openshellpb.ServiceEndpoint{
			Metadata:  &datamodelpb.ObjectMeta{Id: "s-" + key, Name: key, Workspace: r.Workspace, CreatedAtMs: 1700000000000, ResourceVersion: 1},
			SandboxId: "id-" + r.Sandbox, SandboxName: r.Sandbox, ServiceName: r.Service, TargetPort: r.TargetPort, Domain: true,
		},
		Url: "https://" + r.Workspace + "--" + key + ".apps.test/",
	}
	if i := f.find(r.Workspace, r.Sandbox, r.Service); i >= 0 {
		f.all[i] = made
	} else {
		f.all = append(f.all, made)
	}
	return made, nil
}

func (g *gateway) GetService(_ context.Context, r *openshellpb.GetServiceRequest) (*openshellpb.ServiceEndpointResponse, error) {
	f := &g.services
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.find(r.Workspace, r.Sandbox, r.Service); i >= 0 {
		return f.all[i], nil
	}
	return nil, noService()
}

func (g *gateway) ListServices(_ context.Context, r *openshellpb.ListServicesRequest) (*openshellpb.ListServicesResponse, error) {
	f := &g.services
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &openshellpb.ListServicesResponse{}
	for _, s := range f.all {
		if (r.AllWorkspaces || s.Endpoint.Metadata.Workspace == r.Workspace) && (r.Sandbox == "" || s.Endpoint.SandboxName == r.Sandbox) {
			out.Services = append(out.Services, s)
		}
	}
	return out, nil
}

func (g *gateway) DeleteService(_ context.Context, r *openshellpb.DeleteServiceRequest) (*openshellpb.DeleteServiceResponse, error) {
	f := &g.services
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(r.Workspace, r.Sandbox, r.Service)
	if i >= 0 {
		f.all = append(f.all[:i], f.all[i+1:]...)
	}
	return &openshellpb.DeleteServiceResponse{Deleted: i >= 0}, nil
}

// link makes a link to a service; a gateway that knows none is asked about the sandbox "reference".
func (f *fakeServices) link(w http.ResponseWriter, r *http.Request) {
	var req struct{ Workspace, Sandbox, Service string }
	if err := json.NewDecoder(r.Body).Decode(&req); err != nil || r.Method != http.MethodPost {
		http.Error(w, "bad request", http.StatusBadRequest)
		return
	}
	if req.Sandbox == "reference" {
		http.NotFound(w, r)
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	answer := map[string]string{"reason": "SERVICE_NOT_FOUND", "message": "service endpoint not found", "next": "list the services of this workspace"}
	if i := f.find(req.Workspace, req.Sandbox, req.Service); i >= 0 {
		answer = map[string]string{"url": f.all[i].Url + ".sallyport/sign-in?code=CODE&for=" + strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")}
	} else {
		w.WriteHeader(http.StatusNotFound)
	}
	if err := json.NewEncoder(w).Encode(answer); err != nil {
		panic(err)
	}
}
