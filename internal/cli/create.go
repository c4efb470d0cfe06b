package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
				if f.timeout, err = a.provisionTimeout(); err != nil {
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

// provisionTimeout is the time from the environment, in seconds.
func (a *app) provisionTimeout() (uint32, error) {
	v := a.env("OPENSHELL_PROVISION_TIMEOUT")
	if v == "" {
		return defaultProvisionTimeout, nil
	}
	secs, err := strconv.ParseUint(v, 10, 32)
	if err != nil || secs == 0 {
		return 0, usagef("OPENSHELL_PROVISION_TIMEOUT=%q is not a number of seconds", v)
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
	if sb, err = a.awaitReady(ctx, s, sb, progress, time.Duration(f.timeout)*time.Second); err != nil {
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

// awaitReady watches a sandbox until it is ready. A sandbox that is ready in the very first state counts. A
// watch that breaks is begun again until the time is over.
func (a *app) awaitReady(ctx context.Context, s *session, sb *openshellpb.Sandbox, progress *output.Progress,
	timeout time.Duration,
) (*openshellpb.Sandbox, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer s.keepFresh(ctx)()
	w := &watcher{progress: progress, note: func(text string) { progress.Pause(func() { a.out.Note("%s", text) }) }}
	for {
		done, err := w.take(sb)
		if done || err != nil {
			return sb, err
		}
		next, err := w.watch(ctx, s, sb.GetMetadata().GetId())
		switch {
		case err == nil && next != nil:
			sb = next
			continue
		case err != nil && !transient(err) && !late(ctx, err):
			return nil, err
		}
		pause := time.NewTimer(rewatchAfter)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
		if whole.Err() != nil {
			return nil, whole.Err()
		}
		if ctx.Err() != nil {
			return nil, w.overdue(sb.GetMetadata().GetName(), timeout)
		}
		resp, err := s.shell.GetSandbox(ctx, &openshellpb.GetSandboxRequest{
			Name: sb.GetMetadata().GetName(), Workspace: a.flags.workspace,
		})
		if err != nil && !transient(err) && !late(ctx, err) {
			return nil, err
		}
		if err == nil && resp.GetSandbox() != nil {
			sb = resp.GetSandbox()
		}
	}
}

func transient(err error) bool {
	c := status.Code(err)
	return c == codes.Unavailable || c == codes.Aborted
}

// late tells that a call failed because the time is over, which the gateway may notice a moment earlier.
func late(ctx context.Context, err error) bool {
	return ctx.Err() != nil || status.Code(err) == codes.DeadlineExceeded
}

// watcher follows one sandbox on its way to ready.
type watcher struct {
	progress *output.Progress
	note     func(text string)
	last     string
}

// take judges a state: done when ready, an error when it will never be.
func (w *watcher) take(sb *openshellpb.Sandbox) (bool, error) {
	name, phase := sb.GetMetadata().GetName(), phaseOf(sb)
	why := because(reasonOf(sb))
	switch phase {
	case openshellpb.SandboxPhase_SANDBOX_PHASE_READY:
		return true, nil
	case openshellpb.SandboxPhase_SANDBOX_PHASE_ERROR:
		if why == "" {
			why = w.last
		}
		return false, failure(fmt.Sprintf("look into `sallyport logs %s`, then `sallyport sandbox delete %s`", name, name),
			"sandbox '%s' failed to start: %s", name, orWord(why, "the gateway gave no reason"))
	case openshellpb.SandboxPhase_SANDBOX_PHASE_DELETING, openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPED,
		openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPING:
		return false, failure("see `sallyport sandbox list`", "sandbox '%s' was stopped before it got ready (phase: %s)",
			name, phaseWord(phase))
	default:
		if why != "" {
			w.last = why
			w.progress.Active(why)
		}
		return false, nil
	}
}

// watch streams until the next state that settles something; nil without error when the stream ends early.
func (w *watcher) watch(ctx context.Context, s *session, id string) (*openshellpb.Sandbox, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.shell.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{
		Id: id, FollowStatus: true, FollowEvents: true, EventTail: 50,
	})
	if err != nil {
		return nil, err
	}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		switch p := event.GetPayload().(type) {
		case *openshellpb.SandboxStreamEvent_Sandbox:
			if done, err := w.take(p.Sandbox); done || err != nil {
				return p.Sandbox, nil // The caller judges the state again and reports it.
			}
		case *openshellpb.SandboxStreamEvent_Event:
			w.event(p.Event)
		case *openshellpb.SandboxStreamEvent_Warning:
			w.note("warning: " + p.Warning.GetMessage())
		}
	}
}

// progressKey are the metadata keys by which a gateway words its progress.
const (
	progressDone   = "openshell.progress.complete_label"
	progressActive = "openshell.progress.active_step"
	progressDetail = "openshell.progress.active_detail"
)

func (w *watcher) event(e *openshellpb.PlatformEvent) {
	m := e.GetMetadata()
	if done := m[progressDone]; done != "" {
		w.progress.Done(done)
	}
	switch {
	case m[progressDetail] != "":
		w.progress.Active(m[progressDetail])
	case m[progressActive] != "":
		w.progress.Active(stepWord(m[progressActive]))
	case m[progressDone] == "" && because(e.GetReason(), e.GetMessage()) != "":
		w.last = because(e.GetReason(), e.GetMessage())
		w.progress.Active(w.last)
	}
}

func stepWord(step string) string {
	switch step {
	case "requesting_sandbox":
		return "Requesting sandbox"
	case "pulling_image":
		return "Pulling image"
	case "starting_sandbox":
		return "Starting sandbox"
	default:
		return step
	}
}

// overdue words the end of the time.
func (w *watcher) overdue(name string, timeout time.Duration) error {
	text := fmt.Sprintf("sandbox provisioning timed out after %ds", int(math.Round(timeout.Seconds())))
	if w.last != "" {
		text += ". Last reported status: " + w.last
	}
	return failure(fmt.Sprintf("look at `sallyport sandbox get %s`, or give it longer with --timeout", name), "%s", text)
}
