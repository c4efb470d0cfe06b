package authz

import (
	"errors"
	"fmt"
	"slices"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Scheme is how calls of users are decided. Exactly one is in force; they never mix.
type Scheme string

// The schemes.
const (
	// Roles decides by the two role names alone, as the mvp generation does: the user role opens the methods of
	// users, the admin role opens all. Workspaces keep names apart and nothing else, and memberships have no effect.
	Roles Scheme = "roles"
	// Workspaces decides as the newer generation does: the user role opens the door, and what may be done in a
	// workspace depends on the caller's membership of it. The admin role makes a platform administrator, who needs
	// no membership.
	Workspaces Scheme = "workspaces"
	// Authenticated asks for no role: whoever signs in may do everything, and is thereby a platform administrator,
	// as in the reference. Scopes, where they are enabled, still count. Choose it only where the identity provider
	// lets nobody sign in but administrators.
	Authenticated Scheme = "authenticated"
)

// Policy is what the operator decides about users.
type Policy struct {
	// Scheme is how calls are decided; empty means Roles with role names, and Authenticated without any, which is how
	// the reference is told.
	Scheme Scheme
	// AdminRole and UserRole are the names the identity provider gives to the two roles. Both are empty with
	// Authenticated, neither is otherwise.
	AdminRole string
	UserRole  string
	// ScopesEnabled asks, besides the role, for the scope of a method, but of users whose issuer has none.
	ScopesEnabled bool
	// PrivateSandboxes keeps a sandbox to the user who created it and to administrators: of the platform, and with
	// Workspaces also of the sandbox's workspace. With Authenticated everybody is an administrator, so that nobody
	// would be kept out; there ownership holds for all alike.
	PrivateSandboxes bool
}

// settled returns the policy with its scheme filled in, or what is wrong with it.
func (p Policy) settled() (Policy, error) {
	none := p.AdminRole == "" && p.UserRole == ""
	if p.Scheme == "" {
		p.Scheme = Roles
		if none {
			p.Scheme = Authenticated
		}
	}
	switch {
	case (p.AdminRole == "") != (p.UserRole == ""):
		return p, fmt.Errorf("OIDC RBAC misconfiguration: admin role is %q and user role is %q; "+
			"name both, or neither to let everybody in who signs in", p.AdminRole, p.UserRole)
	case p.Scheme != Roles && p.Scheme != Workspaces && p.Scheme != Authenticated:
		return p, fmt.Errorf("set up authorization: unknown scheme %q", p.Scheme)
	case p.Scheme == Authenticated && !none:
		return p, fmt.Errorf("set up authorization: the scheme %s knows no roles, and some are named", p.Scheme)
	case p.Scheme != Authenticated && none:
		return p, fmt.Errorf("set up authorization: the scheme %s needs role names", p.Scheme)
	}
	return p, nil
}

// Stable reasons of refusals.
const (
	ReasonRole             = "ROLE_REQUIRED"
	ReasonScope            = "SCOPE_REQUIRED"
	ReasonSandboxRequired  = "SANDBOX_PRINCIPAL_REQUIRED"
	ReasonSandboxForbidden = "SANDBOX_PRINCIPAL_FORBIDDEN"
	ReasonAnonymous        = "MISSING_AUTHORIZATION"
	ReasonUnknownMethod    = "METHOD_UNKNOWN"
	// ReasonExpired is given to a sandbox whose expired token opens nothing but its own renewal.
	ReasonExpired = "SANDBOX_TOKEN_EXPIRED"
	// ReasonBootstrap is given to a pod's service account, whose token opens nothing but its exchange.
	ReasonBootstrap = "SERVICE_ACCOUNT_FORBIDDEN"
)

// Authorizer decides by table and policy. It is immutable and safe for concurrent use.
type Authorizer struct {
	table   *Table
	policy  Policy
	members Members
}

// New returns an authorizer by which nobody is a member of a workspace; see WithMembers. It refuses a policy with
// only one role name, and one whose scheme and role names contradict each other.
func New(table *Table, policy Policy) (*Authorizer, error) {
	if table == nil {
		return nil, errors.New("set up authorization: no rules")
	}
	policy, err := policy.settled()
	if err != nil {
		return nil, err
	}
	return &Authorizer{table: table, policy: policy, members: nobody{}}, nil
}

// Policy returns the policy the authorizer decides by, its scheme filled in.
func (a *Authorizer) Policy() Policy { return a.policy }

// Table returns the rules the authorizer decides by.
func (a *Authorizer) Table() *Table { return a.table }

// Admin tells whether the caller is a platform administrator, for what a service decides by a request's contents.
func (a *Authorizer) Admin(p *principal.Principal) bool {
	return p != nil && p.Kind == principal.User && a.hasRole(p, Admin)
}

// Authorize returns nil if the caller may call the method, else a fault that says what is missing. A method without
// a rule is refused like the most ordinary one, so that names cannot be probed, and is then Unimplemented.
func (a *Authorizer) Authorize(p *principal.Principal, fullMethod string) error {
	rule, known := a.table.Rule(fullMethod)
	if !known {
		if err := a.decide(p, Rule{Mode: Bearer, Role: User, Scope: ScopeAll}, fullMethod); err != nil {
			return err
		}
		return UnknownMethod(fullMethod)
	}
	return a.decide(p, rule, fullMethod)
}

// UnknownMethod is the answer to a method that nothing is known of.
func UnknownMethod(fullMethod string) error {
	const shown = 200
	if len(fullMethod) > shown {
		fullMethod = fullMethod[:shown]
	}
	return fault.New(fault.Unimplemented, ReasonUnknownMethod, "unknown method %q", fullMethod).
		WithNext("compare the versions of client and gateway")
}

func (a *Authorizer) decide(p *principal.Principal, rule Rule, fullMethod string) error {
	if rule.Mode == Unauthenticated {
		return nil
	}
	kind := principal.Anonymous
	if p != nil {
		kind = p.Kind
	}
	switch kind {
	case principal.Sandbox:
		return decideSandbox(p, rule, fullMethod)
	case principal.User:
		if rule.Mode == SandboxOnly {
			return fault.New(fault.PermissionDenied, ReasonSandboxRequired,
				"this method requires a sandbox principal").
				WithNext("only the supervisor of a sandbox calls this method, with its sandbox token")
		}
		return a.decideUser(p, rule)
	default:
		return fault.New(fault.Unauthenticated, ReasonAnonymous, "missing authorization header").
			WithNext("sign in with `sallyport gateway login`")
	}
}

// The one method that each credential opens that is not a sandbox's own, living token.
const (
	refreshMethod   = "/openshell.v1.OpenShell/RefreshSandboxToken"
	bootstrapMethod = "/openshell.v1.OpenShell/IssueSandboxToken"
)

func decideSandbox(p *principal.Principal, rule Rule, fullMethod string) error {
	switch {
	case p.Source == principal.SourceExpiredToken && fullMethod != refreshMethod:
		return fault.New(fault.Unauthenticated, ReasonExpired, "invalid token: ExpiredSignature").
			WithNext("renew the sandbox token with RefreshSandboxToken")
	case p.Source == principal.SourceServiceAccount && fullMethod != bootstrapMethod:
		return fault.New(fault.PermissionDenied, ReasonBootstrap,
			"a service account token opens no other method; use IssueSandboxToken for bootstrap").
			WithNext("exchange it for a sandbox token with IssueSandboxToken")
	case !rule.Mode.AdmitsSandbox():
		return fault.New(fault.PermissionDenied, ReasonSandboxForbidden, "sandbox principals may not call this method").
			WithNext("call it as a user, from outside the sandbox")
	}
	return nil
}

// decideUser looks at the role first: a scope narrows what a role permits and never widens it.
func (a *Authorizer) decideUser(p *principal.Principal, rule Rule) error {
	need := rule.Role
	if a.policy.Scheme == Workspaces && need == Admin {
		// Who administers a workspace shows when it is known which one.
		need = User
	}
	if need != NoRole && !a.hasRole(p, need) {
		return a.roleRequired(need)
	}
	if a.policy.ScopesEnabled && !p.Unscoped && rule.Scope != "" &&
		!slices.Contains(p.Scopes, rule.Scope) && !slices.Contains(p.Scopes, ScopeAll) {
		return fault.New(fault.PermissionDenied, ReasonScope, "scope '%s' required", rule.Scope).
			WithNext("sign in again and ask for scope '%s' or '%s'", rule.Scope, ScopeAll)
	}
	return nil
}

func (a *Authorizer) roleRequired(need Role) error {
	name := a.policy.UserRole
	if need != User {
		name = a.policy.AdminRole
	}
	return fault.New(fault.PermissionDenied, ReasonRole, "role '%s' required", name).
		WithNext("ask the administrator of the identity provider for role '%s', then sign in again", name)
}

// hasRole tells whether the user's token has a role; admins have every role. A role without a name, which a token
// could spell as well, counts for nothing.
func (a *Authorizer) hasRole(p *principal.Principal, role Role) bool {
	if a.policy.Scheme == Authenticated {
		return true
	}
	if a.policy.AdminRole != "" && slices.Contains(p.Roles, a.policy.AdminRole) {
		return true
	}
	return role == User && a.policy.UserRole != "" && slices.Contains(p.Roles, a.policy.UserRole)
}
