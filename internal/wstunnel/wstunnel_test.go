package wstunnel_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/site"
	"sallyport.dev/sallyport/internal/wstunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service tells what the gateway sees of a caller.
type service struct {
	openshellpb.UnimplementedOpenShellServer
}

func (service) Health(ctx context.Context, _ *openshellpb.HealthRequest) (*openshellpb.HealthResponse, error) {
	p, _ := listener.Peer(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	host, _, _ := net.SplitHostPort(p.Addr.String())
	return &openshellpb.HealthResponse{Version: strings.Join([]string{p.AuthInfo.AuthType(), host, strings.Join(md.Get("authorization"), ",")}, " ")}, nil
}

func (service) RelayStream(stream grpc.BidiStreamingServer[openshellpb.RelayFrame, openshellpb.RelayFrame]) error {
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(frame); err != nil {
			return err
		}
	}
}

// gateway is a port with tunnels.
type gateway struct {
	t       *testing.T
	addr    string
	tunnels *wstunnel.Tunnels
	mu      sync.Mutex
	refused []wstunnel.Refusal
}

func (g *gateway) reasons() []wstunnel.Refusal {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

// testAddress is a header by which a test says where it comes from.
const testAddress = "X-Test-Address"

func open(t *testing.T, tlsConfig *tls.Config, cfg wstunnel.Config) *gateway {
	t.Helper()
	g := &gateway{t: t}
	policy, err := site.New(site.Config{Hosts: []string{"gateway.example.com"}, Origins: []string{"https://console.example.com"}})
	if err != nil {
		t.Fatal(err)
	}
	var port *listener.Port
	cfg.Port, cfg.Site, cfg.Logger = func() wstunnel.Port { return port }, policy, slog.New(slog.DiscardHandler)
	cfg.Refused = func(why wstunnel.Refusal) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.refused = append(g.refused, why)
	}
	g.tunnels = wstunnel.New(cfg)
	mux := http.NewServeMux()
	mux.HandleFunc(wstunnel.Path, func(w http.ResponseWriter, r *http.Request) {
		if from := r.Header.Get(testAddress); from != "" {
			r.RemoteAddr = net.JoinHostPort(from, "1")
		}
		g.tunnels.ServeHTTP(w, r)
	})
	server := grpc.NewServer(listener.GRPCOptions()...)
	openshellpb.RegisterOpenShellServer(server, service{})
	port, err = listener.New(listener.Config{GRPC: server, HTTP: mux, FastPath: true, TLS: tlsConfig, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- port.Serve(ctx, l, time.Second) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		g.tunnels.Close()
		if n := g.tunnels.Open(); n != 0 {
			t.Errorf("%d tunnels are open after the end", n)
		}
	})
	return g
}

// answer is what a handshake was answered with.
type answer struct {
	status int
	header http.Header
}

// dial opens a tunnel with headers in pairs.
func (g *gateway) dial(client *http.Client, url string, header ...string) (*websocket.Conn, answer, error) {
	g.t.Helper()
	h := http.Header{}
	opts := &websocket.DialOptions{HTTPClient: client, HTTPHeader: h}
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			opts.Host = header[i+1]
		}
		h.Add(header[i], header[i+1])
	}
	if url == "" {
		url = "ws://" + g.addr + wstunnel.Path
	}
	if client == nil {
		transport := &http.Transport{}
		g.t.Cleanup(transport.CloseIdleConnections)
		opts.HTTPClient = &http.Client{Transport: transport}
	}
	ws, resp, err := websocket.Dial(g.t.Context(), url, opts)
	var a answer
	if resp != nil {
		a = answer{resp.StatusCode, resp.Header}
		if resp.Body != nil {
			resp.Body.Close()
		}
	}
	if ws != nil {
		g.t.Cleanup(func() { _ = ws.CloseNow() })
	}
	return ws, a, err
}

// through returns a gRPC connection whose bytes go through one tunnel after the other.
func through(t *testing.T, dial func() (*websocket.Conn, error)) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///tunnel", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			ws, err := dial()
			if err != nil {
				return nil, err
			}
			ws.SetReadLimit(1 << 20)
			return websocket.NetConn(context.Background(), ws, websocket.MessageBinary), nil
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

// edge are the headers with which the reference's CLI opens a tunnel through its proxy.
var edge = []string{
	"Cf-Access-Token", "edge", "Cf-Access-Jwt-Assertion", "edge", "Cookie", "CF_Authorization=edge", testAddress, "198.51.100.7",
}

