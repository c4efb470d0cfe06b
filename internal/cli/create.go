package cli

import (
	"context"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

const (
	// defaultProvisionTimeout is how long a sandbox may take to get ready, in seconds.
	defaultProvisionTimeout = 300
	// cleanupTimeout bounds the deletion of a sandbox that is not to be kept.
	cleanupTimeout = 30 * time.Second
	// rewatchAfter is the pause before a broken watch is begun again.
	rewatchAfter = 500 * time.Millisecond
)

type createFlags struct {
	name, from, cpu, memory string
	providers, labels, env  []string
	noKeep                  bool
	timeout                 uint32
	exec                    execFlags
}

func (a *app) sandboxCreateCommand() *cobra.Command {
	var f createFlags
	c := &cobra.Command{
		Use: "create [flags] [-- COMMAND...]", Short: "Create a sandbox, wait until it is ready and run a command in it",
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && a.out.Structured() {
				return usagef("-o %s does not go with a command, whose output it would mix with", a.out.Format)
			}
			f.exec.ttySet = c.Flags().Changed("tty")
			req, err := a.createRequest(f)
			if err != nil {
				return err
			}
			if !c.Flags().Changed("timeout") {
				if f.timeout, err = a.secondsOf("OPENSHELL_PROVISION_TIMEOUT"); err != nil {
					return err
				}
			}
			return a.withSession(c.Context(), func(s *session) error {
				return a.createSandbox(c.Context(), s, req, f, args)
			})
		},
	}
	fl := c.Flags()
	fl.SetInterspersed(false)
	fl.StringVar(&f.name, "name", "", "name of the sandbox (default: chosen by the gateway)")
	fl.StringArrayVar(&f.providers, "provider", nil, "provider whose credentials the sandbox gets; repeatable")
	fl.StringArrayVar(&f.labels, "label", nil, "label as KEY=VALUE; repeatable")
	fl.StringArrayVar(&f.env, "env", nil, "environment variable as KEY=VALUE; repeatable")
	fl.StringVar(&f.from, "from", "", "image to start from (default: chosen by the gateway)")
	fl.StringVar(&f.cpu, "cpu", "", "most CPU it may use, as 2 or 500m")
	fl.StringVar(&f.memory, "memory", "", "most memory it may use, as 512Mi")
	fl.BoolVar(&f.noKeep, "no-keep", false, "delete the sandbox when the command is done, whatever happened")
	fl.Uint32Var(&f.timeout, "timeout", defaultProvisionTimeout,
		"seconds it may take to get ready (OPENSHELL_PROVISION_TIMEOUT)")
	f.exec.ttyFlags(fl)
	return c
}

// secondsOf is a time from the environment, in seconds.
func (a *app) secondsOf(variable string) (uint32, error) {
	v := a.env(variable)
	if v == "" {
		return defaultProvisionTimeout, nil
	}
	secs, err := strconv.ParseUint(v, 10, 32)
	if err != nil || secs == 0 {
		return 0, usagef("%s=%q is not a number of seconds", variable, v)
	}
	return uint32(secs), nil
}

func (a *app) createRequest(f createFlags) (*openshellpb.CreateSandboxRequest, error) {
	labels, err := pairsOf("label", f.labels, nil)
	if err != nil {
		return nil, err
	}
	env, err := pairsOf("env", f.env, nil)
	if err != nil {
		return nil, err
	}
	template := &openshellpb.SandboxTemplate{Image: f.from}
	limits := map[string]any{}
	if f.cpu != "" {
		limits["cpu"] = f.cpu
	}
	if f.memory != "" {
		limits["memory"] = f.memory
	}
	if len(limits) > 0 {
		if template.Resources, err = structpb.NewStruct(map[string]any{"limits": limits}); err != nil {
			return nil, usagef("invalid --cpu or --memory: %v", err)
		}
	}
	return &openshellpb.CreateSandboxRequest{
		Name: f.name, Labels: labels, Workspace: a.flags.workspace,
		Spec: &openshellpb.SandboxSpec{Environment: env, Template: template, Providers: f.providers},
	}, nil
}

func (a *app) createSandbox(ctx context.Context, s *session, req *openshellpb.CreateSandboxRequest, f createFlags,
	command []string,
) (err error) {
	progress := output.NewProgress(a.out.Err, a.out.Color, false)
	defer progress.Stop()
	progress.Active("Requesting sandbox")
	resp, err := s.shell.CreateSandbox(ctx, req)
	if err != nil {
		return err
	}
	sb := resp.GetSandbox()
	name := sb.GetMetadata().GetName()
	if name == "" {
		return errNoSandbox
	}
	if f.noKeep {
		defer func() { err = a.cleanUp(ctx, s, name, err) }()
	} else {
		a.rememberSandbox(s.ref, name)
	}
	progress.Done("Sandbox allocated")
	if !a.out.Structured() {
		progress.Pause(func() { a.out.Line("Created sandbox: %s", name) })
	}
	if sb, err = a.await(ctx, s, sb, untilReady, progress, time.Duration(f.timeout)*time.Second); err != nil {
		return err
	}
	progress.Done("Sandbox ready")
	progress.Stop()
	if a.out.Structured() {
		return a.out.Value(viewSandbox(sb))
	}
	if len(command) == 0 {
		return nil
	}
	return a.execute(ctx, s, sb, command, f.exec)
}

// cleanUp deletes a sandbox that is not to be kept, also after a failure or an interrupt.
func (a *app) cleanUp(ctx context.Context, s *session, name string, cause error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	defer cancel()
	err := a.deleteSandbox(ctx, s, name)
	if err == nil {
		a.out.Note("Deleted sandbox: %s", name)
		return cause
	}
	message, _ := a.explain(err)
	a.out.Note("warning: sandbox '%s' was not deleted: %s", name, message)
	a.out.Note("hint: delete it with `sallyport sandbox delete %s`", name)
	if cause == nil {
		return exitWith(exitFailed)
	}
	return cause
}
