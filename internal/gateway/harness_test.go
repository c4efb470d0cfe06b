package gateway_test

import (
	"context"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/oidctest"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// fakeDriver is a compute driver that only remembers; its sandboxes are ready at once.
type fakeDriver struct {
	computepb.UnimplementedComputeDriverServer
	mu      sync.Mutex
	boxes   map[string]*computepb.DriverSandbox
	watches map[chan *computepb.WatchSandboxesEvent]bool
	// odd is a code that does not exist, with which sandboxes named so are refused, each with the next.
	odd uint32
	// traces are the traces that calls belonged to.
	traces []string
}

func (d *fakeDriver) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "fake", DriverVersion: "1", DefaultImage: "image"}, nil
}

func (d *fakeDriver) ValidateSandboxCreate(context.Context, *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

func (d *fakeDriver) CreateSandbox(ctx context.Context, req *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if trace, recorded := driverkit.TraceID(ctx); recorded {
		d.traces = append(d.traces, trace)
	}
	if d.odd > 0 && strings.HasPrefix(req.Sandbox.Name, "odd") {
		d.odd++
		return nil, status.Error(codes.Code(d.odd), "odd")
	}
	d.boxes[req.Sandbox.Id] = req.Sandbox
	d.tell(&computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Sandbox{
		Sandbox: &computepb.WatchSandboxesSandboxEvent{Sandbox: snapshot(req.Sandbox)},
	}})
	return &computepb.CreateSandboxResponse{}, nil
}

func (d *fakeDriver) GetSandbox(_ context.Context, req *computepb.GetSandboxRequest) (*computepb.GetSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	sb := d.boxes[req.SandboxId]
	if sb == nil {
		return nil, status.Error(codes.NotFound, "no such sandbox")
	}
	return &computepb.GetSandboxResponse{Sandbox: snapshot(sb)}, nil
}

func (d *fakeDriver) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	resp := &computepb.ListSandboxesResponse{}
	for sb := range maps.Values(d.boxes) {
		resp.Sandboxes = append(resp.Sandboxes, snapshot(sb))
	}
	return resp, nil
}

func (d *fakeDriver) DeleteSandbox(_ context.Context, req *computepb.DeleteSandboxRequest) (*computepb.DeleteSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.boxes[req.SandboxId]
	delete(d.boxes, req.SandboxId)
	if ok {
		d.tell(&computepb.WatchSandboxesEvent{Payload: &computepb.WatchSandboxesEvent_Deleted{
			Deleted: &computepb.WatchSandboxesDeletedEvent{SandboxId: req.SandboxId},
		}})
	}
	return &computepb.DeleteSandboxResponse{Deleted: ok}, nil
}

func (d *fakeDriver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	events := make(chan *computepb.WatchSandboxesEvent, 1024)
	d.mu.Lock()
	d.watches[events] = true
	d.mu.Unlock()
	defer func() {
		d.mu.Lock()
		delete(d.watches, events)
		d.mu.Unlock()
	}()
	for {
		select {
		case e := <-events:
			if err := stream.Send(e); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

func (d *fakeDriver) tell(e *computepb.WatchSandboxesEvent) {
	for w := range d.watches {
		w <- e
	}
}

func (d *fakeDriver) token(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.boxes[id].GetSpec().GetSandboxToken()
}

func snapshot(sb *computepb.DriverSandbox) *computepb.DriverSandbox {
	return &computepb.DriverSandbox{Id: sb.Id, Name: sb.Name, Status: &computepb.DriverSandboxStatus{
		Conditions: []*computepb.DriverCondition{{Type: "Ready", Status: "True", Reason: "Running"}},
	}}
}

// system is a gateway with an identity provider and a driver, all real but for what the driver runs.
type system struct {
	t      *testing.T
	issuer *oidctest.Issuer
	driver *fakeDriver
	conn   *grpc.ClientConn
	client openshellpb.OpenShellClient
	ext    sallyportpb.GatewayClient

	gateway *gateway.Gateway
	cfg     *config.Config
	args    []string
}

// start brings a system up in some 20 ms.
func start(t *testing.T, args ...string) *system {
	t.Helper()
	return startWith(t, nil, args...)
}

// startWith is start with variables.
func startWith(t *testing.T, env map[string]string, args ...string) *system {
	t.Helper()
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &system{t: t, issuer: oidctest.New(t), driver: &fakeDriver{
		boxes: map[string]*computepb.DriverSandbox{}, watches: map[chan *computepb.WatchSandboxesEvent]bool{},
	}}
	socket := filepath.Join(dir, "run", "c.sock")
	args = append([]string{
		"--disable-tls", "--drivers", "external", "--compute-driver-socket", socket,
		"--db-url", "sqlite:" + filepath.Join(dir, "state", "x.db"), "--oidc-issuer", s.issuer.URL, "--oidc-audience", oidctest.Audience,
		"--oidc-scopes-claim", "scope", "--shutdown-grace-secs", "1",
	}, args...)
	variable := func(k string) (string, bool) {
		if v, ok := env[k]; ok {
			return v, true
		}
		return home(dir)(k)
	}
	cfg, err := config.Parse(args, variable)
	if err != nil {
		t.Fatal(err)
	}
	logger := slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g, err := gateway.New(t.Context(), cfg, gateway.Options{
		Version: "test", Logger: logger, Listener: l,
		ParseText: func(file []byte) (*config.Config, error) {
			return config.ParseText(args, variable, file)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: logger}, func(r *grpc.Server) {
			computepb.RegisterComputeDriverServer(r, s.driver)
		}); err != nil {
			t.Errorf("driver: %v", err)
		}
	})
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	s.conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.conn.Close()
		cancel()
		running.Wait()
	})
	s.client = openshellpb.NewOpenShellClient(s.conn)
	s.ext = sallyportpb.NewGatewayClient(s.conn)
	s.gateway, s.cfg, s.args = g, cfg, args
	return s
}

// home is an environment that has nothing but a home.
func home(dir string) func(string) (string, bool) {
	return func(k string) (string, bool) { return dir, k == "HOME" }
}

// as returns a context that carries a user's token.
func (s *system) as(roles []string, scope string) context.Context {
	claims := map[string]any{"realm_access": map[string]any{"roles": roles}, "scope": scope}
	return bearer(s.t.Context(), s.issuer.Mint(claims))
}

func (s *system) user() context.Context { return s.as([]string{"openshell-user"}, "openshell:all") }

func (s *system) admin() context.Context {
	return s.as([]string{"openshell-admin", "openshell-user"}, "openshell:all")
}

// box is the context of a sandbox's supervisor.
func (s *system) box(id string) context.Context { return bearer(s.t.Context(), s.driver.token(id)) }

func bearer(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

func (s *system) create(name string) *openshellpb.Sandbox {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.user(), 20*time.Second)
	defer cancel()
	resp, err := s.client.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: name, Spec: &openshellpb.SandboxSpec{}}, grpc.WaitForReady(true))
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.Sandbox
}
