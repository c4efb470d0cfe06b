package v00

import (
	"context"
	"maps"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/policy"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/settings"
)

// Pages of ListSandboxPolicies.
const (
	defaultRevisions = 50
	maxRevisions     = 1000
)

// policyHandler answers what people ask about policies and settings, and makes their changes and those of sandboxes.
type policyHandler struct {
	sandboxes *sandbox.Service
}

// UpdateConfig changes one policy or setting, of a sandbox or of all.
func (h policyHandler) UpdateConfig(ctx context.Context, req *openshellpb.UpdateConfigRequest) (*openshellpb.UpdateConfigResponse, error) {
	u := sandbox.ConfigUpdate{
		Workspace: req.Workspace, Name: req.Name, Global: req.Global, Policy: req.Policy, SettingKey: req.SettingKey,
		DeleteSetting: req.DeleteSetting, Merges: len(req.MergeOperations), ExpectVersion: req.ExpectedResourceVersion,
		Annotations: req.Annotations, Value: valueFromWire(req.SettingValue), ValueSent: req.SettingValue != nil,
	}
	r, err := h.sandboxes.UpdateConfig(ctx, u)
	if err != nil {
		return nil, err
	}
	return &openshellpb.UpdateConfigResponse{
		Version: r.Version, PolicyHash: r.PolicyHash, SettingsRevision: r.SettingsRevision, Deleted: r.Deleted, Annotations: r.Annotations,
	}, nil
}

// GetGatewayConfig tells every user what is set for all sandboxes. Settings are no secrets.
func (h policyHandler) GetGatewayConfig(context.Context, *sandboxpb.GetGatewayConfigRequest) (*sandboxpb.GetGatewayConfigResponse, error) {
	global, err := h.sandboxes.Settings.Global()
	if err != nil {
		return nil, err
	}
	resp := &sandboxpb.GetGatewayConfigResponse{Settings: map[string]*sandboxpb.SettingValue{}, SettingsRevision: global.Revision}
	for _, e := range settings.Merge(global.Values, nil) {
		resp.Settings[e.Key] = &sandboxpb.SettingValue{}
		if e.Scope != settings.ScopeNone {
			resp.Settings[e.Key] = valueToWire(e.Value)
		}
	}
	return resp, nil
}

// GetSandboxPolicyStatus returns one revision of a sandbox's own policy, or of the one of all sandboxes.
func (h policyHandler) GetSandboxPolicyStatus(ctx context.Context, req *openshellpb.GetSandboxPolicyStatusRequest) (*openshellpb.GetSandboxPolicyStatusResponse, error) {
	var (
		r       *policy.Revision
		inForce uint32
		active  uint32
		err     error
	)
	if req.Global {
		r, inForce, err = h.sandboxes.Settings.RevisionAt(ctx, req.Version)
	} else {
		var sb *sandbox.Sandbox
		if r, sb, err = h.sandboxes.PolicyRevision(ctx, req.Workspace, req.Name, req.Version); err == nil {
			inForce, active = sb.NewestPolicy(), sb.PolicyVersion
		}
	}
	if err != nil {
		return nil, err
	}
	out := revisionToWire(r, inForce)
	if out.Policy, err = r.Message(); err != nil {
		return nil, err
	}
	return &openshellpb.GetSandboxPolicyStatusResponse{Revision: out, ActiveVersion: active}, nil
}

// ListSandboxPolicies lists the kept revisions of a sandbox's own policy, or of the one of all sandboxes.
func (h policyHandler) ListSandboxPolicies(ctx context.Context, req *openshellpb.ListSandboxPoliciesRequest) (*openshellpb.ListSandboxPoliciesResponse, error) {
	limit := int(req.Limit)
	if limit == 0 {
		limit = defaultRevisions
	}
	limit = min(limit, maxRevisions)
	var (
		list    []*policy.Revision
		inForce uint32
		err     error
	)
	if req.Global {
		list, inForce, err = h.sandboxes.Settings.Revisions(ctx, int(req.Offset), limit)
	} else {
		var sb *sandbox.Sandbox
		if list, sb, err = h.sandboxes.PolicyRevisions(ctx, req.Workspace, req.Name, int(req.Offset), limit); err == nil {
			inForce = sb.NewestPolicy()
		}
	}
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.ListSandboxPoliciesResponse{Revisions: make([]*openshellpb.SandboxPolicyRevision, len(list))}
	for i, r := range list {
		resp.Revisions[i] = revisionToWire(r, inForce)
	}
	return resp, nil
}

// ReportPolicyStatus records whether the supervisor could load the policy revision.
func (h policyHandler) ReportPolicyStatus(ctx context.Context, req *openshellpb.ReportPolicyStatusRequest) (*openshellpb.ReportPolicyStatusResponse, error) {
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

// revisionToWire leaves the policy itself out.
func revisionToWire(r *policy.Revision, inForce uint32) *openshellpb.SandboxPolicyRevision {
	return &openshellpb.SandboxPolicyRevision{
		Version: r.Version, PolicyHash: r.Hash, Status: openshellpb.PolicyStatus(r.Status(r.Version == inForce)), LoadError: r.LoadError,
		CreatedAtMs: millis(r.CreatedAt), LoadedAtMs: millis(r.LoadedAt), Provenance: maps.Clone(r.Provenance),
	}
}

// valueFromWire is a value without a type where there was none.
func valueFromWire(v *sandboxpb.SettingValue) settings.Value {
	switch v := v.GetValue().(type) {
	case *sandboxpb.SettingValue_BoolValue:
		return settings.Value{Type: settings.Bool, Bool: v.BoolValue}
	case *sandboxpb.SettingValue_StringValue:
		return settings.Value{Type: settings.String, Text: v.StringValue}
	case *sandboxpb.SettingValue_IntValue:
		return settings.Value{Type: settings.Int}
	case *sandboxpb.SettingValue_BytesValue:
		return settings.Value{Type: settings.Bytes}
	}
	return settings.Value{}
}

func valueToWire(v settings.Value) *sandboxpb.SettingValue {
	if v.Type == settings.Bool {
		return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_BoolValue{BoolValue: v.Bool}}
	}
	return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_StringValue{StringValue: v.Text}}
}

func effectiveToWire(effective []settings.Effective) map[string]*sandboxpb.EffectiveSetting {
	out := make(map[string]*sandboxpb.EffectiveSetting, len(effective))
	for _, e := range effective {
		w := &sandboxpb.EffectiveSetting{Scope: sandboxpb.SettingScope(e.Scope)}
		if e.Scope != settings.ScopeNone {
			w.Value = valueToWire(e.Value)
		}
		out[e.Key] = w
	}
	return out
}
