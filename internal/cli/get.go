package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	// shownEvents is how many of the last platform events are shown, and shownWarnings how many of those before them that
	// tell of something wrong: a new start has many events, and must not hide why it was one.
	shownEvents, shownWarnings = 10, 5
	// askedEvents is how many are looked at.
	askedEvents = 50
	// eventsWait bounds the wait for events of a sandbox that is on its way: a gateway does not tell when it has sent the
	// last one.
	eventsWait = 400 * time.Millisecond
)

// eventView is something that the platform did for a sandbox.
type eventView struct {
	Time    string `json:"time,omitempty"`
	Type    string `json:"type,omitempty"`
	Source  string `json:"source,omitempty"`
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// detailView is a sandbox with what explains its state.
type detailView struct {
	sandboxView
	// Next is what to do about the state, empty where nothing has to be done or is known.
	Next   string      `json:"next,omitempty"`
	Events []eventView `json:"events"`
}

func (a *app) sandboxGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get [NAME]", Short: "Show a sandbox, what the platform did for it, and why it is as it is",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				sb, err := a.getSandbox(c.Context(), s, firstArg(args))
				if err != nil {
					return err
				}
				events, err := pastEvents(c.Context(), s, sb)
				if err != nil {
					a.out.Note("warning: the events of the sandbox could not be read: %v", err)
				}
				v := detailOf(sb, events)
				if a.out.Structured() {
					return a.out.Value(v)
				}
				a.showSandbox(v)
				return nil
			})
		},
	}
}

func detailOf(sb *openshellpb.Sandbox, events []*openshellpb.PlatformEvent) detailView {
	v := detailView{sandboxView: viewSandbox(sb), Events: make([]eventView, 0, len(events))}
	for _, e := range events {
		v.Events = append(v.Events, eventView{
			Time: rfc3339(e.GetTimestampMs()), Type: e.GetType(), Source: e.GetSource(), Reason: e.GetReason(), Message: e.GetMessage(),
		})
	}
	if phaseOf(sb) == openshellpb.SandboxPhase_SANDBOX_PHASE_READY {
		return v
	}
	if v.Next = nextStep(v.Reason, v.Message, v.Name); v.Next != "" {
		return v
	}
	// The platform may know better than the condition why nothing moves.
	for i := len(v.Events) - 1; i >= 0 && v.Next == ""; i-- {
		if v.Events[i].Type != "Normal" {
			v.Next = nextStep(v.Events[i].Reason, v.Events[i].Message, v.Name)
		}
	}
	return v
}

// pastEvents returns the last platform events of a sandbox. The stream ends by itself where nothing more happens.
func pastEvents(ctx context.Context, s *session, sb *openshellpb.Sandbox) ([]*openshellpb.PlatformEvent, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := s.shell.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{
		Id: sb.GetMetadata().GetId(), FollowEvents: true, EventTail: askedEvents, StopOnTerminal: true,
	})
	if err != nil {
		return nil, err
	}
	var events []*openshellpb.PlatformEvent
	var enough *time.Timer
	for {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF), enough != nil && status.Code(err) == codes.Canceled:
			return telling(events), nil
		case err != nil:
			return nil, err
		}
		if e := event.GetEvent(); e != nil {
			events = append(events, e)
		}
		if enough == nil {
			// The tail follows the first state at once.
			enough = time.AfterFunc(eventsWait, cancel)
			defer enough.Stop()
		}
	}
}

// telling picks the events that are shown, in their order.
func telling(events []*openshellpb.PlatformEvent) []*openshellpb.PlatformEvent {
	last := max(0, len(events)-shownEvents)
	warnings := slices.DeleteFunc(slices.Clone(events[:last]), func(e *openshellpb.PlatformEvent) bool { return e.GetType() == "Normal" })
	return append(warnings[max(0, len(warnings)-shownWarnings):], events[last:]...)
}

func eventLine(e eventView) string {
	line := fmt.Sprintf("%s  %-7s  %s", orWord(e.Time, "-"), orWord(e.Type, "-"), because(e.Reason, e.Message))
	if e.Source != "" {
		line += " [" + e.Source + "]"
	}
	return line
}
