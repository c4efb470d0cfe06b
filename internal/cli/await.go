package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// goal is the phase that a sandbox is to reach, with its words.
type goal struct {
	phase openshellpb.SandboxPhase
	// verb is what the sandbox does on its way, and noun the way itself.
	verb, noun string
	// off are phases from which it does not get there by itself.
	off []openshellpb.SandboxPhase
}

var (
	untilReady = goal{
		phase: openshellpb.SandboxPhase_SANDBOX_PHASE_READY, verb: "start", noun: "provisioning",
		off: []openshellpb.SandboxPhase{
			openshellpb.SandboxPhase_SANDBOX_PHASE_DELETING, openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPED,
			openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPING,
		},
	}
	untilStopped = goal{
		phase: openshellpb.SandboxPhase_SANDBOX_PHASE_STOPPED, verb: "stop", noun: "stop",
		off: []openshellpb.SandboxPhase{
			openshellpb.SandboxPhase_SANDBOX_PHASE_DELETING, openshellpb.SandboxPhase_SANDBOX_PHASE_STARTING,
			openshellpb.SandboxPhase_SANDBOX_PHASE_READY,
		},
	}
)

// await watches a sandbox until it has reached a phase. One that is there in the very first state counts. A watch that
// breaks is begun again until the time is over.
func (a *app) await(ctx context.Context, s *session, sb *openshellpb.Sandbox, to goal, progress *output.Progress,
	timeout time.Duration,
) (*openshellpb.Sandbox, error) {
	whole := ctx
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	defer s.keepFresh(ctx)()
	w := &watcher{goal: to, progress: progress, note: func(text string) { progress.Pause(func() { a.out.Note("%s", text) }) }}
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

// watcher follows one sandbox on its way.
type watcher struct {
	goal     goal
	progress *output.Progress
	note     func(text string)
	last     string
}

// take judges a state: done when it is the goal, an error when it will never be.
func (w *watcher) take(sb *openshellpb.Sandbox) (bool, error) {
	name, phase := sb.GetMetadata().GetName(), phaseOf(sb)
	reason, message := reasonOf(sb)
	why := because(reason, message)
	switch {
	case phase == w.goal.phase:
		return true, nil
	case phase == openshellpb.SandboxPhase_SANDBOX_PHASE_ERROR:
		next := nextStep(reason, message, name)
		if next == "" {
			next = fmt.Sprintf("look into `sallyport logs %s`, then `sallyport sandbox delete %s`", name, name)
		}
		if why == "" {
			why = w.last
		}
		return false, failure(next, "sandbox '%s' failed to %s: %s", name, w.goal.verb, orWord(why, "the gateway gave no reason"))
	case slices.Contains(w.goal.off, phase) && phase == openshellpb.SandboxPhase_SANDBOX_PHASE_DELETING:
		return false, failure("see `sallyport sandbox list`", "sandbox '%s' is being deleted", name)
	case slices.Contains(w.goal.off, phase) && w.goal.verb == "start":
		return false, failure("see `sallyport sandbox list`", "sandbox '%s' was stopped before it got ready (phase: %s)",
			name, phaseWord(phase))
	case slices.Contains(w.goal.off, phase):
		return false, failure("see `sallyport sandbox list`", "sandbox '%s' was started again (phase: %s)", name, phaseWord(phase))
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
	text := fmt.Sprintf("sandbox %s timed out after %ds", w.goal.noun, int(math.Round(timeout.Seconds())))
	if w.last != "" {
		text += ". Last reported status: " + w.last
	}
	return failure(fmt.Sprintf("look at `sallyport sandbox get %s`, or give it longer with --timeout", name), "%s", text)
}
