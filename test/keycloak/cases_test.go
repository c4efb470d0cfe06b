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
	"sallyport.dev/sallyport/test/keycloak"
)

const (
	everything = keycloak.Everything
	sandboxes  = keycloak.Sandboxes
)

func signIn(t *testing.T, r realm, client, machine string) keycloak.Callers {
	t.Helper()
	c, err := r.SignIn(t.Context(), client, machine)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTenCases are the cases that a gateway of this contract has to pass with a realm whose clients name the audience, and
// with the older form of it, whose clients name none.
func TestTenCases(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
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
func (d *door) tenCases(t *testing.T, callers keycloak.Callers, refusal string) {
	t.Helper()
	for _, c := range keycloak.Cases(callers, refusal) {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := c.Check(ctx, d.client); err != nil {
			t.Error(err)
		}
		cancel()
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