func TestCallsThroughATunnel(t *testing.T) {
	t.Parallel()
	g := open(t, nil, wstunnel.Config{})
	client := openshellpb.NewOpenShellClient(through(t, func() (*websocket.Conn, error) {
		ws, _, err := g.dial(nil, "", edge...)
		return ws, err
	}))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer abc", "cf-access-jwt-assertion", "edge")
	resp, err := client.Health(ctx, &openshellpb.HealthRequest{})
	if err != nil || resp.Version != "plaintext 198.51.100.7 Bearer abc" {
		t.Fatalf("%v, %v", resp, err)
	}
	// More than the pipe holds, both ways at once.
	stream, err := client.RelayStream(ctx)
	if err != nil {
		t.Fatal(err)
	}
	const frames, size = 64, 64 << 10
	go func() {
		for range frames {
			_ = stream.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: make([]byte, size)}})
		}
		_ = stream.CloseSend()
	}()
	n := 0
	for {
		frame, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		n += len(frame.GetData())
	}
	if n != frames*size {
		t.Errorf("%d bytes came back, want %d", n, frames*size)
	}
	if got := g.tunnels.Open(); got != 1 {
		t.Errorf("%d tunnels", got)
	}
}

func TestTextAndBinaryMessagesAreBytes(t *testing.T) {
	t.Parallel()
	g := open(t, nil, wstunnel.Config{})
	ws, _, err := g.dial(nil, "")
	if err != nil {
		t.Fatal(err)
	}
	for i, piece := range []string{"GE", "T /nowhere HTT", "P/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"} {
		kind := websocket.MessageText
		if i == 1 {
			kind = websocket.MessageBinary
		}
		if err := ws.Write(t.Context(), kind, []byte(piece)); err != nil {
			t.Fatal(err)
		}
	}
	answer := ""
	for {
		kind, piece, err := ws.Read(t.Context())
		if err != nil {
			// The inner connection ends, and with it the tunnel.
			if code := websocket.CloseStatus(err); code != websocket.StatusNormalClosure {
				t.Errorf("ended with %v", err)
			}
			break
		}
		if kind != websocket.MessageBinary {
			t.Errorf("answered with a message of kind %v", kind)
		}
		answer += string(piece)
	}
	if !strings.HasPrefix(answer, "HTTP/1.1 404") {
		t.Errorf("answered %q", answer)
	}
}

func TestATunnelInsideATunnelIsRefused(t *testing.T) {
	t.Parallel()
	g := open(t, nil, wstunnel.Config{})
	inside := &http.Transport{DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		ws, _, err := g.dial(nil, "")
		if err != nil {
			return nil, err
		}
		return websocket.NetConn(context.Background(), ws, websocket.MessageBinary), nil
	}}
	_, resp, err := g.dial(&http.Client{Transport: inside}, "ws://localhost"+wstunnel.Path)
	if err == nil || resp.status != http.StatusForbidden {
		t.Fatalf("%v, %v", resp, err)
	}
	if got := g.reasons(); len(got) != 1 || got[0] != wstunnel.RefusedNested {
		t.Errorf("refused because of %v", got)
	}
}

func TestWhoMayOpenATunnel(t *testing.T) {
	t.Parallel()
	g := open(t, nil, wstunnel.Config{})
	for _, c := range []struct {
		header []string
		status int
	}{
		{nil, http.StatusSwitchingProtocols},
		{[]string{"Host", "gateway.example.com"}, http.StatusSwitchingProtocols},
		{[]string{"Host", "gateway.example.com", "Origin", "https://gateway.example.com"}, http.StatusSwitchingProtocols},
		{[]string{"Host", "gateway.example.com", "Origin", "https://console.example.com"}, http.StatusSwitchingProtocols},
		{[]string{"Host", "gateway.example.com", "Origin", "https://evil.example"}, http.StatusForbidden},
		{[]string{"Host", "gateway.example.com", "Origin", "null"}, http.StatusForbidden},
		{[]string{"Host", "evil.example", "Origin", "https://evil.example"}, http.StatusForbidden},
		{[]string{"Host", "evil.example"}, http.StatusForbidden},
		{[]string{"Origin", "https://evil.example", "Cookie", "CF_Authorization=edge"}, http.StatusForbidden},
	} {
		ws, resp, _ := g.dial(nil, "", c.header...)
		if resp.status != c.status {
			t.Errorf("%q: %v, want %d", c.header, resp, c.status)
		}
		if ws != nil {
			_ = ws.CloseNow()
		}
	}
	for _, method := range []string{http.MethodPost, http.MethodGet} {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+g.addr+wstunnel.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		want := map[string]int{http.MethodPost: http.StatusMethodNotAllowed, http.MethodGet: http.StatusUpgradeRequired}[method]
		if resp.StatusCode != want {
			t.Errorf("%s without an upgrade: %d, want %d", method, resp.StatusCode, want)
		}
	}
}

