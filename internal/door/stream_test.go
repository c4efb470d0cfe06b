package door_test

import (
	"context"
	"errors"
	"io"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/oidctest"
	"sallyport.dev/sallyport/internal/principal"
)

// somebody is an authenticator that knows one caller.
type somebody struct{ p *principal.Principal }

func (s somebody) Authenticate(context.Context, *authn.Request) (*principal.Principal, error) {
	return s.p, nil
}

// idle is a stream on which nothing happens.
type idle struct {
	grpc.ServerStream
	ctx context.Context
}

func (s idle) Context() context.Context   { return s.ctx }
func (idle) SetHeader(metadata.MD) error  { return nil }
func (idle) SendMsg(any) error            { return nil }
func (idle) RecvMsg(any) error            { return io.EOF }
func (idle) SendHeader(metadata.MD) error { return nil }
func (idle) SetTrailer(metadata.MD)       {}

func doorFor(t *testing.T, p *principal.Principal) *door.Door {
	t.Helper()
	authorizer, err := authz.New(table(t), authz.Policy{})
	if err != nil {
		t.Fatal(err)
	}
	d, err := door.New(door.Config{Authenticator: somebody{p}, Authorizer: authorizer})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestStreamsEndWithTheUsersCredential(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name     string
		p        principal.Principal
		method   string
		expires  time.Duration // 0: never
		wantLife time.Duration // 0: the test's end
	}{
		{"user", principal.Principal{Kind: principal.User}, "WatchSandbox", time.Hour, time.Hour + time.Minute},
		{"user within the leeway", principal.Principal{Kind: principal.User}, "WatchSandbox", -30 * time.Second, 30 * time.Second},
		{"user without end", principal.Principal{Kind: principal.User}, "WatchSandbox", 0, 0},
		{"sandbox", principal.Principal{Kind: principal.Sandbox, SandboxID: "b"}, "ConnectSupervisor", time.Hour, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				if tc.expires != 0 {
					tc.p.Expires = began.Add(tc.expires)
				}
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				var sendErr, recvErr error
				err := doorFor(t, &tc.p).Stream()(nil, idle{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: shell + tc.method},
					func(_ any, stream grpc.ServerStream) error {
						if err := errors.Join(stream.SendMsg(nil), stream.Context().Err()); err != nil {
							t.Errorf("at the start: %v", err)
						}
						<-stream.Context().Done()
						sendErr, recvErr = stream.SendMsg(nil), stream.RecvMsg(nil)
						return nil
					})
				if sendErr == nil || recvErr == nil || errors.Is(recvErr, io.EOF) {
					t.Errorf("the stream went on: %v, %v", sendErr, recvErr)
				}
				life := time.Since(began)
				if tc.wantLife == 0 {
					if life != 24*time.Hour || err != nil {
						t.Errorf("ended after %s with %v", life, err)
					}
					return
				}
				if life != tc.wantLife {
					t.Errorf("ended after %s, want %s", life, tc.wantLife)
				}
				wantStatus(t, err, codes.Unauthenticated, "ExpiredSignature")
			})
		})
	}
}

func TestStreamCarriesThePrincipalAndItsID(t *testing.T) {
	t.Parallel()
	h := open(t, nil)
	box, _, err := h.tokens.Mint("box-1")
	if err != nil {
		t.Fatal(err)
	}
	var inside *principal.Principal
	h.service.watch = func(stream grpc.ServerStream) error {
		inside = principal.From(stream.Context())
		if door.RequestID(stream.Context()) != "my-id" {
			t.Errorf("request id %q", door.RequestID(stream.Context()))
		}
		return stream.SendMsg(&openshellpb.SandboxStreamEvent{})
	}
	client := openshellpb.NewOpenShellClient(h.conn)
	ctx := with(t, "x-request-id", "my-id", "authorization", "Bearer "+h.user("openshell-user", "sandbox:read"))
	stream, err := client.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		t.Fatal(err)
	}
	header, err := stream.Header()
	if err != nil || len(header.Get("x-request-id")) != 1 {
		t.Errorf("header %v, %v", header, err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("end: %v", err)
	}
	if inside.Subject != "alice-id" {
		t.Errorf("inside: %+v", inside)
	}
	stream, err = client.WatchSandbox(with(t, "authorization", "Bearer "+box), &openshellpb.WatchSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	wantStatus(t, err, codes.PermissionDenied, "sandbox principals may not call this method")
}

// transport stands for the server side of a unary call in a benchmark.
type transport struct{ header metadata.MD }

func (*transport) Method() string                   { return shell + "GetSandbox" }
func (t *transport) SetHeader(md metadata.MD) error { t.header = md; return nil }
func (*transport) SendHeader(metadata.MD) error     { return nil }
func (*transport) SetTrailer(metadata.MD) error     { return nil }

func BenchmarkUnary(b *testing.B) {
	h := open(b, nil)
	token := h.idp.Mint(map[string]any{"realm_access": oidctest.Roles("openshell-user"), "scope": "sandbox:read sandbox:write"})
	intercept, info := h.door.Unary(), &grpc.UnaryServerInfo{FullMethod: shell + "GetSandbox"}
	answer := &openshellpb.SandboxResponse{}
	handler := func(context.Context, any) (any, error) { return answer, nil }
	ctx := metadata.NewIncomingContext(grpc.NewContextWithServerTransportStream(b.Context(), &transport{}), metadata.MD{
		"authorization": {"Bearer " + token}, "content-type": {"application/grpc"}, "user-agent": {"grpc-go"}, ":authority": {"x"},
	})
	b.ReportAllocs()
	began := cpuTime(b)
	for b.Loop() {
		if _, err := intercept(ctx, nil, info, handler); err != nil {
			b.Fatal(err)
		}
		h.observed.calls = h.observed.calls[:0]
	}
	// On a machine that does other work too, only this figure tells.
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N), "cpu-ns/op")
}

// cpuTime returns the processor time this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
