package gateway_test

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/dynamicpb"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/execchannel"
)

// Every RPC of every service is answered: with UNIMPLEMENTED and a pointer if it is planned, with anything else if
// it is built.
func TestEveryRPCIsBuiltOrPlanned(t *testing.T) {
	t.Parallel()
	s := start(t)
	sb := s.create("x")
	planned := v00.Planned()
	seen := map[string]bool{}
	for _, service := range v00.Descriptors() {
		for i := range service.Methods().Len() {
			m := service.Methods().Get(i)
			name := "/" + string(service.FullName()) + "/" + string(m.Name())
			seen[name] = true
			err := call(s.admin(), s.conn, name, dynamicpb.NewMessage(m.Output()))
			if status.Code(err) == codes.PermissionDenied {
				err = call(s.box(sb.Metadata.Id), s.conn, name, dynamicpb.NewMessage(m.Output()))
			}
			_, isPlanned := planned[name]
			if got := status.Code(err) == codes.Unimplemented; got != isPlanned {
				t.Errorf("%s: %v, planned %v", name, err, isPlanned)
			}
			if isPlanned && !strings.Contains(status.Convert(err).Message()+next(err), "docs/status.md") {
				t.Errorf("%s: %q does not say where to look", name, err)
			}
		}
	}
	for name := range planned {
		if !seen[name] {
			t.Errorf("planned %s is no RPC", name)
		}
	}
}

// call sends one empty message and returns the status.
func call(ctx context.Context, conn *grpc.ClientConn, method string, out proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(&openshellpb.HealthRequest{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(out)
}

func next(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.Metadata["next"]
		}
	}
	return ""
}

func TestStatusPageIsCurrent(t *testing.T) {
	t.Parallel()
	have, err := os.ReadFile(filepath.Join("..", "..", "docs", "status.md"))
	if err != nil {
		t.Fatal(err)
	}
	if string(have) != v00.StatusPage() {
		t.Error("docs/status.md is old; run make generate")
	}
}

func TestHealthNeedsNoCredential(t *testing.T) {
	t.Parallel()
	s := start(t)
	resp, err := s.client.Health(t.Context(), &openshellpb.HealthRequest{}, grpc.WaitForReady(true))
	if err != nil || resp.Status != openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY || resp.Version != "test" {
		t.Errorf("Health = %v, %v", resp, err)
	}
	watch, err := healthpb.NewHealthClient(s.conn).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for {
		state, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if state.Status == healthpb.HealthCheckResponse_SERVING {
			break
		}
	}
	ref, err := reflectionpb.NewServerReflectionClient(s.conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := ref.Send(&reflectionpb.ServerReflectionRequest{
		MessageRequest: &reflectionpb.ServerReflectionRequest_ListServices{},
	}); err != nil {
		t.Fatal(err)
	}
	list, err := ref.Recv()
	if err != nil || len(list.GetListServicesResponse().GetService()) < 4 {
		t.Errorf("reflection = %v, %v", list, err)
	}
}

// The ten cases that the reference's end-to-end tests ask of an OIDC gateway.
func TestOIDCCases(t *testing.T) {
	t.Parallel()
	s := start(t)
	provider := func(name string) *openshellpb.CreateProviderRequest {
		return &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
			Metadata: &datamodelpb.ObjectMeta{Name: name}, Type: "claude", Credentials: map[string]string{"API_KEY": "v"},
		}}
	}
	createProvider := func(ctx context.Context) error {
		_, err := s.client.CreateProvider(ctx, provider("p"))
		return err
	}
	listSandboxes := func(ctx context.Context) error {
		_, err := s.client.ListSandboxes(ctx, &openshellpb.ListSandboxesRequest{})
		return err
	}
	listProviders := func(ctx context.Context) error {
		_, err := s.client.ListProviders(ctx, &openshellpb.ListProvidersRequest{})
		return err
	}
	admin := []string{"openshell-admin", "openshell-user"}
	for name, tc := range map[string]struct {
		ctx  context.Context
		call func(context.Context) error
		code codes.Code
		text string
	}{
		"1 admin creates a provider":        {s.admin(), createProvider, codes.OK, ""},
		"2 user may not":                    {s.user(), createProvider, codes.PermissionDenied, "openshell-admin"},
		"3 user lists":                      {s.user(), listSandboxes, codes.OK, ""},
		"4 no token":                        {t.Context(), listSandboxes, codes.Unauthenticated, "missing authorization header"},
		"6 scopes suffice":                  {s.as(admin, "openid sandbox:read sandbox:write"), listSandboxes, codes.OK, ""},
		"7 scope missing":                   {s.as(admin, "openid sandbox:read sandbox:write"), listProviders, codes.PermissionDenied, "provider:read"},
		"8 all scopes":                      {s.as(admin, "openid openshell:all"), listProviders, codes.OK, ""},
		"9 no scope":                        {s.as(admin, "openid"), listSandboxes, codes.PermissionDenied, "scope 'sandbox:read' required"},
		"second tenant":                     {bearer(t.Context(), s.issuer.Mint(map[string]any{"aud": "tenant-b"})), listSandboxes, codes.Unauthenticated, "InvalidAudience"},
		"expired":                           {bearer(t.Context(), s.issuer.Mint(map[string]any{"exp": time.Now().Add(-2 * time.Minute).Unix()})), listSandboxes, codes.Unauthenticated, "ExpiredSignature"},
		"role missing":                      {s.as(nil, "openshell:all"), listSandboxes, codes.PermissionDenied, "role 'openshell-user' required"},
		"forged internal header is nothing": {metadata.AppendToOutgoingContext(t.Context(), "x-openshell-auth-source", "sandbox-secret"), listSandboxes, codes.Unauthenticated, ""},
	} {
		err := tc.call(tc.ctx)
		if status.Code(err) != tc.code || !strings.Contains(status.Convert(err).Message(), tc.text) {
			t.Errorf("%s: %v, want %s with %q", name, err, tc.code, tc.text)
		}
	}
}

