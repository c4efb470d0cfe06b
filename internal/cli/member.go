package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// memberView is a member of a workspace as programs see it.
type memberView struct {
	Subject   string `json:"subject"`
	Role      string `json:"role"`
	Workspace string `json:"workspace"`
	CreatedAt string `json:"created_at,omitempty"`
}

func viewMember(m *openshellpb.WorkspaceMember) memberView {
	return memberView{
		Subject: m.GetPrincipalSubject(), Role: strings.ToLower(enumWord(m.GetRole().String(), "WORKSPACE_ROLE_")),
		Workspace: m.GetMetadata().GetWorkspace(), CreatedAt: rfc3339(m.GetMetadata().GetCreatedAtMs()),
	}
}

// memberRoles are the roles that can be granted, by their names on the command line.
var memberRoles = map[string]openshellpb.WorkspaceRole{
	"user":  openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER,
	"admin": openshellpb.WorkspaceRole_WORKSPACE_ROLE_ADMIN,
}

const subjectUsage = "claim 'sub' of the user's tokens, or ISSUER|SUBJECT where users come from several issuers"

func (a *app) memberAddCommand() *cobra.Command {
	var subject, role string
	c := &cobra.Command{
		Use: "add --subject SUBJECT [--role ROLE]", Short: "Let a user work in a workspace", Args: cobra.NoArgs,
		Long: "Let a user work in a workspace. Administrators of the workspace add users; administrators of the gateway also\n" +
			"add administrators. On a gateway that decides by roles alone, memberships are kept but have no effect.",
		RunE: func(c *cobra.Command, _ []string) error {
			granted, ok := memberRoles[role]
			switch {
			case subject == "":
				return usagef("--subject is required")
			case !ok:
				return usagef("invalid role %q: expected user or admin", role)
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.AddWorkspaceMember(c.Context(), &openshellpb.AddWorkspaceMemberRequest{
					Workspace: a.flags.workspace, PrincipalSubject: subject, Role: granted,
				})
				if err != nil {
					return err
				}
				v := viewMember(resp.GetMember())
				if a.out.Structured() {
					return a.out.Value(v)
				}
				a.out.Line("Added %s to workspace %s as %s", v.Subject, v.Workspace, v.Role)
				return nil
			})
		},
	}
	c.Flags().StringVar(&subject, "subject", "", subjectUsage)
	c.Flags().StringVar(&role, "role", "user", "user or admin")
	//nolint:errcheck // It fails only for a flag that is not there, which the tests would show.
	c.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"user", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *app) memberRemoveCommand() *cobra.Command {
	var subject string
	c := &cobra.Command{
		Use: "remove --subject SUBJECT", Aliases: []string{"rm"}, Short: "Take a user out of a workspace", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if subject == "" {
				return usagef("--subject is required")
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.RemoveWorkspaceMember(c.Context(), &openshellpb.RemoveWorkspaceMemberRequest{
					Workspace: a.flags.workspace, PrincipalSubject: subject,
				})
				if err != nil {
					return err
				}
				if !resp.GetRemoved() {
					return failure("see `sallyport workspace member list`", "'%s' is no member of workspace '%s'", subject, a.flags.workspace)
				}
				if a.out.Structured() {
					return a.out.Value(map[string]any{"subject": subject, "workspace": a.flags.workspace, "removed": true})
				}
				a.out.Line("Removed %s from workspace %s", subject, a.flags.workspace)
				return nil
			})
		},
	}
	c.Flags().StringVar(&subject, "subject", "", subjectUsage)
	return c
}

func (a *app) memberListCommand() *cobra.Command {
	req := &openshellpb.ListWorkspaceMembersRequest{}
	c := &cobra.Command{
		Use: "list", Short: "List the members of a workspace", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			req.Workspace = a.flags.workspace
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.ListWorkspaceMembers(c.Context(), req)
				if err != nil {
					return err
				}
				return a.listMembers(resp.GetMembers())
			})
		},
	}
	f := c.Flags()
	f.Uint32Var(&req.Limit, "limit", defaultLimit, "show at most so many")
	f.Uint32Var(&req.Offset, "offset", 0, "leave out so many at the start")
	return c
}

func (a *app) listMembers(all []*openshellpb.WorkspaceMember) error {
	views := make([]memberView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, m := range all {
		v := viewMember(m)
		views = append(views, v)
		rows = append(rows, []string{v.Subject, v.Role})
	}
	if a.out.Structured() {
		return a.out.Value(views)
	}
	if len(rows) == 0 {
		a.out.Line("No members found.")
	}
	a.out.Table([]string{"SUBJECT", "ROLE"}, rows)
	return nil
}
