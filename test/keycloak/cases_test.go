//go:build linux

package keycloak_test

import (
	"context"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// people are the tokens of the ten cases.
type people struct {
	admin, adminSandboxes, adminBare string // all scopes, those of sandboxes, no scope parameter
	user, machine                    string
}

const (
	everything = "openid openshell:all"
	sandboxes  = "openid sandbox:read sandbox:write"
)

func signIn(t *testing.T, r realm, client, machine string) people {
	t.Helper()
	return people{
		admin:          r.password(t, client, "admin@test", everything).Access,
		adminSandboxes: r.password(t, client, "admin@test", sandboxes).Access,
		adminBare:      r.password(t, client, "admin@test", "").Access,
		user:           r.password(t, client, "user@test", everything).Access,
		machine:        r.machine(t, machine),
	}
}

// TestTenCases are the cases that a gateway of this contract has to pass with a realm whose clients name the audience, and
// with the older form of it, whose clients name none.
func TestTenCases(t *testing.T) {
	t.Parallel()
	r := keycloak(t)
	for _, form := range []struct {
		name, client, machine string
		args                  []string
	}{
		{"audience", "openshell-cli", "openshell-ci", nil},
		{"no audience", "openshell-cli-noaud", "openshell-ci-noaud", []string{"--oidc-allow-missing-audience"}},
	} {
		for _, port := range []struct {
			name string
			open func(*testing.T, realm, ...string) *door
		}{{"TLS", openTLS}, {"plaintext", open}} {
			t.Run(form.name+"/"+port.name, func(t *testing.T) {
				t.Parallel()
				d := port.open(t, r, form.args...)
				d.tenCases(t, signIn(t, r, form.client, form.machine), "openshell-admin")
			})
		}
	}
}

// tenCases makes the calls; refusal is what a user who makes a provider is told.
func (d *door) tenCases(t *testing.T, p people, refusal string) {
	t.Helper()
	for _, c := range []struct {
		name, token string
		call        func(context.Context, openshellpb.OpenShellClient) error
		want        codes.Code
		text        string
	}{
		{"1 admin makes and deletes a provider", p.admin, func(ctx context.Context, c openshellpb.OpenShellClient) error {
			if err := createProvider(ctx, c); err != nil {
				return err
			}
			_, err := c.DeleteProvider(ctx, &openshellpb.DeleteProviderRequest{Name: testProvider})
			return err
		}, codes.OK, ""},
		{"2 user makes a provider", p.user, createProvider, codes.PermissionDenied, refusal},
		{"3 user lists sandboxes", p.user, listSandboxes, codes.OK, ""},
		{"4 nobody lists sandboxes", "", listSandboxes, codes.Unauthenticated, ""},
		{"5 nobody asks for health", "", func(ctx context.Context, c openshellpb.OpenShellClient) error {
			resp, err := c.Health(ctx, &openshellpb.HealthRequest{})
			if err == nil && resp.GetStatus() != openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY {
				return status.Error(codes.Unavailable, resp.GetStatus().String())
			}
			return err
		}, codes.OK, ""},
		{"6 scopes of sandboxes list sandboxes", p.adminSandboxes, listSandboxes, codes.OK, ""},
		{"7 scopes of sandboxes list providers", p.adminSandboxes, listProviders, codes.PermissionDenied, "provider:read"},
		{"8 all scopes list sandboxes", p.admin, listSandboxes, codes.OK, ""},
		{"8 all scopes list providers", p.admin, listProviders, codes.OK, ""},
		{"9 no scope lists sandboxes", p.adminBare, listSandboxes, codes.PermissionDenied, ""},
		{"10 machine lists sandboxes", p.machine, listSandboxes, codes.OK, ""},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := c.call(as(ctx, c.token), d.client)
		cancel()
		if got := status.Convert(err); got.Code() != c.want || !strings.Contains(got.Message(), c.text) {
			t.Errorf("%s: %s %q, want %s with %q", c.name, got.Code(), got.Message(), c.want, c.text)
		}
	}
}

// wantDenied checks the code and the words that clients match.
func wantDenied(t *testing.T, what string, err error, text string) {
	t.Helper()
	if got := status.Convert(err); got.Code() != codes.PermissionDenied || !strings.Contains(got.Message(), text) {
		t.Errorf("%s: %s %q, want PERMISSION_DENIED with %q", what, got.Code(), got.Message(), text)
	}
}

const testProvider = "e2e-oidc-admin-test"

func createProvider(ctx context.Context, c openshellpb.OpenShellClient) error {
	_, err := c.CreateProvider(ctx, &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: testProvider}, Type: "claude", Credentials: map[string]string{"ANTHROPIC_API_KEY": "test"},
	}})
	return err
}

func listSandboxes(ctx context.Context, c openshellpb.OpenShellClient) error {
	_, err := c.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{})
	return err
}

func listProviders(ctx context.Context, c openshellpb.OpenShellClient) error {
	_, err := c.ListProviders(ctx, &openshellpb.ListProvidersRequest{})
	return err
}
