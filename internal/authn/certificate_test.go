package authn_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/fault"
)

// signer is an authority of client certificates.
type signer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newSigner(t *testing.T) *signer {
	t.Helper()
	s := &signer{}
	s.cert, s.key = s.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "clients"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return s
}

func (s *signer) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(1)
	template.NotBefore = time.Now().Add(-time.Hour)
	if template.NotAfter.IsZero() {
		template.NotAfter = time.Now().Add(time.Hour)
	}
	parent, by := template, key
	if s.cert != nil {
		parent, by = s.cert, s.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (s *signer) issue(t *testing.T, template *x509.Certificate) *tls.Certificate {
	t.Helper()
	cert, key := s.sign(t, template)
	return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

// verified does a handshake and returns the client's certificate as a server believes it, nil where there is none;
// the handshake fails where TLS refuses it.
func verified(t *testing.T, server *tls.Config, client *tls.Certificate) (*x509.Certificate, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		c := tls.Client(b, &tls.Config{
			InsecureSkipVerify: true, MinVersion: tls.VersionTLS13,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
				if client == nil {
					return &tls.Certificate{}, nil
				}
				return client, nil
			},
		})
		_, _ = c.Read(make([]byte, 1))
	}()
	c := tls.Server(a, server)
	err := c.HandshakeContext(t.Context())
	state := c.ConnectionState()
	a.Close()
	<-done
	if err != nil || len(state.VerifiedChains) == 0 {
		return nil, err
	}
	return state.VerifiedChains[0][0], nil
}

var forClients = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}

