package listener_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/listener"
)

// whole serves a port on a real socket and returns both.
func whole(t testing.TB, plain http.Handler) (*listener.Port, string) {
	t.Helper()
	server := grpc.NewServer(listener.GRPCOptions()...)
	openshellpb.RegisterOpenShellServer(server, service{})
	p, err := listener.New(listener.Config{GRPC: server, FastPath: true, Logger: slog.New(slog.DiscardHandler), HTTP: plain})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Serve(ctx, l, 200*time.Millisecond) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return p, l.Addr().String()
}

func TestInjectedConnectionsAreServedAsIfTheyHadArrived(t *testing.T) {
	t.Parallel()
	p, addr := whole(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "injected: ", listener.Injected(r.Context()))
	}))
	dial := func(context.Context, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			if err := p.ServeConn(t.Context(), &from4{Conn: server, addr: &net.TCPAddr{IP: net.IPv4(192, 0, 2, 9), Port: 9}}); err != nil {
				t.Errorf("ServeConn: %v", err)
			}
		}()
		return client, nil
	}
	cc, err := grpc.NewClient("passthrough:///tunnel", grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	resp, err := openshellpb.NewOpenShellClient(cc).Health(t.Context(), &openshellpb.HealthRequest{})
	if err != nil || resp.Version != "plaintext" {
		t.Errorf("gRPC: %v, %v", resp, err)
	}
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx, "") }}}
	if _, body := do(t, c, http.MethodGet, "http://a/", "", nil); body != "injected: true" {
		t.Errorf("inside: %q", body)
	}
	if _, body := do(t, httpClient(t, nil, false), http.MethodGet, "http://"+addr+"/", "", nil); body != "injected: false" {
		t.Errorf("outside: %q", body)
	}
	if n := p.Connections(); n > 1 {
		t.Errorf("%d connections are counted, injected ones among them", n)
	}
}

func TestAnInjectedConnectionThatGoesAwayIsAnError(t *testing.T) {
	t.Parallel()
	p, _ := whole(t, http.NotFoundHandler())
	client, server := net.Pipe()
	client.Close()
	if err := p.ServeConn(t.Context(), server); err == nil {
		t.Error("no error")
	}
	if _, err := server.Write([]byte("x")); err == nil {
		t.Error("the connection is still open")
	}
}

// The prefix rule: what begins with application/grpc belongs to gRPC whatever the version, method and path; nothing
// else does, whatever the path.
func TestThePrefixRule(t *testing.T) {
	t.Parallel()
	_, addr := whole(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) }))
	c := httpClient(t, nil, false)
	for _, tt := range []struct {
		method, path, contentType string
		grpc                      bool
	}{
		{http.MethodPost, healthPath, "application/grpc", true},
		{http.MethodPost, healthPath, "application/grpc+proto", true},
		{http.MethodPost, healthPath, "application/grpc;charset=utf-8", true},
		{http.MethodPost, "/auth/connect", "application/grpc", true},
		{http.MethodPost, "/no.such.Service/Method", "application/grpc", true},
		{http.MethodPost, healthPath, "text/plain", false},
		{http.MethodPost, healthPath, "", false},
		{http.MethodPost, healthPath, "Xapplication/grpc", false},
		{http.MethodGet, healthPath, "application/json", false},
	} {
		req, err := http.NewRequestWithContext(t.Context(), tt.method, "http://"+addr+tt.path, bytes.NewReader(make([]byte, 5)))
		if err != nil {
			t.Fatal(err)
		}
		if tt.contentType != "" {
			req.Header.Set("Content-Type", tt.contentType)
		}
		req.Header.Set("Te", "trailers")
		resp, err := c.Do(req)
		if err != nil {
			t.Errorf("%v: %v", tt, err)
			continue
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if !tt.grpc {
			if resp.StatusCode != http.StatusTeapot {
				t.Errorf("%s %s %q: status %d, want the plain handler's", tt.method, tt.path, tt.contentType, resp.StatusCode)
			}
			continue
		}
		status := resp.Header.Get("Grpc-Status") + resp.Trailer.Get("Grpc-Status")
		if resp.StatusCode != http.StatusOK || status == "" || (tt.path == healthPath) != (status == "0") {
			t.Errorf("%s %s %q: status %d, grpc-status %q", tt.method, tt.path, tt.contentType, resp.StatusCode, status)
		}
	}
}

// Whatever a connection begins with: it is answered or closed, the port goes on, nothing is left behind.
func FuzzFirstBytes(f *testing.F) {
	for _, seed := range []string{
		"", "P", "PR", "PRI", "PRI ", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "PUT / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", "\x16\x03\x01\x00\x05hello", "SSH-2.0-x\r\n",
		"GET /_ws_tunnel HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n", "\x00", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x05\x01\x05\x00\x00\x00\x01aaaaa",
		"POST /openshell.v1.OpenShell/Health HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00",
	} {
		f.Add([]byte(seed))
	}
	p, addr := whole(f, http.NotFoundHandler())
	f.Fuzz(func(t *testing.T, first []byte) {
		client, server := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			_ = p.ServeConn(t.Context(), server)
		}()
		go func() { _, _ = client.Write(first) }()
		// What it answers is not judged; that it ends is.
		_ = client.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		_, _ = bufio.NewReader(client).Peek(1)
		client.Close()
		<-served
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
		if got, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 404") {
			t.Fatalf("the port answers %q, %v afterwards", got, err)
		}
	})
}
