package config_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
)

// TestProblemsNameTheirPlace has each way in which TOML can write a key.
func TestProblemsNameTheirPlace(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"table":            {"# x\n\n[openshell.gateway]\n  colour = 1\n", ":4:3: openshell.gateway.colour: unknown key"},
		"dotted key":       {"openshell.gateway.tls.colour = 1\n", ":1:23: openshell.gateway.tls.colour: unknown key"},
		"inline table":     {"openshell = { gateway = { colour = 1 } }\n", ":1:27: openshell.gateway.colour: unknown key"},
		"unknown table":    {"[openshell.gateway.nothing.more]\nx = 1\n", ":1:20: openshell.gateway.nothing: unknown key"},
		"quoted key":       {"[openshell.gateway]\n\"a b\" = 1\n", `:2:1: openshell.gateway."a b": unknown key`},
		"after other text": {"[openshell.gateway.oidc]\nrole_map = { \"ä€😀\" = [\"r\"], \"ö\" = [] }\n", ":2:29: openshell.gateway.oidc.role_map.\"ö\": needs"},
		"array of tables": {
			"[[openshell.gateway.oidc.issuers]]\nname = 'a'\nissuer = 'https://a.test'\naudiences = ['a']\n[[openshell.gateway.oidc.issuers]]\nname = 'b'\n[[openshell.gateway.oidc.issuers.required]]\nclaim = 'x'\n",
			":7:34: openshell.gateway.oidc.issuers[1].required[0]: must have claim and values",
		},
		"element":         {"[[openshell.gateway.oidc.issuers]]\naudiences = [\n  'a',\n  # x\n  '',\n]\n", ":5:3: openshell.gateway.oidc.issuers[0].audiences[1]: must not be empty"},
		"outside":         {"[gateway]\nx = 1\n", ":1:2: gateway: unknown key; everything is written below"},
		"root is a value": {"openshell = 1\n", ":1:1: openshell: must be a table"},
		"duplicate":       {"[openshell.gateway]\nlog_level = 'info'\nlog_level = 'warn'\n", ":3:"},
		"typing error":    {"[openshell.gateway]\nlog_levl = 'info'\n", `did you mean "log_level"?`},
		"typed table":     {"[openshell.gatway]\nlog_level = 'info'\n", `did you mean "gateway"?`},
		"driver":          {"[openshell.drivers]\nx = 1\n", ":2:1: openshell.drivers.x: must be a table"},
		"driver socket":   {"[openshell.drivers.x]\nsocket_path = ''\n", ":2:1: openshell.drivers.x.socket_path: must be the path"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "gateway.toml")
			write(t, file, tc.text)
			args := base
			if strings.Contains(tc.want, "role_map") {
				args = append(people, base...)
			}
			_, err := parse(t, nil, append([]string{"--config", file}, args...)...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestEveryProblemIsTold(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gateway.toml")
	write(t, file, "[openshell.gateway]\ncolour = 1\nlog_level = 'loud'\nshutdown_grace_secs = -1\n[openshell.gateway.oidc]\njwks_ttl_secs = 1\n")
	_, err := parse(t, map[string]string{"OPENSHELL_HEALTH_PORT": "x", "SALLYPORT_TENANT": "t"}, "--config", file, "--metrics-port", "70000")
	problems, ok := errors.AsType[config.Problems](err)
	if !ok {
		t.Fatalf("Parse = %v", err)
	}
	var keys []string
	for _, p := range problems {
		keys = append(keys, p.Key)
		if p.Remedy == "" {
			t.Errorf("%v has no remedy", p)
		}
	}
	got := strings.Join(keys, " ")
	for _, want := range []string{
		"openshell.gateway.colour", "openshell.gateway.log_level", "openshell.gateway.shutdown_grace_secs", "openshell.gateway.oidc.jwks_ttl_secs",
		"OPENSHELL_HEALTH_PORT", "SALLYPORT_TENANT", "--metrics-port", "--tls-cert", "--drivers",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("problems with %q lack %s", got, want)
		}
	}
	// A file full of them does not flood the reader.
	var many strings.Builder
	many.WriteString("[openshell.gateway]\n")
	for n := range 1000 {
		fmt.Fprintf(&many, "x%d = 1\n", n)
	}
	write(t, file, many.String())
	_, err = parse(t, nil, with("--config", file)...)
	if problems, ok := errors.AsType[config.Problems](err); !ok || len(problems) != 101 {
		t.Errorf("%d problems", len(problems))
	}
}

func TestLargeAndDeepFiles(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gateway.toml")
	for name, tc := range map[string]struct{ text, want string }{
		"large": {strings.Repeat("#", 1<<20+1), "larger than"},
		"deep":  {"a = " + strings.Repeat("[", 200_000) + "\n", ":1:"},
	} {
		write(t, file, tc.text)
		if _, err := parse(t, nil, with("--config", file)...); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %.200v", name, err)
		}
	}
	if _, err := parse(t, nil, with("--config", t.TempDir())...); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a folder: %v", err)
	}
}

