package cli_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	provisioning = openshellpb.SandboxPhase_SANDBOX_PHASE_PROVISIONING
	ready        = openshellpb.SandboxPhase_SANDBOX_PHASE_READY
)

// CreateSandbox makes a sandbox that is being provisioned; one named "instant..." is ready at once.
func (g *gateway) CreateSandbox(_ context.Context, r *openshellpb.CreateSandboxRequest) (*openshellpb.SandboxResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	name := r.GetName()
	if name == "" {
		name = fmt.Sprintf("unnamed-%d", len(g.sandboxes))
	}
	if g.sandboxes[name] != nil {
		return nil, status.Error(codes.AlreadyExists, "sandbox '"+name+"' already exists")
	}
	if slices.Contains(r.GetSpec().GetProviders(), "absent") {
		return nil, refusal(codes.FailedPrecondition, "provider 'absent' not found", "PROVIDER_NOT_FOUND", "create it first\nor not")
	}
	sb := &openshellpb.Sandbox{
		Metadata: &datamodelpb.ObjectMeta{
			Id: "id-" + name, Name: name, Labels: r.GetLabels(), Workspace: r.GetWorkspace(), CreatedAtMs: 1767323045000,
			ResourceVersion: 7,
		},
		Spec: r.GetSpec(), Status: &openshellpb.SandboxStatus{SandboxName: name}, Phase: provisioning,
	}
	if strings.HasPrefix(name, "instant") {
		sb.Phase = ready
	}
	g.sandboxes[name] = sb
	return &openshellpb.SandboxResponse{Sandbox: clone(sb)}, nil
}

func clone(sb *openshellpb.Sandbox) *openshellpb.Sandbox {
	out, ok := proto.Clone(sb).(*openshellpb.Sandbox)
	if !ok {
		panic("a clone is of the same type")
	}
	return out
}

func (g *gateway) GetSandbox(_ context.Context, r *openshellpb.GetSandboxRequest) (*openshellpb.SandboxResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if sb := g.sandboxes[r.GetName()]; sb != nil {
		return &openshellpb.SandboxResponse{Sandbox: clone(sb)}, nil
	}
	return nil, refusal(codes.NotFound, "sandbox '"+r.GetName()+"' not found", "SANDBOX_NOT_FOUND", "see the list of sandboxes")
}

func (g *gateway) ListSandboxes(_ context.Context, r *openshellpb.ListSandboxesRequest) (*openshellpb.ListSandboxesResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	names := slices.Sorted(maps.Keys(g.sandboxes))
	names = names[min(int(r.GetOffset()), len(names)):]
	names = names[:min(int(r.GetLimit()), len(names))]
	out := &openshellpb.ListSandboxesResponse{}
	for _, n := range names {
		out.Sandboxes = append(out.Sandboxes, clone(g.sandboxes[n]))
	}
	return out, nil
}

func (g *gateway) DeleteSandbox(_ context.Context, r *openshellpb.DeleteSandboxRequest) (*openshellpb.DeleteSandboxResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if strings.HasPrefix(r.GetName(), "stuck") {
		return nil, status.Error(codes.Internal, "the driver is stuck")
	}
	_, there := g.sandboxes[r.GetName()]
	delete(g.sandboxes, r.GetName())
	return &openshellpb.DeleteSandboxResponse{Deleted: there}, nil
}

// WatchSandbox takes a sandbox to its end: "fail..." to an error, "forever..." nowhere, "broken..." after the
// stream has ended twice, all others to ready.
func (g *gateway) WatchSandbox(r *openshellpb.WatchSandboxRequest, out openshellpb.OpenShell_WatchSandboxServer) error {
	name := strings.TrimPrefix(r.GetId(), "id-")
	if r.GetFollowLogs() {
		for _, l := range logLines(r.GetId()) {
			if err := out.Send(&openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Log{Log: l}}); err != nil {
				return err
			}
		}
		return nil
	}
	if r.GetStopOnTerminal() {
		return g.tails(name, out)
	}
	g.mu.Lock()
	g.watches[name]++
	n := g.watches[name]
	g.mu.Unlock()
	if strings.HasPrefix(name, "broken") && n == 1 {
		return nil
	}
	if strings.HasPrefix(name, "broken") && n == 2 {
		return status.Error(codes.Unavailable, "restarting")
	}
	for _, e := range []*openshellpb.PlatformEvent{
		{Reason: "Scheduled", Message: "somewhere"},
		{Metadata: map[string]string{"openshell.progress.active_step": "pulling_image", "openshell.progress.active_detail": "layer 1"}},
		{Metadata: map[string]string{"openshell.progress.complete_label": "Image pulled"}},
	} {
		if err := out.Send(&openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Event{Event: e}}); err != nil {
			return err
		}
	}
	if strings.HasPrefix(name, "forever") {
		<-out.Context().Done()
		return status.FromContextError(out.Context().Err()).Err()
	}
	g.mu.Lock()
	sb := g.sandboxes[name]
	sb.Phase = ready
	sb.Status.Conditions = []*openshellpb.SandboxCondition{
		{Type: "Ready", Status: "True", Reason: "Connected"},
		{Type: "Isolation", Status: "False", Reason: "Unprivileged", Message: "process group only: no user namespaces"},
	}
	if strings.HasPrefix(name, "fail") {
		sb.Phase = openshellpb.SandboxPhase_SANDBOX_PHASE_ERROR
		sb.Status.Conditions = []*openshellpb.SandboxCondition{
			{Type: "Ready", Status: "False", Reason: "ImageMissing", Message: "no such image"},
		}
	}
	state := clone(sb)
	g.mu.Unlock()
	if err := out.Send(&openshellpb.SandboxStreamEvent{Payload: &openshellpb.SandboxStreamEvent_Sandbox{Sandbox: state}}); err != nil {
		return err
	}
	<-out.Context().Done()
	return nil
}

