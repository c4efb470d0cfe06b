package compute_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fake is a compute driver on a real socket. Its watch sends no snapshot on opening, as some drivers do.
type fake struct {
	computepb.UnimplementedComputeDriverServer
	socket string

	mu        sync.Mutex
	err       error
	sandboxes []*computepb.DriverSandbox
	created   []*computepb.DriverSandbox
	lists     int
	events    chan *computepb.WatchSandboxesEvent
	srv       *grpc.Server
}

func (f *fake) fail(err error) { f.mu.Lock(); defer f.mu.Unlock(); f.err = err }
func (f *fake) hold(s ...*computepb.DriverSandbox) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sandboxes = s
}

func (f *fake) failure() error { f.mu.Lock(); defer f.mu.Unlock(); return f.err }

func (f *fake) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "fake", DriverVersion: "1", DefaultImage: "img", GpuCount: 2}, f.failure()
}

func (f *fake) ValidateSandboxCreate(context.Context, *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	return &computepb.ValidateSandboxCreateResponse{}, f.failure()
}

func (f *fake) CreateSandbox(_ context.Context, r *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.created = append(f.created, r.GetSandbox())
	return &computepb.CreateSandboxResponse{}, f.err
}

func (f *fake) GetSandbox(context.Context, *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil || len(f.sandboxes) == 0 {
		return &computepb.GetSandboxResponse{}, f.err
	}
	return &computepb.GetSandboxResponse{Sandbox: f.sandboxes[0]}, nil
}

func (f *fake) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lists++
	return &computepb.ListSandboxesResponse{Sandboxes: f.sandboxes}, f.err
}

func (f *fake) StopSandbox(context.Context, *computepb.StopSandboxRequest) (*computepb.StopSandboxResponse, error) {
	return &computepb.StopSandboxResponse{}, f.failure()
}

func (f *fake) StartSandbox(context.Context, *computepb.StartSandboxRequest) (*computepb.StartSandboxResponse, error) {
	return &computepb.StartSandboxResponse{}, f.failure()
}

func (f *fake) DeleteSandbox(context.Context, *computepb.DeleteSandboxRequest) (*computepb.DeleteSandboxResponse, error) {
	return &computepb.DeleteSandboxResponse{Deleted: true}, f.failure()
}

