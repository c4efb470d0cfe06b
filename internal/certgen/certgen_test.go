package certgen_test

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/certgen"
	"sallyport.dev/sallyport/internal/keyring"
)

const day = 24 * time.Hour

var start = time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)

// setup is a run with the reference chart's names.
type setup struct {
	secrets certgen.Secrets
	options certgen.Options
	now     time.Time
}

func newSetup(t *testing.T, c *cluster) *setup {
	t.Helper()
	s := &setup{now: start}
	s.secrets = certgen.Secrets{
		Namespace: "agents", Server: "openshell-server-tls", Client: "openshell-client-tls", Signing: "openshell-jwt-keys", API: c.client(t),
	}
	s.options = certgen.Options{Names: []string{"gw.agents.svc", "192.0.2.7"}, Now: func() time.Time { return s.now }}
	return s
}

func (s *setup) run(t *testing.T) *certgen.Report {
	t.Helper()
	report, err := certgen.InSecrets(t.Context(), s.secrets, s.options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func certificate(t *testing.T, data []byte) *x509.Certificate {
	t.Helper()
	block, _ := pem.Decode(data)
	if block == nil {
		t.Fatalf("no PEM: %q", data)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// trusted checks a certificate against an authority, as a peer does.
func trusted(t *testing.T, leaf, authority []byte, use x509.ExtKeyUsage, name string, at time.Time) {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	if _, err := certificate(t, leaf).Verify(x509.VerifyOptions{Roots: pool, DNSName: name, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
		t.Errorf("not trusted: %v", err)
	}
}

func TestFirstRun(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	s.secrets.Encryption = "kek"
	report := s.run(t)
	want := []string{"create openshell-server-tls-ca", "create openshell-server-tls", "create openshell-client-tls", "create openshell-jwt-keys", "create kek"}
	if got := c.taken(); !slices.Equal(got, want) || len(report.Done) != 5 || len(report.Notes) != 0 {
		t.Errorf("wrote %q: %+v", got, report)
	}
	server, client, ca := c.get(t, "openshell-server-tls"), c.get(t, "openshell-client-tls"), c.get(t, "openshell-server-tls-ca")
	for _, o := range []object{server, client, ca} {
		if o.Type != "kubernetes.io/tls" || len(o.Data) != 3 || o.Metadata.Labels["sallyport.dev/made-by"] != "generate-certs" {
			t.Errorf("%s: %s %v", o.Metadata.Name, o.Type, o.Metadata.Labels)
		}
	}
	for _, name := range []string{"gw.agents.svc", "192.0.2.7", "openshell", "a.openshell.localhost", "::1", "host.docker.internal"} {
		trusted(t, server.Data["tls.crt"], client.Data["ca.crt"], x509.ExtKeyUsageServerAuth, name, start)
	}
	trusted(t, client.Data["tls.crt"], server.Data["ca.crt"], x509.ExtKeyUsageClientAuth, "", start)
	subject := certificate(t, client.Data["tls.crt"]).Subject
	if subject.CommonName != "openshell-client" || !slices.Equal(subject.OrganizationalUnit, []string{"openshell-user"}) {
		t.Errorf("client is %s", subject)
	}
	for _, o := range []object{server, client} {
		if _, ok := o.Data["ca.key"]; ok || bytes.Equal(o.Data["tls.key"], ca.Data["tls.key"]) {
			t.Error("the authority's key is where it does not belong")
		}
		if life := certificate(t, o.Data["tls.crt"]).NotAfter.Sub(start); life != 365*day {
			t.Errorf("lives for %s", life)
		}
	}
	checkSigning(t, c.get(t, "openshell-jwt-keys").Data)
	if ring, err := keyring.Parse(c.get(t, "kek").Data["key-encryption-key"]); err != nil || len(ring) != 1 {
		t.Errorf("%v", err)
	}
	if report := s.run(t); len(report.Done) != 0 || len(c.taken()) != 0 {
		t.Errorf("the second run did %q", report.Done)
	}
}

// checkSigning lets the gateway's own reader look at the key of sandbox tokens.
func checkSigning(t *testing.T, files map[string][]byte) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	issuer, err := sandboxtoken.New(sandboxtoken.Options{
		SigningKey: filepath.Join(dir, "signing.pem"), PublicKey: filepath.Join(dir, "public.pem"), KeyID: filepath.Join(dir, "kid"), GatewayID: "g", TTL: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	if ids := issuer.KeyIDs(); len(files["kid"]) != 32 || !slices.Contains(ids, string(files["kid"])) {
		t.Errorf("key ids %q, kid %q", ids, files["kid"])
	}
}

func TestRenewal(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	s.run(t)
	c.taken()
	first := c.get(t, "openshell-server-tls")
	c.mu.Lock()
	c.secrets["openshell-server-tls"].Other = "kept"
	c.secrets["openshell-server-tls"].Metadata.Labels["team"] = "kept"
	c.mu.Unlock()

	s.now = start.Add(334 * day)
	if report := s.run(t); len(report.Done) != 0 {
		t.Errorf("too early: %q", report.Done)
	}
	s.now = start.Add(336 * day)
	s.run(t)
	if got := c.taken(); !slices.Equal(got, []string{"patch openshell-server-tls", "patch openshell-client-tls"}) {
		t.Errorf("wrote %q", got)
	}
	second := c.get(t, "openshell-server-tls")
	if second.Other != "kept" || second.Metadata.Labels["team"] != "kept" || bytes.Equal(second.Data["tls.key"], first.Data["tls.key"]) {
		t.Errorf("renewed %+v", second.Metadata)
	}
	trusted(t, second.Data["tls.crt"], first.Data["ca.crt"], x509.ExtKeyUsageServerAuth, "gw.agents.svc", s.now)

	s.options.Names = append(s.options.Names, "new.example.org")
	if report := s.run(t); len(report.Done) != 1 || !strings.Contains(report.Done[0], "it is not for new.example.org") {
		t.Errorf("a new name: %+v", report)
	}
	if got := c.taken(); !slices.Equal(got, []string{"patch openshell-server-tls"}) {
		t.Errorf("wrote %q", got)
	}
	s.options.Names = s.options.Names[:1]
	if report := s.run(t); len(report.Done) != 0 {
		t.Errorf("a name less: %q", report.Done)
	}

	// The authority is renewed while it can still outlive what it signs, with its key.
	s.now = start.Add(3290 * day)
	s.run(t)
	if got := c.taken(); !slices.Equal(got, []string{"patch openshell-server-tls-ca", "patch openshell-server-tls", "patch openshell-client-tls"}) {
		t.Errorf("wrote %q", got)
	}
	last := c.get(t, "openshell-server-tls")
	for _, authority := range [][]byte{first.Data["ca.crt"], last.Data["ca.crt"]} {
		trusted(t, last.Data["tls.crt"], authority, x509.ExtKeyUsageServerAuth, "gw.agents.svc", s.now)
	}
	if certificate(t, last.Data["ca.crt"]).NotAfter.Sub(s.now) != 3650*day {
		t.Error("the authority was not renewed")
	}
}

// TestRenewedAuthorityReachesLeaves hands out the renewed certificate although the leaves are good for long.
func TestRenewedAuthorityReachesLeaves(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	s.options.AuthorityLife, s.options.Life = 400*day, 350*day
	s.run(t)
	key := c.get(t, "openshell-server-tls").Data["tls.key"]
	c.taken()
	s.now = start.Add(60 * day)
	report := s.run(t)
	after := c.get(t, "openshell-server-tls")
	if len(report.Done) != 3 || !bytes.Equal(key, after.Data["tls.key"]) || !bytes.Equal(after.Data["ca.crt"], c.get(t, "openshell-server-tls-ca").Data["tls.crt"]) {
		t.Errorf("%+v", report)
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		// remove are Secrets that are lost, keep are files that must stay as they are.
		remove []string
		spoil  func(c *cluster)
		want   []string
		fails  string
	}{
		"client lost":           {remove: []string{"openshell-client-tls"}, want: []string{"create openshell-client-tls"}},
		"server lost":           {remove: []string{"openshell-server-tls"}, want: []string{"create openshell-server-tls"}},
		"key of tokens lost":    {remove: []string{"openshell-jwt-keys"}, want: []string{"create openshell-jwt-keys"}},
		"all certificates lost": {remove: []string{"openshell-server-tls", "openshell-client-tls", "openshell-server-tls-ca"}, want: []string{"create openshell-server-tls-ca", "create openshell-server-tls", "create openshell-client-tls"}},
		"both leaves lost":      {remove: []string{"openshell-server-tls", "openshell-client-tls"}, want: []string{"create openshell-server-tls", "create openshell-client-tls"}},
		"authority lost":        {remove: []string{"openshell-server-tls-ca"}, want: nil},
		"authority and client":  {remove: []string{"openshell-server-tls-ca", "openshell-client-tls"}, fails: "partial PKI state in namespace agents: secret openshell-server-tls is there, secret openshell-client-tls is missing"},
		"authority and server":  {remove: []string{"openshell-server-tls-ca", "openshell-server-tls"}, fails: "kubectl delete secret --namespace agents openshell-client-tls"},
		"server's key of another": {spoil: func(c *cluster) {
			c.secrets["openshell-server-tls"].Data["tls.key"] = c.secrets["openshell-client-tls"].Data["tls.key"]
		}, want: []string{"patch openshell-server-tls"}},
		"server's certificate no PEM": {spoil: func(c *cluster) { c.secrets["openshell-server-tls"].Data["tls.crt"] = []byte("x") }, want: []string{"patch openshell-server-tls"}},
		"authority missing in client": {spoil: func(c *cluster) { delete(c.secrets["openshell-client-tls"].Data, "ca.crt") }, want: []string{"patch openshell-client-tls"}},
		"authority broken":            {spoil: func(c *cluster) { c.secrets["openshell-server-tls-ca"].Data["tls.key"] = []byte("x") }, fails: "secret openshell-server-tls-ca in namespace agents cannot be used"},
		"authority is none":           {spoil: func(c *cluster) { c.secrets["openshell-server-tls-ca"].Data = c.secrets["openshell-client-tls"].Data }, fails: "not that of an authority"},
		"key of tokens broken":        {spoil: func(c *cluster) { c.secrets["openshell-jwt-keys"].Data["signing.pem"] = []byte("x") }, fails: "secret openshell-jwt-keys in namespace agents cannot be used: signing.pem"},
		"public key of another":       {spoil: func(c *cluster) { c.secrets["openshell-jwt-keys"].Data["public.pem"] = []byte("x") }, fails: "public.pem is missing or not in PEM"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			s := newSetup(t, c)
			s.run(t)
			c.taken()
			c.mu.Lock()
			for _, name := range tc.remove {
				delete(c.secrets, name)
			}
			if tc.spoil != nil {
				tc.spoil(c)
			}
			c.mu.Unlock()
			report, err := certgen.InSecrets(t.Context(), s.secrets, s.options)
			if tc.fails != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fails) || len(c.taken()) > 0 {
					t.Fatalf("%+v, %v", report, err)
				}
				return
			}
			if got := c.taken(); err != nil || !slices.Equal(got, tc.want) {
				t.Fatalf("wrote %q, want %q: %v", got, tc.want, err)
			}
			if report := s.run(t); len(report.Done) > 0 {
				t.Errorf("once more: %q", report.Done)
			}
		})
	}
}

// TestForeign leaves alone what others made, whatever state it is in.
func TestForeign(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]func(o *object){
		"the reference": func(o *object) { o.Metadata.Labels = nil },
		"cert-manager":  func(o *object) { o.Metadata.Annotations = map[string]string{"cert-manager.io/certificate-name": "x"} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			s := newSetup(t, c)
			s.run(t)
			c.taken()
			c.mu.Lock()
			delete(c.secrets, "openshell-server-tls-ca")
			for _, o := range c.secrets {
				own(o)
			}
			c.mu.Unlock()
			s.now, s.options.Names = start.Add(350*day), []string{"other.example.org"}
			report := s.run(t)
			notes := strings.Join(report.Notes, "\n")
			if len(report.Done) != 0 || len(report.Notes) != 3 || !strings.Contains(notes, "ends at 2027-11-25") || !strings.Contains(notes, "is not for other.example.org") {
				t.Errorf("%+v", report)
			}
			s.now = start.Add(400 * day)
			if report := s.run(t); !strings.Contains(strings.Join(report.Notes, "\n"), "ended at") || len(c.taken()) > 0 {
				t.Errorf("%+v", report)
			}
		})
	}
}

// TestForeignServerBesideOwnAuthority refuses certificates that would not trust each other.
func TestForeignServerBesideOwnAuthority(t *testing.T) {
	t.Parallel()
	c, other := newCluster(t), newCluster(t)
	s := newSetup(t, c)
	s.run(t)
	newSetup(t, other).run(t)
	foreign := other.get(t, "openshell-server-tls")
	foreign.Metadata.Labels, foreign.Metadata.Annotations = nil, map[string]string{"cert-manager.io/issuer-name": "x"}
	c.mu.Lock()
	c.put("openshell-server-tls", foreign)
	c.mu.Unlock()
	c.taken()
	if _, err := certgen.InSecrets(t.Context(), s.secrets, s.options); err == nil || !strings.Contains(err.Error(), "partial PKI state in namespace agents: secret openshell-server-tls was made by cert-manager") {
		t.Errorf("got %v", err)
	}
	// Only the keys, as a chart asks for them whose certificates cert-manager makes.
	s.options.SigningOnly = true
	if report := s.run(t); len(report.Done) > 0 || len(c.taken()) > 0 {
		t.Errorf("%+v", report)
	}
}

func TestSigningOnly(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	s.options.SigningOnly = true
	s.secrets.Server, s.secrets.Client = "", ""
	s.secrets.Encryption = "kek"
	s.run(t)
	if got := c.taken(); !slices.Equal(got, []string{"create openshell-jwt-keys", "create kek"}) {
		t.Errorf("wrote %q", got)
	}
	c.mu.Lock()
	c.secrets["kek"].Data["key-encryption-key"] = []byte("c2hvcnQ=")
	c.mu.Unlock()
	if _, err := certgen.InSecrets(t.Context(), s.secrets, s.options); err == nil || !strings.Contains(err.Error(), "5 bytes, and 32 are needed") || strings.Contains(err.Error(), "c2hv") {
		t.Errorf("got %v", err)
	}
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	s.options.DryRun = true
	if report := s.run(t); len(report.Done) != 4 || len(c.taken()) != 0 {
		t.Errorf("%+v", report)
	}
}

// TestRaces has somebody else write between reading and writing.
func TestRaces(t *testing.T) {
	t.Parallel()
	made := newCluster(t)
	newSetup(t, made).run(t)
	t.Run("another run made everything", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		c.before = func(c *cluster) {
			for name := range made.secrets {
				c.put(name, *made.secrets[name])
			}
		}
		if report := newSetup(t, c).run(t); len(report.Done) != 0 || len(c.taken()) != 0 {
			t.Errorf("%+v", report)
		}
	})
	t.Run("another run made the authority", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		c.before = func(c *cluster) { c.put("openshell-server-tls-ca", *made.secrets["openshell-server-tls-ca"]) }
		newSetup(t, c).run(t)
		trusted(t, c.get(t, "openshell-server-tls").Data["tls.crt"], made.get(t, "openshell-server-tls-ca").Data["tls.crt"], x509.ExtKeyUsageServerAuth, "openshell", start)
	})
	t.Run("renewed meanwhile", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		s := newSetup(t, c)
		s.run(t)
		c.taken()
		s.options.Names = append(s.options.Names, "more.example.org")
		c.before = func(c *cluster) { c.put("openshell-server-tls", *c.secrets["openshell-server-tls"]) }
		if report := s.run(t); len(report.Done) != 1 || !slices.Equal(c.taken(), []string{"patch openshell-server-tls"}) {
			t.Errorf("%+v", report)
		}
	})
	t.Run("for ever", func(t *testing.T) {
		t.Parallel()
		c := newCluster(t)
		c.deny["POST openshell-server-tls-ca"] = http.StatusConflict
		s := newSetup(t, c)
		if _, err := certgen.InSecrets(t.Context(), s.secrets, s.options); err == nil || !strings.Contains(err.Error(), "others write at the same time") {
			t.Errorf("got %v", err)
		}
	})
}

