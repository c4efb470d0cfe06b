package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/internal/cli/forward"
)

// maxForwardNotes bounds what a forward says about connections that failed.
const maxForwardNotes = 1000

func (a *app) forwardCommand() *cobra.Command {
	return group("forward", "Reach ports of a sandbox from this machine", []string{"fwd"},
		a.forwardStartCommand(), a.forwardServiceCommand(), a.forwardListCommand(), a.forwardStopCommand())
}

// forwardFlags say what leads where.
type forwardFlags struct {
	background bool
	// report is the descriptor on which a forward in the background tells that it is there; 0 for one in the foreground.
	report uint
	// local is where it listens, as [BIND:]PORT; host and port are where it leads.
	local, host string
	port        uint16
}

func (f *forwardFlags) register(c *cobra.Command) {
	c.Flags().BoolVarP(&f.background, "background", "d", false, "go on in the background; `sallyport forward stop` ends it")
	c.Flags().UintVar(&f.report, "report-fd", 0, "")
	//nolint:errcheck // It fails only for a flag that is not there, which the tests would show.
	c.Flags().MarkHidden("report-fd")
}

func (a *app) forwardStartCommand() *cobra.Command {
	var f forwardFlags
	c := &cobra.Command{
		Use: "start [BIND:]PORT [NAME]", Short: "Forward a port of this machine to the same port of a sandbox",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeAfter(1, a.completeSandboxes),
		RunE: func(c *cobra.Command, args []string) error {
			_, port, err := splitLocal(args[0])
			if err != nil {
				return err
			}
			if port == 0 {
				return usagef("give a port from 1 to 65535")
			}
			f.local, f.host, f.port = args[0], "127.0.0.1", port
			return a.forward(c.Context(), firstArg(args[1:]), f)
		},
	}
	f.register(c)
	return c
}

func (a *app) forwardServiceCommand() *cobra.Command {
	var f forwardFlags
	c := &cobra.Command{
		Use: "service [NAME] --target-port PORT", Short: "Forward a port of this machine to a port of a sandbox",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if f.port == 0 {
				return usagef("--target-port is required, from 1 to 65535")
			}
			if f.local == "" {
				f.local = strconv.Itoa(int(f.port))
			}
			return a.forward(c.Context(), firstArg(args), f)
		},
	}
	c.Flags().Uint16Var(&f.port, "target-port", 0, "port in the sandbox")
	c.Flags().StringVar(&f.host, "target-host", "127.0.0.1", "address in the sandbox, of its own loopback")
	c.Flags().StringVar(&f.local, "local", "", "where to listen on this machine, as [BIND:]PORT; port 0 for any (default: the target's port)")
	f.register(c)
	return c
}

// splitLocal reads [BIND:]PORT.
func splitLocal(s string) (bind string, port uint16, err error) {
	bind, text := "127.0.0.1", s
	if i := strings.LastIndexByte(s, ':'); i >= 0 {
		bind, text = strings.Trim(s[:i], "[]"), s[i+1:]
	}
	if bind == "localhost" {
		bind = "127.0.0.1"
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, usagef("invalid port %q: use [BIND:]PORT with a port from 1 to 65535", s)
	}
	if _, err := netip.ParseAddr(bind); err != nil {
		return "", 0, usagef("invalid address %q: listen on an IP address of this machine", bind)
	}
	return bind, uint16(n), nil
}

func (a *app) forward(ctx context.Context, given string, f forwardFlags) error {
	if f.report == 0 {
		return a.forwardTelling(ctx, given, f, nil)
	}
	told := reporter(f.report, a.explain)
	err := a.forwardTelling(ctx, given, f, told)
	told(err)
	return err
}

// forwardTelling calls told, unless it is nil, with nil once the forward is there.
func (a *app) forwardTelling(ctx context.Context, given string, f forwardFlags, told func(error)) error {
	bind, port, err := splitLocal(f.local)
	if err != nil {
		return err
	}
	if a.rootErr != nil {
		return a.rootErr
	}
	if a.out.Structured() && !f.background {
		return usagef("-o does not go with a forward in the foreground, which goes on until it is ended")
	}
	if f.background {
		if err := a.handOverToken("a forward in the background"); err != nil {
			return err
		}
	}
	return a.withSession(ctx, func(s *session) error {
		sb, err := a.getSandbox(ctx, s, given)
		if err != nil {
			return err
		}
		if err := checkReady(sb); err != nil {
			return err
		}
		name := sb.GetMetadata().GetName()
		a.rememberSandbox(s.ref, name)
		e := forward.Entry{
			PID: os.Getpid(), Gateway: s.ref.label(), Workspace: a.flags.workspace, Sandbox: name, SandboxID: sb.GetMetadata().GetId(),
			Bind: bind, Port: port, TargetHost: f.host, TargetPort: f.port,
		}
		if f.background {
			return a.forwardAside(ctx, s.ref, e)
		}
		return a.forwardHere(ctx, s, e, told)
	})
}

func (a *app) forwards() forward.State {
	return forward.State{Dir: filepath.Join(a.root.Path(), "forwards")}
}

