package v00

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
)

const (
	defaultTailLines = 200
	// defaultTailEvents is what the mvp generation, which cannot ask, expects.
	defaultTailEvents = sandboxlog.MaxEvents
)

type watchHandler struct {
	sandboxes *sandbox.Service
	logs      *sandboxlog.Hub
}

type watchStream = grpc.ServerStreamingServer[openshellpb.SandboxStreamEvent]

// WatchSandbox sends a snapshot first, whatever was asked for, then the tails of log and events, then what happens.
// It ends when the sandbox is gone, and with stop_on_terminal once it is READY or ERROR, as the contract says; one that is
// so from the start still has its tails sent.
func (h watchHandler) WatchSandbox(req *openshellpb.WatchSandboxRequest, stream watchStream) error {
	if req.Id == "" {
		return fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "id is required")
	}
	sub := h.sandboxes.Subscribe(req.Id)
	defer sub.Close()
	w := &watch{watchHandler: h, req: req, stream: stream, sub: sub}
	done, err := w.snapshot(true)
	if err != nil {
		return err
	}
	if req.FollowLogs || req.FollowEvents {
		follower, err := w.tails()
		if err != nil {
			return err
		}
		defer follower.Close()
		w.follower = follower
	}
	if done {
		return nil
	}
	return w.run(stream.Context())
}

type watch struct {
	watchHandler
	req      *openshellpb.WatchSandboxRequest
	stream   watchStream
	sub      *sandbox.Subscription
	follower *sandboxlog.Follower
	last     *sandbox.Sandbox
}

// snapshot sends the current state if it differs from the last one sent; done tells that the watch is over.
func (w *watch) snapshot(first bool) (done bool, err error) {
	sb, err := w.sandboxes.Lookup(w.stream.Context(), w.req.Id)
	if err != nil {
		if !first && fault.Is(w.sandboxes.Exists(w.req.Id), fault.NotFound) {
			return true, nil
		}
		// It may still be there, but no longer for this caller.
		return true, err
	}
	if sb != w.last && (first || w.req.FollowStatus) {
		raw, err := encodeSandbox(sb)
		if err != nil {
			return true, err
		}
		event := &openshellpb.SandboxStreamEvent{}
		event.ProtoReflect().SetUnknown(raw)
		if err := w.stream.Send(event); err != nil {
			return true, err
		}
		w.last = sb
	}
	terminal := sb.Phase == sandbox.PhaseReady || sb.Phase == sandbox.PhaseError
	return w.req.StopOnTerminal && terminal, nil
}

func (w *watch) tails() (*sandboxlog.Follower, error) {
	filter := sandboxlog.Filter{Sources: w.req.LogSources, MinLevel: w.req.LogMinLevel}
	if w.req.LogSinceMs > 0 {
		filter.Since = time.UnixMilli(w.req.LogSinceMs)
	}
	lines, events := int(w.req.LogTailLines), int(w.req.EventTail)
	if lines == 0 {
		lines = defaultTailLines
	}
	if events == 0 {
		events = defaultTailEvents
	}
	follower, tail, past := w.logs.Follow(w.req.Id, min(lines, sandboxlog.MaxLines), min(events, sandboxlog.MaxEvents), filter)
	err := w.sendTails(tail, past)
	if err != nil {
		follower.Close()
	}
	return follower, err
}

func (w *watch) sendTails(lines []*sandboxlog.Line, events []*sandboxlog.Event) error {
	if w.req.FollowLogs {
		for _, l := range lines {
			if err := w.stream.Send(logEvent(w.req.Id, l)); err != nil {
				return err
			}
		}
	}
	if w.req.FollowEvents {
		for _, e := range events {
			if err := w.stream.Send(platformEvent(e)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w *watch) run(ctx context.Context) error {
	var wake <-chan struct{}
	if w.follower != nil {
		wake = w.follower.Wake()
	}
	for {
		select {
		case <-ctx.Done():
			return fault.Wrap(context.Cause(ctx), fault.Canceled, "CALLER_GONE", "the caller ended the call")
		case <-w.sub.C():
			if done, err := w.snapshot(false); done || err != nil {
				return err
			}
		case <-wake:
			if err := w.forward(w.follower.Take()); err != nil {
				return err
			}
		}
	}
}

func (w *watch) forward(items []sandboxlog.Item) error {
	for _, it := range items {
		var event *openshellpb.SandboxStreamEvent
		switch {
		case it.Lost > 0:
			event = &openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Warning{
				Warning: &openshellpb.SandboxStreamWarning{Message: lostMessage(it.Lost)},
			}}
		case it.Line != nil && w.req.FollowLogs:
			event = logEvent(w.req.Id, it.Line)
		case it.Event != nil && w.req.FollowEvents:
			event = platformEvent(it.Event)
		default:
			continue
		}
		if err := w.stream.Send(event); err != nil {
			return err
		}
	}
	return nil
}

func logEvent(id string, l *sandboxlog.Line) *openshellpb.SandboxStreamEvent {
	return &openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Log{Log: lineToWire(id, l)}}
}

func platformEvent(e *sandboxlog.Event) *openshellpb.SandboxStreamEvent {
	return &openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Event{Event: &openshellpb.PlatformEvent{
		TimestampMs: millis(e.Time), Source: e.Source, Type: e.Type, Reason: e.Reason, Message: e.Message, Metadata: e.Metadata,
	}}}
}
