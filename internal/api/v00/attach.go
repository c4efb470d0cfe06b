package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/sandbox"
)

// attachHandler is about the providers of a sandbox.
type attachHandler struct {
	sandboxes *sandbox.Service
	providers *provider.Service
}

// ListSandboxProviders fails where an attached provider is gone: what the sandbox has is then not known.
func (h attachHandler) ListSandboxProviders(
	ctx context.Context, req *openshellpb.ListSandboxProvidersRequest,
) (*openshellpb.ListSandboxProvidersResponse, error) {
	sb, err := h.sandboxes.ByName(ctx, req.Workspace, req.SandboxName)
	if err != nil {
		return nil, err
	}
	list, err := h.providers.Attached(ctx, req.Workspace, sb.Spec.Providers)
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.ListSandboxProvidersResponse{Providers: make([]*datamodelpb.Provider, len(list))}
	for i, p := range list {
		resp.Providers[i] = providerToWire(p)
	}
	return resp, nil
}

func (h attachHandler) AttachSandboxProvider(
	ctx context.Context, req *openshellpb.AttachSandboxProviderRequest,
) (*openshellpb.AttachSandboxProviderResponse, error) {
	sb, attached, err := h.sandboxes.AttachProvider(ctx, req.Workspace, req.SandboxName, req.ProviderName, req.ExpectedResourceVersion)
	if err != nil {
		return nil, err
	}
	raw, err := encodeSandbox(sb)
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.AttachSandboxProviderResponse{Attached: attached}
	resp.ProtoReflect().SetUnknown(raw)
	return resp, nil
}

func (h attachHandler) DetachSandboxProvider(
	ctx context.Context, req *openshellpb.DetachSandboxProviderRequest,
) (*openshellpb.DetachSandboxProviderResponse, error) {
	sb, detached, err := h.sandboxes.DetachProvider(ctx, req.Workspace, req.SandboxName, req.ProviderName, req.ExpectedResourceVersion)
	if err != nil {
		return nil, err
	}
	raw, err := encodeSandbox(sb)
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.DetachSandboxProviderResponse{Detached: detached}
	resp.ProtoReflect().SetUnknown(raw)
	return resp, nil
}
