package v00

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/settings"
)

// failureMode is what a supervisor does with a policy it cannot use.
const failureMode = "fail_closed"

type configHandler struct {
	sandboxes *sandbox.Service
	providers *provider.Service
	logs      *sandboxlog.Hub
	logger    *slog.Logger
	audit     audit.Recorder
}

// GetSandboxConfig answers the sandbox itself and users: the policy that holds for it, and what each setting is.
func (h configHandler) GetSandboxConfig(ctx context.Context, req *sandboxpb.GetSandboxConfigRequest) (*sandboxpb.GetSandboxConfigResponse, error) {
	sb, err := h.configured(ctx, req.SandboxId)
	if err != nil {
		return nil, err
	}
	resp := &sandboxpb.GetSandboxConfigResponse{
		Workspace: sb.Object.Workspace, PolicySource: sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX,
		PolicyValidationFailureMode: failureMode,
	}
	global, err := h.sandboxes.Settings.Global()
	if err != nil {
		return nil, err
	}
	effective := settings.Merge(global.Values, sb.Settings)
	resp.Settings = effectiveToWire(effective)
	if err := h.fillPolicy(resp, sb); err != nil {
		return nil, err
	}
	if resp.ProviderEnvRevision, err = h.providers.Revision(ctx, sb.Object.Workspace, sb.Spec.Providers); err != nil {
		// A provider that is gone shows when the environment is asked for; the rest of the configuration stands.
		h.logger.Debug("provider environment has no revision", "sandbox_id", sb.Object.ID, "error", err)
	}
	resp.ConfigRevision = configRevision(resp, effective)
	return resp, nil
}

// configured returns the sandbox to its own supervisor, and to users who may know of it.
func (h configHandler) configured(ctx context.Context, id string) (*sandbox.Sandbox, error) {
	if principal.From(ctx).Kind != principal.Sandbox {
		return h.sandboxes.Lookup(ctx, id)
	}
	if err := ownSandbox(ctx, h.sandboxes, id); err != nil {
		return nil, err
	}
	return h.sandboxes.ByID(id)
}

// fillPolicy fills in the policy that holds for the sandbox. The one of all sandboxes replaces its own in full.
func (h configHandler) fillPolicy(resp *sandboxpb.GetSandboxConfigResponse, sb *sandbox.Sandbox) error {
	r, global, err := h.sandboxes.EffectivePolicy(sb)
	if err != nil || r == nil {
		return err
	}
	if resp.Policy, err = r.Message(); err != nil {
		return err
	}
	resp.PolicyHash, resp.Version = r.Hash, r.Version
	if global {
		resp.PolicySource, resp.GlobalPolicyVersion = sandboxpb.PolicySource_POLICY_SOURCE_GLOBAL, r.Version
		resp.Version = max(sb.NewestPolicy(), 1)
	}
	return nil
}

// configRevision is opaque to clients: equal for equal configuration, different otherwise.
func configRevision(resp *sandboxpb.GetSandboxConfigResponse, effective []settings.Effective) uint64 {
	h := sha256.New()
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(resp.PolicySource))
	h.Write(n[:])
	h.Write([]byte(resp.PolicyValidationFailureMode))
	h.Write([]byte{0})
	h.Write([]byte(resp.PolicyHash))
	for _, s := range effective {
		h.Write([]byte(s.Key))
		binary.LittleEndian.PutUint32(n[:], uint32(s.Scope))
		h.Write(n[:])
		switch {
		case s.Scope == settings.ScopeNone:
		case s.Value.Type == settings.Bool && s.Value.Bool:
			h.Write([]byte{1, 1})
		case s.Value.Type == settings.Bool:
			h.Write([]byte{1, 0})
		default:
			h.Write([]byte{0})
			h.Write([]byte(s.Value.Text))
		}
	}
	return binary.LittleEndian.Uint64(h.Sum(nil))
}

// GetSandboxProviderEnvironment resolves a sandbox's credentials. One that cannot be resolved is left out and named
// in the sandbox's log, so that it does not take the others with it.
func (h configHandler) GetSandboxProviderEnvironment(ctx context.Context, req *openshellpb.GetSandboxProviderEnvironmentRequest) (*openshellpb.GetSandboxProviderEnvironmentResponse, error) {
	if err := ownSandbox(ctx, h.sandboxes, req.SandboxId); err != nil {
		return nil, err
	}
	sb, err := h.sandboxes.ByID(req.SandboxId)
	if err != nil {
		return nil, err
	}
	env, err := h.providers.Environment(ctx, sb.Object.Workspace, sb.Spec.Providers)
	if err != nil {
		return nil, err
	}
	recordDisclosure(ctx, h.audit, sb, env)
	h.logger.Info("credentials disclosed", "sandbox_id", sb.Object.ID, "actor", principal.From(ctx).Actor(), "environment", env)
	return environmentToWire(sb, env, h.logs)
}
