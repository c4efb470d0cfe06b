package sandbox

import (
	"context"
	"maps"
	"strings"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/settings"
	"sallyport.dev/sallyport/internal/store"
)

// Stable reasons of refused changes of a configuration.
const (
	ReasonPolicySyncOnly = "SANDBOX_POLICY_SYNC_ONLY"
	ReasonNotOwnSandbox  = "SANDBOX_NOT_OWNED"
	ReasonConfigUpdate   = "CONFIG_UPDATE_INVALID"
	ReasonMergeNotBuilt  = "POLICY_MERGE_NOT_BUILT"
	ReasonPolicyGlobal   = "POLICY_MANAGED_GLOBALLY"
	ReasonModified       = "SANDBOX_MODIFIED"
)

// ConfigUpdate asks for one change: of a policy or of a setting, of one sandbox or of all.
type ConfigUpdate struct {
	// Workspace and Name are the sandbox's; not used with Global.
	Workspace string
	Name      string
	Global    bool
	// Policy replaces the whole policy.
	Policy *sandboxpb.SandboxPolicy
	// SettingKey is set to Value, or loses its value with DeleteSetting. Spaces around it do not count. ValueSent tells
	// a value without a type, which is refused, from none at all, which is refused in other words.
	SettingKey    string
	Value         settings.Value
	ValueSent     bool
	DeleteSetting bool
	// Merges is how many operations on parts of the policy were sent. They are not built.
	Merges int
	// ExpectVersion is the sandbox's version that the caller saw last; 0 for any.
	ExpectVersion uint64
	// Annotations are kept with the revision of the policy and merged into the sandbox's.
	Annotations map[string]string
}

// ConfigResult is what came of a ConfigUpdate.
type ConfigResult struct {
	// Version and PolicyHash are of the policy in force after a change of a policy, else zero.
	Version    uint32
	PolicyHash string
	// SettingsRevision is the revision of the settings after a change of a setting, else zero.
	SettingsRevision uint64
	// Deleted tells that what was deleted had been there.
	Deleted bool
	// Annotations are those of the policy's revision.
	Annotations map[string]string
}

// UpdateConfig changes a policy or a setting. Users need the role of an administrator: of the sandbox's workspace, or of
// the platform for what concerns all sandboxes. A sandbox may bring its own policy in, and nothing else. That a caller
// may is decided before anything else of the request is looked at, but for the bounds of the annotations.
func (s *Service) UpdateConfig(ctx context.Context, u ConfigUpdate) (ConfigResult, error) {
	if err := validateAnnotations("annotations", u.Annotations); err != nil {
		return ConfigResult{}, err
	}
	u.SettingKey = strings.TrimSpace(u.SettingKey)
	o, err := s.admitUpdate(principal.From(ctx), &u)
	if err != nil {
		return ConfigResult{}, err
	}
	if err := u.check(); err != nil {
		return ConfigResult{}, err
	}
	switch {
	case u.Global:
		return s.updateGlobal(ctx, &u)
	case u.Policy != nil:
		return s.updatePolicy(ctx, o.ID, &u)
	default:
		return s.updateSetting(ctx, o.ID, &u)
	}
}

// admitUpdate decides whether the caller may ask for the change, and returns the sandbox it is about, nil for all.
func (s *Service) admitUpdate(p *principal.Principal, u *ConfigUpdate) (*store.Object, error) {
	switch {
	case p.Kind == principal.Sandbox:
		return s.admitOwnUpdate(p, u)
	case u.Global:
		return nil, s.Access.PlatformAdmin(p)
	}
	workspace := workspaceOr(u.Workspace)
	if err := s.Access.Workspace(p, workspace, authz.Admin); err != nil {
		return nil, err
	}
	if strings.TrimSpace(u.Name) == "" {
		return nil, fault.New(fault.InvalidArgument, "NAME_REQUIRED", "name is required for sandbox-scoped updates").
			WithNext("name the sandbox, or ask for all sandboxes with global")
	}
	o, err := s.Store.ByName(Kind, workspace, u.Name)
	if err != nil {
		return nil, notFound(err)
	}
	if !s.Access.Sees(p, workspace, o.Owner) {
		return nil, NotFound()
	}
	return o, nil
}

// admitOwnUpdate is admitUpdate for a supervisor. The two generations word their refusals differently. The shared secret
// of the older one names no sandbox; its holder is taken at its word, which is what the flag for it allows.
func (s *Service) admitOwnUpdate(p *principal.Principal, u *ConfigUpdate) (*store.Object, error) {
	shared := p.Source == principal.SourceSharedSecret
	who := "sandbox callers"
	if shared {
		who = "sandbox secret"
	}
	switch {
	case u.Global && shared:
		return nil, syncOnly("%s cannot mutate global config", who)
	case u.Global:
		return nil, fault.New(fault.PermissionDenied, authz.ReasonSandboxForbidden,
			"sandbox principals cannot perform cross-workspace operations").WithNext("call it as a user, from outside the sandbox")
	case u.DeleteSetting:
		return nil, syncOnly("%s cannot delete settings", who)
	case u.Policy == nil || u.SettingKey != "" || strings.TrimSpace(u.Name) == "":
		return nil, syncOnly("%s may only perform sandbox policy sync", who)
	}
	o, err := s.Store.ByName(Kind, workspaceOr(u.Workspace), u.Name)
	switch {
	case shared && err != nil:
		return nil, notFound(err)
	case !shared && (err != nil || o.ID != p.SandboxID):
		// The same for one that is not there, so that nobody learns which names there are.
		return nil, fault.New(fault.PermissionDenied, ReasonNotOwnSandbox, "sandbox not found or not owned by caller").
			WithNext("a sandbox may act for itself only; name it and its workspace")
	}
	return o, nil
}

