package listener_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/listener"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// service answers Health with how the call arrived, and streams with an echo of sizes.
type service struct {
	openshellpb.UnimplementedOpenShellServer
}

func (service) Health(ctx context.Context, _ *openshellpb.HealthRequest) (*openshellpb.HealthResponse, error) {
	p, _ := listener.Peer(ctx)
	md, _ := metadata.FromIncomingContext(ctx)
	version := p.AuthInfo.AuthType()
	if t, ok := p.AuthInfo.(interface{ Certificate() *x509.Certificate }); ok && t.Certificate() != nil {
		version += " as " + t.Certificate().Subject.CommonName
	}
	if len(md.Get("sallyport-bridge-peer")) > 0 {
		version += " forged"
	}
	if _, ok := p.Addr.(*net.TCPAddr); !ok {
		version += " from nowhere"
	}
	return &openshellpb.HealthResponse{Status: openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY, Version: version}, nil
}

func (service) RelayStream(stream grpc.BidiStreamingServer[openshellpb.RelayFrame, openshellpb.RelayFrame]) error {
	<-stream.Context().Done()
	return nil
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{pool: x509.NewCertPool()}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = sign(t, tmpl, nil)
	a.pool.AddCert(a.cert)
	return a
}

func sign(t testing.TB, tmpl *x509.Certificate, by *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	parent, signer := tmpl, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) issue(t testing.TB, name string) tls.Certificate {
	t.Helper()
	cert, key := sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// serve runs a port and returns its address.
func serve(t testing.TB, tlsConfig *tls.Config) string {
	t.Helper()
	server := grpc.NewServer(listener.GRPCOptions()...)
	openshellpb.RegisterOpenShellServer(server, service{})
	p, err := listener.New(listener.Config{
		TLS: tlsConfig, GRPC: server, FastPath: true, Logger: slog.New(slog.DiscardHandler),
		HTTP: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" {
				http.NotFound(w, r)
			}
		}),
	})
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
	return l.Addr().String()
}

func health(t *testing.T, addr string, creds credentials.TransportCredentials) string {
	t.Helper()
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(creds))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	resp, err := openshellpb.NewOpenShellClient(cc).Health(t.Context(), &openshellpb.HealthRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Version
}

