package chart_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// tokenDir is where pods find what they call the API server with.
const tokenDir = "/var/run/secrets/kubernetes.io/serviceaccount"

// program is the gateway that reads the settings.
var program = filepath.Join(top, "bin", "sallyport-gateway")

// settings are those that a rendered gateway gets, made to be read on this machine: every file that they name is below
// root.
type settings struct {
	args, env []string
	toml      string
}

// settingsOf finds the settings among rendered objects and makes the files that they name.
func settingsOf(t *testing.T, objects []node, root string) settings {
	t.Helper()
	sets := kinds(objects, "StatefulSet")
	if len(sets) != 1 {
		t.Fatalf("%d StatefulSets", len(sets))
	}
	name := text(sets[0], "metadata", "name")
	container := at(sets[0], "spec", "template", "spec", "containers", "gateway")
	var s settings
	here := strings.NewReplacer(`"/etc/openshell`, `"`+root+`/etc/openshell`, `"/var/openshell`, `"`+root+`/var/openshell`)
	s.toml = here.Replace(text(object(objects, "ConfigMap", name+"-config"), "data", "gateway.toml"))
	file := filepath.Join(root, "etc", "openshell", "gateway.toml")
	write(t, file, []byte(s.toml))
	args, _ := at(container, "args").([]any)
	for _, arg := range args {
		s.args = append(s.args, strings.Replace(arg.(string), "/etc/openshell/gateway.toml", file, 1))
	}
	variables, _ := at(container, "env").([]any)
	for _, variable := range variables {
		value, given := at(variable, "value").(string)
		switch name := text(variable, "name"); {
		case given:
			s.env = append(s.env, name+"="+strings.ReplaceAll(value, "/var/openshell", root+"/var/openshell"))
		case name == "OPENSHELL_DB_URL":
			s.env = append(s.env, name+"=postgres://gateway@db.example.com/gateway")
		case name == "OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY":
			s.env = append(s.env, name+"=AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
		}
	}
	for _, mount := range at(container, "volumeMounts").([]any) {
		switch path := text(mount, "mountPath"); {
		case strings.HasPrefix(path, "/etc/openshell"):
			fill(t, filepath.Join(root, path))
		case path == tokenDir:
			dir := filepath.Join(root, path)
			fill(t, dir)
			s.env = append(s.env, "SALLYPORT_KUBERNETES_CA="+filepath.Join(dir, "ca.crt"), "SALLYPORT_KUBERNETES_TOKEN="+filepath.Join(dir, "token"))
		}
	}
	if err := os.MkdirAll(filepath.Join(root, "var", "openshell"), 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// sameSettings tells whether the gateway of two renders is given the same.
func sameSettings(a, b []node) bool {
	toml := func(objects []node) any {
		for _, o := range objects {
			if strings.HasSuffix(text(o, "metadata", "name"), "-config") {
				return text(o, "data", "gateway.toml")
			}
		}
		return nil
	}
	container := func(objects []node) any {
		return at(kinds(objects, "StatefulSet")[0], "spec", "template", "spec", "containers", "gateway")
	}
	return toml(a) == toml(b) && reflect.DeepEqual(container(a), container(b))
}

// run runs a command of the gateway's with the settings.
func (s settings) run(t *testing.T, command ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(command, s.args...)...)
	// As in a pod.
	cmd.Env = append([]string{"HOME=/", "KUBERNETES_SERVICE_HOST=10.96.0.1", "KUBERNETES_SERVICE_PORT=443"}, s.env...)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run the gateway; make build makes it: %v", err)
	}
	return string(out), err
}

// check has the gateway check its settings.
func (s settings) check(t *testing.T) {
	t.Helper()
	out, err := s.run(t, "config", "check")
	if err != nil {
		t.Errorf("the gateway refuses its settings: %v\n%s\n%s", err, out, s.toml)
	}
	for line := range strings.Lines(out) {
		if strings.Contains(line, "no effect") || strings.Contains(line, "ignored") {
			t.Errorf("a setting is in vain: %s", line)
		}
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// fill writes what the Secret or ConfigMap of a mount would hold.
func fill(t *testing.T, dir string) {
	t.Helper()
	if filepath.Base(dir) == "openshell-jwt" {
		public, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, "signing.pem"), encode(t, "PRIVATE KEY", x509.MarshalPKCS8PrivateKey, crypto.PrivateKey(private)))
		write(t, filepath.Join(dir, "public.pem"), encode(t, "PUBLIC KEY", x509.MarshalPKIXPublicKey, crypto.PublicKey(public)))
		write(t, filepath.Join(dir, "kid"), []byte("0123456789abcdef0123456789abcdef"))
		return
	}
	if filepath.Base(dir) == "openshell" {
		return
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(365 * 24 * time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	write(t, filepath.Join(dir, "tls.crt"), cert)
	write(t, filepath.Join(dir, "ca.crt"), cert)
	write(t, filepath.Join(dir, "token"), []byte("token"))
	write(t, filepath.Join(dir, "tls.key"), encode(t, "PRIVATE KEY", x509.MarshalPKCS8PrivateKey, crypto.PrivateKey(key)))
}

func encode[K any](t *testing.T, kind string, marshal func(any) ([]byte, error), key K) []byte {
	t.Helper()
	der, err := marshal(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}
