package v00

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay/exec"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/streamstop"
)

// Default size of a terminal.
const (
	defaultCols = 80
	defaultRows = 24
)

type execHandler struct {
	sandboxes *sandbox.Service
	runner    *exec.Runner
}

type (
	execStream        = grpc.ServerStreamingServer[openshellpb.ExecSandboxEvent]
	interactiveStream = grpc.BidiStreamingServer[openshellpb.ExecSandboxInput, openshellpb.ExecSandboxEvent]
)

func (h execHandler) ExecSandbox(req *openshellpb.ExecSandboxRequest, stream execStream) error {
	r := execFromWire(req)
	release, err := h.admit(stream.Context(), &r)
	if err != nil {
		return err
	}
	defer release()
	return h.run(stream.Context(), r, stream)
}

// ExecSandboxInteractive begins with a start message; standard input and window sizes follow, and the end of the
// caller's stream ends standard input.
func (h execHandler) ExecSandboxInteractive(stream interactiveStream) error {
	first, err := stream.Recv()
	if errors.Is(err, io.EOF) {
		return fault.New(fault.InvalidArgument, "EXEC_START_EXPECTED", "empty stream: expected start message")
	}
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start == nil {
		return fault.New(fault.InvalidArgument, "EXEC_START_EXPECTED", "first message must be a start payload")
	}
	r := execFromWire(start)
	release, err := h.admit(stream.Context(), &r)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	input := make(chan exec.Input)
	r.Input = input
	go readInput(ctx, stream, r, input)
	return h.run(ctx, r, stream)
}

// readInput passes the caller's messages on until its stream ends.
func readInput(ctx context.Context, stream interactiveStream, r exec.Request, out chan<- exec.Input) {
	defer close(out)
	send := func(in exec.Input) bool {
		select {
		case out <- in:
			return true
		case <-ctx.Done():
			return false
		}
	}
	if len(r.Stdin) > 0 && !send(exec.Input{Data: r.Stdin}) {
		return
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		ok := true
		switch {
		case m.GetResize() != nil && r.TTY:
			ok = send(exec.Input{Resize: true, Cols: m.GetResize().Cols, Rows: m.GetResize().Rows})
		case len(m.GetStdin()) > 0:
			ok = send(exec.Input{Data: m.GetStdin()})
		}
		if !ok {
			return
		}
	}
}

// admit refuses what is malformed, then what the caller may not know of, then what the sandbox's state does not allow. A
// sandbox whose backend runs but whose supervisor is away for a moment is worth waiting for. Until release is called,
// the stream ends when the caller's right to the sandbox does.
func (h execHandler) admit(ctx context.Context, r *exec.Request) (release func(), err error) {
	if r.SandboxID == "" {
		return nil, fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "sandbox_id is required")
	}
	if err := exec.Validate(r); err != nil {
		return nil, err
	}
	sb, release, err := h.sandboxes.Hold(ctx, r.SandboxID, streamstop.Of(ctx))
	if err != nil {
		return nil, err
	}
	if sb.Phase != sandbox.PhaseReady && !sb.Waiting() {
		release()
		return nil, sb.NotReady()
	}
	return release, nil
}

type eventSender interface {
	Send(*openshellpb.ExecSandboxEvent) error
}

func (h execHandler) run(ctx context.Context, r exec.Request, stream eventSender) error {
	code, err := h.runner.Run(ctx, r, &execSink{stream: stream})
	if err != nil {
		return h.sandboxes.Ended(r.SandboxID, err)
	}
	return stream.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Exit{
		Exit: &openshellpb.ExecSandboxExit{ExitCode: code},
	}})
}

func execFromWire(req *openshellpb.ExecSandboxRequest) exec.Request {
	r := exec.Request{
		SandboxID: req.SandboxId, Command: req.Command, Workdir: req.Workdir, Environment: req.Environment,
		Stdin: req.Stdin, TTY: req.Tty, Cols: req.Cols, Rows: req.Rows,
		Timeout: time.Duration(req.TimeoutSeconds) * time.Second,
	}
	if r.TTY && (r.Cols == 0 || r.Rows == 0) {
		r.Cols, r.Rows = defaultCols, defaultRows
	}
	return r
}

// execSink sends output events. Its messages are reused: the transport has encoded them when Send returns. The SSH
// fallback writes both outputs from two goroutines, hence the lock.
type execSink struct {
	stream eventSender
	mu     sync.Mutex
	event  openshellpb.ExecSandboxEvent
	out    openshellpb.ExecSandboxStdout
	outOne openshellpb.ExecSandboxEvent_Stdout
	err    openshellpb.ExecSandboxStderr
	errOne openshellpb.ExecSandboxEvent_Stderr
}

func (s *execSink) Stdout(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Data = data
	s.outOne.Stdout = &s.out
	s.event.Payload = &s.outOne
	return s.stream.Send(&s.event)
}

func (s *execSink) Stderr(data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err.Data = data
	s.errOne.Stderr = &s.err
	s.event.Payload = &s.errOne
	return s.stream.Send(&s.event)
}
