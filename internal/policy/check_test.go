package policy_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/policy"
)

func reach(hosts ...string) *sandboxpb.SandboxPolicy {
	rule := &sandboxpb.NetworkPolicyRule{Name: "r"}
	for _, h := range hosts {
		rule.Endpoints = append(rule.Endpoints, &sandboxpb.NetworkEndpoint{Host: h, Port: 443, Ports: []uint32{443}})
	}
	return &sandboxpb.SandboxPolicy{Version: 1, NetworkPolicies: map[string]*sandboxpb.NetworkPolicyRule{"r": rule}}
}

func runAs(user, group string) *sandboxpb.SandboxPolicy {
	return &sandboxpb.SandboxPolicy{Process: &sandboxpb.ProcessPolicy{RunAsUser: user, RunAsGroup: group}}
}

func TestSubmittedRefusesUnsafePolicies(t *testing.T) {
	t.Parallel()
	for _, p := range []*sandboxpb.SandboxPolicy{
		{},
		reach("example.com", "*.example.com", "**.example.com", "10.0.0.1", "::1", "", "localhost"),
		runAs("", ""), runAs("sandbox", "sandbox"), runAs("1", "4294967294"),
		{Filesystem: &sandboxpb.FilesystemPolicy{ReadOnly: []string{"/", "/a..b/..c"}, ReadWrite: []string{"/tmp/"}}},
	} {
		if _, err := policy.Submitted(p, false); err != nil {
			t.Errorf("%v: %v", p, err)
		}
	}
	for text, p := range map[string]*sandboxpb.SandboxPolicy{
		`rule "r": host "*.com" is a wildcard for a top-level domain`:     reach("*.com"),
		`rule "r": host "**.co" is`:                                       reach("example.com", "**.co"),
		`rule "r": host "*." is`:                                          reach("*."),
		`rule "r": host "*.com." is`:                                      reach("*.com."),
		`host "*" is`:                                                     reach("*"),
		`host "**" is`:                                                    reach("**"),
		`run_as_user must be 'sandbox' or a number`:                       runAs("root", ""),
		`run_as_user must be 'sandbox' or a number from 1`:                runAs("0", ""),
		`run_as_group must be 'sandbox' or a number from 1 to 4294967294`: runAs("", "4294967295"),
		`not "-1"`:                                               runAs("-1", ""),
		`path "tmp" is not absolute`:                             {Filesystem: &sandboxpb.FilesystemPolicy{ReadOnly: []string{"tmp"}}},
		`path "" is not absolute`:                                {Filesystem: &sandboxpb.FilesystemPolicy{ReadWrite: []string{""}}},
		`path "/.." contains`:                                    {Filesystem: &sandboxpb.FilesystemPolicy{ReadOnly: []string{"/.."}}},
		`path "/\x00" contains NUL`:                              {Filesystem: &sandboxpb.FilesystemPolicy{ReadOnly: []string{"/\x00"}}},
		`read_write path "/" is the whole file system`:           {Filesystem: &sandboxpb.FilesystemPolicy{ReadWrite: []string{"/"}}},
		`"*.c" is a wildcard for a top-level domain; and 2 more`: reach("*.c", "*.c", "*.c", "*.c", "*.c", "*.c", "*.c", "*.c", "*.c", "*.c", "*.c", "*.c"),
		`run_as_user must be 'sandbox' or a number from 1 to 4294967294, not`: runAs(strings.Repeat("x", 10_000), ""),
	} {
		_, err := policy.Submitted(p, true)
		f := fault.From(err)
		if err == nil || f.Kind != fault.InvalidArgument || f.Reason != policy.ReasonUnsafe || f.Next == "" ||
			!strings.HasPrefix(f.Message, "policy contains unsafe content: ") || !strings.Contains(f.Message, text) || len(f.Message) > 4096 {
			t.Errorf("%v, want %q", err, text)
		}
	}
}

