package callback_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/reflection"
	"google.golang.org/protobuf/types/known/emptypb"

	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/callback"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// asks is a driver that wants what it is told to want, and says so as often as it is asked.
type asks struct {
	mu        sync.Mutex
	want      []compute.Requirement
	err       error
	asked     int
	lives     int
	connected chan struct{} // replaced with each life
}

func newAsks(want ...compute.Requirement) *asks {
	return &asks{want: want, lives: 1, connected: make(chan struct{})}
}

func (a *asks) ListenerRequirements(context.Context) ([]compute.Requirement, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.want, a.err
}

func (a *asks) Connected(ctx context.Context, seen int) (int, error) {
	for {
		a.mu.Lock()
		lives, connected := a.lives, a.connected
		a.mu.Unlock()
		if lives > seen {
			return lives, nil
		}
		select {
		case <-connected:
		case <-ctx.Done():
			return seen, context.Cause(ctx)
		}
	}
}

// restart is another life of the driver, which wants something else.
func (a *asks) restart(err error, want ...compute.Requirement) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.want, a.err = want, err
	a.lives++
	close(a.connected)
	a.connected = make(chan struct{})
}

func (a *asks) times() int { a.mu.Lock(); defer a.mu.Unlock(); return a.asked }

// notes collect audit records and log lines.
type notes struct {
	mu      sync.Mutex
	records []audit.Record
	lines   strings.Builder
}

func (n *notes) Record(r audit.Record) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.records = append(n.records, r)
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.lines.Write(p)
}
func (n *notes) text() string { n.mu.Lock(); defer n.mu.Unlock(); return n.lines.String() }
func (n *notes) kept() []audit.Record {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]audit.Record(nil), n.records...)
}

// tokens is an authenticator whose tokens say who the caller is.
type tokens struct{}

func (tokens) Authenticate(_ context.Context, r *authn.Request) (*principal.Principal, error) {
	if r.PeerCertificate != nil {
		return &principal.Principal{Kind: principal.User, Subject: "certificate", Roles: []string{"openshell-admin"}}, nil
	}
	if len(r.Authorization) == 0 {
		return nil, nil
	}
	switch strings.TrimPrefix(r.Authorization[0], "Bearer ") {
	case "admin":
		return &principal.Principal{
			Kind: principal.User, Issuer: "issuer", Subject: "root", Provider: principal.ProviderOIDC,
			Roles: []string{"openshell-admin", "openshell-user"}, Scopes: []string{authz.ScopeAll},
		}, nil
	case "sandbox":
		return &principal.Principal{Kind: principal.Sandbox, SandboxID: "b1", Source: principal.SourceToken}, nil
	}
	return nil, fault.New(fault.Unauthenticated, "TOKEN_NOT_ACCEPTED", "invalid token")
}

func rules(t testing.TB) *authz.Table {
	t.Helper()
	table, err := authz.NewTable(append(v00.Descriptors(), healthpb.File_grpc_health_v1_health_proto.Services().ByName("Health"))...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// gateway is a gateway without services: who gets past the door has reached everything that there is.
type gateway struct {
	methods []string
	table   *authz.Table
	scope   *callback.Scope
	port    int
	notes   *notes
	changed chan []netip.Addr
	served  *listener.Port
}

type setup struct {
	// address is the gateway's own, without port.
	address string
	driver  func(port int) callback.Driver
	public  []netip.Addr
	slow    bool // no fast path: every call comes over the bridge
	tls     *tls.Config
}

// start runs a gateway, and waits until the addresses of the driver have changed once if that wants any.
func start(t *testing.T, s setup) *gateway {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(s.address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	g := &gateway{table: rules(t), notes: &notes{}, port: l.Addr().(*net.TCPAddr).Port, changed: make(chan []netip.Addr, 64)}
	g.scope, err = callback.New(callback.Config{
		Driver: s.driver(g.port), Table: g.table, Public: s.public, Recorder: g.notes,
		Logger: slog.New(slog.NewTextHandler(g.notes, nil)), Changed: func(a []netip.Addr) { g.changed <- a },
	})
	if err != nil {
		t.Fatal(err)
	}
	authorizer, err := authz.New(g.table, authz.Policy{AdminRole: "openshell-admin", UserRole: "openshell-user"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := door.New(door.Config{Authenticator: g.scope.Authenticator(tokens{}), Authorizer: authorizer, Audit: g.notes})
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(append(listener.GRPCOptions(),
		grpc.ChainUnaryInterceptor(g.scope.Unary(), d.Unary(),
			func(context.Context, any, *grpc.UnaryServerInfo, grpc.UnaryHandler) (any, error) {
				return &emptypb.Empty{}, nil
			}),
		grpc.ChainStreamInterceptor(g.scope.Stream(), d.Stream(),
			func(any, grpc.ServerStream, *grpc.StreamServerInfo, grpc.StreamHandler) error { return nil }),
		grpc.UnknownServiceHandler(d.Unknown()))...)
	v00.Register(server, v00.Services{})
	healthpb.RegisterHealthServer(server, health.NewServer())
	reflection.Register(server)
	for service, info := range server.GetServiceInfo() {
		for _, m := range info.Methods {
			g.methods = append(g.methods, "/"+service+"/"+m.Name)
		}
	}
	port, err := listener.New(listener.Config{
		TLS: s.tls, GRPC: server, FastPath: !s.slow, Logger: slog.New(slog.DiscardHandler),
		HTTP: g.scope.HTTP(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "in full") })),
	})
	if err != nil {
		t.Fatal(err)
	}
	g.served = port
	all := g.scope.Listen(l)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := port.Serve(ctx, all, 10*time.Second); err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	running.Go(func() { _ = all.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return g
}

func (g *gateway) wait(t *testing.T) []netip.Addr {
	t.Helper()
	select {
	case a := <-g.changed:
		return a
	case <-time.After(30 * time.Second):
		t.Fatalf("the addresses have not changed; log:\n%s", g.notes.text())
		return nil
	}
}

func (g *gateway) at(host string) string { return net.JoinHostPort(host, strconv.Itoa(g.port)) }

func (g *gateway) dial(t *testing.T, host string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+g.at(host), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// call sends one empty message, which is one of every type, and returns the first answer's error.
func call(conn *grpc.ClientConn, method, token string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	// A refusal may come before the message is sent; it shows on receiving.
	if err := stream.SendMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(&emptypb.Empty{}); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func exactly(host string) func(port int) callback.Driver {
	return func(port int) callback.Driver {
		return newAsks(compute.Requirement{
			Place: compute.ExactPlace, Address: net.JoinHostPort(host, strconv.Itoa(port)), Reason: "bridge of containers",
		})
	}
}
