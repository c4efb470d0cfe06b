package v00_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/policy"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/settings"
	"sallyport.dev/sallyport/internal/store"
)

func yes() *sandboxpb.SettingValue {
	return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_BoolValue{BoolValue: true}}
}

func no() *sandboxpb.SettingValue {
	return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_BoolValue{}}
}

func word(s string) *sandboxpb.SettingValue {
	return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_StringValue{StringValue: s}}
}

// configRig is a rig with one sandbox without a policy, and who may call.
type configRig struct {
	*rig
	openshellpb.OpenShellClient
	id string
	// admin, reader, own and secret are the contexts of an administrator, a user, the sandbox's supervisor, and a holder
	// of the secret of the older generation.
	admin, reader, own, secret context.Context
}

func newConfigRig(t *testing.T) *configRig {
	t.Helper()
	r := newRig(t, authz.Policy{Scheme: authz.Workspaces, AdminRole: "openshell-admin", UserRole: "openshell-user"})
	if _, err := r.workspaces.AddMember(root(), "default", "reader", authz.User); err != nil {
		t.Fatal(err)
	}
	c := &configRig{rig: r, OpenShellClient: openshellpb.NewOpenShellClient(r.conn), id: r.box(t, "", "box", "alice")}
	as := func(token string) context.Context {
		return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
	}
	c.admin, c.reader = as("user;alice;openshell-admin;"), as("user;reader;openshell-user;")
	c.own, c.secret = as("sandbox;"+c.id+";"+principal.SourceToken), as("sandbox;;"+principal.SourceSharedSecret)
	return c
}

// rules1 is a policy of one rule that lets programs reach a host.
func rules1(host string) *sandboxpb.SandboxPolicy {
	return &sandboxpb.SandboxPolicy{
		Version:    1,
		Filesystem: &sandboxpb.FilesystemPolicy{ReadOnly: []string{"/usr"}, ReadWrite: []string{"/tmp"}},
		Landlock:   &sandboxpb.LandlockPolicy{Compatibility: "best_effort"},
		NetworkPolicies: map[string]*sandboxpb.NetworkPolicyRule{"one": {Name: "one", Endpoints: []*sandboxpb.NetworkEndpoint{
			{Host: host, Port: 443, Ports: []uint32{443}},
		}}},
	}
}

func edited(p *sandboxpb.SandboxPolicy, edit func(*sandboxpb.SandboxPolicy)) *sandboxpb.SandboxPolicy {
	p = proto.CloneOf(p)
	edit(p)
	return p
}

