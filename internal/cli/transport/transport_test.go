package transport_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestParseEndpoint(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		raw, want, address string
		loopback           bool
	}{
		{"https://h", "https://h", "h:443", false},
		{"https://h/", "https://h", "h:443", false},
		{"https://h:443///", "https://h", "h:443", false},
		{"gateway.test:8443", "https://gateway.test:8443", "gateway.test:8443", false},
		{"http://127.0.0.1:8080", "http://127.0.0.1:8080", "127.0.0.1:8080", true},
		{"http://127.9.9.9", "http://127.9.9.9", "127.9.9.9:80", true},
		{"https://[::1]:8080", "https://[::1]:8080", "[::1]:8080", true},
		{"https://[::1]", "https://[::1]", "[::1]:443", true},
		{"http://[::ffff:127.0.0.1]", "http://[::ffff:127.0.0.1]", "[::ffff:127.0.0.1]:80", true},
		{"http://LOCALHOST.", "http://LOCALHOST.", "LOCALHOST.:80", true},
		{"http://keycloak.localhost", "http://keycloak.localhost", "keycloak.localhost:80", true},
		{"http://localhost.evil.test", "http://localhost.evil.test", "localhost.evil.test:80", false},
		{"http://0.0.0.0", "http://0.0.0.0", "0.0.0.0:80", false},
	} {
		e, err := transport.ParseEndpoint(tc.raw)
		if err != nil || e.String() != tc.want || e.Address() != tc.address || e.Loopback() != tc.loopback {
			t.Errorf("ParseEndpoint(%q) = %s %s loopback %v, %v", tc.raw, e, e.Address(), e.Loopback(), err)
		}
	}
	for _, raw := range []string{
		"", "https://", "ftp://h", "ssh://h:22", "https://h/x", "https://h?q", "https://u:p@h", "https://h#f", "https://h:x",
	} {
		if e, err := transport.ParseEndpoint(raw); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("ParseEndpoint(%q) = %s, %v", raw, e, err)
		}
	}
}

// echo answers with what it was sent as authorization.
type echo struct {
	openshellpb.UnimplementedOpenShellServer
}

func (echo) Health(ctx context.Context, _ *openshellpb.HealthRequest) (*openshellpb.HealthResponse, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if len(md.Get("x-request-id")) != 1 {
		return nil, status.Error(codes.InvalidArgument, "no request id")
	}
	if auth := md.Get("authorization"); len(auth) == 1 {
		return &openshellpb.HealthResponse{Version: auth[0]}, nil
	}
	return &openshellpb.HealthResponse{}, nil
}

func (echo) WatchSandbox(*openshellpb.WatchSandboxRequest, openshellpb.OpenShell_WatchSandboxServer) error {
	return status.Error(codes.NotFound, "no such sandbox")
}

func startEcho(t *testing.T) string {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	openshellpb.RegisterOpenShellServer(s, echo{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return "http://" + l.Addr().String()
}

type fixed struct {
	token string
	err   error
}

func (f fixed) Token(context.Context) (string, error) { return f.token, f.err }

func dial(t *testing.T, raw string, tokens transport.TokenSource) openshellpb.OpenShellClient {
	t.Helper()
	e, err := transport.ParseEndpoint(raw)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport.Dial(t.Context(), transport.Target{Endpoint: e}, tokens)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return openshellpb.NewOpenShellClient(conn)
}

func TestTokensOnCalls(t *testing.T) {
	t.Parallel()
	address := startEcho(t)
	resp, err := dial(t, address, fixed{token: "t"}).Health(t.Context(), &openshellpb.HealthRequest{})
	if err != nil || resp.GetVersion() != "Bearer t" {
		t.Errorf("with a token: %v, %v", resp, err)
	}
	resp, err = dial(t, address, nil).Health(t.Context(), &openshellpb.HealthRequest{})
	if err != nil || resp.GetVersion() != "" {
		t.Errorf("without: %v, %v", resp, err)
	}
	want := fault.New(fault.Unauthenticated, "X", "signed out")
	if _, err := dial(t, address, fixed{err: want}).Health(t.Context(), &openshellpb.HealthRequest{}); !errors.Is(err, want) {
		t.Errorf("a failing source: %v", err)
	}
}

func TestFailedCallsKeepTheirID(t *testing.T) {
	t.Parallel()
	client := dial(t, startEcho(t), nil)
	_, err := client.GetProvider(t.Context(), &openshellpb.GetProviderRequest{})
	call, ok := errors.AsType[*transport.CallError](err)
	if !ok || len(call.RequestID) != 36 || call.Method != "/openshell.v1.OpenShell/GetProvider" || status.Code(err) != codes.Unimplemented {
		t.Errorf("unary: %v", err)
	}
	stream, err := client.WatchSandbox(t.Context(), &openshellpb.WatchSandboxRequest{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = stream.Recv()
	call, ok = errors.AsType[*transport.CallError](err)
	if !ok || call.RequestID == "" || call.Error() != "no such sandbox" || status.Code(err) != codes.NotFound {
		t.Errorf("stream: %v", err)
	}
}

func TestNoTokenWithoutTLSToOtherMachines(t *testing.T) {
	t.Parallel()
	for _, raw := range []string{"http://192.0.2.1:1", "http://[2001:db8::1]", "http://does-not-exist.invalid"} {
		e, err := transport.ParseEndpoint(raw)
		if err != nil {
			t.Fatal(err)
		}
		_, err = transport.Dial(t.Context(), transport.Target{Endpoint: e}, fixed{token: "t"})
		if !fault.Is(err, fault.FailedPrecondition) || fault.From(err).Reason != transport.ReasonCleartextToken {
			t.Errorf("Dial(%s) = %v", raw, err)
		}
	}
}

func TestHTTPClient(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "https://elsewhere.invalid/", http.StatusFound)
	}))
	t.Cleanup(server.Close)
	client := transport.HTTPClient(nil)
	t.Cleanup(client.CloseIdleConnections)
	get := func(address string) (*http.Response, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, address, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		return client.Do(req)
	}
	resp, err := get(server.URL)
	if err != nil || resp.StatusCode != http.StatusFound {
		t.Fatalf("a redirect is not followed: %v, %v", resp, err)
	}
	resp.Body.Close()
	if resp, err := get("http://192.0.2.1/"); err == nil {
		resp.Body.Close()
		t.Error("plain http to another machine is refused")
	}
}

func TestTLSMaterial(t *testing.T) {
	t.Parallel()
	e := transport.Endpoint{Secure: true, Host: "h", Port: "1"}
	if _, err := (transport.Target{Endpoint: e, CA: []byte("x")}).TLS(); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("a CA that is none: %v", err)
	}
	cfg, err := transport.Target{Endpoint: e, Cert: []byte("c"), Key: []byte("k")}.TLS()
	if err != nil || len(cfg.Certificates) != 0 || cfg.InsecureSkipVerify || cfg.ServerName != "h" {
		t.Errorf("a client certificate without a CA of the gateway's own is not shown: %v", err)
	}
}
