package pathcheck_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/test/bufconn"

	"sallyport.dev/sallyport/internal/cli/pathcheck"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/site"
	"sallyport.dev/sallyport/internal/wstunnel"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// find returns the result with this name.
func find(t *testing.T, r *pathcheck.Report, name string) pathcheck.Result {
	t.Helper()
	for _, c := range r.Results {
		if c.Name == name {
			return c
		}
	}
	t.Fatalf("no check %q in %+v", name, r.Results)
	return pathcheck.Result{}
}

func want(t *testing.T, r *pathcheck.Report, name string, status pathcheck.Status, detail string) {
	t.Helper()
	if c := find(t, r, name); c.Status != status || !strings.Contains(c.Detail, detail) || status == pathcheck.Failed && c.Next == "" {
		t.Errorf("%s: %+v, want %s with %q", name, c, status, detail)
	}
}

// certificate is one for 127.0.0.1, and the pool that believes it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gw.test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

func healthServer(options ...grpc.ServerOption) *grpc.Server {
	s := grpc.NewServer(options...)
	healthpb.RegisterHealthServer(s, health.NewServer())
	return s
}

// TestTheGatewaysOwnPort checks the port that gateways have, without anything on the way.
func TestTheGatewaysOwnPort(t *testing.T) {
	t.Parallel()
	cert, pool := certificate(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	policy, err := site.New(site.Config{})
	if err != nil {
		t.Fatal(err)
	}
	var port *listener.Port
	tunnels := wstunnel.New(wstunnel.Config{Port: func() wstunnel.Port { return port }, Site: policy, Logger: slog.New(slog.DiscardHandler)})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.Handle(wstunnel.Path, tunnels)
	port, err = listener.New(listener.Config{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}, GRPC: healthServer(listener.GRPCOptions()...),
		HTTP: mux, FastPath: true, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := port.Serve(ctx, l, time.Second); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		tunnels.Close()
		cancel()
		serving.Wait()
	})
	r := pathcheck.Run(t.Context(), pathcheck.Options{Address: l.Addr().String(), TLS: &tls.Config{RootCAs: pool}, Idle: []time.Duration{time.Millisecond}})
	want(t, r, "connect", pathcheck.Passed, "127.0.0.1")
	want(t, r, "tls", pathcheck.Passed, `ALPN "h2", certificate of gw.test`)
	want(t, r, "http", pathcheck.Passed, "200 OK")
	want(t, r, "http2", pathcheck.Passed, "round trip")
	want(t, r, "stream", pathcheck.Passed, "")
	want(t, r, "large-messages", pathcheck.Passed, "3145728 bytes")
	want(t, r, "websocket", pathcheck.Passed, "101")
	want(t, r, "idle 1ms", pathcheck.Passed, "survived")
	if r.Failed() || r.RoundTrip <= 0 || r.Survived != 0.001 {
		t.Errorf("%+v", r)
	}
}

// fake is a plaintext gateway in memory, behind a proxy.
type fake struct {
	grpc, http *bufconn.Listener
	// wrap is the proxy's end towards the client.
	wrap func(net.Conn) net.Conn
}

// dial connects to whichever server the first bytes are for, as the gateway's port does.
func (f *fake) dial(_ context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	go func() {
		defer far.Close()
		in := bufio.NewReader(far)
		first, err := in.Peek(3)
		if err != nil {
			return
		}
		to := f.http
		if string(first) == "PRI" {
			to = f.grpc
		}
		server, err := to.Dial()
		if err != nil {
			return
		}
		defer server.Close()
		go func() {
			defer far.Close()
			_, _ = copyTo(far, server)
		}()
		_, _ = copyTo(server, in)
	}()
	return f.wrap(near), nil
}

func copyTo(to net.Conn, from interface{ Read([]byte) (int, error) }) (int64, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := to.Write(buf[:n]); err != nil {
				return 0, err
			}
		}
		if err != nil {
			return 0, err
		}
	}
}

// serve starts a fake and returns what stops it.
func (f *fake) serve() (stop func()) {
	f.grpc, f.http = bufconn.Listen(1<<20), bufconn.Listen(1<<20)
	s := healthServer()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Server", "a proxy") })
	web := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	var serving sync.WaitGroup
	serving.Go(func() { _ = s.Serve(f.grpc) })
	serving.Go(func() { _ = web.Serve(f.http) })
	return func() {
		s.Stop()
		web.Close()
		serving.Wait()
	}
}