func (c *configRig) put(ctx context.Context, t *testing.T, p *sandboxpb.SandboxPolicy) *openshellpb.UpdateConfigResponse {
	t.Helper()
	r, err := c.UpdateConfig(ctx, &openshellpb.UpdateConfigRequest{Name: "box", Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *configRig) config(t *testing.T) *sandboxpb.GetSandboxConfigResponse {
	t.Helper()
	r, err := c.GetSandboxConfig(c.own, &sandboxpb.GetSandboxConfigRequest{SandboxId: c.id})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (c *configRig) report(t *testing.T, version uint32, loadError string) {
	t.Helper()
	req := &openshellpb.ReportPolicyStatusRequest{SandboxId: c.id, Version: version, Status: openshellpb.PolicyStatus_POLICY_STATUS_LOADED}
	if loadError != "" {
		req.Status, req.LoadError = openshellpb.PolicyStatus_POLICY_STATUS_FAILED, loadError
	}
	if _, err := c.ReportPolicyStatus(c.own, req); err != nil {
		t.Fatal(err)
	}
}

// statuses lists the sandbox's revisions, newest first, as "version status".
func (c *configRig) statuses(t *testing.T) []string {
	t.Helper()
	list, err := c.ListSandboxPolicies(c.reader, &openshellpb.ListSandboxPoliciesRequest{Name: "box"})
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, r := range list.Revisions {
		if r.Policy != nil || r.PolicyHash == "" || r.CreatedAtMs == 0 {
			t.Errorf("a listed revision is %v", r)
		}
		out = append(out, fmt.Sprintf("%d %s", r.Version, strings.TrimPrefix(r.Status.String(), "POLICY_STATUS_")))
	}
	return out
}

func wantRefusal(t *testing.T, what string, err error, code codes.Code, text string) {
	t.Helper()
	s := status.Convert(err)
	if s.Code() != code || !strings.Contains(s.Message(), text) {
		t.Errorf("%s: %v, want %s %q", what, err, code, text)
		return
	}
	if _, reason := reasonOf(err); reason == "" {
		t.Errorf("%s: no reason in %v", what, err)
	}
}

func TestUpdateConfigAsksForOneChange(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	p := rules1("example.com")
	merge := []*openshellpb.PolicyMergeOperation{{}}
	key := "ocsf_json_enabled"
	for name, tc := range map[string]struct {
		req  *openshellpb.UpdateConfigRequest
		code codes.Code
		text string
	}{
		"nothing":                {&openshellpb.UpdateConfigRequest{Name: "box"}, codes.InvalidArgument, "one of policy, setting_key, or merge_operations must be provided"},
		"blank key":              {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: " "}, codes.InvalidArgument, "one of policy, setting_key, or merge_operations must be provided"},
		"policy and key":         {&openshellpb.UpdateConfigRequest{Name: "box", Policy: p, SettingKey: key}, codes.InvalidArgument, "mutually exclusive"},
		"policy and merge":       {&openshellpb.UpdateConfigRequest{Name: "box", Policy: p, MergeOperations: merge}, codes.InvalidArgument, "mutually exclusive"},
		"policy and delete":      {&openshellpb.UpdateConfigRequest{Name: "box", Policy: p, DeleteSetting: true}, codes.InvalidArgument, "delete_setting cannot be combined with policy payload"},
		"global delete + policy": {&openshellpb.UpdateConfigRequest{Global: true, Policy: p, DeleteSetting: true}, codes.InvalidArgument, "delete_setting cannot be combined with policy payload"},
		"merge and delete":       {&openshellpb.UpdateConfigRequest{Name: "box", MergeOperations: merge, DeleteSetting: true}, codes.InvalidArgument, "delete_setting cannot be combined"},
		"global merge":           {&openshellpb.UpdateConfigRequest{Global: true, MergeOperations: merge}, codes.InvalidArgument, "merge_operations are not supported for global policy updates"},
		"merge":                  {&openshellpb.UpdateConfigRequest{Name: "box", MergeOperations: merge}, codes.Unimplemented, "merge_operations are not built"},
		"global annotations":     {&openshellpb.UpdateConfigRequest{Global: true, Policy: p, Annotations: map[string]string{"a": "b"}}, codes.InvalidArgument, "annotations are only supported for sandbox-scoped updates"},
		"global version":         {&openshellpb.UpdateConfigRequest{Global: true, Policy: p, ExpectedResourceVersion: 1}, codes.InvalidArgument, "expected_resource_version is only supported"},
		"no name":                {&openshellpb.UpdateConfigRequest{Policy: p}, codes.InvalidArgument, "name is required for sandbox-scoped updates"},
		"blank name":             {&openshellpb.UpdateConfigRequest{Name: " ", Policy: p}, codes.InvalidArgument, "name is required for sandbox-scoped updates"},
		"missing":                {&openshellpb.UpdateConfigRequest{Name: "none", Policy: p}, codes.NotFound, "sandbox not found"},
		"old version":            {&openshellpb.UpdateConfigRequest{Name: "box", Policy: p, ExpectedResourceVersion: 99}, codes.Aborted, "(current resource_version: "},
		"reserved rule":          {&openshellpb.UpdateConfigRequest{Name: "box", Policy: &sandboxpb.SandboxPolicy{NetworkPolicies: map[string]*sandboxpb.NetworkPolicyRule{"_provider_x": {}}}}, codes.InvalidArgument, "uses reserved '_provider_' prefix"},
		"unsafe":                 {&openshellpb.UpdateConfigRequest{Name: "box", Policy: rules1("*.com")}, codes.InvalidArgument, "policy contains unsafe content: "},
		"unsafe for all":         {&openshellpb.UpdateConfigRequest{Global: true, Policy: rules1("**.co")}, codes.InvalidArgument, "policy contains unsafe content: "},
		"no value":               {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: key}, codes.InvalidArgument, "setting_value is required"},
		"no value in it":         {&openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, SettingValue: &sandboxpb.SettingValue{}}, codes.InvalidArgument, "setting_value.value is required"},
		"unknown key":            {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: "x", SettingValue: yes()}, codes.InvalidArgument, "unknown setting key 'x'. Allowed keys: providers_v2_enabled, ocsf_json_enabled, "},
		"wrong type":             {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: key, SettingValue: word("true")}, codes.InvalidArgument, "setting 'ocsf_json_enabled' expects bool value"},
		"bytes":                  {&openshellpb.UpdateConfigRequest{Global: true, SettingKey: "proposal_approval_mode", SettingValue: &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_BytesValue{}}}, codes.InvalidArgument, "expects string value; bytes are not supported for this key"},
		"integer":                {&openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, SettingValue: &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_IntValue{}}}, codes.InvalidArgument, "expects bool value"},
		"other word":             {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: "proposal_approval_mode", SettingValue: word("never")}, codes.InvalidArgument, "setting 'proposal_approval_mode' expects one of [manual, auto]; got 'never'"},
		"reserved":               {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: "policy", DeleteSetting: true}, codes.InvalidArgument, "reserved key 'policy' must be set via policy commands"},
		"reserved for all":       {&openshellpb.UpdateConfigRequest{Global: true, SettingKey: "policy", SettingValue: word("x")}, codes.InvalidArgument, "reserved key 'policy' must be set via the policy field"},
		"long key":               {&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: strings.Repeat("k", 257), SettingValue: yes()}, codes.InvalidArgument, "setting_key exceeds maximum length (257 > 256)"},
	} {
		_, err := c.UpdateConfig(c.admin, tc.req)
		wantRefusal(t, name, err, tc.code, tc.text)
	}
	_, err := c.UpdateConfig(c.reader, &openshellpb.UpdateConfigRequest{Name: "box", Policy: p})
	wantRefusal(t, "a member", err, codes.PermissionDenied, "workspace role 'admin' required in workspace 'default'")
	_, err = c.UpdateConfig(c.reader, &openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, SettingValue: yes()})
	wantRefusal(t, "a member, for all", err, codes.PermissionDenied, "platform admin role required for cross-workspace operations")
	if got := c.config(t); got.Version != 0 || got.Settings[key].GetScope() != 0 {
		t.Errorf("after refusals alone the configuration is %v", got)
	}
}