func TestSandboxLifeOverTheWire(t *testing.T) {
	t.Parallel()
	s := start(t)
	sb := s.create("box")
	if sb.Phase != openshellpb.SandboxPhase_SANDBOX_PHASE_PROVISIONING || sb.Status.Phase != sb.Phase {
		t.Errorf("answer of create: phase %s, status %s; want PROVISIONING in both places", sb.Phase, sb.Status.Phase)
	}
	watch, err := s.client.WatchSandbox(s.user(), &openshellpb.WatchSandboxRequest{Id: sb.Metadata.Id, FollowStatus: true, FollowLogs: true})
	if err != nil {
		t.Fatal(err)
	}
	first, err := watch.Recv()
	if err != nil || first.GetSandbox() == nil {
		t.Fatalf("first event = %v, %v; want a snapshot", first, err)
	}
	session := s.connect(sb.Metadata.Id, "")
	untilPhase(t, watch, openshellpb.SandboxPhase_SANDBOX_PHASE_READY)
	got, err := s.client.GetSandbox(s.user(), &openshellpb.GetSandboxRequest{Name: "box"})
	if err != nil || got.Sandbox.Status.Phase != openshellpb.SandboxPhase_SANDBOX_PHASE_READY || got.Sandbox.Spec.Template.Image != "image" {
		t.Errorf("GetSandbox = %v, %v", got, err)
	}
	list, err := s.client.ListSandboxes(s.user(), &openshellpb.ListSandboxesRequest{})
	// That the driver took it over may be recorded between the two calls.
	for err == nil && len(list.Sandboxes) == 1 && list.Sandboxes[0].Metadata.ResourceVersion != got.Sandbox.Metadata.ResourceVersion {
		if got, err = s.client.GetSandbox(s.user(), &openshellpb.GetSandboxRequest{Name: "box"}); err == nil {
			list, err = s.client.ListSandboxes(s.user(), &openshellpb.ListSandboxesRequest{})
		}
	}
	if err != nil || len(list.Sandboxes) != 1 || !proto.Equal(list.Sandboxes[0], got.Sandbox) {
		t.Errorf("ListSandboxes = %v, %v; want the very same sandbox", list, err)
	}
	session()
	untilPhase(t, watch, openshellpb.SandboxPhase_SANDBOX_PHASE_PROVISIONING)
	deleted, err := s.client.DeleteSandbox(s.user(), &openshellpb.DeleteSandboxRequest{Name: "box"})
	if err != nil || !deleted.Deleted {
		t.Errorf("DeleteSandbox = %v, %v", deleted, err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("watch of a deleted sandbox ended with %v, want OK", err)
	}
	if _, err := s.client.GetSandbox(s.user(), &openshellpb.GetSandboxRequest{Name: "box"}); status.Code(err) != codes.NotFound {
		t.Errorf("GetSandbox after delete: %v", err)
	}
}

func untilPhase(t *testing.T, watch grpc.ServerStreamingClient[openshellpb.SandboxStreamEvent], want openshellpb.SandboxPhase) {
	t.Helper()
	for {
		e, err := watch.Recv()
		if err != nil {
			t.Fatalf("waiting for %s: %v", want, err)
		}
		if e.GetSandbox().GetPhase() == want {
			return
		}
	}
}

// connect holds a supervisor's session until the returned function is called. With a capability it answers execs.
func (s *system) connect(id, capability string) (end func()) {
	s.t.Helper()
	ctx, cancel := context.WithCancel(s.box(id))
	if capability != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, execchannel.MetadataKey, capability)
	}
	stream, err := s.client.ConnectSupervisor(ctx)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := stream.Send(hello(id)); err != nil {
		s.t.Fatal(err)
	}
	accepted, err := stream.Recv()
	if err != nil || accepted.GetSessionAccepted().GetHeartbeatIntervalSecs() != 15 {
		s.t.Fatalf("session = %v, %v", accepted, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if open := m.GetRelayOpen(); open != nil {
				s.answerExec(ctx, open)
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// answerExec plays a command: it echoes standard input to both outputs and exits with 7.
func (s *system) answerExec(ctx context.Context, open *openshellpb.RelayOpen) {
	stream, err := s.client.RelayStream(ctx)
	if err != nil {
		return
	}
	send := func(data []byte) {
		_ = stream.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: data}})
	}
	_ = stream.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{Init: &openshellpb.RelayInit{ChannelId: open.ChannelId}}})
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		f, err := execchannel.Decode(m.GetData())
		if err != nil {
			return
		}
		switch f.Type {
		case execchannel.Stdin:
			send(execchannel.Encode(execchannel.Stdout, f.Payload))
			send(execchannel.Encode(execchannel.Stderr, f.Payload))
		case execchannel.StdinEOF:
			send(execchannel.EncodeExit(7))
			_ = stream.CloseSend()
		}
	}
}

