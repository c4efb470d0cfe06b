package v00

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"log/slog"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/policy"
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

// GetSandboxConfig answers the sandbox itself and users. A sandbox that was created with a policy has exactly one
// revision of it, since policies cannot be changed yet.
func (h configHandler) GetSandboxConfig(ctx context.Context, req *sandboxpb.GetSandboxConfigRequest) (*sandboxpb.GetSandboxConfigResponse, error) {
	sb, err := h.configured(ctx, req.SandboxId)
	if err != nil {
		return nil, err
	}
	resp := &sandboxpb.GetSandboxConfigResponse{
		Workspace: sb.Object.Workspace, PolicySource: sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX,
		PolicyValidationFailureMode: failureMode, Settings: map[string]*sandboxpb.EffectiveSetting{},
	}
	for _, s := range settings.Registry() {
		resp.Settings[s.Key] = &sandboxpb.EffectiveSetting{}
	}
	if len(sb.Spec.Policy) > 0 {
		if err := fillPolicy(resp, sb); err != nil {
			return nil, err
		}
	}
	if resp.ProviderEnvRevision, err = h.providers.Revision(ctx, sb.Object.Workspace, sb.Spec.Providers); err != nil {
		// A provider that is gone shows when the environment is asked for; the rest of the configuration stands.
		h.logger.Debug("provider environment has no revision", "sandbox_id", sb.Object.ID, "error", err)
	}
	resp.ConfigRevision = configRevision(resp)
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

type policyKey struct{}

type policyMemo struct {
	message *sandboxpb.SandboxPolicy
	hash    string
}

func fillPolicy(resp *sandboxpb.GetSandboxConfigResponse, sb *sandbox.Sandbox) error {
	v, err := sb.Object.Memo(policyKey{}, func() (any, error) {
		m := policyMemo{message: &sandboxpb.SandboxPolicy{}}
		if err := proto.Unmarshal(sb.Spec.Policy, m.message); err != nil {
			return nil, err
		}
		var err error
		m.hash, err = policy.Hash(m.message)
		return m, err
	})
	if err != nil {
		return fault.Wrap(err, fault.Internal, "POLICY_UNREADABLE", "stored policy cannot be read")
	}
	m, ok := v.(policyMemo)
	if !ok {
		return fault.New(fault.Internal, "POLICY_UNREADABLE", "stored policy cannot be read")
	}
	resp.Policy, resp.PolicyHash, resp.Version = m.message, m.hash, sandbox.PolicyRevision
	return nil
}

// configRevision is opaque to clients: equal for equal configuration, different otherwise.
func configRevision(resp *sandboxpb.GetSandboxConfigResponse) uint64 {
	h := sha256.New()
	var n [4]byte
	binary.LittleEndian.PutUint32(n[:], uint32(resp.PolicySource))
	h.Write(n[:])
	h.Write([]byte(resp.PolicyValidationFailureMode))
	h.Write([]byte{0})
	h.Write([]byte(resp.PolicyHash))
	for _, s := range settings.Registry() {
		h.Write([]byte(s.Key))
		h.Write([]byte{0, 0, 0, 0})
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

// ReportPolicyStatus records whether the supervisor could load the policy revision.
func (h configHandler) ReportPolicyStatus(ctx context.Context, req *openshellpb.ReportPolicyStatusRequest) (*openshellpb.ReportPolicyStatusResponse, error) {
	if err := ownSandbox(ctx, h.sandboxes, req.SandboxId); err != nil {
		return nil, err
	}
	if req.Version == 0 {
		return nil, fault.New(fault.InvalidArgument, "VERSION_REQUIRED", "version is required")
	}
	loaded := req.Status == openshellpb.PolicyStatus_POLICY_STATUS_LOADED
	if !loaded && req.Status != openshellpb.PolicyStatus_POLICY_STATUS_FAILED {
		return nil, fault.New(fault.InvalidArgument, "POLICY_STATUS", "status must be LOADED or FAILED")
	}
	if err := h.sandboxes.PolicyReported(ctx, req.SandboxId, req.Version, loaded, req.LoadError); err != nil {
		return nil, err
	}
	return &openshellpb.ReportPolicyStatusResponse{}, nil
}
