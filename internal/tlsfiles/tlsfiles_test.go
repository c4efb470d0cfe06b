package tlsfiles_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/tlsfiles"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// issuer is an authority; a nil one signs for itself.
type issuer struct {
	cert *x509.Certificate
	key  crypto.Signer
}

func newKey(t *testing.T) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (i *issuer) sign(t *testing.T, name string, k crypto.Signer, from, to time.Time, ca bool) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		DNSNames: []string{name}, IsCA: ca, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	if ca {
		template.KeyUsage = x509.KeyUsageCertSign
	}
	parent, signer := template, k
	if i != nil {
		parent, signer = i.cert, i.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, k.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newIssuer(t *testing.T, name string) *issuer {
	k := newKey(t)
	var self *issuer
	return &issuer{key: k, cert: self.sign(t, name, k, time.Now().Add(-time.Hour), time.Now().Add(1000*time.Hour), true)}
}

func certPEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

func keyPEM(t *testing.T, kind string, k crypto.Signer) []byte {
	t.Helper()
	var der []byte
	var err error
	switch kind {
	case "RSA PRIVATE KEY":
		der = x509.MarshalPKCS1PrivateKey(k.(*rsa.PrivateKey))
	case "EC PRIVATE KEY":
		der, err = x509.MarshalECPrivateKey(k.(*ecdsa.PrivateKey))
	default:
		der, err = x509.MarshalPKCS8PrivateKey(k)
	}
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// folder is where a test keeps its files.
type folder string

func (f folder) write(t *testing.T, name string, content []byte) string {
	t.Helper()
	path := filepath.Join(string(f), name)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// issue writes a certificate for name and its key.
func (f folder) issue(t *testing.T, by *issuer, prefix, name string) (cert, key string) {
	t.Helper()
	return f.issueFor(t, by, prefix, name, time.Now().Add(-time.Hour), time.Now().Add(time.Hour))
}

func (f folder) issueFor(t *testing.T, by *issuer, prefix, name string, from, to time.Time) (cert, key string) {
	t.Helper()
	k := newKey(t)
	return f.write(t, prefix+".crt", certPEM(by.sign(t, name, k, from, to, false))), f.write(t, prefix+".key", keyPEM(t, "PRIVATE KEY", k))
}

// shake does a handshake and returns the common name of what the server presented, and its first answer: an error
// that the server has with the client's certificate arrives only then.
func shake(t *testing.T, server *tls.Config, client *tls.Config) (string, error) {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer b.Close()
		s := tls.Server(b, server)
		if s.HandshakeContext(t.Context()) == nil {
			_, _ = s.Write([]byte("hello"))
		}
	}()
	defer func() { a.Close(); <-done }()
	client = client.Clone()
	client.InsecureSkipVerify = true
	c := tls.Client(a, client)
	if err := c.HandshakeContext(t.Context()); err != nil {
		return "", err
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		return "", err
	}
	return c.ConnectionState().PeerCertificates[0].Subject.CommonName, nil
}

func TestWhatFilesMayHold(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, "ca")
	from, to := time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ecKey := newKey(t)
	rsaCert, edCert, ecCert := ca.sign(t, "rsa", rsaKey, from, to, false), ca.sign(t, "ed", edKey, from, to, false), ca.sign(t, "ec", ecKey, from, to, false)
	parameters := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7}})
	for name, c := range map[string]struct {
		cert, key []byte
		name      string
		err       string
	}{
		"PKCS#1":                       {certPEM(rsaCert), keyPEM(t, "RSA PRIVATE KEY", rsaKey), "rsa", ""},
		"PKCS#8 of RSA":                {certPEM(rsaCert), keyPEM(t, "PRIVATE KEY", rsaKey), "rsa", ""},
		"PKCS#8 of Ed25519":            {certPEM(edCert), keyPEM(t, "PRIVATE KEY", edKey), "ed", ""},
		"SEC1":                         {certPEM(ecCert), keyPEM(t, "EC PRIVATE KEY", ecKey), "ec", ""},
		"SEC1 behind its parameters":   {certPEM(ecCert), append(parameters, keyPEM(t, "EC PRIVATE KEY", ecKey)...), "ec", ""},
		"the first of two keys":        {certPEM(ecCert), append(keyPEM(t, "PRIVATE KEY", ecKey), keyPEM(t, "PRIVATE KEY", edKey)...), "ec", ""},
		"a chain":                      {certPEM(ecCert, ca.cert), keyPEM(t, "PRIVATE KEY", ecKey), "ec", ""},
		"text around":                  {append([]byte("Subject: a\n"), certPEM(ecCert)...), append([]byte("key\n"), keyPEM(t, "PRIVATE KEY", ecKey)...), "ec", ""},
		"no certificate":               {[]byte("nothing"), keyPEM(t, "PRIVATE KEY", ecKey), "", "no certificates found in file"},
		"a key for a certificate":      {keyPEM(t, "PRIVATE KEY", ecKey), keyPEM(t, "PRIVATE KEY", ecKey), "", "no certificates found in file"},
		"no key":                       {certPEM(ecCert), certPEM(ecCert), "", "no private key found in file"},
		"an empty key file":            {certPEM(ecCert), nil, "", "no private key found in file"},
		"another key":                  {certPEM(ecCert), keyPEM(t, "PRIVATE KEY", edKey), "", "does not match the certificate \"CN=ec\""},
		"the chain the wrong way":      {certPEM(ca.cert, ecCert), keyPEM(t, "PRIVATE KEY", ecKey), "", "belongs to certificate 2"},
		"an encrypted key":             {certPEM(ecCert), pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte{1}}), "", "is encrypted"},
		"a broken certificate":         {pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{1}}), keyPEM(t, "PRIVATE KEY", ecKey), "", "certificate 1 of"},
		"a broken key":                 {certPEM(ecCert), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte{1}}), "", "the private key in"},
		"a file that is no PEM at all": {bytes.Repeat([]byte("x"), 1<<20+1), keyPEM(t, "PRIVATE KEY", ecKey), "", "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := folder(t.TempDir())
			b, err := tlsfiles.Open(tlsfiles.Config{Certificate: f.write(t, "tls.crt", c.cert), Key: f.write(t, "tls.key", c.key)})
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "BEGIN") {
					t.Fatalf("error %v, want %q in it", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got, err := shake(t, b.TLS(), &tls.Config{}); err != nil || got != c.name {
				t.Errorf("presented %q, %v", got, err)
			}
		})
	}
}