func hello(id string) *openshellpb.SupervisorMessage {
	return &openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{Hello: &openshellpb.SupervisorHello{SandboxId: id, InstanceId: "i"}}}
}

func TestExecOverTheWire(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.create("box").Metadata.Id
	defer s.connect(id, execchannel.Capability)()
	stdin := strings.Repeat("x", 3<<20)
	stream, err := s.client.ExecSandbox(s.user(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"cat"}, Stdin: []byte(stdin)})
	if err != nil {
		t.Fatal(err)
	}
	out, errOut, code := 0, 0, int32(-1)
	for {
		e, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		out += len(e.GetStdout().GetData())
		errOut += len(e.GetStderr().GetData())
		if e.GetExit() != nil {
			code = e.GetExit().ExitCode
		}
	}
	if out != len(stdin) || errOut != len(stdin) || code != 7 {
		t.Errorf("%d bytes out, %d bytes err, exit %d; want %d, %d, 7", out, errOut, code, len(stdin), len(stdin))
	}
	interactive, err := s.client.ExecSandboxInteractive(s.user())
	if err != nil {
		t.Fatal(err)
	}
	if err := interactive.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{
		Start: &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"cat"}, Tty: true},
	}}); err != nil {
		t.Fatal(err)
	}
	if err := interactive.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Stdin{Stdin: []byte("hi")}}); err != nil {
		t.Fatal(err)
	}
	if e, err := interactive.Recv(); err != nil || string(e.GetStdout().GetData()) != "hi" {
		t.Errorf("interactive echo = %v, %v", e, err)
	}
	if err := interactive.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		var e *openshellpb.ExecSandboxEvent
		if e, err = interactive.Recv(); err == nil && e.GetExit() != nil {
			code = e.GetExit().ExitCode
		}
	}
	if !errors.Is(err, io.EOF) || code != 7 {
		t.Errorf("interactive ended with %v, exit %d", err, code)
	}
}