// forwardHere forwards until ctx ends, which is how a forward is meant to end.
func (a *app) forwardHere(ctx context.Context, s *session, e forward.Entry, told func(error)) (err error) {
	var lc net.ListenConfig
	listener, err := lc.Listen(ctx, "tcp", net.JoinHostPort(e.Bind, strconv.Itoa(int(e.Port))))
	if err != nil {
		return failure("choose another port, or see `sallyport forward list`", "cannot listen on port %d of this machine: %v", e.Port, err)
	}
	if at, ok := listener.Addr().(*net.TCPAddr); ok {
		e.Port = at.AddrPort().Port()
	}
	release, err := a.forwards().Claim(ctx, e)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, release()) }()
	if told != nil {
		told(nil)
	} else {
		a.announceForward(e, "Stop with: Ctrl-C")
	}
	defer s.keepFresh(ctx)()
	notes := make(chan struct{}, maxForwardNotes)
	f := &forward.Forward{
		Shell: s.shell, Target: forward.Target{SandboxID: e.SandboxID, Host: e.TargetHost, Port: e.TargetPort},
		Failed: func(err error) {
			select {
			case notes <- struct{}{}:
				message, _ := a.explain(err)
				a.out.Note("warning: a connection failed: %s", message)
			default:
			}
		},
	}
	return f.Serve(ctx, listener)
}

func (a *app) announceForward(e forward.Entry, stop string) {
	a.out.Note("Forwarding port %d to sandbox %s", e.Port, e.Sandbox)
	at := net.JoinHostPort(e.Bind, strconv.Itoa(int(e.Port)))
	if addr, err := netip.ParseAddr(e.Bind); err == nil && !addr.IsLoopback() {
		a.out.Note("warning: everybody who reaches %s of this machine reaches the sandbox's port", at)
	}
	a.out.Note("Access at: http://%s/", at)
	a.out.Note("%s", stop)
}

// forwardView is a forward as programs see it.
type forwardView struct {
	Sandbox    string `json:"sandbox"`
	Workspace  string `json:"workspace"`
	Gateway    string `json:"gateway"`
	Bind       string `json:"bind"`
	Port       uint16 `json:"port"`
	TargetHost string `json:"target_host"`
	TargetPort uint16 `json:"target_port"`
	PID        int    `json:"pid"`
	Status     string `json:"status"`
}

func viewForward(e forward.Entry) forwardView {
	word := "dead"
	if e.Running {
		word = "running"
	}
	return forwardView{
		Sandbox: e.Sandbox, Workspace: e.Workspace, Gateway: e.Gateway, Bind: e.Bind, Port: e.Port, TargetHost: e.TargetHost,
		TargetPort: e.TargetPort, PID: e.PID, Status: word,
	}
}

func (a *app) forwardListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the forwards of this machine", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.rootErr != nil {
				return a.rootErr
			}
			all, err := a.forwards().List()
			if err != nil {
				return err
			}
			views := make([]forwardView, 0, len(all))
			rows := make([][]string, 0, len(all))
			for _, e := range all {
				v := viewForward(e)
				views = append(views, v)
				rows = append(rows, []string{
					v.Sandbox, v.Bind, strconv.Itoa(int(v.Port)), strconv.Itoa(int(v.TargetPort)), strconv.Itoa(v.PID), v.Status,
				})
			}
			if !a.out.Structured() && len(rows) == 0 {
				a.out.Line("No active forwards.")
				return nil
			}
			return a.showList("forwards", views, false, []string{"SANDBOX", "BIND", "PORT", "TARGET", "PID", "STATUS"}, rows)
		},
	}
}

func (a *app) forwardStopCommand() *cobra.Command {
	return &cobra.Command{
		Use: "stop PORT [NAME]", Short: "End a forward", Args: cobra.RangeArgs(1, 2),
		RunE: func(_ *cobra.Command, args []string) error {
			if a.rootErr != nil {
				return a.rootErr
			}
			_, port, err := splitLocal(args[0])
			if err != nil {
				return err
			}
			return a.stopForwards(port, firstArg(args[1:]))
		},
	}
}

// stopForwards ends what listens on a port, at whatever address, and forgets what does not listen any more.
func (a *app) stopForwards(port uint16, sandbox string) error {
	all, err := a.forwards().List()
	if err != nil {
		return err
	}
	views := []forwardView{}
	for _, e := range all {
		if e.Port != port || sandbox != "" && e.Sandbox != sandbox {
			continue
		}
		if e.Running {
			// The process holds its lock: it is the one that wrote the number.
			err = endProcess(e.PID)
		} else {
			err = a.forwards().Forget(e)
		}
		if err != nil {
			return fmt.Errorf("end the forward of port %d: %w", port, err)
		}
		if !a.out.Structured() {
			a.out.Line("Stopped forward: port %d of sandbox %s", port, e.Sandbox)
		}
		views = append(views, viewForward(e))
	}
	switch {
	case a.out.Structured():
		return a.out.Value(views)
	case len(views) == 0:
		a.out.Line("No forward of port %d found.", port)
	}
	return nil
}

// completeAfter completes from the argument number n on.
func (a *app) completeAfter(n int, complete cobra.CompletionFunc) cobra.CompletionFunc {
	return func(c *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) < n {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return complete(c, args, word)
	}
}
