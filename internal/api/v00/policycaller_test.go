package v00_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
)

// TestSandboxCallersOfUpdateConfig is what sandboxes of both generations are refused, in which order.
func TestSandboxCallersOfUpdateConfig(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	c.box(t, "", "other", "alice")
	p := rules1("example.com")
	merge := []*openshellpb.PolicyMergeOperation{{Operation: &openshellpb.PolicyMergeOperation_RemoveRule{
		RemoveRule: &openshellpb.RemoveNetworkRule{RuleName: "one"},
	}}}
	denied, invalid := codes.PermissionDenied, codes.InvalidArgument
	const exclusive = "policy, setting_key, and merge_operations are mutually exclusive"
	for name, tc := range map[string]struct {
		req         *openshellpb.UpdateConfigRequest
		code        codes.Code
		newer       string
		olderCode   codes.Code
		older       string
		olderPasses bool
	}{
		"global": {
			req:  &openshellpb.UpdateConfigRequest{Global: true, Policy: p},
			code: denied, newer: "sandbox principals cannot perform cross-workspace operations",
			olderCode: denied, older: "sandbox secret cannot mutate global config",
		},
		"global before all else": {
			req:  &openshellpb.UpdateConfigRequest{Global: true, DeleteSetting: true, Name: "other"},
			code: denied, newer: "sandbox principals cannot perform cross-workspace operations",
			olderCode: denied, older: "sandbox secret cannot mutate global config",
		},
		"annotations are looked at first": {
			req: &openshellpb.UpdateConfigRequest{Global: true, Annotations: map[string]string{"/": "x"}}, code: invalid, newer: "annotations key",
			olderCode: invalid, older: "annotations key",
		},
		"delete with policy": {
			req:  &openshellpb.UpdateConfigRequest{Name: "box", Policy: p, DeleteSetting: true},
			code: denied, newer: "sandbox callers cannot delete settings", olderCode: denied, older: "sandbox secret cannot delete settings",
		},
		"setting": {
			req:  &openshellpb.UpdateConfigRequest{Name: "box", SettingKey: "ocsf_json_enabled", SettingValue: yes()},
			code: denied, newer: "sandbox callers may only perform sandbox policy sync",
			olderCode: denied, older: "sandbox secret may only perform sandbox policy sync",
		},
		"policy and setting": {
			req:  &openshellpb.UpdateConfigRequest{Name: "box", Policy: p, SettingKey: "ocsf_json_enabled"},
			code: denied, newer: "sandbox callers may only perform sandbox policy sync",
			olderCode: denied, older: "sandbox secret may only perform sandbox policy sync",
		},
		"merge": {
			req:  &openshellpb.UpdateConfigRequest{Name: "box", MergeOperations: merge},
			code: denied, newer: "sandbox callers may only perform sandbox policy sync",
			olderCode: denied, older: "sandbox secret may only perform sandbox policy sync",
		},
		"nothing": {
			req:  &openshellpb.UpdateConfigRequest{Name: "box"},
			code: denied, newer: "sandbox callers may only perform sandbox policy sync",
			olderCode: denied, older: "sandbox secret may only perform sandbox policy sync",
		},
		"blank name": {
			req:  &openshellpb.UpdateConfigRequest{Name: " \t", Policy: p},
			code: denied, newer: "sandbox callers may only perform sandbox policy sync",
			olderCode: denied, older: "sandbox secret may only perform sandbox policy sync",
		},
		"policy and merge": {
			req:  &openshellpb.UpdateConfigRequest{Name: "box", Policy: p, MergeOperations: merge},
			code: invalid, newer: exclusive, olderCode: invalid, older: exclusive,
		},
		"foreign": {
			req:  &openshellpb.UpdateConfigRequest{Name: "other", Policy: p},
			code: denied, newer: "sandbox not found or not owned by caller", olderPasses: true,
		},
		"foreign with merge": {
			req:  &openshellpb.UpdateConfigRequest{Name: "other", Policy: p, MergeOperations: merge},
			code: denied, newer: "sandbox not found or not owned by caller", olderCode: invalid, older: exclusive,
		},
		"missing": {
			req:  &openshellpb.UpdateConfigRequest{Name: "none", Policy: p},
			code: denied, newer: "sandbox not found or not owned by caller", olderCode: codes.NotFound, older: "sandbox not found",
		},
		"own name in another workspace": {
			req:  &openshellpb.UpdateConfigRequest{Workspace: "elsewhere", Name: "box", Policy: p},
			code: denied, newer: "sandbox not found or not owned by caller", olderCode: codes.NotFound, older: "sandbox not found",
		},
	} {
		_, err := c.UpdateConfig(c.own, tc.req)
		wantRefusal(t, name+", newer", err, tc.code, tc.newer)
		_, err = c.UpdateConfig(c.secret, tc.req)
		switch {
		case tc.olderPasses && err != nil:
			t.Errorf("%s, older: %v", name, err)
		case !tc.olderPasses:
			wantRefusal(t, name+", older", err, tc.olderCode, tc.older)
		}
	}
	if got := c.config(t); got.Policy != nil || got.Version != 0 {
		t.Errorf("after refusals alone the policy is %v", got)
	}

	// A setting key of blanks is none.
	r, err := c.UpdateConfig(c.own, &openshellpb.UpdateConfigRequest{Name: "box", Policy: p, SettingKey: " \n"})
	if err != nil || r.Version != 1 {
		t.Errorf("a blank setting key: %v, %v", r, err)
	}
}

