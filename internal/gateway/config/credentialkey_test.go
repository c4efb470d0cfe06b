package config_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/gateway/config"
)

const aKey, bKey = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="

func TestCredentialKey(t *testing.T) {
	t.Parallel()
	const variable = "OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY"
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		// value and file are what comes out; problem and warning are parts of one.
		value, file, problem, warning string
	}{
		"none":                {},
		"variable":            {env: map[string]string{variable: aKey}, value: aKey},
		"two keys":            {env: map[string]string{variable: bKey + "," + aKey}, value: bKey + "," + aKey},
		"file":                {args: []string{"--credential-key-file", "/keys"}, file: "/keys"},
		"file of a variable":  {env: map[string]string{"SALLYPORT_CREDENTIAL_KEY_FILE": "/keys"}, file: "/keys"},
		"both":                {env: map[string]string{variable: aKey}, args: []string{"--credential-key-file", "/keys"}, problem: "name one place"},
		"not base64":          {env: map[string]string{variable: "secret"}, problem: "not base64"},
		"too short":           {env: map[string]string{variable: "c2hvcnQ="}, problem: "5 bytes, and 32 are needed"},
		"lost":                {args: []string{"--accept-lost-credentials"}, warning: "--accept-lost-credentials: credentials whose key is lost"},
		"PostgreSQL alone":    {args: []string{"--db-url", "postgres://u@h/d", "--state-dir", "/s"}, warning: "set OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY"},
		"PostgreSQL with key": {env: map[string]string{variable: aKey}, args: []string{"--db-url", "postgres://u@h/d", "--state-dir", "/s"}, value: aKey},
	} {
		env := map[string]string{
			"OPENSHELL_DISABLE_TLS": "true", "OPENSHELL_DRIVERS": "external", "OPENSHELL_COMPUTE_DRIVER_SOCKET": "/s", "OPENSHELL_OIDC_ISSUER": "https://i.test", "HOME": "/nonexistent",
		}
		for k, v := range tc.env {
			env[k] = v
		}
		args := tc.args
		if !strings.Contains(strings.Join(args, " "), "--db-url") {
			args = append([]string{"--db-url", "sqlite:/x/y.db"}, args...)
		}
		c, problems, err := config.Check(args, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
		if err != nil {
			t.Fatal(err)
		}
		told, warned := problems.Error(), strings.Join(c.Warnings, "\n")
		if (tc.problem == "") != (len(problems) == 0) || !strings.Contains(told, tc.problem) || !strings.Contains(warned, tc.warning) ||
			tc.warning == "" && strings.Contains(warned, "credentials") {
			t.Errorf("%s: problems %q, warnings %q", name, told, warned)
		}
		if len(problems) == 0 && (c.CredentialKey.Value != tc.value || c.CredentialKey.File != tc.file) {
			t.Errorf("%s: %+v", name, c.CredentialKey)
		}
		if shown := c.TOML() + told + warned; strings.Contains(shown, aKey[:20]) || strings.Contains(shown, bKey[:20]) {
			t.Errorf("%s: a key is shown:\n%s", name, shown)
		}
	}
}

// TestServiceLinks starts where a service of Kubernetes has the name of one of our variables.
func TestServiceLinks(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"OPENSHELL_DISABLE_TLS": "true", "OPENSHELL_DRIVERS": "external", "OPENSHELL_COMPUTE_DRIVER_SOCKET": "/s", "OPENSHELL_OIDC_ISSUER": "https://i.test",
		"OPENSHELL_DB_URL": "sqlite:/x/y.db", "HOME": "/nonexistent", "OPENSHELL_SERVER_PORT": "tcp://10.0.0.1:8080", "OPENSHELL_HEALTH_PORT": "udp://10.0.0.1:1",
	}
	lookup := func(k string) (string, bool) { v, ok := env[k]; return v, ok }
	c, problems, err := config.Check([]string{"--port", "18080"}, lookup)
	if err != nil || len(problems) > 0 || c.Listen.Address.Port() != 18080 || c.Listen.Health.Port() != 0 || len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], "enableServiceLinks") {
		t.Errorf("%v, %v, %+v", err, problems, c.Warnings)
	}
	env["OPENSHELL_SERVER_PORT"] = "8080x"
	if _, problems, _ := config.Check(nil, lookup); len(problems) != 1 {
		t.Errorf("another word than a number: %v", problems)
	}
}

