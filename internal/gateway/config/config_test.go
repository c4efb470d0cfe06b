package config_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/gateway/config"
)

// base is a command line that starts; tests add to it.
var base = []string{"--disable-tls", "--drivers", "external", "--compute-driver-socket", "/run/compute.sock", "--db-url", "sqlite::memory:"}

func parse(t *testing.T, env map[string]string, args ...string) (*config.Config, error) {
	t.Helper()
	if env == nil {
		env = map[string]string{}
	}
	if _, ok := env["HOME"]; !ok {
		env["HOME"] = t.TempDir()
	}
	return config.Parse(args, func(k string) (string, bool) {
		v, ok := env[k]
		return v, ok
	})
}

func with(args ...string) []string { return append(append([]string(nil), base...), args...) }

func TestPrecedence(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gateway.toml")
	write(t, file, `[openshell]
version = 1
[openshell.gateway]
bind_address = "127.0.0.2:1111"
log_level = "debug"
[openshell.gateway.oidc]
issuer = "https://file.example"
audience = "file"
`)
	env := map[string]string{"OPENSHELL_GATEWAY_CONFIG": file, "OPENSHELL_SERVER_PORT": "2222", "OPENSHELL_OIDC_AUDIENCE": "env"}
	c, err := parse(t, env, with("--oidc-audience", "flag")...)
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Listen.Address.String(); got != "127.0.0.2:2222" {
		t.Errorf("address = %s, want the file's IP and the variable's port", got)
	}
	if c.Issuers[0].Audiences[0] != "flag" || c.Issuers[0].Issuer != "https://file.example" || c.LogLevel != "debug" {
		t.Errorf("audience %q issuer %q level %q", c.Issuers[0].Audiences, c.Issuers[0].Issuer, c.LogLevel)
	}
	if c.Issuers[0].KeysTTL != time.Hour || c.Issuers[0].RolesClaim != "realm_access.roles" || c.Authorization.AdminRole != "openshell-admin" {
		t.Errorf("defaults: %+v", c.Issuers)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		want string
	}{
		"health port equals port":  {nil, with("--port", "80", "--health-port", "80"), "must be different"},
		"metrics equals health":    {nil, with("--metrics-port", "81", "--health-port", "81"), "must be different"},
		"TLS without certificate":  {nil, base[1:], "--tls-cert is required when TLS is enabled"},
		"TLS without key":          {nil, append(base[1:], "--tls-cert", "x"), "--tls-key is required when TLS is enabled"},
		"boolean variable":         {map[string]string{"OPENSHELL_DISABLE_TLS": "1"}, base[1:], "must be true or false"},
		"empty boolean variable":   {map[string]string{"OPENSHELL_DISABLE_TLS": ""}, base[1:], "must be true or false"},
		"two drivers":              {nil, []string{"--disable-tls", "--drivers", "a,b", "--compute-driver-socket", "/s"}, "configured drivers: a,b"},
		"socket without driver":    {nil, []string{"--disable-tls", "--compute-driver-socket", "/s"}, "--compute-driver-socket requires --drivers"},
		"empty socket":             {nil, []string{"--disable-tls", "--drivers", "external", "--compute-driver-socket", ""}, "must not be an empty path"},
		"no driver":                {nil, []string{"--disable-tls"}, "no compute driver configured and auto-detection found no suitable"},
		"driver without socket":    {nil, []string{"--disable-tls", "--drivers", "podman"}, "requires socket_path"},
		"one role empty":           {nil, with("--oidc-issuer", "https://i", "--oidc-admin-role", ""), "OIDC RBAC misconfiguration"},
		"empty issuer":             {map[string]string{"OPENSHELL_OIDC_ISSUER": ""}, base, "--oidc-issuer must not be empty"},
		"other database":           {nil, append(base[:5:5], "--db-url", "mysql://x"), "unsupported database URL scheme"},
		"short shared secret":      {nil, with("--allow-shared-sandbox-secret", "--ssh-handshake-secret", "short"), "at least 16"},
		"no secret":                {nil, with("--allow-shared-sandbox-secret"), "at least 16"},
		"open to the network":      {nil, with("--allow-unauthenticated-users", "--bind-address", "0.0.0.0"), "is refused on an address that others can reach"},
		"mTLS users":               {nil, with("--enable-mtls-auth"), "need TLS"},
		"unknown flag":             {nil, with("--no-such-flag"), "unknown flag"},
		"stray word":               {nil, with("word"), "unexpected argument"},
		"address is a name":        {nil, with("--bind-address", "localhost"), "must be an IP address"},
		"missing explicit config":  {nil, with("--config", "/nonexistent/x.toml"), "read the configuration file"},
		"plaintext with client CA": {nil, with("--tls-client-ca", "x"), "mutually exclusive"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := parse(t, tc.env, tc.args...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse = %v, want an error with %q", err, tc.want)
			}
		})
	}
}

