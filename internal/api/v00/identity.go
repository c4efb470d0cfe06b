package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

type identityHandler struct {
	svc Services
}

// Health needs no credential. It says healthy as long as the process answers; what is missing shows in readiness,
// because clients of the protocol read anything else as "gateway down".
func (h identityHandler) Health(context.Context, *openshellpb.HealthRequest) (*openshellpb.HealthResponse, error) {
	return &openshellpb.HealthResponse{Status: openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY, Version: h.svc.Version}, nil
}

func (h identityHandler) GetCurrentUser(ctx context.Context, _ *openshellpb.GetCurrentUserRequest) (*openshellpb.GetCurrentUserResponse, error) {
	p := principal.From(ctx)
	return &openshellpb.GetCurrentUserResponse{
		Subject: p.Subject, DisplayName: p.DisplayName, Roles: p.Roles, Scopes: p.Scopes, IdentityProvider: p.Provider,
	}, nil
}

// GetGatewayInfo reports DEGRADED with a driver that does not answer, rather than an error: an administrator asks
// exactly then.
func (h identityHandler) GetGatewayInfo(ctx context.Context, _ *openshellpb.GetGatewayInfoRequest) (*openshellpb.GetGatewayInfoResponse, error) {
	resp := &openshellpb.GetGatewayInfoResponse{Status: openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY, GatewayVersion: h.svc.Version}
	info := &openshellpb.ComputeDriverInfo{Name: h.svc.DriverName}
	resp.ComputeDrivers = []*openshellpb.ComputeDriverInfo{info}
	caps, err := h.svc.Compute.Capabilities(ctx)
	if err == nil {
		info.Capabilities = &openshellpb.ComputeDriverCapabilities{DriverName: caps.Name, DriverVersion: caps.Version}
	}
	if err != nil || h.svc.Healthy != nil && h.svc.Healthy() != nil {
		resp.Status = openshellpb.ServiceStatus_SERVICE_STATUS_DEGRADED
	}
	return resp, nil
}

// RefreshSandboxToken gives a sandbox a fresh token for its old one. Credentials for extension services belong to a
// part of the protocol that is not built.
func (h identityHandler) RefreshSandboxToken(ctx context.Context, req *openshellpb.RefreshSandboxTokenRequest) (*openshellpb.RefreshSandboxTokenResponse, error) {
	p := principal.From(ctx)
	switch {
	case p.Kind != principal.Sandbox || p.Source != principal.SourceToken:
		return nil, fault.New(fault.PermissionDenied, "TOKEN_REQUIRED", "only a sandbox token can be refreshed; use IssueSandboxToken for bootstrap")
	case len(req.ExtensionServiceNames) > 0:
		return nil, fault.New(fault.FailedPrecondition, "EXTENSION_SERVICES", "extension services are not configured on this gateway").
			WithNext("refresh without extension_service_names")
	}
	if _, err := h.svc.Sandboxes.ByID(p.SandboxID); err != nil {
		return nil, err
	}
	token, expires, err := h.svc.Tokens.Mint(p.SandboxID)
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "SANDBOX_TOKEN_MINT", "sandbox identity cannot be minted").WithNext("retry")
	}
	return &openshellpb.RefreshSandboxTokenResponse{Token: token, ExpiresAtMs: millis(expires)}, nil
}
