package docs_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	der, key := a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	a.cert, a.key, a.pem = cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return a
}

func (a *authority) sign(template *x509.Certificate) (der []byte, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, signer := template, crypto.Signer(key)
	if a.cert != nil {
		parent, signer = a.cert, a.key
	}
	if der, err = x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer); err != nil {
		a.t.Fatal(err)
	}
	return der, key
}

func (a *authority) issue(name pkix.Name, usage ...x509.ExtKeyUsage) *tls.Certificate {
	a.t.Helper()
	der, key := a.sign(&x509.Certificate{
		Subject: name, ExtKeyUsage: usage, KeyUsage: x509.KeyUsageDigitalSignature, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	})
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// save writes a certificate and its key as the gateway reads them.
func (a *authority) save(dir string, c *tls.Certificate) config.TLS {
	a.t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		a.t.Fatal(err)
	}
	files := config.TLS{
		Certificate: filepath.Join(dir, "tls.crt"), Key: filepath.Join(dir, "tls.key"), ClientCA: filepath.Join(dir, "ca.crt"),
	}
	write(a.t, files.Certificate, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})), 0o600)
	write(a.t, files.Key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), 0o600)
	write(a.t, files.ClientCA, string(a.pem), 0o600)
	return files
}

// Who a certificate makes of its holder, and whom it does not, at a gateway made of the section's block.
func TestClientCertificatesAsDocumented(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	ours, foreign := newAuthority(t), newAuthority(t)
	cfg := read(t, dir, named(t, page(t, "auth.md"), "Client certificates").of("toml")[0])
	files := ours.save(dir, ours.issue(pkix.Name{CommonName: "gateway"}, x509.ExtKeyUsageServerAuth))
	files.RequireClient = cfg.TLS.RequireClient
	cfg.TLS = files
	address := run(t, cfg)
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	client := func(name string, units ...string) *tls.Certificate {
		return ours.issue(pkix.Name{CommonName: name, OrganizationalUnit: units}, x509.ExtKeyUsageClientAuth)
	}
	for name, tc := range map[string]struct {
		certificate *tls.Certificate
		want        codes.Code
		roles       []string
	}{
		"ours":                {client("carol"), codes.OK, []string{"openshell-user"}},
		"an administrator's":  {client("carol", "openshell-admin", "sales"), codes.OK, []string{"openshell-admin", "openshell-user"}},
		"everybody's":         {client("openshell-client"), codes.Unauthenticated, nil},
		"of a sandbox":        {client("carol", "openshell-sandbox"), codes.Unauthenticated, nil},
		"without a name":      {ours.issue(pkix.Name{Organization: []string{"carol"}}, x509.ExtKeyUsageClientAuth), codes.Unauthenticated, nil},
		"a server's":          {ours.issue(pkix.Name{CommonName: "carol"}, x509.ExtKeyUsageServerAuth), codes.Unavailable, nil},
		"of another's making": {foreign.issue(pkix.Name{CommonName: "carol"}, x509.ExtKeyUsageClientAuth), codes.Unavailable, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: pool,
				// Whatever the gateway asks for, this one is shown.
				GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tc.certificate, nil },
			})))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			me, err := openshellpb.NewOpenShellClient(conn).GetCurrentUser(ctx, &openshellpb.GetCurrentUserRequest{})
			if status.Code(err) != tc.want {
				t.Fatalf("got %v, %v; want %s", me, err, tc.want)
			}
			if tc.want == codes.OK && (me.Subject != "carol" || !slices.Equal(me.Roles, tc.roles)) {
				t.Errorf("got %v", me)
			}
		})
	}
}