func TestFile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ text, want string }{
		"unknown key":   {"[openshell.gateway]\ncolour = 1\n", `unknown key "openshell.gateway.colour"`},
		"database URL":  {"[openshell.gateway]\ndatabase_url = 'x'\n", "is not allowed in the gateway config file"},
		"newer version": {"[openshell]\nversion = 2\n", "unsupported gateway config version"},
		"no TOML":       {"[openshell\n", ":1:"},
		"wrong type":    {"[openshell.gateway.oidc]\nissuer = [1]\n", ":2:1: openshell.gateway.oidc.issuer: must be a string"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "gateway.toml")
			write(t, file, tc.text)
			_, err := parse(t, nil, with("--config", file)...)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("Parse = %v, want an error with %q", err, tc.want)
			}
		})
	}
	file := filepath.Join(t.TempDir(), "gateway.toml")
	write(t, file, "[openshell.drivers.vendor]\nsocket_path = '/run/vendor.sock'\n[openshell.gateway]\nsupervisor_image = 'x'\n")
	c, err := parse(t, nil, "--disable-tls", "--config", file, "--drivers", "Vendor")
	if err != nil {
		t.Fatal(err)
	}
	if c.Drivers.ComputeSocket != "/run/vendor.sock" {
		t.Errorf("socket = %q", c.Drivers.ComputeSocket)
	}
	if !containsLine(c.Warnings, "supervisor_image") {
		t.Errorf("a key without effect is not reported: %q", c.Warnings)
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"flag without effect":  {with("--sandbox-namespace", "x"), "--sandbox-namespace has no effect"},
		"secret without flag":  {with("--ssh-handshake-secret", "0123456789abcdef"), "has no effect without"},
		"shared secret":        {with("--allow-shared-sandbox-secret", "--ssh-handshake-secret", "0123456789abcdef"), "any sandbox that holds it"},
		"unauthenticated":      {with("--allow-unauthenticated-users"), "every caller without a token is an administrator"},
		"no issuer":            {base, "every user call is refused"},
		"missing audience":     {with("--oidc-issuer", "https://i", "--oidc-allow-missing-audience"), "made for other services"},
		"plaintext to others":  {with("--bind-address", "0.0.0.0"), "in clear text"},
		"in-memory database":   {base, "everything is lost"},
		"driver flags of old":  {with("--vm-kernel", "/k", "--docker-network=x"), "--vm-kernel has no effect"},
		"roles switched off":   {with("--oidc-issuer", "https://i", "--oidc-admin-role", "", "--oidc-user-role", ""), "every signed-in user is an administrator"},
		"older alias accepted": {append([]string{"--driver", "external"}, append(base[:1:1], base[3:]...)...), "in memory"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := parse(t, nil, tc.args...)
			if err != nil {
				t.Fatal(err)
			}
			if !containsLine(c.Warnings, tc.want) {
				t.Errorf("warnings %q lack %q", c.Warnings, tc.want)
			}
		})
	}
}

func TestStateLivesBesideTheDatabase(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"sqlite:/data/x.db": "/data", "sqlite:///data/x.db": "/data", "sqlite:/data/x.db?mode=rwc": "/data", "sqlite::memory:": "",
	} {
		c, err := parse(t, nil, append(base[:5:5], "--db-url", url)...)
		if err != nil || c.StateDir != want {
			t.Errorf("%s: state in %q, %v; want %q", url, c.StateDir, err, want)
		}
	}
	pg := append(base[:5:5], "--db-url", "postgres://u@h/d")
	if c, err := parse(t, map[string]string{"XDG_STATE_HOME": "/state"}, pg...); err != nil || c.StateDir != "/state/openshell/gateway" {
		t.Errorf("PostgreSQL: state in %q, %v", c.StateDir, err)
	}
	c, err := parse(t, map[string]string{"SALLYPORT_STATE_DIR": "/elsewhere"}, pg...)
	if err != nil || c.StateDir != "/elsewhere" || c.Audit.Dir != "/elsewhere/audit" || c.Sandbox.KeyDir != "/elsewhere/sandbox-keys" {
		t.Errorf("named: state in %q, %v", c.StateDir, err)
	}
	c, err = parse(t, map[string]string{"XDG_STATE_HOME": "/state"}, base[:5]...)
	if err != nil || c.DatabaseURL != "sqlite:/state/openshell/gateway/openshell.db" {
		t.Errorf("default database %q, %v", c.DatabaseURL, err)
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	if _, err := parse(t, nil, "--help"); !errors.Is(err, config.ErrHelp) {
		t.Errorf("--help: %v", err)
	}
	if u := config.Usage(); !strings.Contains(u, "--compute-driver-socket") || strings.Contains(u, "--sandbox-namespace") {
		t.Errorf("usage must list what works and hide what has no effect:\n%s", u)
	}
}

