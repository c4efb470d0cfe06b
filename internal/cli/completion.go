package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	// completionTimeout bounds a question to the gateway while somebody waits behind the Tab key.
	completionTimeout = 2 * time.Second
	// completionLimit is how many names are offered.
	completionLimit = 200
)

// registerCompletions offers values of the global flags.
func (a *app) registerCompletions(root *cobra.Command) {
	//nolint:errcheck // It fails only for a flag that is not there, which the tests would show.
	root.RegisterFlagCompletionFunc("gateway", a.completeGateways)
	//nolint:errcheck // As above.
	root.RegisterFlagCompletionFunc("workspace", a.completeWorkspaces)
	//nolint:errcheck // As above.
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"},
		cobra.ShellCompDirectiveNoFileComp))
}

func (a *app) completeGateways(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	if a.rootErr != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	all, err := a.root.List()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, 0, len(all))
	for _, m := range all {
		names = append(names, m.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// completeWith asks the gateway; whatever goes wrong, nothing is offered.
func (a *app) completeWith(c *cobra.Command, names func(context.Context, *session) ([]string, error)) (
	[]string, cobra.ShellCompDirective,
) {
	none := cobra.ShellCompDirectiveNoFileComp
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTimeout)
	defer cancel()
	if a.prepare() != nil {
		return nil, none
	}
	s, err := a.connect(ctx)
	if err != nil {
		return nil, none
	}
	defer s.close()
	found, err := names(ctx, s)
	if err != nil {
		return nil, none
	}
	return found, none
}

func (a *app) completeSandboxes(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeWith(c, func(ctx context.Context, s *session) ([]string, error) {
		resp, err := s.shell.ListSandboxes(ctx,
			&openshellpb.ListSandboxesRequest{Limit: completionLimit, Workspace: a.flags.workspace})
		var names []string
		for _, sb := range resp.GetSandboxes() {
			names = append(names, sb.GetMetadata().GetName())
		}
		return names, err
	})
}

func (a *app) completeProviders(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	return a.completeWith(c, func(ctx context.Context, s *session) ([]string, error) {
		resp, err := s.shell.ListProviders(ctx,
			&openshellpb.ListProvidersRequest{Limit: completionLimit, Workspace: a.flags.workspace})
		var names []string
		for _, p := range resp.GetProviders() {
			names = append(names, p.GetMetadata().GetName())
		}
		return names, err
	})
}