func TestCombinationsThatCannotWork(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]tlsfiles.Config{
		"no key":                            {Certificate: "a"},
		"no certificate":                    {Key: "a"},
		"required without authorities":      {Certificate: "a", Key: "b", RequireClient: true},
		"external certificate without key":  {Certificate: "a", Key: "b", ExternalCertificate: "c", ExternalNames: []string{"d"}},
		"external certificate without name": {Certificate: "a", Key: "b", ExternalCertificate: "c", ExternalKey: "d"},
		"a file that is not there":          {Certificate: filepath.Join(t.TempDir(), "a"), Key: "b"},
	} {
		if _, err := tlsfiles.Open(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The three TLS modes with a client authority, each with no certificate, one of a foreign authority, and one of ours.
func TestClientCertificates(t *testing.T) {
	t.Parallel()
	ours, foreign := newIssuer(t, "ours"), newIssuer(t, "foreign")
	f := folder(t.TempDir())
	cert, key := f.issue(t, ours, "server", "server")
	ca := f.write(t, "ca.crt", certPEM(ours.cert))
	load := func(by *issuer) *tls.Config {
		c, k := f.issue(t, by, by.cert.Subject.CommonName, "client")
		pair, err := tls.LoadX509KeyPair(c, k)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	}
	clients := map[string]*tls.Config{"none": {}, "foreign": load(foreign), "ours": load(ours)}
	for _, c := range []struct {
		name    string
		cfg     tlsfiles.Config
		refused []string
	}{
		{"no authority", tlsfiles.Config{Certificate: cert, Key: key}, nil},
		{"optional", tlsfiles.Config{Certificate: cert, Key: key, ClientCA: ca}, []string{"foreign"}},
		{"required", tlsfiles.Config{Certificate: cert, Key: key, ClientCA: ca, RequireClient: true}, []string{"none", "foreign"}},
	} {
		b, err := tlsfiles.Open(c.cfg)
		if err != nil {
			t.Fatal(err)
		}
		for name, client := range clients {
			_, err := shake(t, b.TLS(), client)
			if refused := strings.Contains(strings.Join(c.refused, " "), name); refused != (err != nil) {
				t.Errorf("%s, client certificate %s: %v", c.name, name, err)
			}
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, "ca")
	f := folder(t.TempDir())
	cfg := tlsfiles.Config{ExternalNames: []string{"Gateway.example.com", "*.apps.example.com"}}
	cfg.Certificate, cfg.Key = f.issue(t, ca, "inner", "inner")
	cfg.ExternalCertificate, cfg.ExternalKey = f.issue(t, ca, "outer", "outer")
	b, err := tlsfiles.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for asked, want := range map[string]string{
		"gateway.example.com": "outer", "GATEWAY.EXAMPLE.COM": "outer", "one.apps.example.com": "outer",
		"two.one.apps.example.com": "inner", "apps.example.com": "inner", "example.com": "inner", "": "inner",
		"other": "inner", "gateway.example.com.evil": "inner", "xapps.example.com": "inner",
	} {
		if got, err := shake(t, b.TLS(), &tls.Config{ServerName: asked}); err != nil || got != want {
			t.Errorf("asked for %q: presented %q, %v; want %q", asked, got, err, want)
		}
	}
}

func TestReload(t *testing.T) {
	t.Parallel()
	ca, nextCA := newIssuer(t, "ca"), newIssuer(t, "next")
	f := folder(t.TempDir())
	cert, key := f.issue(t, ca, "tls", "first")
	clientCA := f.write(t, "ca.crt", certPEM(ca.cert))
	b, err := tlsfiles.Open(tlsfiles.Config{Certificate: cert, Key: key, ClientCA: clientCA})
	if err != nil {
		t.Fatal(err)
	}
	server := b.TLS()
	expect := func(when, want string) {
		t.Helper()
		if got, err := shake(t, server, &tls.Config{}); err != nil || got != want {
			t.Errorf("%s: presented %q, %v; want %q", when, got, err, want)
		}
		if got := b.Expiry()[0].Subject; got != "CN="+want {
			t.Errorf("%s: said to be %q", when, got)
		}
	}
	// A connection that is open keeps what it has.
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	echoed := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = io.Copy(c, c)
			c.Close()
		}
		echoed <- err
	}()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}

	expect("at first", "first")
	f.issue(t, ca, "tls", "second")
	expect("before the reload", "first")
	if err := b.Reload(); err != nil {
		t.Fatal(err)
	}
	expect("after it", "second")

	goodKey, _ := os.ReadFile(key)
	for what, breaks := range map[string]func(){
		"a broken certificate": func() { f.write(t, "tls.crt", []byte("broken")) },
		"a foreign key":        func() { f.write(t, "tls.key", keyPEM(t, "PRIVATE KEY", newKey(t))) },
		"no authorities":       func() { f.write(t, "ca.crt", nil) },
		"a missing file":       func() { _ = os.Remove(cert) },
		"a certificate that has ended": func() {
			f.issueFor(t, ca, "tls", "ended", time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour))
		},
		"a certificate that has not begun": func() {
			f.issueFor(t, ca, "tls", "early", time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
		},
	} {
		f.write(t, "ca.crt", certPEM(ca.cert))
		f.write(t, "tls.key", goodKey)
		f.issue(t, ca, "tls", "other")
		breaks()
		if err := b.Reload(); err == nil || !strings.Contains(err.Error(), "keep the certificates in force") {
			t.Errorf("%s: %v", what, err)
		}
		expect(what, "second")
	}

	// The authorities change in the same way.
	f.issue(t, ca, "tls", "third")
	f.write(t, "ca.crt", certPEM(nextCA.cert))
	if err := b.Reload(); err != nil {
		t.Fatal(err)
	}
	c, k := f.issue(t, ca, "client", "client")
	pair, err := tls.LoadX509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	old := &tls.Config{GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }}
	if _, err := shake(t, server, old); err == nil {
		t.Error("a client of the former authority is still let in")
	}
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Errorf("the connection from before the reloads: %v", err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 5)); err != nil {
		t.Errorf("the connection from before the reloads: %v", err)
	}
	conn.Close()
	if err := <-echoed; err != nil && !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

