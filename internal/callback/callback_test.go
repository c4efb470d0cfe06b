package callback_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/callback"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// own is the gateway's own address for users, sandboxes the one that the driver asks for.
const own, sandboxes = "127.0.0.1", "127.0.0.2"

// setups are the ways in which a gateway can have a callback address.
func setups() map[string]setup {
	return map[string]setup{
		"exact":                {address: own, driver: exactly(sandboxes)},
		"exact over bridge":    {address: own, driver: exactly(sandboxes), slow: true},
		"wildcard":             {address: "", driver: exactly(sandboxes), public: []netip.Addr{netip.MustParseAddr(own)}},
		"wildcard over bridge": {address: "", driver: exactly(sandboxes), public: []netip.Addr{netip.MustParseAddr(own)}, slow: true},
	}
}

func refusedByScope(err error) bool {
	st := status.Convert(err)
	if st.Code() != codes.PermissionDenied || st.Message() != "compute-driver callback listeners accept sandbox callback RPCs only" {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason() == callback.ReasonScope && info.GetMetadata()["next"] != "" && info.GetMetadata()["request_id"] != ""
		}
	}
	return false
}

func TestEveryMethodAtEveryAddress(t *testing.T) {
	t.Parallel()
	for name, s := range setups() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, s)
			if got := fmt.Sprint(g.wait(t)); got != "["+sandboxes+"]" {
				t.Fatalf("callback addresses %s, want %s; log:\n%s", got, sandboxes, g.notes.text())
			}
			narrow, full := g.dial(t, sandboxes), g.dial(t, own)
			if len(g.methods) < 80 {
				t.Fatalf("only %d methods are served", len(g.methods))
			}
			for _, method := range append(g.methods, "/openshell.v1.OpenShell/NoSuchMethod", "/no.Service/Method") {
				rule, _ := g.table.Rule(method)
				for _, token := range []string{"", "wrong", "admin", "sandbox"} {
					err := call(narrow, method, token)
					ok := refusedByScope(err)
					switch {
					case rule.Mode.AdmitsSandbox() && token == "sandbox":
						ok = err == nil
					case rule.Mode.AdmitsSandbox() && token != "admin":
						ok = status.Code(err) == codes.Unauthenticated
					}
					if !ok {
						t.Errorf("%s of %q at the callback address: %v", method, token, err)
					}
					if token == "wrong" {
						continue
					}
					if err := call(full, method, token); strings.Contains(status.Convert(err).Message(), "callback") {
						t.Errorf("%s of %q at the gateway's own address: %v", method, token, err)
					}
				}
			}
			checkRecords(t, g)
		})
	}
}

// checkRecords looks whether refusals are in the audit, with methods that peers cannot invent.
func checkRecords(t *testing.T, g *gateway) {
	t.Helper()
	unknown, health := 0, 0
	for _, r := range g.notes.kept() {
		if r.Reason != callback.ReasonScope {
			continue
		}
		if r.Verdict != audit.Denied || r.RequestID == "" || r.Remote == "" {
			t.Fatalf("record %+v", r)
		}
		switch r.Action {
		case "unknown":
			unknown++
		case "/grpc.health.v1.Health/Check":
			health++
		case "/no.Service/Method":
			t.Errorf("a peer's word became an action: %+v", r)
		}
	}
	if unknown < 2*4 || health != 4 {
		t.Errorf("%d records of unknown methods, %d of health", unknown, health)
	}
}

