package v00

import (
	"context"
	"fmt"
	"maps"
	"time"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
)

type providerHandler struct {
	providers *provider.Service
}

func (h providerHandler) CreateProvider(ctx context.Context, req *openshellpb.CreateProviderRequest) (*openshellpb.ProviderResponse, error) {
	in := req.Provider
	if err := checkProvider(in); err != nil {
		return nil, err
	}
	if w := in.ProfileWorkspace; w != "" && w != req.Workspace {
		return nil, fault.New(fault.InvalidArgument, "PROFILE_WORKSPACE", "profile_workspace must be empty (global) or match the provider workspace")
	}
	p, err := h.providers.Create(ctx, provider.Provider{
		Name: in.GetMetadata().GetName(), Workspace: req.Workspace, Owner: principal.From(ctx).Actor(), Type: in.Type,
		Labels: in.GetMetadata().GetLabels(), Credentials: in.Credentials, Config: in.Config, ExpiresAtMS: in.CredentialExpiresAtMs,
	})
	return providerResponse(p, err)
}

func (h providerHandler) GetProvider(ctx context.Context, req *openshellpb.GetProviderRequest) (*openshellpb.ProviderResponse, error) {
	return providerResponse(h.providers.Get(ctx, req.Workspace, req.Name))
}

func (h providerHandler) ListProviders(ctx context.Context, req *openshellpb.ListProvidersRequest) (*openshellpb.ListProvidersResponse, error) {
	list, err := h.providers.List(ctx, provider.Query{
		Workspace: req.Workspace, AllWorkspaces: req.AllWorkspaces, Limit: req.Limit, Offset: req.Offset,
	})
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.ListProvidersResponse{Providers: make([]*datamodelpb.Provider, len(list))}
	for i, p := range list {
		resp.Providers[i] = providerToWire(p)
	}
	return resp, nil
}

// UpdateProvider merges. A time of expiry in the request itself beats one inside its provider.
func (h providerHandler) UpdateProvider(ctx context.Context, req *openshellpb.UpdateProviderRequest) (*openshellpb.ProviderResponse, error) {
	in := req.Provider
	if err := checkProvider(in); err != nil {
		return nil, err
	}
	if in.ProfileWorkspace != "" {
		return nil, fault.New(fault.InvalidArgument, "PROFILE_WORKSPACE", "profile_workspace cannot be changed; delete and recreate the provider")
	}
	expires := maps.Clone(in.CredentialExpiresAtMs)
	if expires == nil {
		expires = map[string]int64{}
	}
	maps.Copy(expires, req.CredentialExpiresAtMs)
	p, err := h.providers.Update(ctx, provider.Update{
		Workspace: req.Workspace, Name: in.GetMetadata().GetName(), Type: in.Type, Credentials: in.Credentials,
		Config: in.Config, ExpiresAtMS: expires, ExpectVersion: in.GetMetadata().GetResourceVersion(),
	})
	return providerResponse(p, err)
}

func (h providerHandler) DeleteProvider(ctx context.Context, req *openshellpb.DeleteProviderRequest) (*openshellpb.DeleteProviderResponse, error) {
	deleted, err := h.providers.Delete(ctx, req.Workspace, req.Name)
	if err != nil {
		return nil, err
	}
	return &openshellpb.DeleteProviderResponse{Deleted: deleted}, nil
}

func checkProvider(in *datamodelpb.Provider) error {
	if in == nil {
		return fault.New(fault.InvalidArgument, "PROVIDER_REQUIRED", "provider is required")
	}
	if len(in.CredentialHandles) > 0 {
		return fault.New(fault.InvalidArgument, "CREDENTIAL_HANDLES", "provider.credential_handles is internal gateway state and cannot be supplied")
	}
	return nil
}

func providerResponse(p *provider.Provider, err error) (*openshellpb.ProviderResponse, error) {
	if err != nil {
		return nil, err
	}
	return &openshellpb.ProviderResponse{Provider: providerToWire(p)}, nil
}

func providerToWire(p *provider.Provider) *datamodelpb.Provider {
	shown := p.Redacted()
	return &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{
			Id: p.ID, Name: p.Name, CreatedAtMs: millis(p.CreatedAt), Labels: p.Labels, ResourceVersion: p.Version, Workspace: p.Workspace,
		},
		Type: p.Type, Credentials: shown.Credentials, Config: p.Config, CredentialExpiresAtMs: p.ExpiresAtMS,
	}
}

// environmentToWire answers with what could be resolved. What could not is named in the sandbox's log; if nothing
// could, the first failure is the answer, so that the supervisor asks again.
//
// No variable is bound to endpoints or declared free of secrets, since there are no provider profiles yet: newer
// supervisors of the reference keep such values from the sandbox's processes.
func environmentToWire(sb *sandbox.Sandbox, env *provider.Environment, logs *sandboxlog.Hub) (*openshellpb.GetSandboxProviderEnvironmentResponse, error) {
	for _, f := range env.Failures {
		logs.Append(sb.Object.ID, &sandboxlog.Line{
			Time: time.Now(), Level: "WARN", Target: "sallyport", Source: sandboxlog.SourceGateway,
			Message: fmt.Sprintf("credential %s of provider '%s' is missing: %s", f.Key, f.Provider, f.Err.Message),
			Fields:  map[string]string{"reason": f.Err.Reason, "next": f.Err.Next},
		})
	}
	if len(env.Values) == 0 && len(env.Failures) > 0 {
		return nil, env.Failures[0].Err
	}
	return &openshellpb.GetSandboxProviderEnvironmentResponse{
		Environment: env.Values, ProviderEnvRevision: env.Revision, CredentialExpiresAtMs: env.ExpiresAtMS,
	}, nil
}
