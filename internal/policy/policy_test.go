package policy_test

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/policy"
)

func TestHashVectors(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		policy *sandboxpb.SandboxPolicy
		want   string
	}{
		"version only": {
			&sandboxpb.SandboxPolicy{Version: 1},
			"67abdd721024f0ff4e0b3f4c2fc13bc5bad42d0b7851d456d88d203d15aaa450",
		},
		"restrictive default": {
			&sandboxpb.SandboxPolicy{
				Version: 1,
				Filesystem: &sandboxpb.FilesystemPolicy{
					IncludeWorkdir: true,
					ReadOnly:       []string{"/usr", "/lib", "/proc", "/dev/urandom", "/app", "/etc", "/var/log"},
					ReadWrite:      []string{"/sandbox", "/tmp", "/dev/null"},
				},
				Landlock: &sandboxpb.LandlockPolicy{Compatibility: "best_effort"},
				Process:  &sandboxpb.ProcessPolicy{RunAsUser: "sandbox", RunAsGroup: "sandbox"},
			},
			"21ca0b7c8c0ee3fe71660bb18960bdb2d572b6904f6a22338eba727ca26add43",
		},
		"one endpoint": {
			&sandboxpb.SandboxPolicy{Version: 1, NetworkPolicies: map[string]*sandboxpb.NetworkPolicyRule{"github": {
				Name: "github",
				Endpoints: []*sandboxpb.NetworkEndpoint{{
					Host: "api.github.com", Port: 443, Ports: []uint32{443}, Protocol: "rest", Enforcement: "enforce", Access: "read-only",
				}},
				Binaries: []*sandboxpb.NetworkBinary{{Path: "/usr/bin/curl"}},
			}}},
			"efbb6be30207f4e05e46c9a195e6e0ecb9ef7fee5cce29dae659c950e752afd8",
		},
		"one rule with a query": {
			&sandboxpb.SandboxPolicy{Version: 1, NetworkPolicies: map[string]*sandboxpb.NetworkPolicyRule{"r": {
				Name: "r",
				Endpoints: []*sandboxpb.NetworkEndpoint{{
					Host: "h.example", Port: 443, Ports: []uint32{443}, Protocol: "rest",
					Rules: []*sandboxpb.L7Rule{{Allow: &sandboxpb.L7Allow{
						Method: "GET", Path: "/**", Query: map[string]*sandboxpb.L7QueryMatcher{"q": {Glob: "a*"}},
					}}},
				}},
			}}},
			"157baf8b797ab31a18627a76c66e101c5cbaebad474bb7285a6fff2220382c83",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := policy.Hash(tc.policy)
			if err != nil || got != tc.want {
				t.Errorf("Hash = %s, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestHashIgnoresUnknownFields(t *testing.T) {
	t.Parallel()
	p := &sandboxpb.SandboxPolicy{Version: 1, Process: &sandboxpb.ProcessPolicy{RunAsUser: "sandbox"}}
	want, err := policy.Hash(p)
	if err != nil {
		t.Fatal(err)
	}
	p.Process.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 1})
	before := proto.CloneOf(p)
	if got, err := policy.Hash(p); err != nil || got != want {
		t.Errorf("Hash with an unknown field = %s, %v; want %s", got, err, want)
	}
	if !proto.Equal(before, p) {
		t.Error("Hash changed its argument")
	}
}