// TestAllOrNothing writes nothing where the last change would be refused.
func TestAllOrNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	c.deny["POST openshell-jwt-keys"] = http.StatusForbidden
	_, err := certgen.InSecrets(t.Context(), s.secrets, s.options)
	if err == nil || !strings.Contains(err.Error(), `create secret openshell-jwt-keys in namespace agents: POST api/v1/namespaces/agents/secrets?dryRun=All: status 403`) ||
		!strings.Contains(err.Error(), "let the service account") || strings.Contains(err.Error(), canary) {
		t.Errorf("got %v", err)
	}
	if got := c.taken(); len(got) != 0 {
		t.Errorf("wrote %q", got)
	}
	delete(c.deny, "POST openshell-jwt-keys")
	s.run(t)
	// A role of the reference may not read the authority's Secret: nothing is renewed, and nothing breaks.
	c.deny["GET openshell-server-tls-ca"] = http.StatusForbidden
	c.taken()
	if report := s.run(t); len(report.Done) != 0 || len(report.Notes) != 1 || !strings.Contains(report.Notes[0], "may not be read") {
		t.Errorf("%+v", report)
	}
	c.deny["GET openshell-server-tls"] = http.StatusInternalServerError
	if _, err := certgen.InSecrets(t.Context(), s.secrets, s.options); err == nil || !strings.Contains(err.Error(), "status 500") {
		t.Errorf("got %v", err)
	}
}

