package door_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/oidctest"
	"sallyport.dev/sallyport/internal/principal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const shell = "/openshell.v1.OpenShell/"

// service answers a few methods with what the test wants.
type service struct {
	openshellpb.UnimplementedOpenShellServer
	get   func(ctx context.Context) error
	watch func(stream grpc.ServerStream) error
}

func (s *service) Health(ctx context.Context, _ *openshellpb.HealthRequest) (*openshellpb.HealthResponse, error) {
	return &openshellpb.HealthResponse{}, s.get(ctx)
}

func (s *service) GetSandbox(ctx context.Context, _ *openshellpb.GetSandboxRequest) (*openshellpb.SandboxResponse, error) {
	return &openshellpb.SandboxResponse{}, s.get(ctx)
}

func (s *service) UpdateConfig(ctx context.Context, _ *openshellpb.UpdateConfigRequest) (*openshellpb.UpdateConfigResponse, error) {
	return &openshellpb.UpdateConfigResponse{}, s.get(ctx)
}

func (s *service) WatchSandbox(_ *openshellpb.WatchSandboxRequest, stream grpc.ServerStreamingServer[openshellpb.SandboxStreamEvent]) error {
	return s.watch(stream)
}

// observed collects what the metrics hook is told.
type observed struct {
	mu    sync.Mutex
	calls []string
}

func (o *observed) Observe(method string, code codes.Code, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls = append(o.calls, method+" "+code.String())
}

func (o *observed) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := o.calls
	o.calls = nil
	return calls
}

// lines is a log that tests read while it is written.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// house is a gateway's entrance with everything real but the services behind it.
type house struct {
	service  *service
	idp      *oidctest.Issuer
	tokens   *sandboxtoken.Issuer
	observed *observed
	log      *lines
	door     *door.Door
	conn     *grpc.ClientConn
}

func table(tb testing.TB) *authz.Table {
	tb.Helper()
	t, err := authz.NewTable(openshellpb.File_openshell_v1_openshell_proto.Services().ByName("OpenShell"))
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

// open builds a house and serves it. The options of the server come from the test.
func open(tb testing.TB, change func(*authn.Config), options ...grpc.ServerOption) *house {
	tb.Helper()
	return openWith(tb, change, func(*door.Config) {}, options...)
}

// openWith is open with a door that the test changes, too.
func openWith(tb testing.TB, change func(*authn.Config), changeDoor func(*door.Config), options ...grpc.ServerOption) *house {
	tb.Helper()
	h := &house{service: &service{}, idp: oidctest.New(tb), observed: &observed{}, log: &lines{}}
	h.service.get = func(context.Context) error { return nil }
	verifier, err := oidc.NewIssuers([]oidc.Issuer{{Name: "idp", URL: h.idp.URL, Audiences: []string{oidctest.Audience}, ScopesClaim: "scope"}},
		oidc.Options{HTTPClient: h.idp.Client()})
	if err != nil {
		tb.Fatal(err)
	}
	if h.tokens, err = sandboxtoken.Open("", "gw", time.Hour, nil); err != nil {
		tb.Fatal(err)
	}
	config := authn.Config{SandboxTokens: h.tokens, Users: verifier}
	if change != nil {
		change(&config)
	}
	chain, err := authn.New(config)
	if err != nil {
		tb.Fatal(err)
	}
	authorizer, err := authz.New(table(tb), authz.Policy{AdminRole: "openshell-admin", UserRole: "openshell-user", ScopesEnabled: true})
	if err != nil {
		tb.Fatal(err)
	}
	settings := door.Config{
		Authenticator: chain, Authorizer: authorizer, Observer: h.observed,
		Logger: slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	changeDoor(&settings)
	if h.door, err = door.New(settings); err != nil {
		tb.Fatal(err)
	}
	h.serve(tb, options)
	return h
}

func (h *house) serve(tb testing.TB, options []grpc.ServerOption) {
	tb.Helper()
	options = append(options,
		grpc.UnaryInterceptor(h.door.Unary()), grpc.StreamInterceptor(h.door.Stream()), grpc.UnknownServiceHandler(h.door.Unknown()))
	server := grpc.NewServer(options...)
	openshellpb.RegisterOpenShellServer(server, h.service)
	healthpb.RegisterHealthServer(server, health.NewServer())
	var listen net.ListenConfig
	listener, err := listen.Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	h.conn, err = grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		h.conn.Close()
		server.Stop()
		if err := <-done; err != nil {
			tb.Errorf("serve: %v", err)
		}
	})
}

