package config_test

import (
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
