package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/gateway/config"
)

func TestGenerateCerts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	out := filepath.Join(dir, "tls")
	env := map[string]string{"XDG_CONFIG_HOME": filepath.Join(dir, "config"), "HOME": dir}
	// In the order in which they are called.
	for _, tc := range []struct {
		env  map[string]string
		args []string
		code int
		want string
	}{
		{env, []string{"--help"}, 0, "--server-secret-name string"},
		{env, []string{"--output-dir", out, "--dry-run"}, 0, "would write server: new server certificate"},
		{env, []string{"--output-dir", out, "--server-san", "host.openshell.internal", "--server-san=192.0.2.1"}, 0, "jwt: new key of sandbox tokens"},
		{env, []string{"--output-dir=" + out}, 0, "nothing to do"},
		{env, []string{"--output-dir", out, "--cert-lifetime", "17520h", "--renew-before", "9000h"}, 0, "server certificate made anew"},
		{env, []string{"--output-dir", out, "--server-secret-name", "x"}, 1, "mutually exclusive"},
		{env, []string{"--output-dir", out, "--server-san", "not a name"}, 1, "neither a DNS name nor an IP address"},
		{env, []string{"--output-dir", out, "word"}, 2, `unexpected argument "word"`},
		{env, []string{"--no-such"}, 2, "no-such"},
		{env, []string{"--renew-before", "soon"}, 2, "renew-before"},
		{env, []string{"--server-secret-name", "a"}, 1, "KUBERNETES_SERVICE_HOST"},
		{map[string]string{"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443"}, []string{"--jwt-only", "--jwt-secret-name", "a"}, 1, "POD_NAMESPACE"},
		{map[string]string{"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443", "POD_NAMESPACE": "agents"}, []string{"--kubernetes-token", "/nonexistent", "--jwt-only", "--jwt-secret-name", "a"}, 1, "read secret a in namespace agents"},
	} {
		code, stdout, stderr := call(t, tc.env, append([]string{"generate-certs"}, tc.args...)...)
		if code != tc.code || !strings.Contains(stdout+stderr, tc.want) || strings.Contains(stdout+stderr, "PRIVATE KEY") {
			t.Errorf("%q: %d %q %q; want %d with %q", tc.args, code, stdout, stderr, tc.code, tc.want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "config", "openshell", "gateways", "openshell", "mtls", "tls.key")); err != nil {
		t.Error(err)
	}
	// The gateway finds the folder and takes it.
	c, problems, err := config.Check([]string{"--drivers", "external", "--compute-driver-socket", "/run/x.sock", "--db-url", "sqlite:/data/x.db"},
		func(name string) (string, bool) {
			v, ok := map[string]string{"OPENSHELL_LOCAL_TLS_DIR": out, "HOME": dir}[name]
			return v, ok
		})
	if err != nil || len(problems) > 0 || c.TLS.ClientCA != filepath.Join(out, "ca.crt") || c.Sandbox.SigningKey != filepath.Join(out, "jwt", "signing.pem") {
		t.Errorf("%+v, %v, %v", c.TLS, problems, err)
	}
}