func TestSubmittedIsBounded(t *testing.T) {
	t.Parallel()
	p := reach("example.com")
	for p.NetworkPolicies["r"].Name = ""; proto.Size(p) < 262_144; {
		p.NetworkPolicies["r"].Name += strings.Repeat("n", max(1, (262_144-proto.Size(p))/2))
	}
	// Lengths are encoded in steps, so that the limit itself may be passed by a byte or two.
	for proto.Size(p) > 262_144 {
		p.NetworkPolicies["r"].Name = p.NetworkPolicies["r"].Name[1:]
	}
	if proto.Size(p) != 262_144 {
		t.Fatalf("%d bytes", proto.Size(p))
	}
	if _, err := policy.Submitted(p, false); err != nil {
		t.Errorf("at the limit: %v", err)
	}
	p.NetworkPolicies["r"].Name += "n"
	if _, err := policy.Submitted(p, false); !strings.Contains(fault.From(err).Message, "policy serialized size exceeds maximum (262145 > 262144)") {
		t.Errorf("one past the limit: %v", err)
	}
}

func TestSameNetworkIgnoresWhatTheGatewayAdds(t *testing.T) {
	t.Parallel()
	a, b := reach("example.com"), reach("example.com")
	b.NetworkPolicies["_provider_x"] = &sandboxpb.NetworkPolicyRule{Name: "x"}
	b.NetworkPolicies["r"].Endpoints[0].ProviderCredentialed = true
	b.Filesystem = &sandboxpb.FilesystemPolicy{ReadOnly: []string{"/usr"}}
	if !policy.SameNetwork(a, b) {
		t.Error("what the gateway adds counts")
	}
	b.NetworkMiddlewares = map[string]*sandboxpb.NetworkMiddlewareConfig{"m": {}}
	if policy.SameNetwork(a, b) || policy.SameNetwork(a, reach("example.org")) || policy.SameNetwork(a, nil) {
		t.Error("another network is taken for the same")
	}
}

func TestStatusOfARevision(t *testing.T) {
	t.Parallel()
	r, err := policy.NewRevision(1, reach("example.com"), nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.UnixMilli(1)
	loaded, news := r.Reported(true, "ignored", now)
	if !news || loaded.LoadError != "" || loaded.LoadedAt != now {
		t.Errorf("loaded: %+v, %t", loaded, news)
	}
	failed, news := loaded.Reported(false, "broken", now)
	if !news || failed.LoadError != "broken" {
		t.Errorf("failed: %+v, %t", failed, news)
	}
	if _, news := loaded.Reported(true, "", now); news {
		t.Error("loaded twice is news")
	}
	if _, news := failed.Reported(false, "broken", now); news {
		t.Error("failed twice alike is news")
	}
	for _, tc := range []struct {
		r       *policy.Revision
		inForce bool
		want    policy.Status
	}{
		{r, true, policy.StatusPending},
		{r, false, policy.StatusSuperseded},
		{loaded, true, policy.StatusLoaded},
		{loaded, false, policy.StatusSuperseded},
		{failed, true, policy.StatusFailed},
		{failed, false, policy.StatusFailed},
	} {
		if got := tc.r.Status(tc.inForce); got != tc.want {
			t.Errorf("%q in force %t is %d, want %d", tc.r.State, tc.inForce, got, tc.want)
		}
	}
}

// FuzzSubmitted feeds what a peer may send as a policy. What is let in must be stable: the same again changes nothing.
func FuzzSubmitted(f *testing.F) {
	for _, p := range []*sandboxpb.SandboxPolicy{reach("example.com", "*.com"), runAs("0", "sandbox"), {}} {
		raw, err := proto.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, bySandbox bool) {
		p := &sandboxpb.SandboxPolicy{}
		if proto.Unmarshal(raw, p) != nil {
			return
		}
		first, err := policy.Submitted(p, bySandbox)
		if err != nil {
			if f := fault.From(err); f.Kind != fault.InvalidArgument || f.Reason == "" {
				t.Fatalf("refused with %v", err)
			}
			return
		}
		again, err := policy.Submitted(first, false)
		if err != nil || !proto.Equal(first, again) && !strings.Contains(first.String(), "nan") {
			t.Fatalf("let in, and then %v", err)
		}
		a, err := policy.NewRevision(1, first, nil)
		if err != nil {
			t.Fatal(err)
		}
		b, err := policy.DecodeRevision(1, a.Policy, time.Time{})
		if err != nil || a.Hash != b.Hash {
			t.Fatalf("hash %s became %s, %v", a.Hash, b.Hash, err)
		}
		if err := policy.CheckStatic(first, first); err != nil {
			t.Fatalf("a policy may not follow itself: %v", err)
		}
	})
}
