package v00_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
)

var namedRoles = authz.Policy{Scheme: authz.Roles, AdminRole: "openshell-admin", UserRole: "openshell-user"}

func private(scheme authz.Scheme) authz.Policy {
	p := namedRoles
	p.Scheme, p.PrivateSandboxes = scheme, true
	return p
}

// token is the outgoing context of a user.
func token(t *testing.T, subject, role string, issuer ...string) context.Context {
	t.Helper()
	word := "user;" + subject + ";" + role + ";"
	if len(issuer) > 0 {
		word += ";" + issuer[0]
	}
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+word)
}

func names(list []*openshellpb.Sandbox) string {
	var out []string
	for _, sb := range list {
		out = append(out, sb.GetMetadata().GetName())
	}
	return strings.Join(out, " ")
}

func TestOwnerAndReservedLabels(t *testing.T) {
	t.Parallel()
	shell := openshellpb.NewOpenShellClient(newRig(t, private(authz.Roles)).conn)
	resp, err := shell.CreateSandbox(token(t, "alice", "openshell-user"), &openshellpb.CreateSandboxRequest{
		Name: "a", Labels: map[string]string{
			"openshell.ai/owner": "bob", "openshell.ai/sandbox-id": "x", "sallyport.dev/x": "y", "team": "one", "openshell.ai.example/x": "kept",
		},
		Spec: &openshellpb.SandboxSpec{Template: &openshellpb.SandboxTemplate{
			Labels: map[string]string{"openshell.ai/managed-by": "openshell", "app": "x"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := resp.GetSandbox().GetMetadata().GetLabels()
	if len(got) != 3 || got["openshell.ai/owner"] != "alice" || got["team"] != "one" || got["openshell.ai.example/x"] != "kept" {
		t.Errorf("labels %v", got)
	}
	if got := resp.GetSandbox().GetSpec().GetTemplate().GetLabels(); len(got) != 1 || got["app"] != "x" {
		t.Errorf("labels of the template %v", got)
	}
	// Subjects of other providers are no values of labels by the rules for callers, and can be selected all the same.
	const ci = "repo:org/repo:ref:refs/heads/main"
	if _, err := shell.CreateSandbox(token(t, ci, "openshell-user"), &openshellpb.CreateSandboxRequest{Name: "b", Spec: &openshellpb.SandboxSpec{}}); err != nil {
		t.Fatal(err)
	}
	list, err := shell.ListSandboxes(token(t, "root", "openshell-admin"), &openshellpb.ListSandboxesRequest{LabelSelector: sandbox.LabelOwner + "=" + ci})
	if err != nil || names(list.GetSandboxes()) != "b" {
		t.Errorf("%v, %v", list, err)
	}
}

func TestPrivateListsArePagedAfterFiltering(t *testing.T) {
	t.Parallel()
	r := newRig(t, private(authz.Roles))
	shell := openshellpb.NewOpenShellClient(r.conn)
	for i := range 12 {
		r.box(t, "", fmt.Sprintf("s%02d", i), []string{"bob", "bob", "alice"}[i%3])
	}
	for name, tc := range map[string]struct {
		ctx  context.Context
		req  *openshellpb.ListSandboxesRequest
		want string
	}{
		"own":                {token(t, "alice", "openshell-user"), &openshellpb.ListSandboxesRequest{}, "s02 s05 s08 s11"},
		"first page":         {token(t, "alice", "openshell-user"), &openshellpb.ListSandboxesRequest{Limit: 3}, "s02 s05 s08"},
		"second page":        {token(t, "alice", "openshell-user"), &openshellpb.ListSandboxesRequest{Limit: 3, Offset: 3}, "s11"},
		"another's label":    {token(t, "alice", "openshell-user"), &openshellpb.ListSandboxesRequest{LabelSelector: "openshell.ai/owner=bob"}, ""},
		"stranger":           {token(t, "eve", "openshell-user"), &openshellpb.ListSandboxesRequest{}, ""},
		"equal subject":      {token(t, "alice", "openshell-user", "https://other.example"), &openshellpb.ListSandboxesRequest{}, ""},
		"admin":              {token(t, "root", "openshell-admin"), &openshellpb.ListSandboxesRequest{Limit: 4, Offset: 2}, "s02 s03 s04 s05"},
		"admin, by label":    {token(t, "root", "openshell-admin"), &openshellpb.ListSandboxesRequest{LabelSelector: "openshell.ai/owner=alice", AllWorkspaces: true}, "s02 s05 s08 s11"},
		"admin of all there": {token(t, "root", "openshell-admin"), &openshellpb.ListSandboxesRequest{AllWorkspaces: true, Limit: 1}, "s00"},
	} {
		list, err := shell.ListSandboxes(tc.ctx, tc.req)
		if err != nil || names(list.GetSandboxes()) != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, names(list.GetSandboxes()), err, tc.want)
		}
	}
}

// A foreign sandbox and one that is not there are told apart by nothing but the name being taken.
func TestForeignLooksLikeMissing(t *testing.T) {
	t.Parallel()
	r := newRig(t, private(authz.Roles))
	shell := openshellpb.NewOpenShellClient(r.conn)
	foreign := r.box(t, "", "foreign", "bob")
	alice := token(t, "alice", "openshell-user")
	for call, do := range map[string]func(name, id string) error{
		"get": func(name, _ string) error {
			_, err := shell.GetSandbox(alice, &openshellpb.GetSandboxRequest{Name: name})
			return err
		},
		"delete": func(name, _ string) error {
			_, err := shell.DeleteSandbox(alice, &openshellpb.DeleteSandboxRequest{Name: name})
			return err
		},
		"logs": func(_, id string) error {
			_, err := shell.GetSandboxLogs(alice, &openshellpb.GetSandboxLogsRequest{SandboxId: id})
			return err
		},
		"watch": func(_, id string) error {
			stream, err := shell.WatchSandbox(alice, &openshellpb.WatchSandboxRequest{Id: id, FollowLogs: true, FollowEvents: true})
			if err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	} {
		there, absent := status.Convert(do("foreign", foreign)), status.Convert(do("absent", absentID))
		if there.Code() != codes.NotFound || there.Message() != absent.Message() || there.Code() != absent.Code() {
			t.Errorf("%s: %v and %v", call, there, absent)
		}
	}
	_, err := shell.CreateSandbox(alice, &openshellpb.CreateSandboxRequest{Name: "foreign", Spec: &openshellpb.SandboxSpec{}})
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("a name that is taken: %v", err)
	}
}

// TestWatchEndsWithMembership removes a member who watches.
func TestWatchEndsWithMembership(t *testing.T) {
	t.Parallel()
	policy := namedRoles
	policy.Scheme = authz.Workspaces
	r := newRig(t, policy)
	shell := openshellpb.NewOpenShellClient(r.conn)
	id := r.box(t, "", "a", "root")
	if _, err := r.workspaces.AddMember(root(), "", "alice", authz.User); err != nil {
		t.Fatal(err)
	}
	stream, err := shell.WatchSandbox(token(t, "alice", "openshell-user"), &openshellpb.WatchSandboxRequest{Id: id, FollowStatus: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	if removed, err := r.workspaces.RemoveMember(root(), "", "alice"); !removed || err != nil {
		t.Fatal(removed, err)
	}
	for err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.NotFound {
		t.Errorf("the watch ended with %v", err)
	}
}

// TestCommandEndsWithMembership removes a member whose command is on its way to the sandbox.
func TestCommandEndsWithMembership(t *testing.T) {
	t.Parallel()
	policy := namedRoles
	policy.Scheme = authz.Workspaces
	r := newRig(t, policy)
	shell := openshellpb.NewOpenShellClient(r.conn)
	id := r.box(t, "", "a", "root")
	for _, member := range []string{"alice", "bob"} {
		if _, err := r.workspaces.AddMember(root(), "", member, authz.User); err != nil {
			t.Fatal(err)
		}
	}
	supervisor, err := shell.ConnectSupervisor(metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer sandbox;"+id+";"+principal.SourceToken))
	if err != nil {
		t.Fatal(err)
	}
	if err := supervisor.Send(&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{
		Hello: &openshellpb.SupervisorHello{SandboxId: id, InstanceId: "i"},
	}}); err != nil {
		t.Fatal(err)
	}
	receive := func() *openshellpb.GatewayMessage {
		m, err := supervisor.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	receive()
	ended := map[string]error{}
	for _, member := range []string{"alice", "bob"} {
		ctx := principal.With(t.Context(), user(member, "openshell-user"))
		_, release, err := r.sandboxes.Hold(ctx, id, func(cause error) { ended[member] = cause })
		if err != nil {
			t.Fatal(err)
		}
		defer release()
	}
	command, err := shell.ExecSandbox(token(t, "alice", "openshell-user"), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"sleep", "1000"}})
	if err != nil {
		t.Fatal(err)
	}
	for receive().GetRelayOpen() == nil {
	}
	if removed, err := r.workspaces.RemoveMember(root(), "", "alice"); !removed || err != nil {
		t.Fatal(removed, err)
	}
	if _, err := command.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("the command ended with %v", err)
	}
	if !fault.Is(ended["alice"], fault.NotFound) || ended["bob"] != nil {
		t.Errorf("ended: %v", ended)
	}
	if _, _, err := r.sandboxes.Hold(principal.With(t.Context(), user("alice", "openshell-user")), id, nil); !fault.Is(err, fault.NotFound) {
		t.Errorf("held again: %v", err)
	}
}

// TestWorkspacesAsTheNewerGenerationTestsThem walks through memberships over the wire.
func TestWorkspacesAsTheNewerGenerationTestsThem(t *testing.T) {
	t.Parallel()
	policy := namedRoles
	policy.Scheme = authz.Workspaces
	shell := openshellpb.NewOpenShellClient(newRig(t, policy).conn)
	const w = "e2e-authz-test"
	admin, alice, boss := token(t, "root", "openshell-admin"), token(t, "alice", "openshell-user"), token(t, "boss", "openshell-user")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	refused := func(err error, code codes.Code, text string) {
		t.Helper()
		if st := status.Convert(err); st.Code() != code || !strings.Contains(st.Message(), text) {
			t.Errorf("%v, want %s with %q", err, code, text)
		}
	}
	created, err := shell.CreateWorkspace(admin, &openshellpb.CreateWorkspaceRequest{Name: w, Labels: map[string]string{"k": "v"}})
	must(err)
	if m := created.GetWorkspace().GetMetadata(); m.GetName() != w || m.GetId() == "" || m.GetLabels()["k"] != "v" || m.GetResourceVersion() != 1 {
		t.Errorf("%v", created)
	}
	list := &openshellpb.ListSandboxesRequest{Workspace: w}
	_, err = shell.ListSandboxes(alice, list)
	refused(err, codes.PermissionDenied, "not a member of workspace 'e2e-authz-test'")
	refused(err, codes.PermissionDenied, "openshell workspace member add --workspace 'e2e-authz-test' --subject 'alice' --role user")
	add := func(subject string, role openshellpb.WorkspaceRole) *openshellpb.AddWorkspaceMemberRequest {
		return &openshellpb.AddWorkspaceMemberRequest{Workspace: w, PrincipalSubject: subject, Role: role}
	}
	const asMember, asBoss = openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER, openshellpb.WorkspaceRole_WORKSPACE_ROLE_ADMIN
	_, err = shell.AddWorkspaceMember(admin, add("alice", asMember))
	must(err)
	member, err := shell.AddWorkspaceMember(admin, add("boss", asBoss))
	must(err)
	if got := member.GetMember(); got.GetPrincipalSubject() != "boss" || got.GetRole() != asBoss || got.GetMetadata().GetWorkspace() != w {
		t.Errorf("%v", member)
	}
	_, err = shell.AddWorkspaceMember(admin, add("x", 0))
	refused(err, codes.InvalidArgument, "role")
	_, err = shell.AddWorkspaceMember(admin, add("x", 7))
	refused(err, codes.InvalidArgument, "role")
	_, err = shell.ListSandboxes(alice, list)
	must(err)
	_, err = shell.AddWorkspaceMember(alice, add("x", asMember))
	refused(err, codes.PermissionDenied, "workspace role 'admin' required in workspace 'e2e-authz-test'")
	_, err = shell.AddWorkspaceMember(boss, add("x", asMember))
	must(err)
	_, err = shell.AddWorkspaceMember(boss, add("y", asBoss))
	refused(err, codes.PermissionDenied, "only platform admins can assign the workspace admin role")
	_, err = shell.ListSandboxes(boss, &openshellpb.ListSandboxesRequest{AllWorkspaces: true})
	refused(err, codes.PermissionDenied, "platform admin role required for cross-workspace operations")
	all, err := shell.ListWorkspaces(alice, &openshellpb.ListWorkspacesRequest{})
	if must(err); len(all.GetWorkspaces()) != 1 || all.GetWorkspaces()[0].GetMetadata().GetName() != w {
		t.Errorf("%v", all)
	}
	_, err = shell.ListWorkspaces(alice, &openshellpb.ListWorkspacesRequest{LabelSelector: "bad"})
	refused(err, codes.InvalidArgument, "label selector")
	members, err := shell.ListWorkspaceMembers(alice, &openshellpb.ListWorkspaceMembersRequest{Workspace: w})
	if must(err); len(members.GetMembers()) != 3 {
		t.Errorf("%v", members)
	}
	gone, err := shell.RemoveWorkspaceMember(boss, &openshellpb.RemoveWorkspaceMemberRequest{Workspace: w, PrincipalSubject: "x"})
	if must(err); !gone.GetRemoved() {
		t.Error("x was not removed")
	}
	_, err = shell.CreateSandbox(alice, &openshellpb.CreateSandboxRequest{Workspace: w, Name: "s", Spec: &openshellpb.SandboxSpec{}})
	must(err)
	_, err = shell.DeleteWorkspace(admin, &openshellpb.DeleteWorkspaceRequest{Name: w})
	refused(err, codes.FailedPrecondition, "not empty")
	_, err = shell.DeleteSandbox(alice, &openshellpb.DeleteSandboxRequest{Workspace: w, Name: "s"})
	must(err)
	deleted, err := shell.DeleteWorkspace(admin, &openshellpb.DeleteWorkspaceRequest{Name: w})
	if must(err); !deleted.GetDeleted() {
		t.Error("the workspace was not deleted")
	}
	_, err = shell.DeleteWorkspace(admin, &openshellpb.DeleteWorkspaceRequest{Name: "default"})
	refused(err, codes.FailedPrecondition, "workspace 'default' cannot be deleted")
}

// undecided leaves everything to the door.
type undecided struct{}

func (undecided) Workspace(*principal.Principal, string, authz.Role) error { return nil }
func (undecided) PlatformAdmin(*principal.Principal) error                 { return nil }
func (undecided) Sees(*principal.Principal, string, string) bool           { return true }
func (undecided) Limit(*principal.Principal, string) (string, bool)        { return "", false }

// BenchmarkRead measures what reads cost behind the door, by what is decided about them. "door alone" decides nothing;
// "few" lists ten of one's own among 10,000.
func BenchmarkRead(b *testing.B) {
	workspaces := namedRoles
	workspaces.Scheme = authz.Workspaces
	r := newRig(b, namedRoles)
	if _, err := r.workspaces.AddMember(root(), "", "alice", authz.User); err != nil {
		b.Fatal(err)
	}
	for i := range 10_000 {
		r.box(b, "", fmt.Sprintf("s%d", i), []string{"alice", "bob"}[i%2])
	}
	r.sandboxes.Wait()
	few := r.box(b, "", "few-0", "few")
	for i := range 9 {
		r.box(b, "", fmt.Sprintf("few-%d", i+1), "few")
	}
	open := r.sandboxes.Config
	open.Access = undecided{}
	for _, bc := range []struct {
		name     string
		policy   authz.Policy
		sandbox  *sandbox.Service
		subject  string
		own, all int
	}{
		{"door alone", namedRoles, sandbox.NewService(open), "alice", 1, 100},
		{"roles", namedRoles, r.sandboxes, "alice", 1, 100},
		{"roles, private", private(authz.Roles), r.sandboxes, "alice", 1, 100},
		{"workspaces", workspaces, r.sandboxes, "alice", 1, 100},
		{"few", private(authz.Roles), r.sandboxes, "few", 0, 10},
	} {
		a, err := authz.New(r.current.Table(), bc.policy)
		if err != nil {
			b.Fatal(err)
		}
		r.current.Store(a.WithMembers(r.workspaces))
		ctx := principal.With(context.Background(), user(bc.subject, "openshell-user"))
		if bc.own > 0 {
			b.Run(bc.name+"/get", func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if _, err := bc.sandbox.ByName(ctx, "", "s0"); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		b.Run(bc.name+"/list", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if list, err := bc.sandbox.List(ctx, sandbox.Query{}); err != nil || len(list) != bc.all {
					b.Fatal(len(list), err)
				}
			}
		})
	}
	if _, err := r.sandboxes.Lookup(root(), few); err != nil {
		b.Fatal(err)
	}
}