func TestPolicyRevisions(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	a, b := rules1("a.example"), rules1("b.example")
	_, err := c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: "box"})
	wantRefusal(t, "without a policy", err, codes.NotFound, "no policy revision found for this sandbox")
	if list := c.statuses(t); list != nil {
		t.Errorf("without a policy there are %v", list)
	}
	for i, p := range []*sandboxpb.SandboxPolicy{a, a, b, a} {
		if r := c.put(c.admin, t, p); r.Version != []uint32{1, 1, 2, 3}[i] {
			t.Errorf("update %d made version %d", i, r.Version)
		}
	}
	if got, want := c.statuses(t), []string{"3 PENDING", "2 SUPERSEDED", "1 SUPERSEDED"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	c.report(t, 2, "")
	c.report(t, 3, strings.Repeat("é", 3000))
	r, err := c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: "box"})
	if err != nil || r.Revision.Version != 3 || r.Revision.Status != openshellpb.PolicyStatus_POLICY_STATUS_FAILED || r.ActiveVersion != 2 ||
		len(r.Revision.LoadError) != policy.MaxLoadError || !proto.Equal(r.Revision.Policy, a) || r.Revision.LoadedAtMs != 0 {
		t.Errorf("the failed revision is %v, %v", r, err)
	}
	c.report(t, 3, "")
	// Late news of the past changes nothing of the present.
	c.report(t, 1, "")
	r, err = c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: "box", Version: 3})
	if err != nil || r.Revision.Status != openshellpb.PolicyStatus_POLICY_STATUS_LOADED || r.ActiveVersion != 3 ||
		r.Revision.LoadError != "" || r.Revision.LoadedAtMs == 0 {
		t.Errorf("the loaded revision is %v, %v", r, err)
	}
	if got, want := c.statuses(t), []string{"3 LOADED", "2 SUPERSEDED", "1 SUPERSEDED"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for _, version := range []uint32{4, 1 << 31} {
		_, err := c.ReportPolicyStatus(c.own, &openshellpb.ReportPolicyStatusRequest{SandboxId: c.id, Version: version, Status: 2})
		wantRefusal(t, "a report on a version that is not there", err, codes.NotFound, "policy revision not found")
		_, err = c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: "box", Version: version})
		wantRefusal(t, "a version that is not there", err, codes.NotFound, "no policy revision found for this sandbox")
	}
	page, err := c.ListSandboxPolicies(c.reader, &openshellpb.ListSandboxPoliciesRequest{Name: "box", Offset: 1, Limit: 1})
	if err != nil || len(page.Revisions) != 1 || page.Revisions[0].Version != 2 {
		t.Errorf("the second page is %v, %v", page, err)
	}
	page, err = c.ListSandboxPolicies(c.reader, &openshellpb.ListSandboxPoliciesRequest{Name: "box", Offset: 1 << 31, Limit: 1 << 31})
	if err != nil || len(page.Revisions) != 0 {
		t.Errorf("beyond the end there is %v, %v", page, err)
	}
}

