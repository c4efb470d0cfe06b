package callback_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"net/http"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/callback"
)

// shared makes the one certificate that server and clients have in this test, and who believes it.
func shared(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "everybody"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage:    x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.ParseIP(own), net.ParseIP(sandboxes)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// TestSharedCertificateOverTLS holds the client certificate that every sandbox has, and that makes an administrator at
// the gateway's own address.
func TestSharedCertificateOverTLS(t *testing.T) {
	t.Parallel()
	certificate, pool := shared(t)
	for name, s := range setups() {
		if s.slow {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s.tls = &tls.Config{
				Certificates: []tls.Certificate{certificate}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12,
			}
			g := start(t, s)
			g.wait(t)
			for host, want := range map[string]struct {
				dual, user codes.Code
				http       int
			}{
				own:       {codes.OK, codes.OK, http.StatusOK},
				sandboxes: {codes.Unauthenticated, codes.PermissionDenied, http.StatusForbidden},
			} {
				client := &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: pool, MinVersion: tls.VersionTLS12}
				conn, err := grpc.NewClient("passthrough:///"+g.at(host), grpc.WithTransportCredentials(credentials.NewTLS(client)), grpc.WithNoProxy())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if err := call(conn, "/openshell.v1.OpenShell/UpdateConfig", ""); status.Code(err) != want.dual {
					t.Errorf("method of both at %s: %v", host, err)
				}
				if err := call(conn, "/openshell.v1.OpenShell/ListSandboxes", ""); status.Code(err) != want.user {
					t.Errorf("method of users at %s: %v", host, err)
				}
				if err := call(conn, "/openshell.v1.OpenShell/UpdateConfig", "admin"); host == sandboxes && !refusedByScope(err) {
					t.Errorf("certificate and token at %s: %v", host, err)
				}
				transport := &http.Transport{TLSClientConfig: client.Clone(), ForceAttemptHTTP2: true}
				body, code := ask(t, &http.Client{Transport: transport}, http.MethodGet, "https://"+g.at(host)+"/healthz")
				transport.CloseIdleConnections()
				if code != want.http {
					t.Errorf("HTTP at %s: %d %q, want %d (%s)", host, code, body, want.http, callback.Refusal)
				}
			}
		})
	}
}