func logLines(id string) []*openshellpb.SandboxLogLine {
	return []*openshellpb.SandboxLogLine{
		{
			SandboxId: id, TimestampMs: 1767323045678, Level: "info", Source: "gateway", Target: "relay", Message: "hello",
			Fields: map[string]string{"b": "2", "a": "1"},
		},
		{SandboxId: id, TimestampMs: 1767323046000, Level: "warn", Source: "sandbox", Target: "x", Message: "two\nlines\x1b[2J"},
	}
}

func (g *gateway) GetSandboxLogs(_ context.Context, r *openshellpb.GetSandboxLogsRequest) (*openshellpb.GetSandboxLogsResponse, error) {
	return &openshellpb.GetSandboxLogsResponse{Logs: logLines(r.GetSandboxId()), BufferTotal: 2}, nil
}

// ExecSandbox acts out the command's first word.
func (g *gateway) ExecSandbox(r *openshellpb.ExecSandboxRequest, out openshellpb.OpenShell_ExecSandboxServer) error {
	send := func(data []byte) error {
		return out.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Stdout{
			Stdout: &openshellpb.ExecSandboxStdout{Data: data},
		}})
	}
	exit := func(code int32) error {
		return out.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Exit{
			Exit: &openshellpb.ExecSandboxExit{ExitCode: code},
		}})
	}
	var err error
	switch cmd := r.GetCommand(); cmd[0] {
	case "argv":
		err = send(fmt.Appendf(nil, "%q\n", cmd))
	case "request":
		err = send(fmt.Appendf(nil, "workdir=%s timeout=%d env=%v tty=%v\n", r.GetWorkdir(), r.GetTimeoutSeconds(),
			r.GetEnvironment(), r.GetTty()))
	case "cat":
		err = send(r.GetStdin())
	case "count":
		err = send(fmt.Appendf(nil, "%d\n", len(r.GetStdin())))
	case "bytes":
		err = send([]byte{0, 1, '\r', '\n', 0x1b, 0xff, '\n'})
	case "large":
		for range 64 {
			err = send(bytes.Repeat([]byte("x"), 64<<10))
		}
	case "noexit":
		return send([]byte("partial\n"))
	case "break":
		return status.Error(codes.Aborted, "the sandbox went away")
	case "hang":
		close(g.hanging(r.GetSandboxId()))
		<-out.Context().Done()
		return nil
	case "exit":
		if err := out.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Stderr{
			Stderr: &openshellpb.ExecSandboxStderr{Data: []byte("leaving\n")},
		}}); err != nil {
			return err
		}
		var code int32
		if _, err := fmt.Sscan(cmd[1], &code); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		return exit(code)
	}
	if err != nil {
		return err
	}
	return exit(0)
}

// ExecSandboxInteractive answers what it reads until a line "exit N"; "none" is not offered.
func (g *gateway) ExecSandboxInteractive(s openshellpb.OpenShell_ExecSandboxInteractiveServer) error {
	first, err := s.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	if start.GetCommand()[0] == "argv" {
		return status.Error(codes.Unimplemented, "ExecSandboxInteractive is not built yet")
	}
	if start.GetCommand()[0] == "count" {
		return countInput(s)
	}
	var line []byte
	for {
		in, err := s.Recv()
		if err != nil {
			return err
		}
		line = append(line, in.GetStdin()...)
		if !bytes.ContainsAny(line, "\r\n") {
			continue
		}
		text := fmt.Sprintf("tty=%v cols>0=%v read %q\r\n", start.GetTty(), start.GetCols() > 0, strings.TrimSpace(string(line)))
		if err := s.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Stdout{
			Stdout: &openshellpb.ExecSandboxStdout{Data: []byte(text)},
		}}); err != nil {
			return err
		}
		return s.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Exit{
			Exit: &openshellpb.ExecSandboxExit{ExitCode: 5},
		}})
	}
}

// countInput answers how many bytes of input came, and is over when the input is.
func countInput(s openshellpb.OpenShell_ExecSandboxInteractiveServer) error {
	n := 0
	for {
		in, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		n += len(in.GetStdin())
	}
	if err := s.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Stdout{
		Stdout: &openshellpb.ExecSandboxStdout{Data: fmt.Appendf(nil, "%d\n", n)},
	}}); err != nil {
		return err
	}
	return s.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Exit{Exit: &openshellpb.ExecSandboxExit{}}})
}

// hanging is closed once a command hangs in the sandbox.
func (g *gateway) hanging(id string) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hangs[id] == nil {
		g.hangs[id] = make(chan struct{})
	}
	return g.hangs[id]
}
