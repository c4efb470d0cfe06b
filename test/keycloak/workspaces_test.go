//go:build linux

package keycloak_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// workspaces is the flag of the newer generation's rules.
var workspaces = []string{"--authorization-mode", "workspaces"}

const (
	memberText = "not a member of workspace '%s'"
	adminText  = "workspace role 'admin' required in workspace '%s'"
)

func wantOK(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
}

// remedy is the command that a refusal tells the administrator to run.
func remedy(workspace, subject, role string) string {
	return fmt.Sprintf("openshell workspace member add --workspace '%s' --subject '%s' --role %s", workspace, subject, role)
}

func (d *door) add(ctx context.Context, token, workspace, subject string, role openshellpb.WorkspaceRole) error {
	_, err := d.client.AddWorkspaceMember(as(ctx, token), &openshellpb.AddWorkspaceMemberRequest{
		Workspace: workspace, PrincipalSubject: subject, Role: role,
	})
	return err
}

// TestTenCasesWithWorkspaces are the cases as the newer generation has them: roles alone let nobody in, membership does.
func TestTenCasesWithWorkspaces(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	for _, port := range []struct {
		name string
		open func(*testing.T, realm, ...string) *door
	}{{"TLS", openTLS}, {"plaintext", open}} {
		t.Run(port.name, func(t *testing.T) {
			t.Parallel()
			d := port.open(t, r, workspaces...)
			p := signIn(t, r, "openshell-cli", "openshell-ci")
			ctx := t.Context()
			for what, token := range map[string]string{"the user": p.User, "the machine": p.Machine} {
				subject := part(t, token, 1)["sub"].(string)
				err := d.list(token)
				wantDenied(t, what+" before it is a member", err, fmt.Sprintf(memberText, "default"))
				wantDenied(t, what+" before it is a member", err, remedy("default", subject, "user"))
				wantDenied(t, what+" makes a provider before it is a member", createProvider(as(ctx, token), d.client), "")
				wantOK(t, "add "+what, d.add(ctx, p.Admin, "default", subject, openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER))
			}
			d.tenCases(t, p, fmt.Sprintf(adminText, "default"))
		})
	}
}

// TestWorkspace walks through a workspace with somebody outside, a user and an administrator in it, and the platform's.
func TestWorkspace(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r, workspaces...)
	const name = "e2e-authz-test"
	ctx := t.Context()
	token := func(user string) string { return r.password(t, "openshell-cli", user, everything).Access }
	subject := func(token string) string { return part(t, token, 1)["sub"].(string) }
	root, outsider, user, chief := token("admin@test"), token("user-b@test"), token("user@test"), token("alice")
	provider := func(token, name, workspace string) error {
		_, err := d.client.CreateProvider(as(ctx, token), &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
			Metadata: &datamodelpb.ObjectMeta{Name: name}, Type: "claude", Credentials: map[string]string{"ANTHROPIC_API_KEY": "x"},
		}, Workspace: workspace})
		return err
	}
	list := func(token string) error {
		_, err := d.client.ListSandboxes(as(ctx, token), &openshellpb.ListSandboxesRequest{Workspace: name})
		return err
	}
	names := func(token string) []string {
		resp, err := d.client.ListWorkspaces(as(ctx, token), &openshellpb.ListWorkspacesRequest{})
		wantOK(t, "list workspaces", err)
		var out []string
		for _, w := range resp.GetWorkspaces() {
			out = append(out, w.GetMetadata().GetName())
		}
		return out
	}

	_, err := d.client.CreateWorkspace(as(ctx, user), &openshellpb.CreateWorkspaceRequest{Name: name})
	wantDenied(t, "a user makes a workspace", err, "")
	_, err = d.client.CreateWorkspace(as(ctx, root), &openshellpb.CreateWorkspaceRequest{Name: name})
	wantOK(t, "the platform's administrator makes a workspace", err)
	wantOK(t, "add a user", d.add(ctx, root, name, subject(user), openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER))
	wantOK(t, "add an administrator", d.add(ctx, root, name, subject(chief), openshellpb.WorkspaceRole_WORKSPACE_ROLE_ADMIN))

	wantDenied(t, "somebody outside lists", list(outsider), fmt.Sprintf(memberText, name))
	wantDenied(t, "somebody outside lists", list(outsider), remedy(name, subject(outsider), "user"))
	wantOK(t, "a user lists", list(user))
	wantOK(t, "the platform's administrator lists", list(root))
	_, err = d.client.ListSandboxes(as(ctx, user), &openshellpb.ListSandboxesRequest{AllWorkspaces: true})
	wantDenied(t, "a user lists all workspaces", err, "platform admin role required for cross-workspace operations")
	_, err = d.client.ListSandboxes(as(ctx, root), &openshellpb.ListSandboxesRequest{AllWorkspaces: true})
	wantOK(t, "the platform's administrator lists all workspaces", err)

	wantDenied(t, "a user makes a provider", provider(user, "p", name), fmt.Sprintf(adminText, name))
	wantDenied(t, "a user makes a provider", provider(user, "p", name), remedy(name, subject(user), "admin"))
	wantOK(t, "the workspace's administrator makes a provider", provider(chief, "p", name))
	err = d.add(ctx, user, name, subject(outsider), openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER)
	wantDenied(t, "a user adds a member", err, fmt.Sprintf(adminText, name))
	err = d.add(ctx, chief, name, subject(outsider), openshellpb.WorkspaceRole_WORKSPACE_ROLE_ADMIN)
	wantDenied(t, "the workspace's administrator makes another", err, "only platform admins can assign the workspace admin role")
	wantOK(t, "the workspace's administrator adds a user", d.add(ctx, chief, name, subject(outsider), openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER))
	wantOK(t, "the new user lists", list(outsider))

	if got := names(user); !slices.Equal(got, []string{name}) {
		t.Errorf("a user sees the workspaces %v, want %s alone", got, name)
	}
	if got := names(root); !slices.Contains(got, name) || !slices.Contains(got, "default") {
		t.Errorf("the platform's administrator sees the workspaces %v", got)
	}
	_, err = d.client.RemoveWorkspaceMember(as(ctx, chief), &openshellpb.RemoveWorkspaceMemberRequest{Workspace: name, PrincipalSubject: subject(outsider)})
	wantOK(t, "the workspace's administrator removes a user", err)
	wantDenied(t, "a removed user lists", list(outsider), fmt.Sprintf(memberText, name))
}