// user mints a token of a user with one role and scopes.
func (h *house) user(role, scope string) string {
	return h.idp.Mint(map[string]any{"realm_access": oidctest.Roles(role), "scope": scope})
}

func with(tb testing.TB, pairs ...string) context.Context {
	tb.Helper()
	return metadata.NewOutgoingContext(tb.Context(), metadata.Pairs(pairs...))
}

func (h *house) getSandbox(ctx context.Context, options ...grpc.CallOption) error {
	_, err := openshellpb.NewOpenShellClient(h.conn).GetSandbox(ctx, &openshellpb.GetSandboxRequest{}, options...)
	return err
}

// wantStatus checks the code, a part of the message, and that the details are complete.
func wantStatus(t *testing.T, err error, code codes.Code, text string) *errdetails.ErrorInfo {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code || !strings.Contains(st.Message(), text) {
		t.Fatalf("got %s %q, want %s with %q", st.Code(), st.Message(), code, text)
	}
	if len(st.Details()) != 1 {
		t.Fatalf("%d details, want 1", len(st.Details()))
	}
	info, ok := st.Details()[0].(*errdetails.ErrorInfo)
	if !ok {
		t.Fatalf("detail is a %T", st.Details()[0])
	}
	if info.GetDomain() != "sallyport.dev" || info.GetReason() == "" || info.GetMetadata()["request_id"] == "" {
		t.Errorf("incomplete detail %v", info)
	}
	return info
}

