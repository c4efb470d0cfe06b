package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

func (a *app) workspaceCommand() *cobra.Command {
	return group("workspace", "Manage workspaces and who may work in them", []string{"ws"},
		a.workspaceCreateCommand(), a.workspaceListCommand(), a.workspaceGetCommand(), a.workspaceDeleteCommand(),
		group("member", "Manage the members of a workspace, named by --workspace", nil,
			a.memberAddCommand(), a.memberRemoveCommand(), a.memberListCommand()))
}

// workspaceView is a workspace as programs see it.
type workspaceView struct {
	Name            string            `json:"name"`
	ID              string            `json:"id"`
	ResourceVersion uint64            `json:"resource_version"`
	CreatedAt       string            `json:"created_at,omitempty"`
	Labels          map[string]string `json:"labels"`
	Status          string            `json:"status"`
}

func viewWorkspace(w *datamodelpb.Workspace) workspaceView {
	m := w.GetMetadata()
	return workspaceView{
		Name: m.GetName(), ID: m.GetId(), ResourceVersion: m.GetResourceVersion(), CreatedAt: rfc3339(m.GetCreatedAtMs()),
		Labels: orEmpty(m.GetLabels()), Status: enumWord(w.GetStatus().GetPhase().String(), "WORKSPACE_PHASE_"),
	}
}

func (a *app) workspaceCreateCommand() *cobra.Command {
	var name string
	var labels []string
	c := &cobra.Command{
		Use: "create NAME", Short: "Create a workspace (administrators only)", Args: cobra.MaximumNArgs(1),
		Long: "Create a workspace. Names have at most 19 characters: lowercase letters, digits and single hyphens.",
		RunE: func(c *cobra.Command, args []string) error {
			if (name == "") == (len(args) == 0) {
				return usagef("give the name of the workspace, once")
			}
			if name == "" {
				name = args[0]
			}
			pairs, err := pairsOf("label", labels, nil)
			if err != nil {
				return err
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.CreateWorkspace(c.Context(), &openshellpb.CreateWorkspaceRequest{Name: name, Labels: pairs})
				if err != nil {
					return err
				}
				if a.out.Structured() {
					return a.out.Value(viewWorkspace(resp.GetWorkspace()))
				}
				a.out.Line("Created workspace: %s", resp.GetWorkspace().GetMetadata().GetName())
				return nil
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "name of the workspace, instead of the argument")
	c.Flags().StringArrayVar(&labels, "label", nil, "label as KEY=VALUE; repeatable")
	return c
}

func (a *app) workspaceListCommand() *cobra.Command {
	req := &openshellpb.ListWorkspacesRequest{}
	var names bool
	c := &cobra.Command{
		Use: "list", Short: "List the workspaces you may work in", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if names && a.out.Structured() {
				return usagef("--names does not go with -o %s", a.out.Format)
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.ListWorkspaces(c.Context(), req)
				if err != nil {
					return err
				}
				return a.listWorkspaces(resp.GetWorkspaces(), names)
			})
		},
	}
	f := c.Flags()
	f.Uint32Var(&req.Limit, "limit", defaultLimit, "show at most so many")
	f.Uint32Var(&req.Offset, "offset", 0, "leave out so many at the start")
	f.StringVar(&req.LabelSelector, "label-selector", "", "labels they must have, as k=v[,k=v]")
	f.BoolVar(&names, "names", false, "print names only")
	return c
}

func (a *app) listWorkspaces(all []*datamodelpb.Workspace, names bool) error {
	views := make([]workspaceView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, w := range all {
		v := viewWorkspace(w)
		views = append(views, v)
		rows = append(rows, []string{v.Name, v.Status, tableTime(w.GetMetadata().GetCreatedAtMs()), joinMap(v.Labels)})
	}
	return a.showList("workspaces", views, names, []string{"NAME", "STATUS", "CREATED", "LABELS"}, rows)
}

func (a *app) workspaceGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get [NAME]", Short: "Show a workspace", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeWorkspaces,
		RunE: func(c *cobra.Command, args []string) error {
			name := a.flags.workspace
			if len(args) > 0 {
				name = args[0]
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.GetWorkspace(c.Context(), &openshellpb.GetWorkspaceRequest{Name: name})
				if err != nil {
					return err
				}
				v := viewWorkspace(resp.GetWorkspace())
				if a.out.Structured() {
					return a.out.Value(v)
				}
				a.out.Pairs([]output.Pair{
					{Key: "Id", Value: v.ID},
					{Key: "Name", Value: v.Name},
					{Key: "Status", Value: v.Status},
					{Key: "Created", Value: v.CreatedAt},
					{Key: "Labels", Value: joinMap(v.Labels)},
					{Key: "Resource version", Value: fmt.Sprint(v.ResourceVersion)},
				})
				return nil
			})
		},
	}
}

func (a *app) workspaceDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME...", Aliases: []string{"rm"}, Short: "Delete empty workspaces (administrators only)",
		Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completeWorkspaces,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error { return a.deleteWorkspaces(c.Context(), s, args) })
		},
	}
}

func (a *app) deleteWorkspaces(ctx context.Context, s *session, names []string) error {
	return a.deleteEach(names, "workspace", func(name string) error {
		resp, err := s.shell.DeleteWorkspace(ctx, &openshellpb.DeleteWorkspaceRequest{Name: name})
		if err == nil && !resp.GetDeleted() {
			return failure("see `sallyport workspace list`", "workspace '%s' not found", name)
		}
		return err
	})
}

func (a *app) completeWorkspaces(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeWith(c, func(ctx context.Context, s *session) ([]string, error) {
		resp, err := s.shell.ListWorkspaces(ctx, &openshellpb.ListWorkspacesRequest{Limit: completionLimit})
		var names []string
		for _, w := range resp.GetWorkspaces() {
			names = append(names, w.GetMetadata().GetName())
		}
		return names, err
	})
}
