package v00_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

const testIssuer = "https://idp.example"

// words is an authenticator whose tokens are "role subject session", with commas for spaces.
type words struct{}

func (words) Authenticate(_ context.Context, r *authn.Request) (*principal.Principal, error) {
	if len(r.Authorization) == 0 {
		return nil, fault.New(fault.Unauthenticated, "MISSING_AUTHORIZATION", "missing authorization header")
	}
	parts := strings.Split(strings.TrimPrefix(r.Authorization[0], "Bearer "), ",")
	if len(parts) != 3 || r.KnownOnly {
		return nil, fault.New(fault.Unauthenticated, "TOKEN_NOT_ACCEPTED", "invalid token")
	}
	return &principal.Principal{
		Kind: principal.User, Issuer: testIssuer, Roles: parts[:1], Subject: parts[1], SessionID: parts[2],
		Issued: time.Now().Add(-time.Minute), Expires: time.Now().Add(time.Hour),
	}, nil
}

// watched is a service whose watches last.
type watched struct {
	openshellpb.UnimplementedOpenShellServer
}

func (watched) WatchSandbox(_ *openshellpb.WatchSandboxRequest, s grpc.ServerStreamingServer[openshellpb.SandboxStreamEvent]) error {
	if err := s.Send(&openshellpb.SandboxStreamEvent{}); err != nil {
		return err
	}
	<-s.Context().Done()
	return context.Cause(s.Context())
}

// guarded serves the dialect, and a service with watches, behind one door with revocations and limits.
func guarded(t *testing.T, limits ratelimit.Config) (sallyportpb.GatewayClient, openshellpb.OpenShellClient, *revocation.Registry) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	db, err := sqlite.Open(t.Context(), "sqlite::memory:")
	must(err)
	s, err := store.Open(t.Context(), db, store.Options{})
	must(err)
	t.Cleanup(func() { s.Close() })
	registry, err := revocation.Open(revocation.Options{Store: s, Expired: door.ErrCredentialExpired})
	must(err)
	limiter, err := ratelimit.New(limits, ratelimit.Options{Probes: []string{openshellpb.OpenShell_Health_FullMethodName}})
	must(err)
	table, err := authz.NewTable(v00.Descriptors()...)
	must(err)
	authorizer, err := authz.New(table, authz.Policy{AdminRole: "admin", UserRole: "user"})
	must(err)
	d, err := door.New(door.Config{Authenticator: words{}, Authorizer: authorizer, Sessions: registry, Limiter: limiter})
	must(err)
	dial := func(register func(grpc.ServiceRegistrar)) *grpc.ClientConn {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		server := grpc.NewServer(grpc.ChainUnaryInterceptor(d.Unary()), grpc.ChainStreamInterceptor(d.Stream()))
		register(server)
		go server.Serve(l)
		t.Cleanup(server.Stop)
		conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	dialect := dial(func(r grpc.ServiceRegistrar) { v00.Register(r, v00.Services{Revocations: registry}) })
	watches := dial(func(r grpc.ServiceRegistrar) { openshellpb.RegisterOpenShellServer(r, watched{}) })
	return sallyportpb.NewGatewayClient(dialect), openshellpb.NewOpenShellClient(watches), registry
}

func as(t *testing.T, token string) context.Context {
	t.Helper()
	return metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+token)
}

// reasonOf returns code and reason of a status.
func reasonOf(err error) (codes.Code, string) {
	st := status.Convert(err)
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return st.Code(), info.GetReason()
		}
	}
	return st.Code(), ""
}