// TestPolicyOfCreation covers a sandbox that was created with a policy: its first revision, before and after it is stored.
func TestPolicyOfCreation(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	a := rules1("a.example")
	made, err := c.CreateSandbox(c.admin, &openshellpb.CreateSandboxRequest{Name: "with", Spec: &openshellpb.SandboxSpec{Policy: a}})
	if err != nil {
		t.Fatal(err)
	}
	get := func() *openshellpb.GetSandboxPolicyStatusResponse {
		t.Helper()
		r, err := c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: "with", Version: 1})
		if err != nil || !proto.Equal(r.Revision.Policy, a) {
			t.Fatalf("%v, %v", r, err)
		}
		return r
	}
	before := get()
	if before.Revision.Status != openshellpb.PolicyStatus_POLICY_STATUS_PENDING || before.ActiveVersion != 0 {
		t.Errorf("at first: %v", before)
	}
	if r, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "with", Policy: a}); err != nil || r.Version != 1 {
		t.Errorf("the same again: %v, %v", r, err)
	}
	own := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sandbox;"+made.Sandbox.Metadata.Id+";"+principal.SourceToken)
	if _, err := c.ReportPolicyStatus(own, &openshellpb.ReportPolicyStatusRequest{SandboxId: made.Sandbox.Metadata.Id, Version: 1, Status: 2}); err != nil {
		t.Fatal(err)
	}
	after := get()
	if after.Revision.Status != openshellpb.PolicyStatus_POLICY_STATUS_LOADED || after.ActiveVersion != 1 || after.Revision.LoadedAtMs == 0 ||
		after.Revision.CreatedAtMs != before.Revision.CreatedAtMs || after.Revision.PolicyHash != before.Revision.PolicyHash {
		t.Errorf("after the report: %v, before: %v", after, before)
	}
	if r, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "with", Policy: rules1("b.example")}); err != nil || r.Version != 2 {
		t.Errorf("the next: %v, %v", r, err)
	}
	if got := get(); got.Revision.Status != openshellpb.PolicyStatus_POLICY_STATUS_SUPERSEDED {
		t.Errorf("at last: %v", got)
	}
}