// Each TLS mode, each with no certificate, one of a foreign authority and one of ours: who is let in, and as whom.
func TestCertificatesInEachMode(t *testing.T) {
	t.Parallel()
	ours, foreign := newSigner(t), newSigner(t)
	alice := &x509.Certificate{Subject: pkix.Name{CommonName: "alice", OrganizationalUnit: []string{"openshell-user"}}, ExtKeyUsage: forClients}
	clients := map[string]*tls.Certificate{"none": nil, "foreign": foreign.issue(t, alice), "ours": ours.issue(t, alice)}
	pool := x509.NewCertPool()
	pool.AddCert(ours.cert)
	server := *ours.issue(t, &x509.Certificate{Subject: pkix.Name{CommonName: "gateway"}})
	chain, err := authn.New(authn.Config{Certificates: &authn.Certificates{Roles: []string{"openshell-user"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		mode tls.ClientAuthType
		want map[string]string
	}{
		{tls.NoClientCert, map[string]string{"none": "anonymous", "foreign": "anonymous", "ours": "anonymous"}},
		// No mode of the gateway, and harmless if it were one.
		{tls.RequestClientCert, map[string]string{"none": "anonymous", "foreign": "anonymous", "ours": "anonymous"}},
		{tls.VerifyClientCertIfGiven, map[string]string{"none": "anonymous", "foreign": "no handshake", "ours": "alice"}},
		{tls.RequireAndVerifyClientCert, map[string]string{"none": "no handshake", "foreign": "no handshake", "ours": "alice"}},
	} {
		for who, cert := range clients {
			var got string
			peer, err := verified(t, &tls.Config{
				Certificates: []tls.Certificate{server}, ClientAuth: c.mode, ClientCAs: pool, MinVersion: tls.VersionTLS12,
			}, cert)
			if err != nil {
				got = "no handshake"
			} else if p, err := chain.Authenticate(t.Context(), request(getBox, authn.Request{PeerCertificate: peer})); err != nil {
				got = "anonymous"
			} else {
				got = p.Subject
			}
			if got != c.want[who] {
				t.Errorf("%v, certificate %s: %s, want %s", c.mode, who, got, c.want[who])
			}
		}
	}
}

func TestWhatACertificateMakes(t *testing.T) {
	t.Parallel()
	uri := func(s string) []*url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return []*url.URL{u}
	}
	name := func(cn string, units ...string) pkix.Name {
		return pkix.Name{CommonName: cn, OrganizationalUnit: units}
	}
	twice := pkix.Name{ExtraNames: []pkix.AttributeTypeAndValue{
		{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "alice"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "root"},
	}}
	roles := &authn.Certificates{Roles: []string{"openshell-user", "openshell-admin"}}
	strict := &authn.Certificates{RequireClientAuth: true}
	for label, c := range map[string]struct {
		cfg   *authn.Certificates
		cert  x509.Certificate
		roles []string
		err   string
	}{
		"units that are roles":                 {roles, x509.Certificate{Subject: name("alice", "openshell-user", "Research")}, []string{"openshell-user"}, ""},
		"an administrator's unit":              {roles, x509.Certificate{Subject: name("alice", "openshell-admin")}, []string{"openshell-admin"}, ""},
		"a unit that only looks like one":      {roles, x509.Certificate{Subject: name("alice", "OpenShell-Admin", "openshell-admin ", "admin")}, nil, ""},
		"no role is configured":                {&authn.Certificates{}, x509.Certificate{Subject: name("alice", "openshell-admin")}, nil, ""},
		"default roles":                        {&authn.Certificates{Roles: roles.Roles, DefaultRoles: []string{"openshell-user"}}, x509.Certificate{Subject: name("alice", "openshell-user", "openshell-admin")}, []string{"openshell-user", "openshell-admin"}, ""},
		"a sandbox by its id":                  {roles, x509.Certificate{Subject: name("alice", "openshell-admin"), URIs: uri("spiffe://openshell/sandbox/1b2c")}, nil, "it belongs to a sandbox"},
		"a sandbox by its id, in capitals":     {roles, x509.Certificate{Subject: name("alice"), URIs: uri("SPIFFE://openshell/Sandbox/1b2c")}, nil, "it belongs to a sandbox"},
		"another workload":                     {roles, x509.Certificate{Subject: name("alice"), URIs: uri("spiffe://openshell/ns/sandbox/sa/ci")}, nil, ""},
		"a sandbox by its unit":                {roles, x509.Certificate{Subject: name("alice", "openshell-admin", "openshell-sandbox")}, nil, "it belongs to a sandbox"},
		"a sandbox by its unit, in capitals":   {roles, x509.Certificate{Subject: name("alice", " OpenShell-Sandbox ")}, nil, "it belongs to a sandbox"},
		"a sandbox by a unit of the operator":  {&authn.Certificates{SandboxUnits: []string{"workers"}}, x509.Certificate{Subject: name("alice", "Workers")}, nil, "it belongs to a sandbox"},
		"the certificate that many have":       {&authn.Certificates{SharedNames: []string{"openshell-client"}}, x509.Certificate{Subject: name("openshell-client", "openshell-user")}, nil, "shared by many"},
		"no name":                              {roles, x509.Certificate{}, nil, "it has no common name"},
		"two names":                            {roles, x509.Certificate{Subject: twice}, nil, "not one plain name"},
		"a name with a line break":             {roles, x509.Certificate{Subject: name("alice\nroot")}, nil, "not one plain name"},
		"a name with a space around it":        {roles, x509.Certificate{Subject: name(" alice")}, nil, "not one plain name"},
		"a very long name":                     {roles, x509.Certificate{Subject: name(strings.Repeat("a", 300))}, nil, "not one plain name"},
		"no usage, where one is needed":        {strict, x509.Certificate{Subject: name("alice")}, nil, "not issued for client authentication"},
		"a server's, where a client's must be": {strict, x509.Certificate{Subject: name("alice"), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}, nil, "not issued for client authentication"},
		"a client's":                           {strict, x509.Certificate{Subject: name("alice"), ExtKeyUsage: forClients}, nil, ""},
		"any usage":                            {strict, x509.Certificate{Subject: name("alice"), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}, nil, ""},
		"ended while the connection was open":  {&authn.Certificates{Now: func() time.Time { return time.Now().Add(2 * time.Hour) }}, x509.Certificate{Subject: name("alice")}, nil, "it has expired"},
	} {
		t.Run(label, func(t *testing.T) {
			t.Parallel()
			cert, _ := newSigner(t).sign(t, &c.cert)
			// Nobody gets further as the development user after a certificate that is not believed.
			chain, err := authn.New(authn.Config{Certificates: c.cfg, Development: &authn.Development{Roles: []string{"openshell-admin"}}})
			if err != nil {
				t.Fatal(err)
			}
			p, err := chain.Authenticate(t.Context(), request(getBox, authn.Request{PeerCertificate: cert}))
			if c.err != "" {
				if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), c.err) || p != nil {
					t.Errorf("got %v, %v; want an error with %q", p, err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.roles, p.Roles); diff != "" {
				t.Errorf("roles (-want +got):\n%s", diff)
			}
			if p.Subject != "alice" || p.Issuer != "CN=clients" || !p.Expires.Equal(cert.NotAfter) {
				t.Errorf("got %+v", p)
			}
		})
	}
}