func TestRevokeEndsStreamsAndRestoreLetsInAgain(t *testing.T) {
	t.Parallel()
	gateway, shell, registry := guarded(t, ratelimit.Config{})
	watch := func(token string) (grpc.ServerStreamingClient[openshellpb.SandboxStreamEvent], error) {
		stream, err := shell.WatchSandbox(as(t, token), &openshellpb.WatchSandboxRequest{})
		if err != nil {
			return nil, err
		}
		_, err = stream.Recv()
		return stream, err
	}
	alice, err := watch("user,alice,one")
	if err != nil {
		t.Fatal(err)
	}
	bob, err := watch("user,bob,two")
	if err != nil {
		t.Fatal(err)
	}
	root := as(t, "admin,root,three")
	resp, err := gateway.Revoke(root, &sallyportpb.RevokeRequest{Revocation: &sallyportpb.Revocation{
		Issuer: testIssuer, Subject: "alice", Reason: "left the company", ExpiresAtMs: time.Now().Add(time.Hour).UnixMilli(),
		Id: "chosen", CreatedBy: "somebody else", CreatedAtMs: 1,
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := resp.GetRevocation()
	if resp.GetStreamsEnded() != 1 || got.GetId() == "chosen" || got.GetCreatedBy() != testIssuer+"|root" || got.GetCreatedAtMs() == 1 ||
		got.GetReason() != "left the company" {
		t.Errorf("%v", resp)
	}
	_, err = alice.Recv()
	if code, reason := reasonOf(err); code != codes.Unauthenticated || reason != revocation.ReasonRevoked {
		t.Errorf("alice's stream ended with %v", err)
	}
	if _, err := watch("user,alice,four"); status.Code(err) != codes.Unauthenticated {
		t.Errorf("alice is let in again: %v", err)
	}
	if registry.Streams() != 1 {
		t.Errorf("%d streams are open, want bob's", registry.Streams())
	}
	list, err := gateway.ListRevocations(root, &sallyportpb.ListRevocationsRequest{})
	if err != nil || len(list.GetRevocations()) != 1 || list.GetRevocations()[0].GetId() != got.GetId() {
		t.Errorf("%v, %v", list, err)
	}
	if _, err := gateway.Restore(root, &sallyportpb.RestoreRequest{Id: got.GetId()}); err != nil {
		t.Fatal(err)
	}
	if _, err := watch("user,alice,one"); err != nil {
		t.Errorf("alice was restored: %v", err)
	}
	if _, err := gateway.Revoke(root, &sallyportpb.RevokeRequest{Revocation: &sallyportpb.Revocation{Issuer: testIssuer, SessionId: "two"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := bob.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("bob's stream ended with %v", err)
	}
}

func TestRevocationRefusals(t *testing.T) {
	t.Parallel()
	gateway, _, _ := guarded(t, ratelimit.Config{})
	root := as(t, "admin,root,one")
	revoke := func(ctx context.Context, r *sallyportpb.Revocation) error {
		_, err := gateway.Revoke(ctx, &sallyportpb.RevokeRequest{Revocation: r})
		return err
	}
	_, restored := gateway.Restore(root, &sallyportpb.RestoreRequest{Id: "nope"})
	_, unnamed := gateway.Restore(root, &sallyportpb.RestoreRequest{})
	_, paged := gateway.ListRevocations(root, &sallyportpb.ListRevocationsRequest{PageToken: "?"})
	_, sized := gateway.ListRevocations(root, &sallyportpb.ListRevocationsRequest{PageSize: 1001})
	for name, c := range map[string]struct {
		err    error
		code   codes.Code
		reason string
	}{
		"not an administrator": {revoke(as(t, "user,alice,one"), &sallyportpb.Revocation{SandboxId: "b"}), codes.PermissionDenied, "ROLE_REQUIRED"},
		"nobody":               {revoke(root, nil), codes.InvalidArgument, revocation.ReasonInvalid},
		"an end before 1970":   {revoke(root, &sallyportpb.Revocation{SandboxId: "b", ExpiresAtMs: -1}), codes.InvalidArgument, revocation.ReasonInvalid},
		"oneself":              {revoke(root, &sallyportpb.Revocation{Issuer: testIssuer, Subject: "root"}), codes.FailedPrecondition, revocation.ReasonSelf},
		"unknown":              {restored, codes.NotFound, revocation.ReasonNotFound},
		"unnamed":              {unnamed, codes.InvalidArgument, "FIELD_REQUIRED"},
		"page token":           {paged, codes.InvalidArgument, revocation.ReasonPageToken},
		"page size":            {sized, codes.InvalidArgument, "PAGE_SIZE"},
	} {
		if code, reason := reasonOf(c.err); code != c.code || reason != c.reason {
			t.Errorf("%s: %v", name, c.err)
		}
	}
}

// Strangers and failed attempts of one address leave those alone who are signed in there, and Health.
func TestStrangersDoNotStarveUsers(t *testing.T) {
	t.Parallel()
	few := ratelimit.Rate{PerSecond: 0.001, Burst: 3}
	_, shell, _ := guarded(t, ratelimit.Config{Anonymous: few, Probe: ratelimit.Rate{PerSecond: 0.001, Burst: 20}, Principal: ratelimit.Rate{PerSecond: 0.001, Burst: 20}})
	var last error
	for range 50 {
		_, last = shell.GetCurrentUser(t.Context(), &openshellpb.GetCurrentUserRequest{})
	}
	if code, reason := reasonOf(last); code != codes.ResourceExhausted || reason != ratelimit.ReasonRateLimited {
		t.Errorf("the last of 50 strangers: %v", last)
	}
	for range 20 {
		// Neither is served by this server: both must get past the door.
		if _, err := shell.GetCurrentUser(as(t, "user,alice,one"), &openshellpb.GetCurrentUserRequest{}); status.Code(err) != codes.Unimplemented {
			t.Fatalf("a user: %v", err)
		}
		if _, err := shell.Health(t.Context(), &openshellpb.HealthRequest{}); status.Code(err) != codes.Unimplemented {
			t.Fatalf("health: %v", err)
		}
	}
	if _, err := shell.GetCurrentUser(as(t, "user,alice,one"), &openshellpb.GetCurrentUserRequest{}); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a user's 21st call: %v", err)
	}
	if _, err := shell.GetCurrentUser(as(t, "user,bob,one"), &openshellpb.GetCurrentUserRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("another user: %v", err)
	}
}
