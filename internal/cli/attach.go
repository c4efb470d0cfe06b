package cli

import (
	"context"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// attachedView is what came of attaching or detaching a provider.
type attachedView struct {
	Sandbox   string   `json:"sandbox"`
	Provider  string   `json:"provider"`
	Changed   bool     `json:"changed"`
	Providers []string `json:"providers"`
	Version   uint64   `json:"resource_version"`
}

func (a *app) sandboxProviderCommand() *cobra.Command {
	return group("provider", "See and change whose credentials a sandbox gets", nil,
		a.sandboxProviderListCommand(),
		a.attachCommand("attach", "Give a sandbox the credentials of a provider", "Attached", "already attached",
			func(ctx context.Context, s *session, name, provider string) (*openshellpb.Sandbox, bool, error) {
				resp, err := s.shell.AttachSandboxProvider(ctx, &openshellpb.AttachSandboxProviderRequest{
					SandboxName: name, ProviderName: provider, Workspace: a.flags.workspace,
				})
				return resp.GetSandbox(), resp.GetAttached(), err
			}),
		a.attachCommand("detach", "Take the credentials of a provider away from a sandbox", "Detached", "not attached",
			func(ctx context.Context, s *session, name, provider string) (*openshellpb.Sandbox, bool, error) {
				resp, err := s.shell.DetachSandboxProvider(ctx, &openshellpb.DetachSandboxProviderRequest{
					SandboxName: name, ProviderName: provider, Workspace: a.flags.workspace,
				})
				return resp.GetSandbox(), resp.GetDetached(), err
			}))
}

func (a *app) sandboxProviderListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list [NAME]", Short: "List the providers of a sandbox", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				name, err := a.sandboxName(s.ref, firstArg(args))
				if err != nil {
					return err
				}
				resp, err := s.shell.ListSandboxProviders(c.Context(), &openshellpb.ListSandboxProvidersRequest{
					SandboxName: name, Workspace: a.flags.workspace,
				})
				if err != nil {
					return err
				}
				return a.listProviders(resp.GetProviders(), false)
			})
		},
	}
}

// attachCommand is "attach SANDBOX PROVIDER" or "detach SANDBOX PROVIDER".
func (a *app) attachCommand(use, short, verb, unchanged string,
	call func(ctx context.Context, s *session, name, provider string) (*openshellpb.Sandbox, bool, error),
) *cobra.Command {
	return &cobra.Command{
		Use: use + " SANDBOX PROVIDER", Short: short,
		Long: short + ".\n\nCommands that are run from then on see the change, within some seconds; what runs already keeps the\n" +
			"environment that it was started with.",
		Args: cobra.ExactArgs(2),
		ValidArgsFunction: func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeSandboxes(c, args, word)
			}
			return a.completeProviders(c, args, word)
		},
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				sb, changed, err := call(c.Context(), s, args[0], args[1])
				if err != nil {
					return err
				}
				return a.showAttached(sb, args[1], changed, verb, unchanged)
			})
		},
	}
}

func (a *app) showAttached(sb *openshellpb.Sandbox, provider string, changed bool, verb, unchanged string) error {
	name := sb.GetMetadata().GetName()
	switch {
	case a.out.Structured():
		return a.out.Value(attachedView{
			Sandbox: name, Provider: provider, Changed: changed, Providers: append([]string{}, sb.GetSpec().GetProviders()...),
			Version: sb.GetMetadata().GetResourceVersion(),
		})
	case changed:
		a.out.Line("%s provider: %s (sandbox %s)", verb, provider, name)
	default:
		a.out.Line("Provider %s is %s (sandbox %s)", provider, unchanged, name)
	}
	return nil
}