func TestNoPlainHTTP(t *testing.T) {
	t.Parallel()
	for name, s := range setups() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, s)
			g.wait(t)
			for version, transport := range map[string]*http.Transport{"HTTP/1.1": {}, "HTTP/2": clearHTTP2()} {
				if version == "HTTP/2" && !s.slow {
					continue // goes to the gRPC transport, which serves no plain HTTP
				}
				client := &http.Client{Transport: transport}
				t.Cleanup(client.CloseIdleConnections)
				for _, path := range []string{
					"/", "/healthz", "/readyz", "/livez", "/metrics", "/auth/connect?callback_port=1&code=abc", "/auth/oidc-config", "/_ws_tunnel",
					"/.well-known/jwks.json", "/.well-known/openid-configuration", "/connect/ssh", "/openshell.v1.OpenShell/Health",
					"/%2e%2e/healthz", "//healthz",
				} {
					for _, method := range []string{"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"} {
						body, code := ask(t, client, method, "http://"+g.at(sandboxes)+path)
						if code != http.StatusForbidden || method != "HEAD" && strings.TrimSpace(body) != callback.Refusal {
							t.Errorf("%s %s %s at the callback address: %d %q", version, method, path, code, body)
						}
						if body, code := ask(t, client, method, "http://"+g.at(own)+path); code != http.StatusOK || method != "HEAD" && body != "in full" {
							t.Errorf("%s %s %s at the gateway's own address: %d %q", version, method, path, code, body)
						}
					}
				}
			}
			raw := []string{
				"CONNECT /connect/ssh HTTP/1.1\r\nHost: gateway\r\n\r\n",
				"CONNECT host:22 HTTP/1.1\r\nHost: host:22\r\n\r\n",
				"GET /healthz HTTP/1.0\r\n\r\n",
				"GET / HTTP/1.1\r\nHost: default--box.openshell.localhost\r\n\r\n",
				"GET /_ws_tunnel HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
			}
			for _, request := range raw {
				if line := firstLine(t, g.at(sandboxes), request); !strings.Contains(line, " 403 ") {
					t.Errorf("%q: %q", request, line)
				}
			}
		})
	}
}

func clearHTTP2() *http.Transport {
	p := &http.Protocols{}
	p.SetUnencryptedHTTP2(true)
	return &http.Transport{Protocols: p}
}

func ask(t *testing.T, client *http.Client, method, url string) (string, int) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body), response.StatusCode
}

func firstLine(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestConnectAndGRPCWebAreHeldToo(t *testing.T) {
	t.Parallel()
	for name, s := range setups() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, s)
			g.wait(t)
			for protocol, header := range map[string]http.Header{
				"Connect":  {"Content-Type": {"application/json"}, "Connect-Protocol-Version": {"1"}},
				"gRPC-Web": {"Content-Type": {"application/grpc-web+proto"}, "X-Grpc-Web": {"1"}},
			} {
				body := "{}"
				if protocol == "gRPC-Web" {
					body = "\x00\x00\x00\x00\x00"
				}
				for _, method := range []string{"/openshell.v1.OpenShell/ListSandboxes", "/openshell.v1.OpenShell/Health", "/openshell.v1.OpenShell/UpdateConfig"} {
					for host, refused := range map[string]bool{sandboxes: true, own: false} {
						request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+g.at(host)+method, strings.NewReader(body))
						if err != nil {
							t.Fatal(err)
						}
						request.Header = header.Clone()
						request.Header.Set("Authorization", "Bearer admin")
						transport := &http.Transport{}
						response, err := transport.RoundTrip(request)
						if err != nil {
							t.Fatal(err)
						}
						answer, err := io.ReadAll(response.Body)
						if err != nil {
							t.Fatal(err)
						}
						response.Body.Close()
						transport.CloseIdleConnections()
						said := string(answer) + fmt.Sprint(response.Header) + fmt.Sprint(response.Trailer)
						if strings.Contains(said, callback.Refusal) != refused {
							t.Errorf("%s over %s at %s: %d %s", method, protocol, host, response.StatusCode, said)
						}
					}
				}
			}
		})
	}
}