func TestStaticPartsStay(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	base := rules1("a.example")
	c.put(c.admin, t, base)
	for text, edit := range map[string]func(*sandboxpb.SandboxPolicy){
		"filesystem policy cannot be removed on a live sandbox":                    func(p *sandboxpb.SandboxPolicy) { p.Filesystem = nil },
		"filesystem include_workdir cannot be changed":                             func(p *sandboxpb.SandboxPolicy) { p.Filesystem.IncludeWorkdir = true },
		"filesystem read_only path '/usr' cannot be removed on a live sandbox":     func(p *sandboxpb.SandboxPolicy) { p.Filesystem.ReadOnly = []string{"/usr/lib"} },
		"filesystem read_write path '/tmp' cannot be removed on a live sandbox":    func(p *sandboxpb.SandboxPolicy) { p.Filesystem.ReadWrite = nil },
		"landlock policy cannot be changed on a live sandbox (applied at startup)": func(p *sandboxpb.SandboxPolicy) { p.Landlock = nil },
		"process policy cannot be changed on a live sandbox (applied at startup)":  func(p *sandboxpb.SandboxPolicy) { p.Process = &sandboxpb.ProcessPolicy{RunAsUser: "sandbox"} },
		"policy serialized size exceeds maximum (":                                 func(p *sandboxpb.SandboxPolicy) { p.NetworkPolicies["one"].Name = strings.Repeat("n", 262_144) },
		"policy contains unsafe content: too many filesystem paths (257 > 256)":    func(p *sandboxpb.SandboxPolicy) { p.Filesystem.ReadOnly = slices.Repeat([]string{"/usr"}, 256) },
		"policy contains unsafe content: path exceeds maximum length (4097 > 4096)": func(p *sandboxpb.SandboxPolicy) {
			p.Filesystem.ReadOnly = append(p.Filesystem.ReadOnly, "/"+strings.Repeat("p", 4096))
		},
		`policy contains unsafe content: path "/a/../b" contains a '..' component`:      func(p *sandboxpb.SandboxPolicy) { p.Filesystem.ReadOnly = append(p.Filesystem.ReadOnly, "/a/../b") },
		`policy contains unsafe content: read_write path "//" is the whole file system`: func(p *sandboxpb.SandboxPolicy) { p.Filesystem.ReadWrite = append(p.Filesystem.ReadWrite, "//") },
	} {
		_, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", Policy: edited(base, edit)})
		wantRefusal(t, text, err, codes.InvalidArgument, text)
	}
	more := edited(base, func(p *sandboxpb.SandboxPolicy) {
		p.Filesystem.ReadWrite = append(p.Filesystem.ReadWrite, "/var/tmp", "/"+strings.Repeat("p", 4095))
		for i := range 252 {
			p.Filesystem.ReadOnly = append(p.Filesystem.ReadOnly, fmt.Sprintf("/%d", i))
		}
	})
	if r := c.put(c.admin, t, more); r.Version != 2 {
		t.Errorf("more paths, at the limits, made version %d", r.Version)
	}
	// The baseline binds, not what was added since.
	if r := c.put(c.admin, t, rules1("b.example")); r.Version != 3 {
		t.Errorf("back to the baseline's paths made version %d", r.Version)
	}
}

func TestSettingsHaveTwoLayers(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	const key = "ocsf_json_enabled"
	update := func(req *openshellpb.UpdateConfigRequest) *openshellpb.UpdateConfigResponse {
		t.Helper()
		r, err := c.UpdateConfig(c.admin, req)
		if err != nil {
			t.Fatal(err)
		}
		if r.Version != 0 || r.PolicyHash != "" {
			t.Errorf("a setting has a policy: %v", r)
		}
		return r
	}
	holds := func(value bool, scope sandboxpb.SettingScope) {
		t.Helper()
		e := c.config(t).Settings[key]
		if e.GetValue().GetBoolValue() != value || e.Scope != scope || (e.Value == nil) != (scope == 0) {
			t.Errorf("%v holds, want %t of %s", e, value, scope)
		}
	}
	holds(false, sandboxpb.SettingScope_SETTING_SCOPE_UNSPECIFIED)
	unset := c.config(t).ConfigRevision
	if r := update(&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: " " + key + "\t", SettingValue: no()}); r.SettingsRevision != 1 {
		t.Errorf("the first value: %v", r)
	}
	holds(false, sandboxpb.SettingScope_SETTING_SCOPE_SANDBOX)
	if c.config(t).ConfigRevision == unset {
		t.Error("a value that is set does not show in the revision")
	}
	if r := update(&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: key, SettingValue: no()}); r.SettingsRevision != 1 {
		t.Errorf("the same value: %v", r)
	}
	if r := update(&openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, SettingValue: yes()}); r.SettingsRevision != 1 {
		t.Errorf("a value for all: %v", r)
	}
	if r := update(&openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, SettingValue: yes()}); r.SettingsRevision != 1 {
		t.Errorf("the same for all: %v", r)
	}
	holds(true, sandboxpb.SettingScope_SETTING_SCOPE_GLOBAL)
	_, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", SettingKey: key, SettingValue: yes()})
	wantRefusal(t, "set below", err, codes.FailedPrecondition, "setting 'ocsf_json_enabled' is managed globally; delete the global setting before sandbox update")
	_, err = c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", SettingKey: key, DeleteSetting: true})
	wantRefusal(t, "delete below", err, codes.FailedPrecondition, "setting 'ocsf_json_enabled' is managed globally; delete the global setting first")

	global, err := c.GetGatewayConfig(c.reader, &sandboxpb.GetGatewayConfigRequest{})
	if err != nil || global.SettingsRevision != 1 || len(global.Settings) != len(settings.Registry()) || !global.Settings[key].GetBoolValue() ||
		global.Settings["proposal_approval_mode"] == nil || global.Settings["proposal_approval_mode"].Value != nil {
		t.Errorf("the gateway's settings are %v, %v", global, err)
	}
	if r := update(&openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, DeleteSetting: true}); !r.Deleted || r.SettingsRevision != 2 {
		t.Errorf("deleted for all: %v", r)
	}
	if r := update(&openshellpb.UpdateConfigRequest{Global: true, SettingKey: key, DeleteSetting: true}); r.Deleted || r.SettingsRevision != 2 {
		t.Errorf("deleted again: %v", r)
	}
	holds(false, sandboxpb.SettingScope_SETTING_SCOPE_SANDBOX)
	if r := update(&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: key, DeleteSetting: true}); !r.Deleted || r.SettingsRevision != 2 {
		t.Errorf("deleted: %v", r)
	}
	if r := update(&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: "unheard_of", DeleteSetting: true}); r.Deleted {
		t.Errorf("deleted what was not there: %v", r)
	}
	if got := c.config(t).ConfigRevision; got != unset {
		t.Errorf("without values the revision is %d, was %d", got, unset)
	}
	if r := update(&openshellpb.UpdateConfigRequest{Name: "box", SettingKey: "proposal_approval_mode", SettingValue: word("auto")}); r.SettingsRevision != 3 {
		t.Errorf("a word: %v", r)
	}
}