func TestBadOptions(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	for want, change := range map[string]func(s *setup){
		"is no namespace":                func(s *setup) { s.secrets.Namespace = "../x" },
		"pass --server-secret-name":      func(s *setup) { s.secrets.Server = "" },
		"pass --client-secret-name":      func(s *setup) { s.secrets.Client = "a/b" },
		"pass --jwt-secret-name":         func(s *setup) { s.secrets.Signing = "Upper" },
		"used for two things":            func(s *setup) { s.secrets.Client = s.secrets.Server },
		"neither a DNS name nor an IP":   func(s *setup) { s.options.Names = []string{"a b"} },
		"more than 100":                  func(s *setup) { s.options.Names = manyNames() },
		"cannot be renewed":              func(s *setup) { s.options.Life, s.options.RenewBefore = time.Hour, time.Hour },
		"must live for an hour at least": func(s *setup) { s.options.Life = time.Second },
		"must live longer":               func(s *setup) { s.options.AuthorityLife = time.Hour },
	} {
		s := newSetup(t, c)
		change(s)
		if _, err := certgen.InSecrets(t.Context(), s.secrets, s.options); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if len(c.taken()) > 0 {
		t.Error("something was written")
	}
}

func manyNames() []string {
	var names []string
	for n := range 101 {
		names = append(names, fmt.Sprintf("n%d.example.org", n))
	}
	return names
}

func TestServerAway(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	s := newSetup(t, c)
	c.server.Close()
	if _, err := certgen.InSecrets(context.Background(), s.secrets, s.options); err == nil {
		t.Error("no error")
	}
}