// TestSandboxBringsItsPolicyIn covers the first sync, and what a sandbox may not do afterwards.
func TestSandboxBringsItsPolicyIn(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	p := rules1("example.com")
	sent := edited(p, func(p *sandboxpb.SandboxPolicy) {
		p.NetworkPolicies["_provider_github"] = &sandboxpb.NetworkPolicyRule{Name: "github"}
		p.NetworkPolicies["one"].Endpoints[0].ProviderCredentialed = true
	})
	before := c.config(t).ConfigRevision
	r, err := c.UpdateConfig(c.own, &openshellpb.UpdateConfigRequest{Name: "box", Policy: sent, Annotations: map[string]string{"image": "a"}})
	if err != nil || r.Version != 1 || len(r.PolicyHash) != 64 || r.SettingsRevision != 0 || r.Annotations["image"] != "a" {
		t.Fatalf("sync: %v, %v", r, err)
	}
	got := c.config(t)
	if !proto.Equal(got.Policy, p) || got.Version != 1 || got.PolicyHash != r.PolicyHash || got.ConfigRevision == before {
		t.Errorf("config after the sync is %v", got)
	}
	sb, err := c.GetSandbox(c.reader, &openshellpb.GetSandboxRequest{Name: "box"})
	if err != nil || !proto.Equal(sb.Sandbox.Spec.Policy, p) || sb.Sandbox.Metadata.Annotations["image"] != "a" {
		t.Errorf("the sandbox is not filled in: %v, %v", sb, err)
	}

	// More paths are enrichment; more network is not the sandbox's to take.
	richer := edited(p, func(p *sandboxpb.SandboxPolicy) { p.Filesystem.ReadOnly = append(p.Filesystem.ReadOnly, "/proc") })
	if r := c.put(c.own, t, richer); r.Version != 2 {
		t.Errorf("enriched: %v", r)
	}
	for _, ctx := range []context.Context{c.own, c.secret} {
		_, err = c.UpdateConfig(ctx, &openshellpb.UpdateConfigRequest{Name: "box", Policy: rules1("evil.example")})
		wantRefusal(t, "other network rules", err, codes.PermissionDenied, "may only perform sandbox policy sync")
	}
	_, err = c.UpdateConfig(c.own, &openshellpb.UpdateConfigRequest{Name: "box", Policy: edited(richer, func(p *sandboxpb.SandboxPolicy) {
		p.Filesystem.ReadWrite = nil
	})})
	wantRefusal(t, "fewer paths", err, codes.InvalidArgument, "filesystem read_write path '/tmp' cannot be removed on a live sandbox")

	_, err = c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Global: true, Policy: p})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.UpdateConfig(c.own, &openshellpb.UpdateConfigRequest{Name: "box", Policy: richer})
	wantRefusal(t, "under a global policy", err, codes.FailedPrecondition, "policy is managed globally")
}

// TestPolicyChangesOfSandboxesAreAudited checks that there is a record whoever changes a policy.
func TestPolicyChangesOfSandboxesAreAudited(t *testing.T) {
	t.Parallel()
	c := newConfigRig(t)
	c.put(c.own, t, rules1("example.com"))
	c.put(c.admin, t, rules1("example.org"))
	if _, err := c.UpdateConfig(c.own, &openshellpb.UpdateConfigRequest{Name: "other", Policy: rules1("example.com")}); err == nil {
		t.Fatal("a foreign sandbox was changed")
	}
	if _, err := c.UpdateConfig(c.admin, &openshellpb.UpdateConfigRequest{Name: "box", Global: true, SettingKey: "ocsf_json_enabled", SettingValue: yes()}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range c.audit.of("UpdateConfig") {
		got = append(got, fmt.Sprintf("%s %s %s %s", r.Actor, r.Target, r.Verdict, r.Reason))
	}
	want := []string{
		"sandbox/" + c.id + " sandbox/default/box allowed ", testIssuer + "|alice sandbox/default/box allowed ",
		"sandbox/" + c.id + " sandbox/default/other denied SANDBOX_NOT_OWNED", testIssuer + "|alice gateway allowed ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("records are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}