// TestReferencePods reads which pods are sandboxes from the reference's table, as it does itself.
func TestReferencePods(t *testing.T) {
	t.Parallel()
	const head = "[openshell.gateway]\nsandbox_namespace = 'team1'\ndisable_tls = true\n"
	const jwt = "[openshell.gateway.gateway_jwt]\nsigning_key_path = '/jwt/signing.pem'\n"
	const table = "[openshell.drivers.kubernetes]\ngrpc_endpoint = 'https://s:8080'\nservice_account_name = 'openshell-sandbox'\n"
	for name, tc := range map[string]struct {
		file    string
		outside bool
		args    []string
		want    config.Kubernetes
	}{
		"tenant chart":     {file: head + jwt + table, want: config.Kubernetes{Enabled: true, Namespaces: []string{"team1"}, ServiceAccount: "openshell-sandbox"}},
		"namespace of its": {file: head + jwt + table + "namespace = 'agents'\n", want: config.Kubernetes{Enabled: true, Namespaces: []string{"agents"}, ServiceAccount: "openshell-sandbox"}},
		"shared account":   {file: head + "service_account_name = 'shared'\n" + jwt + "[openshell.drivers.kubernetes]\n", want: config.Kubernetes{Enabled: true, Namespaces: []string{"team1"}, ServiceAccount: "shared"}},
		"nothing named":    {file: "[openshell.gateway]\ndisable_tls = true\n" + jwt + "[openshell.drivers.kubernetes]\n", want: config.Kubernetes{Enabled: true, Namespaces: []string{"openshell"}, ServiceAccount: "default"}},
		"flags win":        {file: head + jwt + table, args: []string{"--kubernetes-namespaces", "a,b", "--kubernetes-service-account", "c"}, want: config.Kubernetes{Enabled: true, Namespaces: []string{"a", "b"}, ServiceAccount: "c"}},
		"switched off":     {file: head + jwt + table, args: []string{"--kubernetes-enabled=false"}},
		"no table":         {file: head + jwt},
		"no key":           {file: head + table},
		"not in a cluster": {file: head + jwt + table, outside: true},
	} {
		env := map[string]string{
			"OPENSHELL_DRIVERS": "external", "OPENSHELL_COMPUTE_DRIVER_SOCKET": "/s", "OPENSHELL_OIDC_ISSUER": "https://i.test", "OPENSHELL_DB_URL": "sqlite:/x/y.db",
			"HOME": "/nonexistent", "KUBERNETES_SERVICE_HOST": "10.0.0.1",
		}
		if tc.outside {
			delete(env, "KUBERNETES_SERVICE_HOST")
		}
		env["OPENSHELL_GATEWAY_CONFIG"] = filepath.Join(t.TempDir(), "gateway.toml")
		if err := os.WriteFile(env["OPENSHELL_GATEWAY_CONFIG"], []byte(tc.file), 0o600); err != nil {
			t.Fatal(err)
		}
		c, problems, err := config.Check(tc.args, func(k string) (string, bool) { v, ok := env[k]; return v, ok })
		if err != nil || len(problems) > 0 {
			t.Errorf("%s: %v, %v", name, err, problems)
			continue
		}
		got := c.Kubernetes
		if got.Enabled != tc.want.Enabled || !slices.Equal(got.Namespaces, tc.want.Namespaces) || got.ServiceAccount != tc.want.ServiceAccount {
			t.Errorf("%s: %+v", name, got)
		}
	}
}
