package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	// defaultLimit is how many objects a list shows.
	defaultLimit = 100
	// pageSize is how many objects are asked for at once where all are wanted.
	pageSize = 100
)

func (a *app) sandboxCommand() *cobra.Command {
	return group("sandbox", "Create and use sandboxes", []string{"sb"},
		a.sandboxCreateCommand(), a.sandboxListCommand(), a.sandboxGetCommand(), a.sandboxExecCommand(), a.sandboxSSHCommand(),
		a.sandboxStopCommand(), a.sandboxStartCommand(), a.sandboxProviderCommand(), a.logsCommand(),
		a.sandboxUploadCommand(), a.sandboxDownloadCommand(), a.sandboxDeleteCommand())
}

// sandboxName is the argument, else the sandbox used last with this gateway.
func (a *app) sandboxName(ref gatewayRef, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	if ref.name != "" && a.rootErr == nil {
		if last := a.root.LastSandbox(ref.name, a.flags.workspace); last != "" {
			a.out.Note("-> Using sandbox '%s' (last used)", last)
			return last, nil
		}
	}
	return "", failure("name one, see `sallyport sandbox list`", "No sandbox name provided and no last-used sandbox")
}

func (a *app) getSandbox(ctx context.Context, s *session, given string) (*openshellpb.Sandbox, error) {
	name, err := a.sandboxName(s.ref, given)
	if err != nil {
		return nil, err
	}
	resp, err := s.shell.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: name, Workspace: a.flags.workspace})
	if err != nil {
		return nil, err
	}
	return resp.GetSandbox(), nil
}

func firstArg(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func (a *app) sandboxListCommand() *cobra.Command {
	req := &openshellpb.ListSandboxesRequest{}
	var ids, names bool
	c := &cobra.Command{
		Use: "list", Short: "List sandboxes", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if (ids || names) && a.out.Structured() {
				return usagef("--ids and --names do not go with -o %s", a.out.Format)
			}
			req.Workspace = a.flags.workspace
			if req.GetAllWorkspaces() {
				req.Workspace = ""
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.ListSandboxes(c.Context(), req)
				if err != nil {
					return err
				}
				return a.listSandboxes(resp.GetSandboxes(), ids, names, req.GetAllWorkspaces())
			})
		},
	}
	f := c.Flags()
	f.Uint32Var(&req.Limit, "limit", defaultLimit, "show at most so many")
	f.Uint32Var(&req.Offset, "offset", 0, "leave out so many at the start")
	f.StringVar(&req.LabelSelector, "selector", "", "labels they must have, as k=v[,k=v]")
	f.BoolVar(&req.AllWorkspaces, "all-workspaces", false, "of every workspace")
	f.BoolVar(&ids, "ids", false, "print ids only")
	f.BoolVar(&names, "names", false, "print names only")
	c.MarkFlagsMutuallyExclusive("ids", "names")
	return c
}

func (a *app) listSandboxes(all []*openshellpb.Sandbox, ids, names, workspaces bool) error {
	views := make([]sandboxView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, sb := range all {
		v := viewSandbox(sb)
		views = append(views, v)
		row := []string{v.Name, tableTime(sb.GetMetadata().GetCreatedAtMs()), v.Phase}
		if workspaces {
			row = append([]string{v.Workspace}, row...)
		}
		rows = append(rows, row)
	}
	switch {
	case a.out.Structured():
		return a.out.Value(views)
	case ids || names:
		for _, v := range views {
			if ids {
				a.out.Line("%s", v.ID)
			} else {
				a.out.Line("%s", v.Name)
			}
		}
		return nil
	case len(rows) == 0:
		a.out.Line("No sandboxes found.")
	}
	header := []string{"NAME", "CREATED", "PHASE"}
	if workspaces {
		header = append([]string{"WORKSPACE"}, header...)
	}
	a.out.Table(header, rows)
	return nil
}

func (a *app) sandboxDeleteCommand() *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use: "delete NAME... | --all", Aliases: []string{"rm"}, Short: "Delete sandboxes",
		ValidArgsFunction: a.completeSandboxes,
		Args: func(_ *cobra.Command, args []string) error {
			if all == (len(args) > 0) {
				return usagef("give names of sandboxes, or --all")
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				return a.deleteSandboxes(c.Context(), s, args, all)
			})
		},
	}
	c.Flags().BoolVar(&all, "all", false, "delete every sandbox of the workspace")
	return c
}

// deletedView is the outcome for one object.
type deletedView struct {
	Name    string `json:"name"`
	Deleted bool   `json:"deleted"`
	Error   string `json:"error,omitempty"`
}

// deleteSandboxes goes on after a failure and fails in the end if any did.
func (a *app) deleteSandboxes(ctx context.Context, s *session, names []string, all bool) error {
	if all {
		var err error
		if names, err = a.allSandboxes(ctx, s); err != nil {
			return err
		}
	}
	views := make([]deletedView, 0, len(names))
	var failed []error
	for _, name := range names {
		err := a.deleteSandbox(ctx, s, name)
		v := deletedView{Name: name, Deleted: err == nil}
		if err != nil {
			v.Error, _ = a.explain(err)
			failed = append(failed, err)
			if len(names) > 1 {
				a.out.Note("error: sandbox '%s': %s", name, v.Error)
			}
		} else if !a.out.Structured() {
			a.out.Line("Deleted sandbox: %s", name)
		}
		views = append(views, v)
	}
	if a.out.Structured() {
		if err := a.out.Value(views); err != nil {
			return err
		}
	} else if len(names) == 0 {
		a.out.Line("No sandboxes found.")
	}
	switch {
	case len(failed) == 0:
		return nil
	case len(names) == 1:
		return failed[0]
	default:
		return failure("", "%d of %d sandboxes were not deleted", len(failed), len(names))
	}
}

func (a *app) deleteSandbox(ctx context.Context, s *session, name string) error {
	resp, err := s.shell.DeleteSandbox(ctx, &openshellpb.DeleteSandboxRequest{Name: name, Workspace: a.flags.workspace})
	if err == nil && !resp.GetDeleted() {
		return failure("see `sallyport sandbox list`", "sandbox '%s' not found", name)
	}
	return err
}

// allSandboxes pages through the names before anything is deleted, because deleting shifts the pages.
func (a *app) allSandboxes(ctx context.Context, s *session) ([]string, error) {
	var names []string
	for offset := uint32(0); ; offset += pageSize {
		resp, err := s.shell.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{
			Limit: pageSize, Offset: offset, Workspace: a.flags.workspace,
		})
		if err != nil {
			return nil, err
		}
		for _, sb := range resp.GetSandboxes() {
			names = append(names, sb.GetMetadata().GetName())
		}
		if len(resp.GetSandboxes()) < pageSize {
			return names, nil
		}
	}
}

// rememberSandbox keeps the name for commands that are given none. It is a convenience: a failure is only told.
func (a *app) rememberSandbox(ref gatewayRef, name string) {
	if ref.name == "" || a.rootErr != nil {
		return
	}
	if err := a.root.SaveLastSandbox(ref.name, a.flags.workspace, name); err != nil {
		a.out.Note("warning: the name of the sandbox could not be kept: %v", err)
	}
}

var errNoSandbox = errors.New("the gateway answered without a sandbox")
