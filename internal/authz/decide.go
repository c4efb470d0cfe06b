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
