package door_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/principal"
)

// authority is a CA with the certificates it signed.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.cert, a.key = a.sign(template, nil)
	return a
}

func (a *authority) sign(template *x509.Certificate, parent *authority) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	issuer, signer := template, key
	if parent != nil {
		issuer, signer = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) issue(subject pkix.Name) tls.Certificate {
	a.t.Helper()
	cert, key := a.sign(&x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: subject, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, a)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

func TestOnlyVerifiedCertificatesCount(t *testing.T) {
	t.Parallel()
	ours, foreign := newAuthority(t), newAuthority(t)
	subject := pkix.Name{CommonName: "carol", OrganizationalUnit: []string{"openshell-admin"}}
	for _, tc := range []struct {
		name   string
		verify tls.ClientAuthType
		certs  []tls.Certificate
		user   bool
	}{
		{"verified", tls.VerifyClientCertIfGiven, []tls.Certificate{ours.issue(subject)}, true},
		{"none", tls.VerifyClientCertIfGiven, nil, false},
		{"presented but not verified", tls.RequestClientCert, []tls.Certificate{foreign.issue(subject)}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			server := credentials.NewTLS(&tls.Config{
				MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{ours.issue(pkix.Name{CommonName: "gw"})},
				ClientAuth: tc.verify, ClientCAs: ours.pool(),
			})
			h := open(t, func(c *authn.Config) { c.Certificates = &authn.Certificates{Roles: []string{"openshell-admin"}} }, grpc.Creds(server))
			var inside *principal.Principal
			h.service.get = func(ctx context.Context) error { inside = principal.From(ctx); return nil }
			conn, err := grpc.NewClient(h.conn.Target(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{
				MinVersion: tls.VersionTLS12, RootCAs: ours.pool(), Certificates: tc.certs,
			})))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			// The certificate names the admin's role but no scope.
			_, err = openshellpb.NewOpenShellClient(conn).GetCurrentUser(t.Context(), &openshellpb.GetCurrentUserRequest{})
			if !tc.user {
				wantStatus(t, err, codes.Unauthenticated, "missing authorization header")
				return
			}
			wantStatus(t, err, codes.Unimplemented, "")
			_, err = openshellpb.NewOpenShellClient(conn).GetSandbox(t.Context(), &openshellpb.GetSandboxRequest{})
			wantStatus(t, err, codes.PermissionDenied, "scope 'sandbox:read' required")
			if inside != nil {
				t.Errorf("the service was called by %v", inside)
			}
		})
	}
}
