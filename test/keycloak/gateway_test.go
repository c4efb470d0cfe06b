//go:build linux

package keycloak_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/test/keycloak"
)

// audience is what the gateways ask of tokens unless a test says otherwise.
const audience = "openshell-cli"

// idleDriver is a compute driver without sandboxes.
type idleDriver struct {
	computepb.UnimplementedComputeDriverServer
}

func (idleDriver) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "idle", DriverVersion: "1", DefaultImage: "image"}, nil
}

func (idleDriver) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	return &computepb.ListSandboxesResponse{}, nil
}

func (idleDriver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	if err := stream.SendHeader(metadata.MD{}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// door is a gateway that trusts a realm, and a client of it. All of it is real but for the driver, which does nothing.
type door struct {
	t       *testing.T
	address string
	health  string
	// tls is how to reach it; nil where it is plaintext.
	tls    *files
	client openshellpb.OpenShellClient
	logs   *logBuffer
}

// logBuffer keeps what a gateway logged, for the end of a test that failed.
type logBuffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.String()
}

// open starts a gateway for the issuer and waits until it is ready. The arguments come behind those every gateway gets.
func open(t *testing.T, r realm, args ...string) *door {
	t.Helper()
	d := launch(t, r, nil, args...)
	d.waitReady()
	return d
}

// openTLS is open with TLS on the port, where a client certificate is asked for.
func openTLS(t *testing.T, r realm, args ...string) *door {
	t.Helper()
	d := launch(t, r, makeFiles(t), args...)
	d.waitReady()
	return d
}

// launch starts a gateway and does not wait for it.
func launch(t *testing.T, r realm, tls *files, args ...string) *door {
	t.Helper()
	// Not t.TempDir: a socket's path may have 107 bytes only.
	dir, err := os.MkdirTemp("", "gw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket := filepath.Join(dir, "run", "c.sock")
	health := freeAddress(t)
	all := []string{
		"--drivers", "external", "--compute-driver-socket", socket, "--db-url", "sqlite:" + filepath.Join(dir, "state", "x.db"),
		"--health-port", health[len("127.0.0.1:"):], "--shutdown-grace-secs", "1", "--oidc-issuer", r.Issuer(),
		"--oidc-audience", audience, "--oidc-scopes-claim", "scope",
	}
	if tls == nil {
		all = append(all, "--disable-tls")
	} else {
		all = append(all, "--tls-cert", tls.cert, "--tls-key", tls.key, "--tls-client-ca", tls.ca)
	}
	if r.CA != "" {
		all = append(all, "--oidc-ca", r.CA)
	}
	all = replaced(all, args)
	cfg, err := config.Parse(all, func(k string) (string, bool) { return dir, k == "HOME" })
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	d := &door{t: t, address: lis.Addr().String(), health: health, tls: tls, logs: &logBuffer{}}
	logger := slog.New(slog.NewTextHandler(d.logs, nil))
	g, err := gateway.New(t.Context(), cfg, gateway.Options{Version: "test", Logger: logger, Listener: lis})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: slog.New(slog.DiscardHandler)}, func(s *grpc.Server) {
			computepb.RegisterComputeDriverServer(s, idleDriver{})
		}); err != nil {
			t.Errorf("driver: %v", err)
		}
	})
	running.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", d.logs)
		}
	})
	d.client = d.dial()
	return d
}

// replaced leaves out the flags with a value that args give anew: the gateway takes a flag once.
func replaced(all, args []string) []string {
	for i := 0; i+1 < len(all); {
		if all[i] != "--disable-tls" && slices.Contains(args, all[i]) {
			all = slices.Delete(all, i, i+2)
			continue
		}
		i++
	}
	return append(all, args...)
}

func freeAddress(t *testing.T) string {
	t.Helper()
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer lis.Close()
	return lis.Addr().String()
}

func (d *door) dial() openshellpb.OpenShellClient {
	d.t.Helper()
	transport := insecure.NewCredentials()
	if d.tls != nil {
		transport = credentials.NewTLS(d.tls.client)
	}
	conn, err := grpc.NewClient(d.address, grpc.WithTransportCredentials(transport))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { _ = conn.Close() })
	return openshellpb.NewOpenShellClient(conn)
}

// as carries a token, or none if it is empty.
func as(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// list is the call of all who only want in.
func (d *door) list(token string) error {
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	_, err := d.client.ListSandboxes(as(ctx, token), &openshellpb.ListSandboxesRequest{})
	return err
}

func (d *door) wantIn(who, token string) {
	d.t.Helper()
	if err := d.list(token); err != nil {
		d.t.Errorf("%s: %v, want access", who, err)
	}
}

// wantOut checks that a token is refused as a credential, and why.
func (d *door) wantOut(who, token, reason string) {
	d.t.Helper()
	err := d.list(token)
	if status.Code(err) != codes.Unauthenticated || reasonOf(err) != reason {
		d.t.Errorf("%s: %v (reason %s), want UNAUTHENTICATED with reason %s", who, err, reasonOf(err), reason)
	}
}

func reasonOf(err error) string {
	for _, detail := range status.Convert(err).Details() {
		if info, ok := detail.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

// readiness is what the gateway says of itself.
type readiness struct {
	Status string `json:"status"`
	Checks map[string]struct {
		Status string `json:"status"`
		Error  string `json:"error"`
	} `json:"checks"`
}

func (d *door) readiness() (readiness, error) {
	var r readiness
	client := keycloak.NewHTTP(nil)
	resp, err := client.Get("http://" + d.health + "/readyz")
	if err != nil {
		return r, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
		return r, err
	}
	if (resp.StatusCode == http.StatusOK) != (r.Status == "healthy") {
		return r, fmt.Errorf("HTTP %d says %s", resp.StatusCode, r.Status)
	}
	return r, nil
}

func (d *door) waitReady() {
	d.t.Helper()
	eventually(d.t, "gateway ready", func() error {
		r, err := d.readiness()
		if err == nil && r.Status != "healthy" {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
}

// files are a gateway's certificates, and how a client with one of its own reaches it.
type files struct {
	ca, cert, key string
	client        *tls.Config
}

// makeFiles makes an authority, whose key is thrown away, with a certificate for the gateway and one for the client.
func makeFiles(t *testing.T) *files {
	t.Helper()
	caCert, caKey := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "test authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, nil)
	cert, key := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "gateway"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}, caCert, caKey)
	clientCert, clientKey := certify(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "client"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, caCert, caKey)
	pool := x509.NewCertPool()
	pool.AddCert(caCert)
	dir := t.TempDir()
	f := &files{
		ca: filepath.Join(dir, "ca.crt"), cert: filepath.Join(dir, "tls.crt"), key: filepath.Join(dir, "tls.key"),
		client: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{
			{Certificate: [][]byte{clientCert.Raw}, PrivateKey: clientKey},
		}},
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	err = errors.Join(err,
		os.WriteFile(f.ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caCert.Raw}), 0o600),
		os.WriteFile(f.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), 0o600),
		os.WriteFile(f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// certify signs with the parent's key, or with the certificate's own where there is no parent.
func certify(t *testing.T, template, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if parent == nil {
		parent, signer = template, key
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// denied returns nil when the token is refused for the reason.
func (d *door) denied(token, reason string) error {
	err := d.list(token)
	if err == nil {
		return errors.New("still accepted")
	}
	if got := reasonOf(err); got != reason {
		d.t.Errorf("refused with %s: %v, want %s", got, err, reason)
	}
	return nil
}