func TestCapsOnTunnels(t *testing.T) {
	t.Parallel()
	g := open(t, nil, wstunnel.Config{MaxTunnels: 4, MaxPerAddress: 2})
	var tunnels []*websocket.Conn
	for _, c := range []struct {
		from string
		why  wstunnel.Refusal
	}{
		{"198.51.100.1", ""},
		{"198.51.100.1", ""},
		{"198.51.100.1", wstunnel.RefusedAddress},
		{"198.51.100.2", ""},
		{"127.0.0.1", ""},
		{"127.0.0.1", wstunnel.RefusedTunnels},
		{"198.51.100.3", wstunnel.RefusedTunnels},
	} {
		before := len(g.reasons())
		ws, resp, err := g.dial(nil, "", testAddress, c.from)
		if c.why == "" {
			if err != nil {
				t.Fatalf("%s: %v", c.from, err)
			}
			tunnels = append(tunnels, ws)
			continue
		}
		got := g.reasons()
		if err == nil || resp.status != http.StatusServiceUnavailable || resp.header.Get("Retry-After") == "" || len(got) != before+1 || got[before] != c.why {
			t.Errorf("%s: %v, %v, refused because of %v", c.from, resp, err, got)
		}
	}
	// A tunnel that ends makes room.
	if err := tunnels[0].Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for g.tunnels.Open() == 4 {
		if time.Now().After(deadline) {
			t.Fatal("the tunnel is still counted")
		}
		runtime.Gosched()
	}
	if _, _, err := g.dial(nil, "", testAddress, "198.51.100.1"); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

// endOf returns how a tunnel is ended by the gateway.
func endOf(t *testing.T, ws *websocket.Conn) websocket.StatusCode {
	t.Helper()
	for {
		if _, _, err := ws.Read(t.Context()); err != nil {
			return websocket.CloseStatus(err)
		}
	}
}

func TestTunnelsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		cfg  wstunnel.Config
		do   func(g *gateway, ws *websocket.Conn)
		want websocket.StatusCode
	}{
		"when they carry nothing": {wstunnel.Config{IdleTimeout: 50 * time.Millisecond}, func(*gateway, *websocket.Conn) {}, websocket.StatusNormalClosure},
		"when a message is too large": {
			wstunnel.Config{MaxMessage: 1000}, func(_ *gateway, ws *websocket.Conn) {
				_ = ws.Write(t.Context(), websocket.MessageBinary, []byte("POST / HTTP/1.1\r\n"+strings.Repeat("a", 2000)))
			}, websocket.StatusMessageTooBig,
		},
		"when the gateway stops": {wstunnel.Config{}, func(g *gateway, _ *websocket.Conn) { go g.tunnels.Close() }, websocket.StatusGoingAway},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := open(t, nil, c.cfg)
			ws, _, err := g.dial(nil, "")
			if err != nil {
				t.Fatal(err)
			}
			c.do(g, ws)
			if got := endOf(t, ws); got != c.want {
				t.Errorf("ended with %v, want %v", got, c.want)
			}
		})
	}
}

// The certificate of whoever opened the tunnel, perhaps a proxy, is not that of whoever speaks inside.
func TestNoCertificateCountsInside(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "proxy"}, NotAfter: time.Now().Add(time.Hour), IsCA: true,
		BasicConstraintsValid: true, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	pair := []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}
	g := open(t, &tls.Config{Certificates: pair, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}, wstunnel.Config{})
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, Certificates: pair}}
	t.Cleanup(transport.CloseIdleConnections)
	cc := through(t, func() (*websocket.Conn, error) {
		ws, _, err := g.dial(&http.Client{Transport: transport}, "wss://"+g.addr+wstunnel.Path)
		return ws, err
	})
	resp, err := openshellpb.NewOpenShellClient(cc).Health(t.Context(), &openshellpb.HealthRequest{})
	if err != nil || resp.Version != "plaintext 127.0.0.1 " {
		t.Errorf("%v, %v", resp, err)
	}
}