// pair writes a certificate for name and its key, and returns their paths.
func pair(t *testing.T, name string, from, to time.Time) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: from, NotAfter: to}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})))
	return cert, key
}

func TestFilesAreChecked(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	year := 365 * 24 * time.Hour
	cert, key := pair(t, "gw.test", now.Add(-time.Hour), now.Add(year))
	oldCert, oldKey := pair(t, "gw.test", now.Add(-year), now.Add(-time.Hour))
	soonCert, soonKey := pair(t, "gw.test", now.Add(-year), now.Add(24*time.Hour))
	newCert, newKey := pair(t, "gw.test", now.Add(time.Hour), now.Add(year))
	for name, tc := range map[string]struct {
		args    []string
		problem string
		warning string
	}{
		"sound":             {[]string{"--tls-cert", cert, "--tls-key", key, "--tls-client-ca", cert}, "", ""},
		"another's key":     {[]string{"--tls-cert", cert, "--tls-key", oldKey}, "--tls-cert: tls: private key does not match", ""},
		"absent":            {[]string{"--tls-cert", "/nonexistent", "--tls-key", key}, "no such file", ""},
		"ended":             {[]string{"--tls-cert", oldCert, "--tls-key", oldKey}, "ended at", ""},
		"not begun":         {[]string{"--tls-cert", newCert, "--tls-key", newKey}, "begins at", ""},
		"ends soon":         {[]string{"--tls-cert", soonCert, "--tls-key", soonKey}, "", "ends at"},
		"no authority":      {[]string{"--tls-cert", cert, "--tls-key", key, "--tls-client-ca", key}, "--tls-client-ca: no certificates found in file", ""},
		"issuer authority":  {[]string{"--tls-cert", cert, "--tls-key", key, "--oidc-issuer", "https://i.test", "--oidc-ca", "/nonexistent"}, "--oidc-ca: open /nonexistent", ""},
		"signing key":       {[]string{"--tls-cert", cert, "--tls-key", key, "--gateway-jwt-signing-key", "/nonexistent"}, "--gateway-jwt-signing-key: open", ""},
		"name not in it":    {[]string{"--tls-cert", cert, "--tls-key", key, "--tls-external-cert", cert, "--tls-external-key", key, "--tls-external-server-names", "*.a.test"}, "", "is not made for the name *.a.test"},
		"external unsound":  {[]string{"--tls-cert", cert, "--tls-key", key, "--tls-external-cert", cert, "--tls-external-key", oldKey, "--tls-external-server-names", "gw.test"}, "--tls-external-cert: ", ""},
		"kubernetes absent": {[]string{"--tls-cert", cert, "--tls-key", key, "--kubernetes-enabled", "--kubernetes-api-url", "https://k.test", "--kubernetes-namespaces", "n", "--kubernetes-token", "/nonexistent"}, "--kubernetes-token: open", ""},
	} {
		c, err := parse(t, nil, append(base[1:5:5], append(tc.args, "--db-url", "sqlite::memory:")...)...)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		problems, warnings := c.CheckFiles(now)
		if tc.problem == "" && len(problems) > 0 || tc.problem != "" && (len(problems) == 0 || !strings.Contains(problems.Error(), tc.problem)) {
			t.Errorf("%s: problems %v, want %q", name, problems, tc.problem)
		}
		if tc.warning == "" && len(warnings) > 0 || tc.warning != "" && !containsLine(warnings, tc.warning) {
			t.Errorf("%s: warnings %q, want %q", name, warnings, tc.warning)
		}
		if files := c.Files(); len(files) < 2 || !containsLine(files, tc.args[1]) {
			t.Errorf("%s: files %q", name, files)
		}
	}
	// A path of the file is told with its place.
	file := filepath.Join(t.TempDir(), "gateway.toml")
	write(t, file, "[openshell.gateway]\ndisable_tls = true\n[[openshell.gateway.oidc.issuers]]\nname = 'ci.1'\nissuer = 'https://i.test'\naudiences = ['a']\nca_path = '/nonexistent'\n")
	c, err := parse(t, nil, with("--config", file)...)
	if err != nil {
		t.Fatal(err)
	}
	if problems, _ := c.CheckFiles(now); len(problems) != 1 || !strings.HasPrefix(problems[0].Error(), file+":7:1: openshell.gateway.oidc.issuers[0].ca_path: open /nonexistent") {
		t.Errorf("problems %v", problems)
	}
}
