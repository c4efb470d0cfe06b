package authz

import (
	"sync/atomic"

	"sallyport.dev/sallyport/internal/principal"
)

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

// Memberships tells whose memberships count, for those who explain decisions.
func (c *Current) Memberships() Memberships { return Memberships{c} }

// Memberships are the memberships by which the current authorizer decides.
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
