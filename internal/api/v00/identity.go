package v00

import (
	"context"
	"time"

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

// maxExtensionServices bounds the names in one request, as the contract says.
const maxExtensionServices = 64

// IssueSandboxToken gives a sandbox its first token for its pod's service account token, which the door has had
// reviewed.
func (h identityHandler) IssueSandboxToken(ctx context.Context, _ *openshellpb.IssueSandboxTokenRequest) (*openshellpb.IssueSandboxTokenResponse, error) {
	p := principal.From(ctx)
	if p.Kind != principal.Sandbox || p.Source != principal.SourceServiceAccount {
		return nil, fault.New(fault.PermissionDenied, "SERVICE_ACCOUNT_REQUIRED",
			"only a pod's service account token can be exchanged; use RefreshSandboxToken").
			WithNext("renew a sandbox token with RefreshSandboxToken")
	}
	token, expires, err := h.mint(p.SandboxID)
	if err != nil {
		return nil, err
	}
	recordToken(ctx, recorderOf(h.svc))
	return &openshellpb.IssueSandboxTokenResponse{Token: token, ExpiresAtMs: millis(expires)}, nil
}

// RefreshSandboxToken gives a sandbox a fresh token for its old one, which may have expired while the gateway was
// away. Credentials for extension services belong to a part of the protocol that is not built.
func (h identityHandler) RefreshSandboxToken(ctx context.Context, req *openshellpb.RefreshSandboxTokenRequest) (*openshellpb.RefreshSandboxTokenResponse, error) {
	p := principal.From(ctx)
	if p.Kind != principal.Sandbox || p.Source != principal.SourceToken && p.Source != principal.SourceExpiredToken {
		return nil, fault.New(fault.PermissionDenied, "TOKEN_REQUIRED",
			"only a sandbox token can be refreshed; use IssueSandboxToken for bootstrap").
			WithNext("exchange a service account token with IssueSandboxToken")
	}
	if err := checkExtensionServices(req.ExtensionServiceNames); err != nil {
		return nil, err
	}
	token, expires, err := h.mint(p.SandboxID)
	if err != nil {
		return nil, err
	}
	recordToken(ctx, recorderOf(h.svc))
	return &openshellpb.RefreshSandboxTokenResponse{Token: token, ExpiresAtMs: millis(expires)}, nil
}

// mint makes a token for a sandbox that exists.
func (h identityHandler) mint(sandboxID string) (string, time.Time, error) {
	if h.svc.Tokens == nil {
		return "", time.Time{}, fault.New(fault.Unavailable, "SANDBOX_TOKEN_MINT", "sandbox JWT minting is not configured").
			WithNext("ask the gateway's operator for sandbox keys")
	}
	if _, err := h.svc.Sandboxes.ByID(sandboxID); err != nil {
		return "", time.Time{}, err
	}
	token, expires, err := h.svc.Tokens.Mint(sandboxID)
	if err != nil {
		return "", time.Time{}, fault.Wrap(err, fault.Unavailable, "SANDBOX_TOKEN_MINT", "sandbox identity cannot be minted").WithNext("retry")
	}
	if h.svc.Revocations != nil {
		// The supervisor's open streams came with the token before.
		h.svc.Revocations.Renewed(sandboxID, expires)
	}
	return token, expires, nil
}

// checkExtensionServices refuses every name: first what no gateway accepts, then what this one does not have.
func checkExtensionServices(names []string) error {
	if len(names) == 0 {
		return nil
	}
	if len(names) > maxExtensionServices {
		return fault.New(fault.InvalidArgument, "EXTENSION_SERVICES", "extension_service_names: at most %d names", maxExtensionServices)
	}
	seen := map[string]bool{}
	for _, name := range names {
		switch {
		case name == "":
			return fault.New(fault.InvalidArgument, "EXTENSION_SERVICES", "extension_service_names: a name is empty")
		case seen[name]:
			return fault.New(fault.InvalidArgument, "EXTENSION_SERVICES", "extension_service_names: names must be unique")
		}
		seen[name] = true
	}
	return fault.New(fault.FailedPrecondition, "EXTENSION_SERVICES", "extension services are not configured on this gateway").
		WithNext("refresh without extension_service_names")
}