func TestExecRefusals(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.create("box").Metadata.Id
	long := func(n int) string { return strings.Repeat("a", n) }
	args := func(n int) []string { return slices.Repeat([]string{"a"}, n) }
	for name, tc := range map[string]struct {
		req  *openshellpb.ExecSandboxRequest
		code codes.Code
		text string
	}{
		"no sandbox":        {&openshellpb.ExecSandboxRequest{Command: args(1)}, codes.InvalidArgument, "sandbox_id is required"},
		"no command":        {&openshellpb.ExecSandboxRequest{SandboxId: id}, codes.InvalidArgument, "command is required"},
		"unknown sandbox":   {&openshellpb.ExecSandboxRequest{SandboxId: "x", Command: args(1)}, codes.NotFound, "sandbox not found"},
		"1025 arguments":    {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1025)}, codes.InvalidArgument, "1024"},
		"long argument":     {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{long(32<<10 + 1)}}, codes.InvalidArgument, "maximum length"},
		"NUL in argument":   {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"a\x00"}}, codes.InvalidArgument, "NUL"},
		"environment name":  {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1), Environment: map[string]string{"A-B": "x"}}, codes.InvalidArgument, "environment"},
		"reserved name":     {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1), Environment: map[string]string{"OPENSHELL_X": "x"}}, codes.InvalidArgument, "reserved"},
		"environment value": {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1), Environment: map[string]string{"A": long(32<<10 + 1)}}, codes.InvalidArgument, "maximum length"},
		"workdir":           {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1), Workdir: long(4097)}, codes.InvalidArgument, "maximum length"},
		"newline workdir":   {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1), Workdir: "/a\nb"}, codes.InvalidArgument, "workdir"},
		"stdin":             {&openshellpb.ExecSandboxRequest{SandboxId: id, Command: args(1), Stdin: make([]byte, 4<<20+1)}, codes.InvalidArgument, "stdin payload exceeds"},
	} {
		stream, err := s.client.ExecSandbox(s.user(), tc.req)
		if err == nil {
			_, err = stream.Recv()
		}
		if status.Code(err) != tc.code || !strings.Contains(status.Convert(err).Message(), tc.text) {
			t.Errorf("%s: %v, want %s with %q", name, err, tc.code, tc.text)
		}
	}
}

// A sandbox may act for itself only, on every RPC that supervisors call.
func TestSandboxIsBoundToItself(t *testing.T) {
	t.Parallel()
	s := start(t)
	a, b := s.create("a").Metadata.Id, s.create("b").Metadata.Id
	ctx := s.box(a)
	for name, call := range map[string]func(id string) error{
		"GetSandboxConfig": func(id string) error {
			_, err := s.client.GetSandboxConfig(ctx, &sandboxpb.GetSandboxConfigRequest{SandboxId: id})
			return err
		},
		"GetSandboxProviderEnvironment": func(id string) error {
			_, err := s.client.GetSandboxProviderEnvironment(ctx, &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
			return err
		},
		"ReportPolicyStatus": func(id string) error {
			_, err := s.client.ReportPolicyStatus(ctx, &openshellpb.ReportPolicyStatusRequest{
				SandboxId: id, Version: 1, Status: openshellpb.PolicyStatus_POLICY_STATUS_LOADED,
			})
			if status.Code(err) == codes.NotFound && strings.Contains(err.Error(), "policy revision not found") {
				return nil
			}
			return err
		},
		"PushSandboxLogs": func(id string) error {
			stream, err := s.client.PushSandboxLogs(ctx)
			if err != nil {
				return err
			}
			if err := stream.Send(&openshellpb.PushSandboxLogsRequest{SandboxId: id}); err != nil {
				return err
			}
			_, err = stream.CloseAndRecv()
			return err
		},
		"ConnectSupervisor": func(id string) error {
			cctx, cancel := context.WithCancel(ctx)
			defer cancel()
			stream, err := s.client.ConnectSupervisor(cctx)
			if err != nil {
				return err
			}
			if err := stream.Send(hello(id)); err != nil {
				return err
			}
			_, err = stream.Recv()
			return err
		},
	} {
		if err := call(b); status.Code(err) != codes.PermissionDenied || strings.Contains(err.Error(), "not found") {
			t.Errorf("%s for another sandbox: %v, want PermissionDenied", name, err)
		}
		if err := call("no-such-sandbox"); status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s for no sandbox: %v, want the same PermissionDenied", name, err)
		}
		if err := call(a); err != nil {
			t.Errorf("%s for itself: %v", name, err)
		}
	}
	if _, err := s.client.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: "a"}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a sandbox on a user's method: %v", err)
	}
	if _, err := s.client.GetSandboxProviderEnvironment(s.admin(), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: a}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("an administrator on a sandbox's method: %v", err)
	}
	refreshed, err := s.client.RefreshSandboxToken(ctx, &openshellpb.RefreshSandboxTokenRequest{})
	if err != nil || refreshed.Token == "" || refreshed.ExpiresAtMs == 0 {
		t.Errorf("RefreshSandboxToken = %v, %v", refreshed, err)
	}
}

