package authz

import (
	"errors"
	"fmt"
	"slices"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Policy is what the operator decides about users.
type Policy struct {
	// AdminRole and UserRole are the names the identity provider gives to the two roles. Both empty means that
	// whoever signs in may do everything; only one empty is a mistake.
	AdminRole string
	UserRole  string
	// ScopesEnabled asks, besides the role, for the scope of a method.
	ScopesEnabled bool
}

// Stable reasons of refusals.
const (
	ReasonRole             = "ROLE_REQUIRED"
	ReasonScope            = "SCOPE_REQUIRED"
	ReasonSandboxRequired  = "SANDBOX_PRINCIPAL_REQUIRED"
	ReasonSandboxForbidden = "SANDBOX_PRINCIPAL_FORBIDDEN"
	ReasonAnonymous        = "MISSING_AUTHORIZATION"
	ReasonUnknownMethod    = "METHOD_UNKNOWN"
)

// Authorizer decides by table and policy. It is immutable and safe for concurrent use.
type Authorizer struct {
	table  *Table
	policy Policy
}

// New returns an authorizer. It refuses a policy with only one role name.
func New(table *Table, policy Policy) (*Authorizer, error) {
	if table == nil {
		return nil, errors.New("set up authorization: no rules")
	}
	if (policy.AdminRole == "") != (policy.UserRole == "") {
		return nil, fmt.Errorf("OIDC RBAC misconfiguration: admin role is %q and user role is %q; "+
			"name both, or neither to let everybody in who signs in", policy.AdminRole, policy.UserRole)
	}
	return &Authorizer{table: table, policy: policy}, nil
}

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
		if err := a.decide(p, Rule{Mode: Bearer, Role: User, Scope: ScopeAll}); err != nil {
			return err
		}
		return UnknownMethod(fullMethod)
	}
	return a.decide(p, rule)
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

func (a *Authorizer) decide(p *principal.Principal, rule Rule) error {
	if rule.Mode == Unauthenticated {
		return nil
	}
	kind := principal.Anonymous
	if p != nil {
		kind = p.Kind
	}
	switch kind {
	case principal.Sandbox:
		if !rule.Mode.AdmitsSandbox() {
			return fault.New(fault.PermissionDenied, ReasonSandboxForbidden,
				"sandbox principals may not call this method").
				WithNext("call it as a user, from outside the sandbox")
		}
		return nil
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

// decideUser looks at the role first: a scope narrows what a role permits and never widens it.
func (a *Authorizer) decideUser(p *principal.Principal, rule Rule) error {
	if rule.Role != NoRole && !a.hasRole(p, rule.Role) {
		name := a.policy.UserRole
		if rule.Role != User {
			name = a.policy.AdminRole
		}
		return fault.New(fault.PermissionDenied, ReasonRole, "role '%s' required", name).
			WithNext("ask the administrator of the identity provider for role '%s', then sign in again", name)
	}
	if a.policy.ScopesEnabled && rule.Scope != "" &&
		!slices.Contains(p.Scopes, rule.Scope) && !slices.Contains(p.Scopes, ScopeAll) {
		return fault.New(fault.PermissionDenied, ReasonScope, "scope '%s' required", rule.Scope).
			WithNext("sign in again and ask for scope '%s' or '%s'", rule.Scope, ScopeAll)
	}
	return nil
}

// hasRole tells whether the user has a role; admins have every role.
func (a *Authorizer) hasRole(p *principal.Principal, role Role) bool {
	if a.policy.AdminRole == "" && a.policy.UserRole == "" {
		return true
	}
	if slices.Contains(p.Roles, a.policy.AdminRole) {
		return true
	}
	return role == User && slices.Contains(p.Roles, a.policy.UserRole)
}