func TestACallThroughTheDoor(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	var inside *principal.Principal
	var id string
	h.service.get = func(ctx context.Context) error {
		inside, id = principal.From(ctx), door.RequestID(ctx)
		if md, _ := metadata.FromIncomingContext(ctx); len(md) > 0 {
			t.Errorf("the service sees headers: %v", md)
		}
		return nil
	}
	var header metadata.MD
	ctx := with(t, "authorization", "bearer "+h.user("openshell-user", "sandbox:read"), "x-request-id", "my-id",
		"x-openshell-auth-source", "sandbox-secret")
	if err := h.getSandbox(ctx, grpc.Header(&header)); err != nil {
		t.Fatal(err)
	}
	if inside.Kind != principal.User || inside.Subject != "alice-id" || id != "my-id" {
		t.Errorf("inside: %+v, request %q", inside, id)
	}
	if diff := cmp.Diff([]string{"my-id"}, header.Get("x-request-id")); diff != "" {
		t.Errorf("echoed id (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{shell + "GetSandbox OK"}, h.observed.take()); diff != "" {
		t.Errorf("observed (-want +got):\n%s", diff)
	}
}

func TestWhoMayCall(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	box, _, err := h.tokens.Mint("box-1")
	if err != nil {
		t.Fatal(err)
	}
	reader := h.user("openshell-user", "sandbox:read")
	for _, tc := range []struct {
		name   string
		method string
		header []string
		code   codes.Code
		text   string
	}{
		{"nobody", "GetSandbox", nil, codes.Unauthenticated, "missing authorization header"},
		{"nobody, open method", "Health", nil, codes.OK, ""},
		{"bad token, open method", "Health", []string{"authorization", "Bearer x"}, codes.OK, ""},
		{"user", "GetSandbox", []string{"authorization", "Bearer " + reader}, codes.OK, ""},
		{"two headers", "GetSandbox", []string{"authorization", "Bearer " + reader, "authorization", "Bearer " + reader}, codes.Unauthenticated, "missing authorization header"},
		{"user without scope", "UpdateConfig", []string{"authorization", "Bearer " + h.user("openshell-admin", "sandbox:read")}, codes.PermissionDenied, "scope 'config:write' required"},
		{"user without role", "UpdateConfig", []string{"authorization", "Bearer " + h.user("openshell-user", "openshell:all")}, codes.PermissionDenied, "role 'openshell-admin' required"},
		{"sandbox on a dual method", "UpdateConfig", []string{"authorization", "Bearer " + box}, codes.OK, ""},
		{"sandbox on a user method", "GetSandbox", []string{"authorization", "Bearer " + box}, codes.PermissionDenied, "sandbox principals may not call this method"},
		{"user on a sandbox method", "ReportPolicyStatus", []string{"authorization", "Bearer " + h.user("openshell-admin", "openshell:all")}, codes.PermissionDenied, "this method requires a sandbox principal"},
		{"the marker of older gateways is nothing", "UpdateConfig", []string{"x-openshell-auth-source", "sandbox-secret", "x-openshell-auth-source", "sandbox-secret"}, codes.Unauthenticated, "missing authorization header"},
		{"the marker beside a token", "UpdateConfig", []string{"x-openshell-auth-source", "sandbox-secret", "authorization", "Bearer " + reader}, codes.PermissionDenied, "role 'openshell-admin' required"},
		{"shared secret, switched off", "ReportPolicyStatus", []string{"x-sandbox-secret", "s"}, codes.Unauthenticated, "missing authorization header"},
		{"unknown method, nobody", "Nope", nil, codes.Unauthenticated, "missing authorization header"},
		{"unknown method, scoped", "Nope", []string{"authorization", "Bearer " + reader}, codes.PermissionDenied, "scope 'openshell:all' required"},
		{"unknown method", "Nope", []string{"authorization", "Bearer " + h.user("openshell-user", "openshell:all")}, codes.Unimplemented, "Nope"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var header, trailer metadata.MD
			err := h.conn.Invoke(with(t, tc.header...), shell+tc.method, &openshellpb.HealthRequest{}, &openshellpb.HealthResponse{},
				grpc.Header(&header), grpc.Trailer(&trailer))
			if tc.code == codes.OK {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			info := wantStatus(t, err, tc.code, tc.text)
			if info.GetMetadata()["next"] == "" {
				t.Error("no next step")
			}
			if got := trailer.Get("x-request-id"); len(got) != 1 || got[0] != info.GetMetadata()["request_id"] {
				t.Errorf("request id %v in the trailer, %q in the detail", got, info.GetMetadata()["request_id"])
			}
		})
	}
}

func TestSharedSecretBehindItsFlag(t *testing.T) {
	t.Parallel()
	h := open(t, func(c *authn.Config) { c.AcceptSharedSecret, c.SharedSecret = true, "s" })
	var inside *principal.Principal
	h.service.get = func(ctx context.Context) error { inside = principal.From(ctx); return nil }
	_, err := openshellpb.NewOpenShellClient(h.conn).UpdateConfig(with(t, "x-sandbox-secret", "s"), &openshellpb.UpdateConfigRequest{})
	if err != nil {
		t.Fatal(err)
	}
	want := &principal.Principal{Kind: principal.Sandbox, Source: principal.SourceSharedSecret}
	if diff := cmp.Diff(want, inside); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	wantStatus(t, h.getSandbox(with(t, "x-sandbox-secret", "s")), codes.Unauthenticated, "missing authorization header")
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for _, tc := range []struct {
		name string
		sent []string
		kept bool
	}{
		{"sane", []string{"a-B_9:/~"}, true},
		{"at the limit", []string{strings.Repeat("x", 128)}, true},
		{"past the limit", []string{strings.Repeat("x", 129)}, false},
		{"empty", []string{""}, false},
		{"space", []string{"a b"}, false},
		{"two", []string{"a", "b"}, false},
		{"none", nil, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			var pairs []string
			for _, id := range tc.sent {
				pairs = append(pairs, "x-request-id", id)
			}
			var header metadata.MD
			_, err := openshellpb.NewOpenShellClient(h.conn).Health(with(t, pairs...), &openshellpb.HealthRequest{}, grpc.Header(&header))
			if err != nil {
				t.Fatal(err)
			}
			got := header.Get("x-request-id")
			if len(got) != 1 || (tc.kept && got[0] != tc.sent[0]) || (!tc.kept && len(got[0]) != 36) {
				t.Errorf("sent %q, got %q", tc.sent, got)
			}
		})
	}
}