func syncOnly(format, who string) error {
	return fault.New(fault.PermissionDenied, ReasonPolicySyncOnly, format, who).
		WithNext("send the sandbox's own full policy and nothing else, or make the change as a user")
}

// check refuses a request that does not ask for exactly one change.
func (u *ConfigUpdate) check() error {
	asked := 0
	for _, is := range []bool{u.Policy != nil, u.SettingKey != "", u.Merges > 0} {
		if is {
			asked++
		}
	}
	switch {
	case asked > 1:
		return invalidUpdate("policy, setting_key, and merge_operations are mutually exclusive", "send one of them")
	case asked == 0:
		return invalidUpdate("one of policy, setting_key, or merge_operations must be provided", "send one of them")
	case u.Global && u.Merges > 0:
		return invalidUpdate("merge_operations are not supported for global policy updates", "send the whole policy")
	case u.Policy != nil && u.DeleteSetting:
		return invalidUpdate("delete_setting cannot be combined with policy payload", "send one of them")
	case u.Merges > 0 && u.DeleteSetting:
		return invalidUpdate("delete_setting cannot be combined with merge_operations", "send one of them")
	case u.Global && len(u.Annotations) > 0:
		return invalidUpdate("annotations are only supported for sandbox-scoped updates", "leave annotations out")
	case u.Global && u.ExpectVersion != 0:
		return invalidUpdate("expected_resource_version is only supported for sandbox-scoped updates", "leave it out")
	case u.SettingKey != "" && !u.DeleteSetting && u.SettingKey != settings.Reserved && !u.ValueSent:
		return fault.New(fault.InvalidArgument, settings.ReasonValueRequired, "setting_value is required").
			WithNext("send a value, or delete the setting")
	case u.Merges > 0:
		return fault.New(fault.Unimplemented, ReasonMergeNotBuilt, "merge_operations are not built in this version").
			WithNext("read the policy, change it, and send it whole in the field policy")
	}
	return nil
}

func invalidUpdate(message, next string) error {
	return fault.New(fault.InvalidArgument, ReasonConfigUpdate, "%s", message).WithNext("%s", next)
}

func (s *Service) updateGlobal(ctx context.Context, u *ConfigUpdate) (ConfigResult, error) {
	switch {
	case u.Policy != nil:
		r, err := s.Settings.SetPolicy(ctx, u.Policy)
		if err != nil {
			return ConfigResult{}, err
		}
		return ConfigResult{Version: r.Version, PolicyHash: r.Hash}, nil
	case u.DeleteSetting:
		revision, deleted, err := s.Settings.Delete(ctx, u.SettingKey)
		return ConfigResult{SettingsRevision: revision, Deleted: deleted}, err
	default:
		revision, err := s.Settings.Set(ctx, u.SettingKey, u.Value)
		return ConfigResult{SettingsRevision: revision}, err
	}
}

// updateSetting sets or deletes a sandbox's own value. One that is set for all sandboxes cannot be changed for one.
func (s *Service) updateSetting(ctx context.Context, id string, u *ConfigUpdate) (ConfigResult, error) {
	if u.SettingKey == settings.Reserved {
		return ConfigResult{}, fault.New(fault.InvalidArgument, settings.ReasonReserved,
			"reserved key 'policy' must be set via policy commands").WithNext("send the policy in the field policy")
	}
	if !u.DeleteSetting {
		if err := settings.Check(u.SettingKey, u.Value); err != nil {
			return ConfigResult{}, err
		}
	}
	global, err := s.Settings.Global()
	if err != nil {
		return ConfigResult{}, err
	}
	if _, managed := global.Values[u.SettingKey]; managed {
		when := "before sandbox update"
		if u.DeleteSetting {
			when = "first"
		}
		return ConfigResult{}, fault.New(fault.FailedPrecondition, settings.ReasonGlobal,
			"setting '%s' is managed globally; delete the global setting %s", u.SettingKey, when).
			WithNext("have an administrator of the platform delete the global setting")
	}
	var result ConfigResult
	err = s.change(ctx, id, u.ExpectVersion, func(_ *store.Object, r *Record) ([]store.Op, error) {
		var changed bool
		if u.DeleteSetting {
			r.Settings, changed = r.Settings.Without(u.SettingKey)
			result.Deleted = changed
		} else {
			r.Settings, changed = r.Settings.With(u.SettingKey, u.Value)
		}
		if changed {
			r.SettingsRevision++
		}
		result.SettingsRevision = r.SettingsRevision
		annotated, err := r.annotate(u.Annotations)
		if err == nil && !changed && !annotated {
			err = store.ErrNoChange
		}
		return nil, err
	})
	if err != nil {
		return ConfigResult{}, err
	}
	return result, nil
}

// annotate merges annotations into the sandbox's, and tells whether that changes them.
func (r *Record) annotate(annotations map[string]string) (changed bool, err error) {
	merged := maps.Clone(r.Annotations)
	if merged == nil {
		merged = make(map[string]string, len(annotations))
	}
	maps.Copy(merged, annotations)
	if maps.Equal(merged, r.Annotations) {
		return false, nil
	}
	if err := limits.Entries("annotations", len(merged), limits.MaxLabels); err != nil {
		return false, err
	}
	r.Annotations = merged
	return true, nil
}
