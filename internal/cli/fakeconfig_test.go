package cli_test

import (
	"context"
	"maps"
	"slices"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
)

// fakeConfig keeps settings by sandbox, "" for all, for a gateway of tests. It takes two keys and judges no value but by
// its type.
type fakeConfig struct {
	values   map[string]map[string]*sandboxpb.SettingValue
	revision uint64
	// deleted tells that the policy of all sandboxes was.
	deleted bool
}

// fakePolicies are the revisions of every policy, newest first.
func fakePolicies() []*openshellpb.SandboxPolicyRevision {
	return []*openshellpb.SandboxPolicyRevision{
		{
			Version: 2, PolicyHash: "bbbbbbbbbbbbbbbbbbbb", Status: openshellpb.PolicyStatus_POLICY_STATUS_FAILED, CreatedAtMs: 1_700_000_001_000,
			LoadError: "rule \x1b[31mone needs what this supervisor does not have",
		},
		{
			Version: 1, PolicyHash: "aaaaaaaaaaaaaaaaaaaa", Status: openshellpb.PolicyStatus_POLICY_STATUS_SUPERSEDED,
			CreatedAtMs: 1_700_000_000_000, LoadedAtMs: 1_700_000_000_500,
		},
	}
}

func (g *gateway) UpdateConfig(_ context.Context, r *openshellpb.UpdateConfigRequest) (*openshellpb.UpdateConfigResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	c := &g.config
	key, scope := r.GetSettingKey(), r.GetName()
	if key == "policy" && r.GetGlobal() && r.GetDeleteSetting() {
		was := c.deleted
		c.deleted = true
		return &openshellpb.UpdateConfigResponse{SettingsRevision: 1, Deleted: !was}, nil
	}
	if key != "ocsf_json_enabled" && key != "proposal_approval_mode" {
		return nil, refusal(codes.InvalidArgument, "unknown setting key '"+key+"'", "SETTING_UNKNOWN", "use a known key")
	}
	if r.GetGlobal() == (scope != "") {
		return nil, refusal(codes.InvalidArgument, "name is required for sandbox-scoped updates", "NAME_REQUIRED", "name it")
	}
	values := maps.Clone(c.values[scope])
	if values == nil {
		values = map[string]*sandboxpb.SettingValue{}
	}
	_, existed := values[key]
	delete(values, key)
	if !r.GetDeleteSetting() {
		values[key], existed = r.GetSettingValue(), false
	}
	if c.values == nil {
		c.values = map[string]map[string]*sandboxpb.SettingValue{}
	}
	c.values[scope] = values
	c.revision++
	return &openshellpb.UpdateConfigResponse{SettingsRevision: c.revision, Deleted: existed}, nil
}

func (g *gateway) GetGatewayConfig(context.Context, *sandboxpb.GetGatewayConfigRequest) (*sandboxpb.GetGatewayConfigResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &sandboxpb.GetGatewayConfigResponse{SettingsRevision: g.config.revision, Settings: map[string]*sandboxpb.SettingValue{
		"ocsf_json_enabled": {}, "proposal_approval_mode": {},
	}}
	maps.Copy(out.Settings, g.config.values[""])
	return out, nil
}

func (g *gateway) GetSandboxConfig(_ context.Context, r *sandboxpb.GetSandboxConfigRequest) (*sandboxpb.GetSandboxConfigResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &sandboxpb.GetSandboxConfigResponse{
		ConfigRevision: 7, PolicySource: sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX, PolicyHash: "bbbb",
		Settings: map[string]*sandboxpb.EffectiveSetting{"ocsf_json_enabled": {}, "proposal_approval_mode": {}},
	}
	for name, sb := range g.sandboxes {
		if sb.GetMetadata().GetId() != r.GetSandboxId() {
			continue
		}
		for key, v := range g.config.values[name] {
			out.Settings[key] = &sandboxpb.EffectiveSetting{Value: v, Scope: sandboxpb.SettingScope_SETTING_SCOPE_SANDBOX}
		}
	}
	for key, v := range g.config.values[""] {
		out.Settings[key] = &sandboxpb.EffectiveSetting{Value: v, Scope: sandboxpb.SettingScope_SETTING_SCOPE_GLOBAL}
	}
	return out, nil
}

func (g *gateway) ListSandboxPolicies(_ context.Context, r *openshellpb.ListSandboxPoliciesRequest) (*openshellpb.ListSandboxPoliciesResponse, error) {
	if r.GetName() == "bare" {
		return &openshellpb.ListSandboxPoliciesResponse{}, nil
	}
	all := fakePolicies()
	return &openshellpb.ListSandboxPoliciesResponse{Revisions: all[min(int(r.GetOffset()), len(all)):min(int(r.GetOffset()+r.GetLimit()), len(all))]}, nil
}

func (g *gateway) GetSandboxPolicyStatus(_ context.Context, r *openshellpb.GetSandboxPolicyStatusRequest) (*openshellpb.GetSandboxPolicyStatusResponse, error) {
	all := fakePolicies()
	i := slices.IndexFunc(all, func(p *openshellpb.SandboxPolicyRevision) bool {
		return r.GetVersion() == 0 || p.GetVersion() == r.GetVersion()
	})
	if i < 0 {
		return nil, refusal(codes.NotFound, "no policy revision found for this sandbox", "POLICY_REVISION_NOT_FOUND", "list them")
	}
	all[i].Policy = &sandboxpb.SandboxPolicy{Version: 1, Landlock: &sandboxpb.LandlockPolicy{Compatibility: "best_effort"}}
	return &openshellpb.GetSandboxPolicyStatusResponse{Revision: all[i], ActiveVersion: 1}, nil
}