func TestWhatServicesReturn(t *testing.T) {
	t.Parallel()
	private := errors.New("dial 10.0.0.7: password hunter2 refused")
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
		next string
	}{
		{"fault", fault.Wrap(private, fault.NotFound, "SANDBOX_NOT_FOUND", "sandbox not found").WithNext("look"), codes.NotFound, "sandbox not found", "look"},
		{"wrapped fault", fmt.Errorf("get: %w", fault.New(fault.Aborted, "R", "again")), codes.Aborted, "again", ""},
		{"anything", private, codes.Internal, "internal error", "quote the request id to the gateway's operator"},
		{"a driver's status", status.Error(codes.PermissionDenied, private.Error()), codes.Internal, "internal error", "quote the request id to the gateway's operator"},
		{"canceled", fmt.Errorf("wait: %w", context.Canceled), codes.Canceled, "canceled", ""},
		{"deadline", context.DeadlineExceeded, codes.DeadlineExceeded, "deadline", "allow more time"},
		{"transport's limit", status.Error(codes.ResourceExhausted, private.Error()), codes.ResourceExhausted, "larger", "ask for less or send less at a time"},
		{"unknown kind", fault.New(fault.Kind(99), "R", "odd"), codes.Internal, "odd", ""},
		{"too long", fault.New(fault.InvalidArgument, "R", "%s", strings.Repeat("ä", 2_000)), codes.InvalidArgument, "ää...", ""},
		{"no text", fault.New(fault.InvalidArgument, "R", "a\xffb"), codes.InvalidArgument, "a\uFFFDb", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := open(t, nil)
			h.service.get = func(context.Context) error { return tc.err }
			_, err := openshellpb.NewOpenShellClient(h.conn).Health(t.Context(), &openshellpb.HealthRequest{})
			info := wantStatus(t, err, tc.code, tc.text)
			if got := info.GetMetadata()["next"]; got != tc.next {
				t.Errorf("next step %q, want %q", got, tc.next)
			}
			if strings.Contains(fmt.Sprint(status.Convert(err).Proto()), "hunter2") {
				t.Error("the cause left the process")
			}
			if tc.code == codes.Internal && tc.name != "unknown kind" && !strings.Contains(h.log.String(), "hunter2") {
				t.Error("the cause is not in the log")
			}
		})
	}
}

func TestEveryKindHasACode(t *testing.T) {
	t.Parallel()
	seen := map[codes.Code]bool{}
	for kind := fault.Unknown; kind <= fault.Canceled; kind++ {
		code := status.Code(door.Status(fault.New(kind, "R", "m"), "id"))
		if seen[code] || code == codes.OK {
			t.Errorf("kind %d has code %s", kind, code)
		}
		seen[code] = true
	}
	if door.Status(nil, "id") != nil {
		t.Error("no error became one")
	}
}

func TestPanicsStayInside(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	h.service.get = func(context.Context) error { panic("secret detail") }
	h.service.watch = func(grpc.ServerStream) error { panic("secret detail") }
	client := openshellpb.NewOpenShellClient(h.conn)
	_, err := client.Health(t.Context(), &openshellpb.HealthRequest{})
	wantStatus(t, err, codes.Internal, "internal error")
	stream, err := client.WatchSandbox(with(t, "authorization", "Bearer "+h.user("openshell-user", "openshell:all")), &openshellpb.WatchSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.Internal, "internal error")
	if strings.Contains(err.Error(), "secret detail") {
		t.Error("the panic's text left the process")
	}
	if log := h.log.String(); strings.Count(log, "secret detail") != 2 || !strings.Contains(log, "door_test.go") {
		t.Errorf("no stack in the log:\n%s", log)
	}
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	for _, method := range []string{"/a/b", "/c/d", shell + "Nope"} {
		err := h.conn.Invoke(t.Context(), method, &openshellpb.HealthRequest{}, &openshellpb.HealthResponse{})
		wantStatus(t, err, codes.Unauthenticated, "")
	}
	want := []string{"unknown Unauthenticated", "unknown Unauthenticated", "unknown Unauthenticated"}
	if diff := cmp.Diff(want, h.observed.take()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHealthServiceKeepsItsStatuses(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	client := healthpb.NewHealthClient(h.conn)
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Check(t.Context(), &healthpb.HealthCheckRequest{Service: "x"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
}

func TestTokensAreNotLogged(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	token := h.user("nobody", "none")
	wantStatus(t, h.getSandbox(with(t, "authorization", "Bearer "+token)), codes.PermissionDenied, "role")
	wantStatus(t, h.getSandbox(with(t, "authorization", "Bearer "+token+"x", "x-sandbox-secret", "hush")), codes.Unauthenticated, "")
	log := h.log.String()
	if strings.Contains(log, token) || strings.Contains(log, "hush") || strings.Contains(log, token[len(token)-20:]) {
		t.Error("a credential is in the log")
	}
	if !strings.Contains(log, "alice-id") || !strings.Contains(log, "ROLE_REQUIRED") {
		t.Errorf("a refusal does not say who and why:\n%s", log)
	}
}

func TestADoorThatLetsEverybodyInIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := door.New(door.Config{}); err == nil {
		t.Error("made")
	}
}
