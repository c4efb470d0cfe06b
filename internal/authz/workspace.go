package authz

import (
	"strings"
	"unicode"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// DefaultWorkspace is meant by an empty workspace.
const DefaultWorkspace = "default"

// Stable reasons of refusals that depend on a workspace.
const (
	ReasonNotMember      = "WORKSPACE_MEMBERSHIP_REQUIRED"
	ReasonWorkspaceAdmin = "WORKSPACE_ADMIN_REQUIRED"
	ReasonPlatformAdmin  = "PLATFORM_ADMIN_REQUIRED"
)

// Members knows the members of workspaces. It is asked on every call of a user where memberships decide, so it answers
// from memory.
type Members interface {
	// Role returns User or Admin, or NoRole for a user who is no member.
	Role(workspace string, p *principal.Principal) Role
	// Of returns the roles of a user by workspace.
	Of(p *principal.Principal) map[string]Role
	// Name returns how the user is called where members are added.
	Name(p *principal.Principal) string
}

// nobody is Members of no workspace.
type nobody struct{}

func (nobody) Role(string, *principal.Principal) Role  { return NoRole }
func (nobody) Of(*principal.Principal) map[string]Role { return nil }
func (nobody) Name(p *principal.Principal) string      { return p.Subject }

// WithMembers returns the authorizer with members of workspaces, which count with the scheme Workspaces only.
func (a *Authorizer) WithMembers(m Members) *Authorizer {
	if m == nil {
		m = nobody{}
	}
	return &Authorizer{table: a.table, policy: a.policy, members: m}
}

// Workspace returns nil if the caller may do in a workspace what needs the role User or Admin, else a fault. It is the
// same for a workspace that does not exist, so that asking tells nobody which do.
func (a *Authorizer) Workspace(p *principal.Principal, workspace string, need Role) error {
	if err := onlyUsers(p); err != nil {
		return err
	}
	if a.policy.Scheme != Workspaces {
		if !a.hasRole(p, need) {
			return a.roleRequired(need)
		}
		return nil
	}
	if a.hasRole(p, PlatformAdmin) {
		return nil
	}
	switch a.members.Role(workspace, p) {
	case Admin:
		return nil
	case User:
		if need == User {
			return nil
		}
		return fault.New(fault.PermissionDenied, ReasonWorkspaceAdmin, "workspace role 'admin' required in workspace '%s'; %s",
			shown(workspace), a.remedy(p, workspace, Admin)).WithNext("have an administrator of the workspace grant the role")
	default:
		return fault.New(fault.PermissionDenied, ReasonNotMember, "not a member of workspace '%s'; %s",
			shown(workspace), a.remedy(p, workspace, need)).WithNext("have an administrator of the workspace add you")
	}
}

// remedy is the command that gives the caller the role, as clients of the newer generation match it.
func (a *Authorizer) remedy(p *principal.Principal, workspace string, role Role) string {
	return "an administrator can run: openshell workspace member add --workspace " + quoted(workspace) +
		" --subject " + quoted(a.members.Name(p)) + " --role " + string(role)
}

// PlatformAdmin returns nil if the caller may do what concerns all workspaces, else a fault.
func (a *Authorizer) PlatformAdmin(p *principal.Principal) error {
	if err := onlyUsers(p); err != nil {
		return err
	}
	if !a.hasRole(p, PlatformAdmin) {
		return fault.New(fault.PermissionDenied, ReasonPlatformAdmin, "platform admin role required for cross-workspace operations").
			WithNext("ask about one workspace, or have an administrator of the gateway ask")
	}
	return nil
}

// Sees tells whether the caller, who may act in the workspace, may know of a sandbox in it and act on it. Owner is
// what principal.Actor returned for its creator.
func (a *Authorizer) Sees(p *principal.Principal, workspace, owner string) bool {
	if p == nil || p.Kind != principal.User {
		return false
	}
	return !a.policy.PrivateSandboxes || owns(p, owner) || a.aboveOwners(p, workspace)
}

// Limit returns the owner whose sandboxes alone the caller may see in a workspace, and whether there is such a limit. An
// empty workspace stands for all of them.
func (a *Authorizer) Limit(p *principal.Principal, workspace string) (owner string, limited bool) {
	if p != nil && p.Kind == principal.User && (!a.policy.PrivateSandboxes || a.aboveOwners(p, workspace)) {
		return "", false
	}
	return p.Actor(), true
}

// aboveOwners tells whether private sandboxes of others are the caller's business.
func (a *Authorizer) aboveOwners(p *principal.Principal, workspace string) bool {
	switch a.policy.Scheme {
	case Authenticated:
		return false
	case Workspaces:
		return a.hasRole(p, PlatformAdmin) || workspace != "" && a.members.Role(workspace, p) == Admin
	default:
		return a.hasRole(p, Admin)
	}
}

// Listed tells whether the caller may know that a workspace exists.
func (a *Authorizer) Listed(p *principal.Principal, workspace string) bool {
	if p == nil || p.Kind != principal.User {
		return false
	}
	return a.policy.Scheme != Workspaces || a.hasRole(p, PlatformAdmin) || a.members.Role(workspace, p) != NoRole
}

// owns is owner == p.Actor() without making that string.
func owns(p *principal.Principal, owner string) bool {
	n := len(p.Issuer)
	return len(owner) == n+1+len(p.Subject) && owner[:n] == p.Issuer && owner[n] == '|' && owner[n+1:] == p.Subject
}

func onlyUsers(p *principal.Principal) error {
	switch {
	case p != nil && p.Kind == principal.User:
		return nil
	case p != nil && p.Kind == principal.Sandbox:
		return fault.New(fault.PermissionDenied, ReasonSandboxForbidden,
			"sandbox principals cannot perform cross-workspace operations").
			WithNext("call it as a user, from outside the sandbox")
	default:
		return fault.New(fault.Unauthenticated, ReasonAnonymous, "missing authorization header").
			WithNext("sign in with `sallyport gateway login`")
	}
}

// maxShown bounds what a message repeats of a name that a peer sent, in bytes. It leaves issuer and subject whole.
const maxShown = 1024

// shown is a peer's word as a message may repeat it.
func shown(word string) string {
	if len(word) > maxShown {
		word = word[:maxShown] + "..."
	}
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, word)
}

// quoted makes a word one argument of a shell, whatever it holds.
func quoted(word string) string { return "'" + strings.ReplaceAll(shown(word), "'", `'"'"'`) + "'" }