func (f *fake) WatchSandboxes(_ *computepb.WatchSandboxesRequest, s grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	for {
		select {
		case e := <-f.events:
			if err := s.Send(e); err != nil {
				return err
			}
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func (f *fake) start(t *testing.T) {
	t.Helper()
	if err := os.Remove(f.socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", f.socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	computepb.RegisterComputeDriverServer(srv, f)
	f.mu.Lock()
	f.srv = srv
	f.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	t.Cleanup(func() { srv.Stop(); <-done })
}

func (f *fake) kill() {
	f.mu.Lock()
	srv := f.srv
	f.mu.Unlock()
	srv.Stop()
}

func setup(t *testing.T) (*fake, *compute.Client, *logBuffer) {
	t.Helper()
	f := &fake{socket: filepath.Join(t.TempDir(), "c.sock"), events: make(chan *computepb.WatchSandboxesEvent)}
	f.start(t)
	logs := &logBuffer{}
	logger := slog.New(slog.NewTextHandler(logs, nil))
	conn, err := driver.Dial(driver.Config{Name: "compute", Socket: f.socket, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return f, compute.New(conn, logger), logs
}

type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *logBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

func TestCreateSendsTheWholeSpec(t *testing.T) {
	t.Parallel()
	f, c, logs := setup(t)
	const canary = "canary-token-4711"
	one, no := uint32(1), false
	spec := compute.Spec{
		ID: "id-1", Name: "calm-otter", Workspace: "default", LogLevel: "info",
		Environment: map[string]string{"A": "b", compute.TokenVariable: canary}, Token: canary,
		GPUs: &one, Command: []string{"/bin/true"}, TTY: true,
		Template: compute.Template{
			Image: "img", AgentSocket: "/a", RuntimeClass: "kata", Annotations: map[string]string{"x": "y"}, UserNamespaces: &no,
			Resources: map[string]any{
				"requests": map[string]any{"cpu": "1", "memory": "2Gi"},
				"limits":   map[string]any{"cpu": 2.0, "nvidia.com/gpu": "1"},
			},
			DriverConfig: map[string]any{"k": []any{"v"}},
		},
	}
	if err := c.Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	got := f.created[0]
	if got.GetId() != "id-1" || got.GetName() != "calm-otter" || got.GetWorkspace() != "default" || got.GetNamespace() != "" {
		t.Errorf("identity %v", got)
	}
	s := got.GetSpec()
	if s.GetSandboxToken() != canary || s.GetEnvironment()[compute.TokenVariable] != canary {
		t.Error("token did not travel both ways")
	}
	if s.GetResourceRequirements().GetGpu().GetCount() != 1 || !s.GetTty() || s.GetCommand()[0] != "/bin/true" {
		t.Errorf("spec %v", s)
	}
	r := s.GetTemplate().GetResources()
	if r.GetCpuRequest() != "1" || r.GetMemoryRequest() != "2Gi" || r.GetCpuLimit() != "" {
		t.Errorf("resources %v", r)
	}
	want := map[string]any{
		"runtime_class_name": "kata", "annotations": map[string]any{"x": "y"}, "host_users": true,
		"resources_raw": map[string]any{"limits": map[string]any{"cpu": 2.0, "nvidia.com/gpu": "1"}},
	}
	if d := cmp.Diff(want, s.GetTemplate().GetPlatformConfig().AsMap()); d != "" {
		t.Error(d)
	}
	if err := c.Create(t.Context(), compute.Spec{ID: "id-2"}); err != nil {
		t.Fatal(err)
	}
	if f.created[1].GetSpec().GetResourceRequirements() != nil || f.created[1].GetSpec().GetTemplate().GetPlatformConfig() != nil {
		t.Error("what was not asked for is sent")
	}
	slog.New(slog.NewTextHandler(logs, nil)).Info("spec", "spec", spec)
	if strings.Contains(logs.String(), canary) {
		t.Error("token in log")
	}
}

func TestReservedEnvironment(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"OPENSHELL_SANDBOX_ID": true, "OPENSHELL_TLS_CA": true, "OPENSHELL_NEW_THING": true, "OPENSHELL_SANDBOX_TOKEN": true,
		"OPENAI_BASE_URL": true, "ANTHROPIC_BASE_URL": true, "CLAUDE_CODE_DISABLE_EXPERIMENTAL_BETAS": true,
		"OPENAI_API_KEY": false, "PATH": false, "openshell_x": false, "": false,
	} {
		if got := compute.ReservedEnvironment(name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
	f, c, _ := setup(t)
	for _, spec := range []compute.Spec{
		{ID: "i", Environment: map[string]string{"OPENSHELL_ENDPOINT": "x"}},
		{ID: "i", Environment: map[string]string{compute.TokenVariable: "forged"}, Token: "real"},
		{ID: "i", Environment: map[string]string{compute.TokenVariable: "forged"}},
		{ID: "i", Template: compute.Template{Environment: map[string]string{compute.TokenVariable: "real"}}, Token: "real"},
	} {
		for _, err := range []error{c.Create(t.Context(), spec), c.Validate(t.Context(), spec)} {
			if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), "reserved") {
				t.Errorf("got %v", err)
			}
		}
	}
	if len(f.created) != 0 {
		t.Error("a refused spec reached the driver")
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	f, c, _ := setup(t)
	ctx := t.Context()
	calls := map[string]func() error{
		"validate": func() error { return c.Validate(ctx, compute.Spec{ID: "i"}) },
		"create":   func() error { return c.Create(ctx, compute.Spec{ID: "i"}) },
		"get":      func() error { _, err := c.Get(ctx, "i", "n"); return err },
		"stop":     func() error { return c.Stop(ctx, "i", "n") },
		"start":    func() error { return c.Start(ctx, "i", "n") },
		"delete":   func() error { _, err := c.Delete(ctx, "i", "n"); return err },
	}
	for _, tc := range []struct {
		call    string
		code    codes.Code
		kind    fault.Kind
		message string
	}{
		{"validate", codes.InvalidArgument, fault.InvalidArgument, "why"},
		{"validate", codes.Internal, fault.Internal, "why"},
		{"create", codes.AlreadyExists, fault.AlreadyExists, "sandbox already exists"},
		{"create", codes.FailedPrecondition, fault.FailedPrecondition, "why"},
		{"create", codes.InvalidArgument, fault.Internal, "create sandbox failed: why"},
		{"create", codes.Unavailable, fault.Internal, "create sandbox failed: why"},
		{"get", codes.NotFound, fault.NotFound, "why"},
		{"get", codes.Internal, fault.Internal, "why"},
		{"stop", codes.NotFound, fault.NotFound, "stop sandbox failed: why"},
		{"start", codes.Unimplemented, fault.Unimplemented, "start sandbox failed: why"},
		{"delete", codes.PermissionDenied, fault.Internal, "delete sandbox failed: why"},
	} {
		f.fail(status.Error(tc.code, "why"))
		err := calls[tc.call]()
		e := fault.From(err)
		if err == nil || e.Kind != tc.kind || e.Message != tc.message || driver.CodeOf(err) != tc.code || e.Reason == "" {
			t.Errorf("%s %s: %+v", tc.call, tc.code, e)
		}
	}
	// A driver older than workspaces keeps nothing for them.
	f.fail(nil)
	if err := c.DeleteWorkspace(ctx, "w"); err != nil {
		t.Errorf("delete of a workspace by an old driver: %v", err)
	}
	f.fail(status.Error(codes.NotFound, "gone"))
	if deleted, err := c.Delete(ctx, "i", "n"); deleted || err != nil {
		t.Errorf("delete of absent: %v %v", deleted, err)
	}
	f.fail(nil)
	if deleted, err := c.Delete(ctx, "i", "n"); !deleted || err != nil {
		t.Errorf("delete: %v %v", deleted, err)
	}
	caps, err := c.Capabilities(ctx)
	if err != nil || caps.Name != "fake" || caps.DefaultImage != "img" || caps.GPUCount != 2 {
		t.Errorf("%+v %v", caps, err)
	}
}

func ready(id string) *computepb.DriverSandbox {
	return &computepb.DriverSandbox{Id: id, Name: "n-" + id, Status: &computepb.DriverSandboxStatus{
		InstanceId: "inst", Conditions: []*computepb.DriverCondition{{Type: "Ready", Status: "True"}},
	}}
}

func TestLyingDriver(t *testing.T) {
	t.Parallel()
	f, c, _ := setup(t)
	crowded := ready("id-1")
	for range 64 {
		crowded.Status.Conditions = append(crowded.Status.Conditions, &computepb.DriverCondition{})
	}
	for name, s := range map[string]*computepb.DriverSandbox{
		"no sandbox": nil, "other id": ready("id-2"), "no id": ready(""), "blank id": ready("id 1"),
		"long id": ready(strings.Repeat("x", 254)), "65 conditions": crowded,
	} {
		f.hold()
		if s != nil {
			f.hold(s)
		}
		_, err := c.Get(t.Context(), "id-1", "n")
		if e := fault.From(err); err == nil || e.Reason != driver.ReasonInvalidAnswer || e.Kind != fault.Internal {
			t.Errorf("get %s: %v", name, err)
		}
		if s == nil || name == "other id" {
			continue
		}
		if _, err := c.List(t.Context()); err == nil || fault.From(err).Reason != driver.ReasonInvalidAnswer {
			t.Errorf("list %s: %v", name, err)
		}
	}
	f.hold(ready("a"), ready("a"))
	if _, err := c.List(t.Context()); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("duplicate: %v", err)
	}
	long := ready("id-1")
	long.Status.Conditions[0].Message = strings.Repeat("é", 4096)
	f.hold(long)
	s, err := c.Get(t.Context(), "id-1", "n")
	if err != nil || len(s.Conditions[0].Message) > 4096 || !s.HasStatus {
		t.Errorf("long text: %d bytes, %v", len(s.Conditions[0].Message), err)
	}
	f.hold(&computepb.DriverSandbox{Id: "id-1"})
	if s, err = c.Get(t.Context(), "id-1", "n"); err != nil || s.HasStatus {
		t.Errorf("no status: %+v %v", s, err)
	}
}

// recorder is a sink that hands each report to the test.
type recorder struct{ got chan any }

type (
	deleted  string
	happened struct {
		id string
		e  compute.PlatformEvent
	}
)

func (r recorder) Listed(_ context.Context, s []compute.Snapshot) { r.got <- s }
func (r recorder) Changed(_ context.Context, s compute.Snapshot)  { r.got <- s }
func (r recorder) Deleted(_ context.Context, id string)           { r.got <- deleted(id) }
func (r recorder) Happened(_ context.Context, id string, e compute.PlatformEvent) {
	r.got <- happened{id, e}
}

// next returns the first report that match accepts.
func next[T any](t *testing.T, r recorder, match func(T) bool) T {
	t.Helper()
	timeout := time.After(20 * time.Second)
	for {
		select {
		case v := <-r.got:
			if x, ok := v.(T); ok && match(x) {
				return x
			}
		case <-timeout:
			t.Fatal("no such report")
		}
	}
}

func TestWatch(t *testing.T) {
	t.Parallel()
	f, c, _ := setup(t)
	f.hold(ready("a"), ready("b"))
	ctx, cancel := context.WithCancel(t.Context())
	r := recorder{make(chan any, 1024)}
	done := make(chan error, 1)
	go func() { done <- c.Watch(ctx, r) }()

	lists := func(n int) func([]compute.Snapshot) bool {
		return func(s []compute.Snapshot) bool { return len(s) == n }
	}
	next(t, r, lists(2))
	f.events <- &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Sandbox{
		Sandbox: &computepb.WatchSandboxesSandboxEvent{Sandbox: ready("a")},
	}}
	if s := next(t, r, func(compute.Snapshot) bool { return true }); s.ID != "a" || s.Conditions[0].Status != "True" {
		t.Errorf("snapshot %+v", s)
	}
	// What cannot be true is dropped and the stream goes on.
	f.events <- &computepb.WatchSandboxesEvent{}
	f.events <- &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Deleted{}}
	f.events <- &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_PlatformEvent{
		PlatformEvent: &computepb.WatchSandboxesPlatformEvent{SandboxId: "a", Event: &computepb.DriverPlatformEvent{Reason: "Pulled", TimestampMs: 5}},
	}}
	if h := next(t, r, func(happened) bool { return true }); h.id != "a" || h.e.Reason != "Pulled" || h.e.Time.UnixMilli() != 5 {
		t.Errorf("event %+v", h)
	}
	f.events <- &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Deleted{
		Deleted: &computepb.WatchSandboxesDeletedEvent{SandboxId: "b"},
	}}
	if d := next(t, r, func(deleted) bool { return true }); d != "b" {
		t.Errorf("deleted %q", d)
	}

	// While the driver is away a sandbox vanishes: only a new list can tell.
	f.kill()
	f.hold(ready("b"))
	started := time.Now()
	f.start(t)
	next(t, r, lists(1))
	if took := time.Since(started); took > 2*time.Second {
		t.Errorf("listed again after %s", took)
	}
	// A driver that starts to lie in its list keeps its stream, and is asked again.
	f.hold(ready("a"), ready("a"))
	f.kill()
	f.start(t)
	f.events <- &computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Deleted{
		Deleted: &computepb.WatchSandboxesDeletedEvent{SandboxId: "c"},
	}}
	next(t, r, func(d deleted) bool { return d == "c" })
	f.hold(ready("a"), ready("b"), ready("c"))
	next(t, r, lists(3))

	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("watch ended with %v", err)
	}
}