func TestGlobalPolicy(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	own, all := rules1("own.example"), rules1("all.example")
	c.put(c.admin, t, own)
	status := &openshellpb.GetSandboxPolicyStatusRequest{Global: true}
	_, err := c.GetSandboxPolicyStatus(c.admin, status)
	wantRefusal(t, "without a global policy", err, codes.NotFound, "no global policy revision found")
	set := func(p *sandboxpb.SandboxPolicy, version uint32) {
		t.Helper()
		r, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Global: true, Policy: p})
		if err != nil || r.Version != version || len(r.PolicyHash) != 64 || r.SettingsRevision != 0 {
			t.Errorf("set for all: %v, %v; want version %d", r, err, version)
		}
	}
	set(all, 1)
	set(all, 1)
	set(rules1("second.example"), 2)
	got := c.config(t)
	if got.PolicySource != sandboxpb.PolicySource_POLICY_SOURCE_GLOBAL || got.GlobalPolicyVersion != 2 || got.Version != 1 ||
		!proto.Equal(got.Policy, rules1("second.example")) {
		t.Errorf("the configuration is %v", got)
	}
	_, err = c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", Policy: rules1("x.example")})
	wantRefusal(t, "a policy below", err, codes.FailedPrecondition, "policy is managed globally; delete global policy before sandbox policy update")
	for _, ask := range []func() error{
		func() error { _, err := c.GetSandboxPolicyStatus(c.reader, status); return err },
		func() error {
			_, err := c.ListSandboxPolicies(c.reader, &openshellpb.ListSandboxPoliciesRequest{Global: true})
			return err
		},
	} {
		wantRefusal(t, "a member asks for all", ask(), codes.PermissionDenied, "platform admin role required for cross-workspace operations")
	}
	r, err := c.GetSandboxPolicyStatus(c.admin, status)
	if err != nil || r.Revision.Version != 2 || r.Revision.Status != openshellpb.PolicyStatus_POLICY_STATUS_LOADED || r.ActiveVersion != 0 || r.Revision.LoadedAtMs == 0 {
		t.Errorf("the global policy is %v, %v", r, err)
	}
	deleted, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Global: true, SettingKey: "policy", DeleteSetting: true})
	if err != nil || !deleted.Deleted {
		t.Errorf("deleted: %v, %v", deleted, err)
	}
	if got := c.config(t); got.PolicySource != sandboxpb.PolicySource_POLICY_SOURCE_SANDBOX || got.GlobalPolicyVersion != 0 || !proto.Equal(got.Policy, own) {
		t.Errorf("afterwards the configuration is %v", got)
	}
	list, err := c.ListSandboxPolicies(c.admin, &openshellpb.ListSandboxPoliciesRequest{Global: true})
	if err != nil || len(list.Revisions) != 2 || list.Revisions[0].Status != openshellpb.PolicyStatus_POLICY_STATUS_SUPERSEDED {
		t.Errorf("the global revisions are %v, %v", list, err)
	}
	set(rules1("second.example"), 3)
}

