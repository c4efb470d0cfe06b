package authz

import (
	"sync/atomic"

	"sallyport.dev/sallyport/internal/principal"
)

// Decide is the whole decision about a call of a method that is about a workspace, empty for the default one: that of the door and that of the
// service behind it, which knows the workspace. Methods that ask for no role in a workspace do not look at it. Who owns
// the object of a call is not part of it.
func (a *Authorizer) Decide(p *principal.Principal, fullMethod, workspace string) error {
	if err := a.Authorize(p, fullMethod); err != nil {
		return err
	}
	return a.inside(p, fullMethod, workspace)
}

// inside is what a service decides after the door.
func (a *Authorizer) inside(p *principal.Principal, fullMethod, workspace string) error {
	rule, _ := a.table.Rule(fullMethod)
	if p == nil || p.Kind != principal.User || rule.Role != User && rule.Role != Admin || fullMethod == listWorkspaces {
		return nil
	}
	if workspace == "" {
		workspace = DefaultWorkspace
	}
	return a.Workspace(p, workspace, rule.Role)
}

// listWorkspaces shows to each caller its own.
const listWorkspaces = "/openshell.v1.OpenShell/ListWorkspaces"

// Verdict is the decision about one method.
type Verdict struct {
	Method string
	Rule   Rule
	// Err is nil where the method is allowed, else a *fault.Error.
	Err error
}

// Verdicts returns what a policy means for a caller, method by method, sorted, by the very decisions that Authorize and
// Workspace make. Comparing two tells who would lose or gain access. It fails on a policy that New refuses.
func Verdicts(table *Table, policy Policy, members Members, p *principal.Principal, workspace string) ([]Verdict, error) {
	a, err := New(table, policy)
	if err != nil {
		return nil, err
	}
	a = a.WithMembers(members)
	methods := table.Methods()
	out := make([]Verdict, len(methods))
	for i, m := range methods {
		rule, _ := table.Rule(m)
		out[i] = Verdict{Method: m, Rule: rule, Err: a.Decide(p, m, workspace)}
	}
	return out, nil
}

// Fixed is Members of one user, by workspace.
type Fixed map[string]Role

// Role returns the role in the workspace.
func (f Fixed) Role(workspace string, _ *principal.Principal) Role { return f[workspace] }

// Of returns all roles.
func (f Fixed) Of(*principal.Principal) map[string]Role { return f }

// Name returns the subject.
func (f Fixed) Name(p *principal.Principal) string { return p.Subject }

// Current is the authorizer in force, which another policy replaces whole. Door and services share it. Without any it
// lets nobody do anything.
type Current struct {
	atomic.Pointer[Authorizer]
}

func (c *Current) get() *Authorizer {
	if a := c.Load(); a != nil {
		return a
	}
	// No role has a name, nobody is a member, and no method has a rule.
	return &Authorizer{table: &Table{}, policy: Policy{Scheme: Workspaces, PrivateSandboxes: true}, members: nobody{}}
}

// Table returns the rules, nil before there is an authorizer.
func (c *Current) Table() *Table {
	if a := c.Load(); a != nil {
		return a.Table()
	}
	return nil
}

// Authorize is Authorizer.Authorize.
func (c *Current) Authorize(p *principal.Principal, fullMethod string) error {
	return c.get().Authorize(p, fullMethod)
}

// Admin is Authorizer.Admin.
func (c *Current) Admin(p *principal.Principal) bool { return c.get().Admin(p) }

// Workspace is Authorizer.Workspace.
func (c *Current) Workspace(p *principal.Principal, workspace string, need Role) error {
	return c.get().Workspace(p, workspace, need)
}

// PlatformAdmin is Authorizer.PlatformAdmin.
func (c *Current) PlatformAdmin(p *principal.Principal) error { return c.get().PlatformAdmin(p) }

// Sees is Authorizer.Sees.
func (c *Current) Sees(p *principal.Principal, workspace, owner string) bool {
	return c.get().Sees(p, workspace, owner)
}

// Limit is Authorizer.Limit.
func (c *Current) Limit(p *principal.Principal, workspace string) (owner string, limited bool) {
	return c.get().Limit(p, workspace)
}

// Listed is Authorizer.Listed.
func (c *Current) Listed(p *principal.Principal, workspace string) bool {
	return c.get().Listed(p, workspace)
}

// Memberships explains the part of the decision that depends on a workspace.
func (c *Current) Memberships() Memberships { return Memberships{c} }

// Memberships is that part of the current authorizer.
type Memberships struct{ current *Current }

// Of returns the roles of a user by workspace, "user" or "admin"; nil where memberships have no effect.
func (m Memberships) Of(p *principal.Principal) map[string]string {
	a := m.current.get()
	if a.policy.Scheme != Workspaces || p == nil || p.Kind != principal.User {
		return nil
	}
	out := map[string]string{}
	for workspace, role := range a.members.Of(p) {
		out[workspace] = string(role)
	}
	return out
}

// Authorize decides about a method in a workspace, empty for the default one, after Authorizer.Authorize let the
// caller pass.
func (m Memberships) Authorize(p *principal.Principal, fullMethod, workspace string) error {
	return m.current.get().inside(p, fullMethod, workspace)
}

// DefaultWorkspace is meant by an empty workspace.
const DefaultWorkspace = "default"