func httpClient(t *testing.T, c *tls.Config, http2 bool) *http.Client {
	t.Helper()
	p := &http.Protocols{}
	// A client that offers HTTP/2 alone is taken for a gRPC client.
	p.SetHTTP1(true)
	p.SetHTTP2(http2)
	tr := &http.Transport{TLSClientConfig: c, Protocols: p}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func do(t *testing.T, c *http.Client, method, url, body string, header map[string]string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

const healthPath = "/openshell.v1.OpenShell/Health"

var connectJSON = map[string]string{"Content-Type": "application/json", "Connect-Protocol-Version": "1", "Sallyport-Bridge-Peer": "admin"}

func TestOnePortOverTLS(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	addr := serve(t, &tls.Config{Certificates: []tls.Certificate{a.issue(t, "server")}, ClientCAs: a.pool, ClientAuth: tls.VerifyClientCertIfGiven})
	client := &tls.Config{RootCAs: a.pool}

	if got := health(t, addr, credentials.NewTLS(client.Clone())); got != "tls" {
		t.Errorf("gRPC arrived as %q, want tls", got)
	}
	withCert := client.Clone()
	withCert.Certificates = []tls.Certificate{a.issue(t, "alice")}
	if got := health(t, addr, credentials.NewTLS(withCert)); got != "tls as alice" {
		t.Errorf("gRPC with a client certificate arrived as %q", got)
	}
	for name, h2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		if _, body := do(t, httpClient(t, withCert.Clone(), h2), http.MethodPost, "https://"+addr+healthPath, "{}", connectJSON); !strings.Contains(body, "tls as alice") {
			t.Errorf("%s Connect JSON with a client certificate: %s", name, body)
		}
		c := httpClient(t, client.Clone(), h2)
		if code, _ := do(t, c, http.MethodGet, "https://"+addr+"/healthz", "", nil); code != http.StatusOK {
			t.Errorf("%s GET /healthz: %d", name, code)
		}
		code, body := do(t, c, http.MethodPost, "https://"+addr+healthPath, "{}", connectJSON)
		if code != http.StatusOK || !strings.Contains(body, "SERVICE_STATUS_HEALTHY") || strings.Contains(body, "forged") || strings.Contains(body, "nowhere") {
			t.Errorf("%s Connect JSON: %d %s", name, code, body)
		}
		web := map[string]string{"Content-Type": "application/grpc-web+proto"}
		code, body = do(t, c, http.MethodPost, "https://"+addr+healthPath, "\x00\x00\x00\x00\x00", web)
		if code != http.StatusOK || !strings.Contains(strings.ToLower(body), "grpc-status: 0") {
			t.Errorf("%s gRPC-Web: %d %q", name, code, body)
		}
		if code, _ := do(t, c, http.MethodPost, "https://"+addr+healthPath, "{}", map[string]string{"Content-Type": "text/plain"}); code != http.StatusNotFound {
			t.Errorf("%s text/plain to a gRPC path: %d, want 404", name, code)
		}
	}
}

// A proxy that offers both protocols may send plain HTTP and gRPC on one HTTP/2 connection.
func TestGRPCOverTheBridge(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	addr := serve(t, &tls.Config{Certificates: []tls.Certificate{a.issue(t, "server")}})
	c := httpClient(t, &tls.Config{RootCAs: a.pool}, true)
	if code, _ := do(t, c, http.MethodGet, "https://"+addr+"/healthz", "", nil); code != http.StatusOK {
		t.Fatalf("GET /healthz: %d", code)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+addr+healthPath, bytes.NewReader(make([]byte, 5)))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Te", "trailers")
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadAll(resp.Body); err != nil {
		t.Fatal(err)
	}
	if got := resp.Trailer.Get("Grpc-Status"); got != "0" {
		t.Errorf("grpc-status = %q, want 0", got)
	}
}

func TestOnePortInPlaintext(t *testing.T) {
	t.Parallel()
	addr := serve(t, nil)
	if got := health(t, addr, insecure.NewCredentials()); got != "plaintext" {
		t.Errorf("gRPC arrived as %q", got)
	}
	c := httpClient(t, nil, false)
	if code, _ := do(t, c, http.MethodGet, "http://"+addr+"/healthz", "", nil); code != http.StatusOK {
		t.Errorf("GET /healthz: %d", code)
	}
	if code, body := do(t, c, http.MethodPost, "http://"+addr+healthPath, "{}", connectJSON); code != http.StatusOK {
		t.Errorf("Connect JSON: %d %s", code, body)
	}
}

func TestGarbageDoesNotDisturb(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	addr := serve(t, &tls.Config{Certificates: []tls.Certificate{a.issue(t, "server")}})
	for _, junk := range []string{"\x00\xff\x00garbage\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", ""} {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write([]byte(junk)); err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if got := health(t, addr, credentials.NewTLS(&tls.Config{RootCAs: a.pool})); got != "tls" {
		t.Errorf("gRPC arrived as %q after garbage", got)
	}
}

// The deciding test of a relay: streams whose reader has stopped must neither fill memory nor hold up the others.
func TestStalledStreamsDoNotBlockOthers(t *testing.T) {
	t.Parallel()
	addr := serve(t, nil)
	cc, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer cc.Close()
	client := openshellpb.NewOpenShellClient(cc)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sent := make(chan int, 4)
	for range 4 {
		stream, err := client.RelayStream(ctx)
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			n := 0
			frame := &openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: make([]byte, 64<<10)}}
			stop := time.AfterFunc(time.Second, cancel)
			defer stop.Stop()
			for stream.Send(frame) == nil {
				n += 64 << 10
			}
			sent <- n
		}()
	}
	callCtx, done := context.WithTimeout(t.Context(), 5*time.Second)
	defer done()
	if _, err := client.Health(callCtx, &openshellpb.HealthRequest{}); err != nil {
		t.Errorf("a unary call beside stalled streams: %v", err)
	}
	for range 4 {
		if n := <-sent; n > 4<<20 {
			t.Errorf("a stalled stream took in %d bytes", n)
		}
	}
}