// TestConfigurationWithoutChangesReadsAsBefore pins the revision of what older gateways answered.
func TestConfigurationWithoutChangesReadsAsBefore(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	var in bytes.Buffer
	in.Write([]byte{1, 0, 0, 0})
	in.WriteString("fail_closed\x00")
	for _, s := range settings.Registry() {
		in.WriteString(s.Key + "\x00\x00\x00\x00")
	}
	sum := sha256.Sum256(in.Bytes())
	got := c.config(t)
	if want := binary.LittleEndian.Uint64(sum[:]); got.ConfigRevision != want {
		t.Errorf("revision %d, want %d", got.ConfigRevision, want)
	}
	if got.Policy != nil || got.Version != 0 || got.PolicyHash != "" || len(got.Settings) != len(settings.Registry()) {
		t.Errorf("the configuration is %v", got)
	}
}

// TestRevisionsAreBounded checks that only the newest are kept, by number and by size, and none of a deleted sandbox.
func TestRevisionsAreBounded(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	for i := range policy.MaxRevisions + 1 {
		c.put(c.admin, t, rules1(fmt.Sprintf("h%d.example", i)))
	}
	if list := c.statuses(t); len(list) != policy.MaxRevisions || list[0] != "51 PENDING" || list[policy.MaxRevisions-1] != "2 SUPERSEDED" {
		t.Errorf("%d are kept: %v", len(list), list)
	}
	big := func(i int) *sandboxpb.SandboxPolicy {
		return edited(rules1("big.example"), func(p *sandboxpb.SandboxPolicy) {
			p.NetworkPolicies["one"].Name = fmt.Sprint(i) + strings.Repeat("n", 250_000)
		})
	}
	for i := range 6 {
		c.put(c.admin, t, big(i))
	}
	if list := c.statuses(t); len(list) != 4 || list[0] != "57 PENDING" {
		t.Errorf("of large ones %v are kept", list)
	}
	if n := c.store.Count(policy.Kind); n != 4 {
		t.Errorf("%d revisions are stored", n)
	}
	if _, err := c.DeleteSandbox(c.admin, &openshellpb.DeleteSandboxRequest{Name: "box"}); err != nil {
		t.Fatal(err)
	}
	if n := c.store.Count(policy.Kind); n != 0 {
		t.Errorf("%d revisions are left of a deleted sandbox", n)
	}
	c.box(t, "", "box", "alice")
	if list := c.statuses(t); list != nil {
		t.Errorf("a new sandbox of the name has %v", list)
	}
}

// TestConcurrentPolicyChanges checks that each change is kept, and that a version that was asked for counts.
func TestConcurrentPolicyChanges(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	c.put(c.admin, t, rules1("first.example"))
	var changing sync.WaitGroup
	const n = 16
	for i := range n {
		changing.Go(func() {
			_, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", Policy: rules1(fmt.Sprintf("c%d.example", i))})
			if err != nil {
				t.Error(err)
			}
			_, err = c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Global: true, SettingKey: "ocsf_json_enabled", SettingValue: []*sandboxpb.SettingValue{yes(), no()}[i%2]})
			if err != nil {
				t.Error(err)
			}
		})
	}
	changing.Wait()
	if list := c.statuses(t); len(list) != n+1 || list[0] != fmt.Sprintf("%d PENDING", n+1) {
		t.Errorf("%d changes made %v", n, list)
	}
	sb, err := c.sandboxes.ByID(c.id)
	if err != nil {
		t.Fatal(err)
	}
	won := 0
	results := make([]error, n)
	for i := range n {
		changing.Go(func() {
			_, results[i] = c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{
				Name: "box", Policy: rules1(fmt.Sprintf("d%d.example", i)), ExpectedResourceVersion: sb.Object.Version,
			})
		})
	}
	changing.Wait()
	for _, err := range results {
		switch {
		case err == nil:
			won++
		default:
			wantRefusal(t, "a late change", err, codes.Aborted, "(current resource_version: ")
		}
	}
	if won != 1 {
		t.Errorf("%d changes of one version were let through", won)
	}
}