// idling is a connection that a proxy forgets after a silence: it closes it, or without a word carries nothing more.
type idling struct {
	net.Conn
	timer  *time.Timer
	limit  time.Duration
	silent bool
	dead   atomic.Bool
}

func forget(c net.Conn, limit time.Duration, silent bool) net.Conn {
	i := &idling{Conn: c, limit: limit, silent: silent}
	i.timer = time.AfterFunc(limit, func() {
		i.dead.Store(true)
		if !silent {
			c.Close()
		}
	})
	return i
}

func (i *idling) Read(p []byte) (int, error) {
	n, err := i.Conn.Read(p)
	i.timer.Reset(i.limit)
	return n, err
}

func (i *idling) Write(p []byte) (int, error) {
	if i.dead.Load() && i.silent {
		return len(p), nil
	}
	i.timer.Reset(i.limit)
	return i.Conn.Write(p)
}

func (i *idling) Close() error {
	i.timer.Stop()
	return i.Conn.Close()
}

// TestIdleLimits holds streams over proxies that forget connections after a minute, on a clock that costs no time.
func TestIdleLimits(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		silent bool
		long   string
	}{
		"closed": {false, "cut after 1m0s"},
		"silent": {true, "the connection was dead afterwards: no answer in time"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				f := &fake{wrap: func(c net.Conn) net.Conn { return forget(c, time.Minute, tc.silent) }}
				defer f.serve()()
				r := pathcheck.Run(t.Context(), pathcheck.Options{Address: "gw.test:80", Dial: f.dial})
				want(t, r, "connect", pathcheck.Passed, "")
				want(t, r, "tls", pathcheck.Skipped, "plaintext")
				want(t, r, "http", pathcheck.Passed, "answered by a proxy")
				want(t, r, "http2", pathcheck.Passed, "")
				want(t, r, "websocket", pathcheck.Skipped, "does not serve")
				want(t, r, "idle 35s", pathcheck.Passed, "survived")
				want(t, r, "idle 1m5s", pathcheck.Failed, tc.long)
				want(t, r, "idle 2m5s", pathcheck.Failed, tc.long)
				if !r.Failed() || r.Survived != 35 {
					t.Errorf("survived %v", r.Survived)
				}
			})
		})
	}
}

// narrow is a connection that a proxy ends when too much was sent on it.
type narrow struct {
	net.Conn
	left int
}

func (n *narrow) Write(p []byte) (int, error) {
	if n.left -= len(p); n.left < 0 {
		n.Conn.Close()
		return 0, errors.New("413")
	}
	return n.Conn.Write(p)
}

func TestWhatDoesNotPass(t *testing.T) {
	t.Parallel()
	f := &fake{wrap: func(c net.Conn) net.Conn { return &narrow{Conn: c, left: 1 << 20} }}
	stop := f.serve()
	t.Cleanup(stop)
	r := pathcheck.Run(t.Context(), pathcheck.Options{Address: "gw.test:80", Dial: f.dial, Idle: []time.Duration{}})
	want(t, r, "large-messages", pathcheck.Failed, "")

	r = pathcheck.Run(t.Context(), pathcheck.Options{Address: "gw.test:443", Dial: func(context.Context, string, string) (net.Conn, error) {
		return nil, errors.New("connection refused")
	}})
	want(t, r, "connect", pathcheck.Failed, "connection refused")
	for _, name := range []string{"tls", "http", "http2", "stream", "large-messages", "websocket", "idle 35s"} {
		want(t, r, name, pathcheck.Skipped, "")
	}

	cert, pool := certificate(t)
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12})
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{ReadHeaderTimeout: time.Minute, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	var serving sync.WaitGroup
	serving.Go(func() { _ = web.Serve(l) })
	t.Cleanup(func() {
		web.Close()
		serving.Wait()
	})
	r = pathcheck.Run(t.Context(), pathcheck.Options{Address: l.Addr().String(), TLS: &tls.Config{RootCAs: pool}})
	want(t, r, "tls", pathcheck.Failed, "")
	r = pathcheck.Run(t.Context(), pathcheck.Options{Address: l.Addr().String(), TLS: &tls.Config{}})
	want(t, r, "tls", pathcheck.Failed, "certificate")
}