func TestSupervisorHello(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.create("a").Metadata.Id
	for name, tc := range map[string]struct {
		first *openshellpb.SupervisorMessage
		text  string
	}{
		"heartbeat first": {&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Heartbeat{}}, "expected SupervisorHello"},
		"empty id":        {hello(""), "sandbox_id is required"},
		"nothing":         {nil, "stream closed before hello"},
	} {
		stream, err := s.client.ConnectSupervisor(s.box(id))
		if err != nil {
			t.Fatal(err)
		}
		if tc.first != nil {
			err = stream.Send(tc.first)
		} else {
			err = stream.CloseSend()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err = stream.Recv(); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.text) {
			t.Errorf("%s: %v, want %q", name, err, tc.text)
		}
	}
	relay, err := s.client.RelayStream(s.box(id))
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{Init: &openshellpb.RelayInit{ChannelId: "unknown"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := relay.Recv(); status.Code(err) != codes.NotFound {
		t.Errorf("claim of an unknown channel: %v", err)
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.create("a").Metadata.Id
	push := func(ids ...string) error {
		stream, err := s.client.PushSandboxLogs(s.box(id))
		if err != nil {
			return err
		}
		for _, to := range ids {
			lines := slices.Repeat([]*openshellpb.SandboxLogLine{{Level: "INFO", Message: "line", Source: "gateway", SandboxId: "forged"}}, 101)
			if err := stream.Send(&openshellpb.PushSandboxLogsRequest{SandboxId: to, Logs: lines}); err != nil {
				break
			}
		}
		_, err = stream.CloseAndRecv()
		return err
	}
	if err := push(id, "", id); err != nil {
		t.Fatal(err)
	}
	if err := push(id, "other"); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "sandbox_id changed") {
		t.Errorf("changed sandbox_id: %v", err)
	}
	got, err := s.client.GetSandboxLogs(s.user(), &openshellpb.GetSandboxLogsRequest{SandboxId: id, Sources: []string{"sandbox"}})
	if err != nil || len(got.Logs) != 300 {
		t.Fatalf("GetSandboxLogs = %d lines, %v; want 100 of each batch", len(got.GetLogs()), err)
	}
	if l := got.Logs[0]; l.SandboxId != id || l.Source != "sandbox" {
		t.Errorf("forged origin went through: %v", l)
	}
	if _, err := s.client.GetSandboxLogs(s.user(), &openshellpb.GetSandboxLogsRequest{SandboxId: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("logs of no sandbox: %v", err)
	}
}

func TestPolicyConfigAndReport(t *testing.T) {
	t.Parallel()
	s := start(t)
	resp, err := s.client.CreateSandbox(s.user(), &openshellpb.CreateSandboxRequest{Spec: &openshellpb.SandboxSpec{
		Policy: &sandboxpb.SandboxPolicy{Version: 1},
	}}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	id := resp.Sandbox.Metadata.Id
	cfg, err := s.client.GetSandboxConfig(s.box(id), &sandboxpb.GetSandboxConfigRequest{SandboxId: id})
	if err != nil || cfg.Version != 1 || cfg.PolicyHash != "67abdd721024f0ff4e0b3f4c2fc13bc5bad42d0b7851d456d88d203d15aaa450" || cfg.ConfigRevision == 0 {
		t.Errorf("GetSandboxConfig = %v, %v", cfg, err)
	}
	for name, tc := range map[string]struct {
		req  *openshellpb.ReportPolicyStatusRequest
		code codes.Code
	}{
		"version 0":        {&openshellpb.ReportPolicyStatusRequest{SandboxId: id, Status: openshellpb.PolicyStatus_POLICY_STATUS_LOADED}, codes.InvalidArgument},
		"pending":          {&openshellpb.ReportPolicyStatusRequest{SandboxId: id, Version: 1, Status: openshellpb.PolicyStatus_POLICY_STATUS_PENDING}, codes.InvalidArgument},
		"unknown revision": {&openshellpb.ReportPolicyStatusRequest{SandboxId: id, Version: 2, Status: openshellpb.PolicyStatus_POLICY_STATUS_LOADED}, codes.NotFound},
		"loaded":           {&openshellpb.ReportPolicyStatusRequest{SandboxId: id, Version: 1, Status: openshellpb.PolicyStatus_POLICY_STATUS_LOADED}, codes.OK},
	} {
		if _, err := s.client.ReportPolicyStatus(s.box(id), tc.req); status.Code(err) != tc.code {
			t.Errorf("%s: %v, want %s", name, err, tc.code)
		}
	}
	got, err := s.client.GetSandbox(s.user(), &openshellpb.GetSandboxRequest{Name: resp.Sandbox.Metadata.Name})
	if err != nil || got.Sandbox.CurrentPolicyVersion != 1 || got.Sandbox.Status.CurrentPolicyVersion != 1 {
		t.Errorf("after LOADED: %v, %v", got, err)
	}
}

func TestProvidersOverTheWire(t *testing.T) {
	t.Parallel()
	s := start(t)
	created, err := s.client.CreateProvider(s.admin(), &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: "gh"}, Type: "github", Credentials: map[string]string{"GITHUB_TOKEN": "canary-secret"},
	}}, grpc.WaitForReady(true))
	if err != nil || created.Provider.Credentials["GITHUB_TOKEN"] != "REDACTED" {
		t.Fatalf("CreateProvider = %v, %v", created, err)
	}
	sb, err := s.client.CreateSandbox(s.user(), &openshellpb.CreateSandboxRequest{Spec: &openshellpb.SandboxSpec{Providers: []string{"gh"}}})
	if err != nil {
		t.Fatal(err)
	}
	id := sb.Sandbox.Metadata.Id
	env, err := s.client.GetSandboxProviderEnvironment(s.box(id), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
	if err != nil || !maps.Equal(env.Environment, map[string]string{"GITHUB_TOKEN": "canary-secret"}) {
		t.Errorf("environment = %v, %v", env, err)
	}
	cfg, err := s.client.GetSandboxConfig(s.box(id), &sandboxpb.GetSandboxConfigRequest{SandboxId: id})
	if err != nil || cfg.ProviderEnvRevision != env.ProviderEnvRevision || cfg.ProviderEnvRevision == 0 {
		t.Errorf("revision in the configuration %d, in the environment %d, %v", cfg.GetProviderEnvRevision(), env.GetProviderEnvRevision(), err)
	}
	if _, err := s.client.DeleteProvider(s.admin(), &openshellpb.DeleteProviderRequest{Name: "gh"}); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("delete of a provider in use: %v", err)
	}
	_, err = sallyportpb.NewGatewayClient(s.conn).ListCredentials(s.admin(), &sallyportpb.ListCredentialsRequest{})
	if status.Code(err) != codes.FailedPrecondition || next(err) == "" {
		t.Errorf("ListCredentials without a driver: %v", err)
	}
	_, err = sallyportpb.NewGatewayClient(s.conn).ListCredentials(s.user(), &sallyportpb.ListCredentialsRequest{})
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("ListCredentials as a user: %v", err)
	}
}

