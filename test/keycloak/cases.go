//go:build linux

package keycloak

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// Scopes of the ten cases, as the token endpoint takes them.
const (
	Everything = "openid openshell:all"
	Sandboxes  = "openid sandbox:read sandbox:write"
)

// Callers are the tokens of the ten cases.
type Callers struct {
	// Admin has all scopes, AdminSandboxes those of sandboxes; for AdminBare none was asked.
	Admin, AdminSandboxes, AdminBare string
	// User is a person with all scopes, Machine a program.
	User, Machine string
}

// SignIn gets the tokens: people's from one client, the program's from another.
func (r Realm) SignIn(ctx context.Context, people, machine string) (Callers, error) {
	var c Callers
	var failed []error
	for _, p := range []struct {
		into        *string
		user, scope string
	}{
		{&c.Admin, "admin@test", Everything},
		{&c.AdminSandboxes, "admin@test", Sandboxes},
		{&c.AdminBare, "admin@test", ""},
		{&c.User, "user@test", Everything},
	} {
		got, err := r.Password(ctx, people, p.user, p.scope)
		*p.into = got.Access
		failed = append(failed, err)
	}
	token, err := r.Program(ctx, machine)
	c.Machine = token
	return c, errors.Join(append(failed, err)...)
}

// Case is one of the ten: a call and how it has to end.
type Case struct {
	// Name begins with the number that the contract gives it.
	Name  string
	token string
	call  func(context.Context, openshellpb.OpenShellClient) error
	want  codes.Code
	text  string
}

// Check makes the call and returns how its end differs from what it has to be, nil if it does not.
func (c Case) Check(ctx context.Context, client openshellpb.OpenShellClient) error {
	if c.token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+c.token)
	}
	if got := status.Convert(c.call(ctx, client)); got.Code() != c.want || !strings.Contains(got.Message(), c.text) {
		return fmt.Errorf("%s: %s %q, want %s with %q", c.Name, got.Code(), got.Message(), c.want, c.text)
	}
	return nil
}

// Cases are the ten, in order, for callers who have just signed in. Refusal is a part of what a user who makes a provider
// is told.
func Cases(c Callers, refusal string) []Case {
	return []Case{
		{"1 admin makes and deletes a provider", c.Admin, func(ctx context.Context, c openshellpb.OpenShellClient) error {
			if err := createProvider(ctx, c); err != nil {
				return err
			}
			_, err := c.DeleteProvider(ctx, &openshellpb.DeleteProviderRequest{Name: caseProvider})
			return err
		}, codes.OK, ""},
		{"2 user makes a provider", c.User, createProvider, codes.PermissionDenied, refusal},
		{"3 user lists sandboxes", c.User, listSandboxes, codes.OK, ""},
		{"4 nobody lists sandboxes", "", listSandboxes, codes.Unauthenticated, ""},
		{"5 nobody asks for health", "", func(ctx context.Context, c openshellpb.OpenShellClient) error {
			resp, err := c.Health(ctx, &openshellpb.HealthRequest{})
			if err == nil && resp.GetStatus() != openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY {
				return status.Error(codes.Unavailable, resp.GetStatus().String())
			}
			return err
		}, codes.OK, ""},
		{"6 scopes of sandboxes list sandboxes", c.AdminSandboxes, listSandboxes, codes.OK, ""},
		{"7 scopes of sandboxes list providers", c.AdminSandboxes, listProviders, codes.PermissionDenied, "provider:read"},
		{"8 all scopes list sandboxes", c.Admin, listSandboxes, codes.OK, ""},
		{"8 all scopes list providers", c.Admin, listProviders, codes.OK, ""},
		{"9 no scope lists sandboxes", c.AdminBare, listSandboxes, codes.PermissionDenied, ""},
		{"10 machine lists sandboxes", c.Machine, listSandboxes, codes.OK, ""},
	}
}

const caseProvider = "e2e-oidc-admin-test"

func createProvider(ctx context.Context, c openshellpb.OpenShellClient) error {
	_, err := c.CreateProvider(ctx, &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: caseProvider}, Type: "claude", Credentials: map[string]string{"ANTHROPIC_API_KEY": "test"},
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
