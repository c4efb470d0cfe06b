package authz

import (
	"sallyport.dev/sallyport/internal/principal"
)

// Decide is the whole decision about a call of a method that is about a workspace, empty for the default one: that of the door and that of the
// service behind it, which knows the workspace. Methods that ask for no role in a workspace do not look at it. Who owns
// the object of a call is not part of it.
func (a *Authorizer) Decide(p *principal.Principal, fullMethod, workspace string) error {
	if err := a.Authorize(p, fullMethod); err != nil {
		return err
	}
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
