package v00_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
)

// provide creates a provider of one variable.
func (r *rig) provide(t *testing.T, name, key string) {
	t.Helper()
	_, err := r.providers.Create(root(), provider.Provider{
		Name: name, Type: "generic", Credentials: map[string]string{key: "value-of-" + name},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestAttachAndDetachProviders(t *testing.T) {
	t.Parallel()
	r := newRig(t, private(authz.Roles))
	shell := openshellpb.NewOpenShellClient(r.conn)
	id := r.box(t, "", "box", "alice")
	r.provide(t, "hub", "TOKEN")
	r.provide(t, "other", "OTHER")
	r.provide(t, "clash", "TOKEN")
	alice := token(t, "alice", "openshell-user")
	attach := func(name string, version uint64) (*openshellpb.AttachSandboxProviderResponse, error) {
		return shell.AttachSandboxProvider(alice, &openshellpb.AttachSandboxProviderRequest{
			SandboxName: "box", ProviderName: name, ExpectedResourceVersion: version,
		})
	}
	revision := func() uint64 {
		sb, err := r.sandboxes.ByID(id)
		if err != nil {
			t.Fatal(err)
		}
		n, err := r.providers.Revision(t.Context(), "", sb.Spec.Providers)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}

	before := revision()
	resp, err := attach("hub", 0)
	if err != nil || !resp.GetAttached() || len(resp.GetSandbox().GetSpec().GetProviders()) != 1 {
		t.Fatalf("attach: %v, %v", resp, err)
	}
	seen := resp.GetSandbox().GetMetadata().GetResourceVersion()
	with := revision()
	if with == before {
		t.Error("the environment's revision did not change")
	}
	if resp, err := attach("hub", 0); err != nil || resp.GetAttached() {
		t.Errorf("attach again: %v, %v", resp, err)
	}
	if _, err := attach("other", seen); err != nil {
		t.Errorf("attach at the version that was seen: %v", err)
	}
	for name, tc := range map[string]struct {
		provider string
		version  uint64
		code     codes.Code
	}{
		"stale version":       {"other", seen, codes.Aborted},
		"no such provider":    {"nothing", 0, codes.FailedPrecondition},
		"same variable":       {"clash", 0, codes.FailedPrecondition},
		"no name":             {"", 0, codes.InvalidArgument},
		"a name that is long": {string(make([]byte, 254)), 0, codes.InvalidArgument},
	} {
		if _, err := attach(tc.provider, tc.version); status.Code(err) != tc.code {
			t.Errorf("%s: %v, want %v", name, err, tc.code)
		}
	}
	list, err := shell.ListSandboxProviders(alice, &openshellpb.ListSandboxProvidersRequest{SandboxName: "box"})
	if err != nil || len(list.GetProviders()) != 2 || list.GetProviders()[0].GetMetadata().GetName() != "hub" {
		t.Errorf("list: %v, %v", list, err)
	}
	for _, p := range list.GetProviders() {
		for _, v := range p.GetCredentials() {
			if v == "value-of-hub" {
				t.Error("a credential's value is listed")
			}
		}
	}

	detach := func(name string) (*openshellpb.DetachSandboxProviderResponse, error) {
		return shell.DetachSandboxProvider(alice, &openshellpb.DetachSandboxProviderRequest{SandboxName: "box", ProviderName: name})
	}
	if resp, err := detach("other"); err != nil || !resp.GetDetached() || revision() != with {
		t.Errorf("detach: %v, %v, revision %d, want %d", resp, err, revision(), with)
	}
	if resp, err := detach("other"); err != nil || resp.GetDetached() {
		t.Errorf("detach again: %v, %v", resp, err)
	}
	if _, err := shell.DeleteProvider(token(t, "root", "openshell-admin"), &openshellpb.DeleteProviderRequest{Name: "hub"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete of an attached provider: %v", err)
	}
	if _, err := detach("hub"); err != nil {
		t.Error(err)
	}
	if _, err := shell.DeleteProvider(token(t, "root", "openshell-admin"), &openshellpb.DeleteProviderRequest{Name: "hub"}); err != nil {
		t.Errorf("delete of a detached provider: %v", err)
	}
	bob := token(t, "bob", "openshell-user")
	if _, err := shell.ListSandboxProviders(bob, &openshellpb.ListSandboxProvidersRequest{SandboxName: "box"}); status.Code(err) != codes.NotFound {
		t.Errorf("somebody else's sandbox: %v", err)
	}
}

// A sandbox has at most 32 providers, however they come.
func TestAttachHasALimit(t *testing.T) {
	t.Parallel()
	r := newRig(t, private(authz.Roles))
	id := r.box(t, "", "box", "alice")
	ctx := principal.With(t.Context(), user("alice", "openshell-user"))
	for i := range 33 {
		name := "p" + string(rune('a'+i/10)) + string(rune('a'+i%10))
		r.provide(t, name, "KEY_"+name)
		_, attached, err := r.sandboxes.AttachProvider(ctx, "", "box", name, 0)
		if (i < 32) != (err == nil && attached) {
			t.Errorf("provider %d: %t, %v", i+1, attached, err)
		}
	}
	sb, err := r.sandboxes.ByID(id)
	if err != nil || len(sb.Spec.Providers) != 32 {
		t.Errorf("%+v, %v", sb, err)
	}
}
