// Package cli owns the command line: the tree of commands, how a gateway is chosen, what a person and what a
// program sees, and which exit code a command ends with. It is a client like any other and knows of the gateway
// only its wire contract.
//
// Data goes to standard output; progress, notes, warnings and errors to standard error. Exit codes: 0 done, 1
// failed, 2 the command line itself is wrong, 130 interrupted; commands that run something in a sandbox end with
// its code.
package cli

import (
	"context"
	"errors"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/profile"
)

// Exit codes.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitInterrupted = 130
)

// Stdio are the three streams of a process.
type Stdio struct {
	In       io.Reader
	Out, Err io.Writer
}

// Options are the surroundings of the command line.
type Options struct {
	// Version is what `sallyport version` prints.
	Version string
	Stdio   Stdio
	// Env looks up environment variables.
	Env profile.Env
	// Extra are commands of other packages to hang below the root.
	Extra []*cobra.Command
}

// app is what the commands share while one of them runs.
type app struct {
	opts  Options
	out   output.Printer
	flags struct {
		gateway, endpoint, workspace, format string
		tokenFile                            string
		insecure                             bool
		verbose                              int
	}
	// root is the state on disk; rootErr says why there is none.
	root    profile.Root
	rootErr error
	// fileTokens is the source of --token-file, made when it is first asked for.
	fileTokens *login.File
	// ref is the gateway that the command turned to, for the words of an error.
	ref gatewayRef
}

// Run runs one command line, without the program's name, and returns the exit code.
func Run(ctx context.Context, args []string, o Options) int {
	a := newApp(o)
	root := a.rootCommand()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.report(ctx, err)
	}
	return 0
}

// Root is the tree of commands, for documentation and completion; Run is what executes it with exit codes.
func Root(o Options) *cobra.Command { return newApp(o).rootCommand() }

func newApp(o Options) *app {
	a := &app{opts: o}
	a.root, a.rootErr = profile.Dir(o.Env)
	_, noColor := o.Env("NO_COLOR")
	term, _ := o.Env("TERM")
	a.out = output.Printer{Out: o.Stdio.Out, Err: o.Stdio.Err, Format: output.Table, Color: !noColor && term != "dumb"}
	return a
}

func (a *app) rootCommand() *cobra.Command {
	root := group("sallyport", "Run agents in sandboxes through an OpenShell gateway", nil,
		a.gatewayCommand(), a.sandboxCommand(), a.providerCommand(), a.credentialCommand(), a.workspaceCommand(), a.serviceCommand(), a.settingsCommand(), a.policyCommand(), a.keysCommand(),
		a.authCommand(), a.accessCommand(), a.auditCommand(), a.statusCommand(), a.whoamiCommand(), a.logsCommand(), a.forwardCommand(), a.completionsCommand(), a.sshProxyCommand(), a.versionCommand())
	root.AddCommand(a.opts.Extra...)
	root.Version = a.opts.Version
	root.SetVersionTemplate("sallyport {{.Version}}\n")
	root.SilenceUsage, root.SilenceErrors = true, true
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetIn(a.opts.Stdio.In)
	root.SetOut(a.opts.Stdio.Out)
	root.SetErr(a.opts.Stdio.Err)
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return a.prepare() }

	f := root.PersistentFlags()
	f.StringVarP(&a.flags.gateway, "gateway", "g", "", "registered gateway to use (OPENSHELL_GATEWAY)")
	f.StringVar(&a.flags.endpoint, "gateway-endpoint", "", "URL of the gateway to use (OPENSHELL_GATEWAY_ENDPOINT)")
	f.BoolVar(&a.flags.insecure, "gateway-insecure", false,
		"do not verify the gateway's certificate (OPENSHELL_GATEWAY_INSECURE)")
	f.StringVar(&a.flags.tokenFile, "token-file", "",
		"file with a bearer token to use in place of the stored one; - reads standard input (OPENSHELL_TOKEN_FILE)")
	f.StringVar(&a.flags.workspace, "workspace", "", "workspace to work in (OPENSHELL_WORKSPACE; default \"default\")")
	f.StringVarP(&a.flags.format, "output", "o", string(output.Table), "output format: table, json or yaml")
	f.CountVarP(&a.flags.verbose, "verbose", "v", "say more about failures")
	root.Flags().BoolP("version", "V", false, "print the version")
	a.registerCompletions(root)
	markRuns(root)
	return root
}

// prepare reads what the flags left to the environment. Its errors are about the command line.
func (a *app) prepare() error {
	format, err := output.ParseFormat(a.flags.format)
	if err != nil {
		return err
	}
	a.out.Format = format
	if a.flags.endpoint == "" {
		a.flags.endpoint = a.env("OPENSHELL_GATEWAY_ENDPOINT")
	}
	if a.flags.tokenFile == "" {
		a.flags.tokenFile = a.env(login.TokenFileEnv)
	}
	if a.flags.workspace == "" {
		a.flags.workspace = a.env("OPENSHELL_WORKSPACE")
	}
	if a.flags.workspace == "" {
		a.flags.workspace = "default"
	}
	insecure, err := boolOf("OPENSHELL_GATEWAY_INSECURE", a.env("OPENSHELL_GATEWAY_INSECURE"))
	if err != nil {
		return err
	}
	a.flags.insecure = a.flags.insecure || insecure
	return nil
}

// group is a command that only holds others: alone it prints its help.
func group(use, short string, aliases []string, subs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short, Aliases: aliases,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usagef("unknown command %q for %q", args[0], c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(subs...)
	return c
}

// runError marks what a command itself returned; every other error is about the command line.
type runError struct{ error }

func (e runError) Unwrap() error { return e.error }

// markRuns wraps the errors of all commands below c.
func markRuns(c *cobra.Command) {
	if run := c.RunE; run != nil {
		c.RunE = func(c *cobra.Command, args []string) error {
			err := run(c, args)
			if err == nil || errors.As(err, new(*usageError)) {
				return err
			}
			return runError{err}
		}
	}
	for _, sub := range c.Commands() {
		markRuns(sub)
	}
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.out.Structured() {
				return a.out.Value(struct {
					Version string `json:"version"`
					Go      string `json:"go"`
				}{a.opts.Version, runtime.Version()})
			}
			a.out.Line("sallyport %s", a.opts.Version)
			return nil
		},
	}
}

func (a *app) completionsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "completions SHELL", Short: "Print the completion script of a shell",
		Long:      "Print the completion script of bash, fish, zsh or powershell.",
		ValidArgs: []string{"bash", "fish", "zsh", "powershell"},
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(c *cobra.Command, args []string) error {
			root, out := c.Root(), a.opts.Stdio.Out
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(out, true)
			case "fish":
				return root.GenFishCompletion(out, true)
			case "zsh":
				return root.GenZshCompletion(out)
			default:
				return root.GenPowerShellCompletionWithDesc(out)
			}
		},
	}
}