// TestAnnotationsOfChanges checks where annotations go, and their bound.
func TestAnnotationsOfChanges(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	update := func(p *sandboxpb.SandboxPolicy, annotations map[string]string) (*openshellpb.UpdateConfigResponse, error) {
		return c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", Policy: p, Annotations: annotations})
	}
	a := rules1("a.example")
	for i, want := range []uint32{1, 1, 2} {
		r, err := update(a, []map[string]string{{"by": "x"}, {"by": "x"}, {"by": "y"}}[i])
		if err != nil || r.Version != want {
			t.Errorf("update %d: %v, %v; want version %d", i, r, err, want)
		}
	}
	r, err := c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: "box", Version: 1})
	if err != nil || r.Revision.Provenance["by"] != "x" {
		t.Errorf("provenance is %v, %v", r.GetRevision().GetProvenance(), err)
	}
	many := map[string]string{}
	for i := range 127 {
		many[fmt.Sprintf("k%d", i)] = "v"
	}
	if _, err := update(a, many); err != nil {
		t.Errorf("128 annotations in all: %v", err)
	}
	_, err = update(a, map[string]string{"one-more": "v"})
	wantRefusal(t, "129 annotations in all", err, codes.InvalidArgument, "annotations exceeds maximum entries (129 > 128)")
	sb, err := c.sandboxes.ByID(c.id)
	if err != nil || len(sb.Annotations) != 128 || sb.Annotations["by"] != "y" {
		t.Errorf("the sandbox has %v, %v", sb.Annotations, err)
	}
}

// TestDeletionLeavesNoRevisions changes a policy while its sandbox is deleted.
func TestDeletionLeavesNoRevisions(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	for round := range 20 {
		name := fmt.Sprintf("gone-%d", round)
		c.box(t, "", name, "alice")
		var racing sync.WaitGroup
		for i := range 4 {
			racing.Go(func() {
				_, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: name, Policy: rules1(fmt.Sprintf("r%d.example", i))})
				if err != nil && status.Code(err) != codes.NotFound {
					t.Error(err)
				}
			})
		}
		racing.Go(func() {
			if _, err := c.DeleteSandbox(c.admin, &openshellpb.DeleteSandboxRequest{Name: name}); err != nil {
				t.Error(err)
			}
		})
		racing.Wait()
		if n := c.store.Count(policy.Kind); n != 0 {
			t.Fatalf("%d revisions are left of a deleted sandbox", n)
		}
	}
}

// TestRowsOfEarlierVersionsAreRead covers sandboxes of which it is stored with the sandbox alone how their policy fared.
func TestRowsOfEarlierVersionsAreRead(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	for field, want := range map[string]openshellpb.PolicyStatus{
		`"policyVersion":1`:        openshellpb.PolicyStatus_POLICY_STATUS_LOADED,
		`"policyError":"too much"`: openshellpb.PolicyStatus_POLICY_STATUS_FAILED,
	} {
		name := fmt.Sprintf("old-%d", want)
		made, err := c.CreateSandbox(c.admin, &openshellpb.CreateSandboxRequest{Name: name, Spec: &openshellpb.SandboxSpec{Policy: rules1("a.example")}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.store.Update(t.Context(), sandbox.Kind, made.Sandbox.Metadata.Id, func(o *store.Object) error {
			o.Payload = append([]byte("{"+field+","), o.Payload[1:]...)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		read := func(version uint32, want openshellpb.PolicyStatus) {
			t.Helper()
			r, err := c.GetSandboxPolicyStatus(c.reader, &openshellpb.GetSandboxPolicyStatusRequest{Name: name, Version: version})
			if err != nil || r.Revision.Status != want {
				t.Errorf("%s, version %d: %v, %v", field, version, r, err)
			}
		}
		read(1, want)
		if r, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: name, Policy: rules1("b.example")}); err != nil || r.Version != 2 {
			t.Errorf("%s: %v, %v", field, r, err)
		}
		after := openshellpb.PolicyStatus_POLICY_STATUS_SUPERSEDED
		if want == openshellpb.PolicyStatus_POLICY_STATUS_FAILED {
			after = want
		}
		read(1, after)
		read(2, openshellpb.PolicyStatus_POLICY_STATUS_PENDING)
	}
}