func TestFilesAndExpiry(t *testing.T) {
	t.Parallel()
	ca := newIssuer(t, "ca")
	f := folder(t.TempDir())
	now := time.Now()
	cfg := tlsfiles.Config{Now: func() time.Time { return now }, ClientCA: f.write(t, "ca.crt", certPEM(ca.cert)), ExternalNames: []string{"a.example"}}
	cfg.Certificate, cfg.Key = f.issueFor(t, ca, "tls", "inner", now.Add(-time.Hour), now.Add(24*time.Hour))
	cfg.ExternalCertificate, cfg.ExternalKey = f.issueFor(t, ca, "external", "outer", now.Add(-time.Hour), now.Add(240*time.Hour))
	b, err := tlsfiles.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(b.Files(), " "), strings.Join([]string{cfg.Certificate, cfg.Key, cfg.ClientCA, cfg.ExternalCertificate, cfg.ExternalKey}, " "); got != want {
		t.Errorf("files %s, want %s", got, want)
	}
	if got := b.Expiry(); len(got) != 3 || got[0].Path != cfg.Certificate || got[1].Path != cfg.ExternalCertificate || got[2].Path != cfg.ClientCA {
		t.Errorf("expiry %v", got)
	}
	if got := b.EndingSoon(48 * time.Hour); len(got) != 1 || got[0].Subject != "CN=inner" {
		t.Errorf("ending soon: %v", got)
	}
	now = now.Add(25 * time.Hour)
	if got := b.EndingSoon(0); len(got) != 1 {
		t.Errorf("ended: %v", got)
	}
}