// FuzzFile reads any file. Every problem names a place that exists and what to do; what is accepted can be shown, and
// what is shown is accepted.
func FuzzFile(f *testing.F) {
	f.Add("[openshell]\nversion = 1\n[openshell.gateway]\nbind_address = '127.0.0.1:1'\ncompute_drivers = ['a']\n")
	f.Add(whole)
	f.Add("openshell = { gateway = { oidc = { issuers = [{ name = 'a' }, 1], role_map = { '' = [] } } } }\n")
	f.Add("[[openshell.gateway.oidc.issuers]]\n[[openshell.gateway.oidc.issuers.required]]\nclaim = '\"a'\n[openshell.gateway.oidc.issuers.role_map]\n\"x.y\" = ['']\n")
	f.Add("[openshell.gateway]\n\"log\\u005Flevel\" = 'info'\n'' = 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		file := filepath.Join(t.TempDir(), "gateway.toml")
		write(t, file, text)
		c, err := parse(t, nil, with("--config", file)...)
		if problems, ok := errors.AsType[config.Problems](err); ok {
			lines := strings.Count(text, "\n") + 1
			for _, p := range problems {
				if p.Cause == "" || p.Remedy == "" || p.Line > lines || p.Line < 0 || (p.Line > 0) != (p.Column > 0) {
					t.Errorf("problem %+v in %q", p, text)
				}
			}
			return
		}
		if err != nil || c == nil {
			t.Fatalf("neither a configuration nor problems: %v", err)
		}
		shown := filepath.Join(t.TempDir(), "shown.toml")
		write(t, shown, c.TOML())
		again, err := parse(t, nil, with("--config", shown)...)
		if err != nil {
			t.Fatalf("what is shown is refused: %v\n%s", err, c.TOML())
		}
		for _, change := range config.Diff(c, again) {
			if change.Key != "config" {
				t.Errorf("what is shown differs: %+v\n%s", change, text)
			}
		}
	})
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func containsLine(lines []string, part string) bool {
	for _, l := range lines {
		if strings.Contains(l, part) {
			return true
		}
	}
	return false
}

// TestDatabasePasswordIsNotShown covers what the command line, the environment and the standard library's reading of URLs
// let through.
func TestDatabasePasswordIsNotShown(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"postgres://u:hunter2@h/d":                           "postgres://u:****@h/d",
		"postgresql://u:hunter2@h1:5432,h2:5433/d?sslmode=a": "postgresql://u:****@h1:5432,h2:5433/d?sslmode=a",
		"postgres://u:hun@ter2/hunter2@h/d":                  "postgres://u:****@h/d",
		"postgres://u:hunter2%zz@h/d":                        "postgres://u:****@h/d",
		"postgres://h/d?user=u&password=hunter2":             "postgres://h/d?user=u&password=****",
		"postgres://h/d?SSLPassword=hunter2&a=b":             "postgres://h/d?SSLPassword=****&a=b",
		"postgres://:hunter2@h/d":                            "postgres://:****@h/d",
		"postgres://u@h:5432/d":                              "postgres://u@h:5432/d",
		"postgres://u@/d?host=/run/postgresql":               "postgres://u@/d?host=/run/postgresql",
	} {
		env := map[string]string{"OPENSHELL_DB_URL": url, "SALLYPORT_STATE_DIR": "/s", "SALLYPORT_DB_LEASE_WAIT_SECS": "7", "SALLYPORT_DB_PASSWORD_FILE": "/p"}
		c, err := parse(t, env, base[:5]...)
		if err != nil {
			t.Fatal(err)
		}
		if c.DatabaseURL != url || c.Database != (config.Database{PasswordFile: "/p", LeaseWait: 7 * time.Second}) {
			t.Errorf("%s: %q, %+v", url, c.DatabaseURL, c.Database)
		}
		shown, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{string(shown), c.TOML(), strings.Join(c.Warnings, "\n")} {
			if strings.Contains(text, "hunter2") {
				t.Errorf("%s: the password is shown", url)
			}
		}
		if !strings.Contains(c.TOML(), want) {
			t.Errorf("%s: want %s in\n%s", url, want, c.TOML())
		}
	}
	c, err := parse(t, map[string]string{"XDG_STATE_HOME": "/s"}, append(base[:5:5], "--db-url", "postgres://u:hunter2@h/d")...)
	if err != nil || !strings.Contains(strings.Join(c.Warnings, " "), "--db-url holds a password") || strings.Contains(strings.Join(c.Warnings, " "), "hunter2") {
		t.Errorf("password on the command line: %q, %v", c.Warnings, err)
	}
	if _, err := parse(t, nil, append(base[:5:5], "--db-url", "mysql://u:hunter2@h/d")...); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("another scheme: %v", err)
	}
}