func TestCertificatesOfClientsDoNotCount(t *testing.T) {
	t.Parallel()
	g := start(t, setup{address: own, driver: exactly(sandboxes)})
	g.wait(t)
	a := g.scope.Authenticator(tokens{})
	from := func(local string) context.Context {
		return peer.NewContext(context.Background(), &peer.Peer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(local), Port: g.port}})
	}
	for _, token := range []string{"", "sandbox", "admin"} {
		r := &authn.Request{Method: "/openshell.v1.OpenShell/UpdateConfig", AdmitsSandbox: true, PeerCertificate: &x509.Certificate{}}
		if token != "" {
			r.Authorization = []string{"Bearer " + token}
		}
		p, err := a.Authenticate(from(sandboxes), r)
		switch token {
		case "":
			if p != nil || err != nil {
				t.Errorf("certificate alone: %v, %v", p, err)
			}
		case "sandbox":
			if err != nil || p.Kind != principal.Sandbox {
				t.Errorf("sandbox with a certificate: %v, %v", p, err)
			}
		default:
			if !fault.Is(err, fault.PermissionDenied) {
				t.Errorf("user: %v, %v", p, err)
			}
		}
		if r.PeerCertificate == nil {
			t.Error("the door's request was changed")
		}
		if p, err := a.Authenticate(from(own), r); err != nil || p.Kind != principal.User {
			t.Errorf("at the gateway's own address: %v, %v", p, err)
		}
		if p, err := a.Authenticate(context.Background(), r); p != nil && p.Kind == principal.User {
			t.Errorf("of nobody knows where: %v, %v", p, err)
		}
	}
}

func TestAllOfLoopbackIsOneAddress(t *testing.T) {
	t.Parallel()
	g := start(t, setup{address: "", driver: func(int) callback.Driver { return newAsks(compute.Requirement{Place: compute.LoopbackPlace}) }})
	g.wait(t)
	for _, host := range []string{"127.0.0.1", "127.0.0.2", "127.1.2.3"} {
		if err := call(g.dial(t, host), "/openshell.v1.OpenShell/ListSandboxes", "admin"); !refusedByScope(err) {
			t.Errorf("at %s: %v", host, err)
		}
	}
	if !strings.Contains(g.notes.text(), "from now on only sandboxes are served there") {
		t.Errorf("nobody was told:\n%s", g.notes.text())
	}
}

func TestTheOwnAddressStaysWhole(t *testing.T) {
	t.Parallel()
	driver := newAsks(compute.Requirement{Place: compute.LoopbackPlace}, compute.Requirement{Place: compute.ExactPlace, Address: "nonsense"})
	g := start(t, setup{address: own, driver: func(port int) callback.Driver {
		driver.want = append(driver.want, compute.Requirement{Place: compute.ExactPlace, Address: fmt.Sprintf("%s:%d", sandboxes, port)})
		return driver
	}})
	if got := fmt.Sprint(g.wait(t)); got != "["+sandboxes+"]" {
		t.Fatalf("callback addresses %s", got)
	}
	if err := call(g.dial(t, own), "/openshell.v1.OpenShell/ListSandboxes", "admin"); err != nil {
		t.Error(err)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	t.Parallel()
	for _, c := range []callback.Config{{}, {Driver: newAsks(), Table: rules(t)}, {Driver: newAsks(), Logger: slog.New(slog.DiscardHandler)}} {
		if _, err := callback.New(c); err == nil {
			t.Errorf("%+v made a scope", c)
		}
	}
}

func TestBeforeListenNothingIsServed(t *testing.T) {
	t.Parallel()
	s, err := callback.New(callback.Config{Driver: newAsks(), Table: rules(t), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx := peer.NewContext(context.Background(), &peer.Peer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}})
	p, err := s.Authenticator(tokens{}).Authenticate(ctx, &authn.Request{Authorization: []string{"Bearer admin"}})
	if p != nil || !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("%v, %v", p, err)
	}
}

// TestInsideATunnel calls over a connection that was made inside the process, as a tunnel's is. The tunnel itself was
// asked for over plain HTTP, which callback addresses refuse.
func TestInsideATunnel(t *testing.T) {
	t.Parallel()
	for name, s := range setups() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t, s)
			g.wait(t)
			pipe := bufconn.Listen(1 << 16)
			t.Cleanup(func() { pipe.Close() })
			conn, err := grpc.NewClient("passthrough:///tunnel", grpc.WithTransportCredentials(insecure.NewCredentials()),
				grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			var serving sync.WaitGroup
			serving.Go(func() {
				c, err := pipe.Accept()
				if err == nil {
					err = g.served.ServeConn(context.Background(), c)
				}
				if err != nil {
					t.Error(err)
				}
			})
			if err := call(conn, "/openshell.v1.OpenShell/ListSandboxes", "admin"); err != nil {
				t.Error(err)
			}
			serving.Wait()
		})
	}
}
