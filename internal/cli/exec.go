package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

const (
	// maxStdin is the most standard input that one message carries, in bytes; more is sent as a stream.
	maxStdin = 4 << 20
	// maxExit is the largest code a process can end with.
	maxExit = 255
)

type execFlags struct {
	name, workdir string
	timeout       uint32
	env           []string
	tty           bool
	// ttySet tells that the user chose, rather than what the streams suggest.
	ttySet bool
}

func (f *execFlags) ttyFlags(fl *pflag.FlagSet) {
	fl.BoolVar(&f.tty, "tty", false, "run the command on a terminal (default: if this one is)")
	no := fl.VarPF(negation{&f.tty, func() { f.ttySet = true }}, "no-tty", "", "do not run the command on a terminal")
	no.NoOptDefVal = "true"
}

// negation is the flag that unsets another one; of both the last one given wins.
type negation struct {
	of  *bool
	set func()
}

// String implements pflag.Value.
func (negation) String() string { return "" }

// Type implements pflag.Value.
func (negation) Type() string { return "bool" }

// Set implements pflag.Value.
func (n negation) Set(v string) error {
	on, err := boolOf("--no-tty", v)
	if err == nil {
		*n.of = !on
		n.set()
	}
	return err
}

var _ pflag.Value = negation{}

func (a *app) sandboxExecCommand() *cobra.Command {
	var f execFlags
	c := &cobra.Command{
		Use: "exec [-n NAME] [flags] -- COMMAND...", Short: "Run a command in a sandbox",
		Long: "Run a command in a sandbox and end with its exit code. Standard input is passed on unless it is a\n" +
			"terminal; with a terminal on both sides the command runs on one.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if a.out.Structured() {
				return usagef("-o does not go with exec: the output is the command's own")
			}
			f.ttySet = f.ttySet || c.Flags().Changed("tty")
			return a.withSession(c.Context(), func(s *session) error {
				sb, err := a.getSandbox(c.Context(), s, f.name)
				if err != nil {
					return err
				}
				a.rememberSandbox(s.ref, sb.GetMetadata().GetName())
				return a.execute(c.Context(), s, sb, args, f)
			})
		},
	}
	fl := c.Flags()
	fl.SetInterspersed(false)
	fl.StringVarP(&f.name, "name", "n", "", "sandbox to run it in (default: the one used last)")
	fl.StringVar(&f.workdir, "workdir", "", "directory to run it in")
	fl.Uint32Var(&f.timeout, "timeout", 0, "seconds after which it is ended; 0 for none")
	fl.StringArrayVar(&f.env, "env", nil, "environment variable as KEY=VALUE; repeatable")
	f.ttyFlags(fl)
	return c
}

// execute runs a command in a ready sandbox and returns its exit code as error.
func (a *app) execute(ctx context.Context, s *session, sb *openshellpb.Sandbox, command []string, f execFlags) error {
	if err := checkReady(sb); err != nil {
		return err
	}
	env, err := pairsOf("env", f.env, nil)
	if err != nil {
		return err
	}
	req := &openshellpb.ExecSandboxRequest{
		SandboxId: sb.GetMetadata().GetId(), Command: command, Workdir: f.workdir, Environment: env, TimeoutSeconds: f.timeout,
	}
	defer s.keepFresh(ctx)()
	_, inTTY := output.Terminal(a.opts.Stdio.In)
	_, outTTY := output.Terminal(a.opts.Stdio.Out)
	wantTTY := f.tty
	if !f.ttySet {
		wantTTY = inTTY && outTTY
	}
	if wantTTY && inTTY {
		code, err := a.interactive(ctx, s, req)
		if status.Code(err) != codes.Unimplemented {
			return outcome(code, err)
		}
		if f.ttySet {
			return failure("leave out --tty", "this gateway cannot run a command on a terminal yet: %s",
				orCode(status.Convert(err)))
		}
		a.out.Note("note: this gateway cannot run a command on a terminal yet; running it without one")
		wantTTY = false
	}
	req.Tty = wantTTY
	if !inTTY {
		var whole bool
		if req.Stdin, whole, err = readStdin(a.opts.Stdio.In); err != nil {
			return err
		}
		if !whole {
			return outcome(a.streamed(ctx, s, req))
		}
	}
	stream, err := s.shell.ExecSandbox(ctx, req)
	if err != nil {
		return err
	}
	return outcome(a.copyEvents(stream))
}

func outcome(code int, err error) error {
	if err != nil {
		return err
	}
	return exitWith(code)
}

// readStdin reads standard input, up to what one message carries; whole is false if there may be more.
func readStdin(in io.Reader) (data []byte, whole bool, err error) {
	if in == nil {
		return nil, true, nil
	}
	data, err = io.ReadAll(io.LimitReader(in, maxStdin+1))
	if err != nil {
		return nil, false, fmt.Errorf("read standard input: %w", err)
	}
	return data, len(data) <= maxStdin, nil
}

// streamed runs a command whose standard input is too long for one message: what was read of it, in the request, and the
// rest as it is read.
func (a *app) streamed(ctx context.Context, s *session, req *openshellpb.ExecSandboxRequest) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := s.shell.ExecSandboxInteractive(ctx)
	if err != nil {
		return 0, err
	}
	in := io.MultiReader(bytes.NewReader(req.Stdin), a.opts.Stdio.In)
	req.Stdin = nil
	start := &openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{Start: req}}
	if err := stream.Send(start); err == nil {
		// Reading a pipe cannot be interrupted: this goroutine may outlive the call, until the process ends.
		go func() {
			if _, err := io.CopyBuffer(&stdinWriter{stream}, in, make([]byte, stdinChunk)); err != nil {
				// Half of the input must not pass for all of it. A stream that is over already tells why when it is received from.
				if !errors.Is(err, io.EOF) {
					cancel(fmt.Errorf("read standard input: %w", err))
				}
				return
			}
			//nolint:errcheck // As above.
			stream.CloseSend()
		}()
	}
	code, err := a.copyEvents(stream)
	switch cause := context.Cause(ctx); {
	case status.Code(err) == codes.Unimplemented:
		err = failure("copy the data with `sallyport sandbox upload`, or give less",
			"stdin payload exceeds %d bytes, and this gateway takes no more: %s", maxStdin, orCode(status.Convert(err)))
	case status.Code(err) == codes.Canceled && cause != nil:
		err = cause
	}
	return code, err
}

// eventReceiver is the receiving side of both kinds of exec.
type eventReceiver interface {
	Recv() (*openshellpb.ExecSandboxEvent, error)
}

// copyEvents passes the output on unchanged until the exit event. A stream that ends without one is an error:
// whether the command succeeded is then not known.
func (a *app) copyEvents(stream eventReceiver) (int, error) {
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return 0, failure("run the command again if that is safe",
				"the connection to the command ended without its exit code")
		}
		if err != nil {
			return 0, err
		}
		switch p := event.GetPayload().(type) {
		case *openshellpb.ExecSandboxEvent_Stdout:
			_, err = a.opts.Stdio.Out.Write(p.Stdout.GetData())
		case *openshellpb.ExecSandboxEvent_Stderr:
			_, err = a.opts.Stdio.Err.Write(p.Stderr.GetData())
		case *openshellpb.ExecSandboxEvent_Exit:
			return exitCode(p.Exit.GetExitCode()), nil
		}
		if err != nil {
			return 0, fmt.Errorf("pass on the command's output: %w", err)
		}
	}
}

// exitCode fits a code into what a process can end with; none of failure becomes 0.
func exitCode(code int32) int {
	if code < 0 || code > maxExit {
		return maxExit
	}
	return int(code)
}