// Supervisors of the mvp generation know one secret for all sandboxes and send nothing on their streams. They are
// served only behind a flag, one live session a sandbox.
func TestSharedSecretGeneration(t *testing.T) {
	t.Parallel()
	const secret = "0123456789abcdef-shared"
	withSecret := func(ctx context.Context, value string) context.Context {
		return metadata.AppendToOutgoingContext(ctx, "x-sandbox-secret", value)
	}
	strict := start(t, "--ssh-handshake-secret", secret)
	id := strict.create("a").Metadata.Id
	if _, err := strict.client.GetSandboxConfig(withSecret(t.Context(), secret), &sandboxpb.GetSandboxConfigRequest{SandboxId: id}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("without the flag the secret opens the door: %v", err)
	}
	s := start(t, "--ssh-handshake-secret", secret, "--allow-shared-sandbox-secret")
	id = s.create("a").Metadata.Id
	if _, err := s.client.GetSandboxConfig(withSecret(t.Context(), secret), &sandboxpb.GetSandboxConfigRequest{SandboxId: id}); err != nil {
		t.Errorf("with the flag: %v", err)
	}
	for _, wrong := range []string{"", "0123456789abcdef-shareD"} {
		_, err := s.client.GetSandboxProviderEnvironment(withSecret(t.Context(), wrong), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
		if status.Code(err) != codes.Unauthenticated {
			t.Errorf("secret %q: %v", wrong, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open := func() error {
		stream, err := s.client.ConnectSupervisor(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(hello(id)); err != nil {
			return err
		}
		_, err = stream.Recv()
		return err
	}
	if err := open(); err != nil {
		t.Fatalf("a session without any header: %v", err)
	}
	if err := open(); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("a second session takes over the live one: %v", err)
	}
	if _, err := s.client.ListSandboxes(withSecret(t.Context(), secret), &openshellpb.ListSandboxesRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the secret on a user's method: %v", err)
	}
}
