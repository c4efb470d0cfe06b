package v00

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
)

// maxPushed bounds the lines taken of one pushed batch; the rest is dropped, as in the reference.
const maxPushed = 100

type logHandler struct {
	sandboxes *sandbox.Service
	logs      *sandboxlog.Hub
}

func (h logHandler) GetSandboxLogs(ctx context.Context, req *openshellpb.GetSandboxLogsRequest) (*openshellpb.GetSandboxLogsResponse, error) {
	if _, err := h.sandboxes.Lookup(ctx, req.SandboxId); err != nil {
		return nil, err
	}
	n := int(req.Lines)
	if n == 0 || n > sandboxlog.MaxLines {
		n = sandboxlog.MaxLines
	}
	filter := sandboxlog.Filter{Sources: req.Sources, MinLevel: req.MinLevel}
	if req.SinceMs > 0 {
		filter.Since = time.UnixMilli(req.SinceMs)
	}
	lines, total := h.logs.Lines(req.SandboxId, n, filter)
	resp := &openshellpb.GetSandboxLogsResponse{BufferTotal: uint32(total), Logs: make([]*openshellpb.SandboxLogLine, len(lines))}
	for i, l := range lines {
		resp.Logs[i] = lineToWire(req.SandboxId, l)
	}
	return resp, nil
}

type pushStream = grpc.ClientStreamingServer[openshellpb.PushSandboxLogsRequest, openshellpb.PushSandboxLogsResponse]

// PushSandboxLogs takes a supervisor's lines. Every batch must be for the caller's own sandbox, and the id may not
// change within a stream; source and sandbox of a line are never taken from the peer.
func (h logHandler) PushSandboxLogs(stream pushStream) error {
	ctx := stream.Context()
	bound := ""
	for {
		req, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(&openshellpb.PushSandboxLogsResponse{})
		}
		if err != nil {
			return err
		}
		if req.SandboxId == "" {
			continue
		}
		switch {
		case bound == "":
			if err := ownSandbox(ctx, h.sandboxes, req.SandboxId); err != nil {
				return err
			}
			bound = req.SandboxId
		case bound != req.SandboxId:
			return fault.New(fault.PermissionDenied, "LOG_SANDBOX_CHANGED", "log stream sandbox_id changed after validation").
				WithNext("open one stream for each sandbox")
		}
		if _, err := h.sandboxes.ByID(bound); err != nil {
			return err
		}
		h.logs.Append(bound, linesFromWire(req.Logs)...)
	}
}

func linesFromWire(in []*openshellpb.SandboxLogLine) []*sandboxlog.Line {
	in = in[:min(len(in), maxPushed)]
	out := make([]*sandboxlog.Line, 0, len(in))
	for _, l := range in {
		at := time.UnixMilli(l.TimestampMs)
		if l.TimestampMs <= 0 {
			at = time.Now()
		}
		out = append(out, &sandboxlog.Line{
			Time: at, Level: l.Level, Target: l.Target, Message: l.Message, Fields: l.Fields, Source: sandboxlog.SourceSandbox,
		})
	}
	return out
}

func lineToWire(id string, l *sandboxlog.Line) *openshellpb.SandboxLogLine {
	return &openshellpb.SandboxLogLine{
		SandboxId: id, TimestampMs: millis(l.Time), Level: l.Level, Target: l.Target, Message: l.Message, Source: l.Source, Fields: l.Fields,
	}
}

func lostMessage(n int) string {
	return fmt.Sprintf("watch stream lagged; dropped %d messages", n)
}
