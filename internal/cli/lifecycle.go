package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// lifecycleTimeout is the variable for how long a stop or start may take.
const lifecycleTimeout = "OPENSHELL_LIFECYCLE_TIMEOUT"

// move is a stop or a start in words.
type move struct {
	use, short, long string
	// doing and done are shown while and after it goes on.
	doing, done string
	to          goal
	call        func(context.Context, *session, string, string) (*openshellpb.SandboxResponse, error)
}

func (a *app) sandboxStopCommand() *cobra.Command {
	return a.moveCommand(move{
		use: "stop [NAME]", short: "Stop a sandbox and keep its files",
		long:  "Stop a sandbox: its processes end, its files stay. What runs in it ends with it. `sallyport sandbox start` starts it again.",
		doing: "Stopping sandbox", done: "Stopped sandbox", to: untilStopped,
		call: func(ctx context.Context, s *session, workspace, name string) (*openshellpb.SandboxResponse, error) {
			return s.shell.StopSandbox(ctx, &openshellpb.StopSandboxRequest{Name: name, Workspace: workspace})
		},
	})
}

func (a *app) sandboxStartCommand() *cobra.Command {
	return a.moveCommand(move{
		use: "start [NAME]", short: "Start a stopped sandbox and wait until it is ready",
		long:  "Start a stopped sandbox with the files it had, and wait until commands can be run in it.",
		doing: "Starting sandbox", done: "Started sandbox", to: untilReady,
		call: func(ctx context.Context, s *session, workspace, name string) (*openshellpb.SandboxResponse, error) {
			return s.shell.StartSandbox(ctx, &openshellpb.StartSandboxRequest{Name: name, Workspace: workspace})
		},
	})
}

func (a *app) moveCommand(m move) *cobra.Command {
	var timeout uint32
	c := &cobra.Command{
		Use: m.use, Short: m.short, Long: m.long, Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if !c.Flags().Changed("timeout") {
				var err error
				if timeout, err = a.secondsOf(lifecycleTimeout); err != nil {
					return err
				}
			}
			return a.withSession(c.Context(), func(s *session) error {
				name, err := a.sandboxName(s.ref, firstArg(args))
				if err != nil {
					return err
				}
				return a.moveSandbox(c.Context(), s, m, name, time.Duration(timeout)*time.Second)
			})
		},
	}
	c.Flags().Uint32Var(&timeout, "timeout", defaultProvisionTimeout, "seconds it may take ("+lifecycleTimeout+")")
	return c
}

func (a *app) moveSandbox(ctx context.Context, s *session, m move, name string, timeout time.Duration) error {
	progress := output.NewProgress(a.out.Err, a.out.Color, false)
	defer progress.Stop()
	progress.Active(m.doing)
	calling, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	resp, err := m.call(calling, s, a.flags.workspace, name)
	if err != nil {
		return err
	}
	if resp.GetSandbox() == nil {
		return errNoSandbox
	}
	sb, err := a.await(ctx, s, resp.GetSandbox(), m.to, progress, timeout)
	if err != nil {
		return err
	}
	progress.Stop()
	if a.out.Structured() {
		return a.out.Value(viewSandbox(sb))
	}
	a.out.Line("%s: %s", m.done, name)
	return nil
}
