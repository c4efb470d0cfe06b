package config_test

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sallyport.dev/sallyport/internal/gateway/config"
)

func touch(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, path, "x")
}

const whole = `[openshell]
version = 1
[openshell.gateway]
bind_address = "127.0.0.1:17001"
health_bind_address = "127.0.0.1:17002"
compute_drivers = ["external"]
disable_tls = true
authorization_mode = "workspaces"
tenant = "team1"
tenant_claim = '"https://x.test/claims".tenants'
allowed_origins = ["https://a.test", "https://b.test"]
allowed_hosts = ["[::1]:8080", "a.test"]
grpc_rate_limit_requests = 30
grpc_rate_limit_window_seconds = 60
[openshell.gateway.oidc]
issuer = "https://people.test"
audiences = ["a", "b"]
role_map = { "Admins of \"all\"" = ["openshell-admin"] }
[[openshell.gateway.oidc.issuers]]
name = "ci"
issuer = "https://ci.test"
audiences = ["c"]
required = [{ claim = "repository", values = ["x/y", "x/z"] }]
default_roles = ["openshell-user"]
optional = true
[openshell.drivers.external]
socket_path = "/run/x.sock"
`

// TestShownConfigurationIsTheSame reads what config show prints.
func TestShownConfigurationIsTheSame(t *testing.T) {
	t.Parallel()
	rest := []string{"--db-url", "sqlite:/data/x.db", "--compute-driver-socket", "/run/x.sock"}
	for name, args := range map[string][]string{
		"whole":         {},
		"flags":         {"--port", "18000", "--max-connections", "5", "--oidc-audience", "flag"},
		"authenticated": {"--authorization-mode", "authenticated"},
		"roles empty":   {"--authorization-mode", "", "--oidc-admin-role", "", "--oidc-user-role", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if name == "roles empty" {
				args = args[2:]
			}
			file := filepath.Join(t.TempDir(), "gateway.toml")
			text := whole
			if name == "roles empty" {
				text = strings.Replace(text, "authorization_mode", "#", 1)
			}
			write(t, file, text)
			first, err := parse(t, nil, append(append([]string{"--config", file}, args...), rest...)...)
			if err != nil {
				t.Fatal(err)
			}
			shown := filepath.Join(t.TempDir(), "shown.toml")
			write(t, shown, first.TOML())
			second, err := parse(t, nil, append([]string{"--config", shown}, rest...)...)
			if err != nil {
				t.Fatalf("%v\n%s", err, first.TOML())
			}
			same := cmp.Options{
				cmpopts.IgnoreUnexported(config.Config{}), cmpopts.IgnoreFields(config.Config{}, "File", "Warnings"), cmpopts.EquateComparable(netip.AddrPort{}, netip.Addr{}),
				cmpopts.EquateEmpty(),
			}
			if d := cmp.Diff(first, second, same); d != "" {
				t.Errorf("(-first +shown)\n%s\n%s", d, first.TOML())
			}
			if changes := config.Diff(first, first); len(changes) > 0 {
				t.Errorf("a configuration differs from itself: %+v", changes)
			}
		})
	}
}

func TestShownValuesSayWhereTheyCameFrom(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "gateway.toml")
	write(t, file, whole)
	c, err := parse(t, map[string]string{"SALLYPORT_MAX_STREAMS": "7"}, "--config", file, "--port", "1", "--db-url", "sqlite:/data/x.db")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range c.Values() {
		got[v.Key] = v.Layer + " " + v.Origin
	}
	for key, want := range map[string]string{
		"port":                                  "flag --port",
		"gateway.limits.max_streams":            "variable SALLYPORT_MAX_STREAMS",
		"gateway.tenant":                        "file " + file + ":9",
		"gateway.oidc.issuer":                   "file " + file + ":16",
		"gateway.oidc.role_map":                 "file " + file + ":18",
		"gateway.oidc.issuers.ci.issuer":        "file " + file + ":21",
		"gateway.oidc.issuers.ci.jwks_ttl_secs": "default default",
		"gateway.limits.max_connections":        "default default",
		"gateway.audit.dir":                     "derived beside the database",
		"compute-driver-socket":                 "derived openshell.drivers.external.socket_path",
		"health-port":                           "derived from " + file + ":5",
		"gateway.limits.principal_burst":        "derived from " + file + ":13",
	} {
		if got[key] != want {
			t.Errorf("%s is from %q, want %q", key, got[key], want)
		}
	}
}

func TestNoSecretIsShown(t *testing.T) {
	t.Parallel()
	const secret = "correct-horse-battery"
	env := map[string]string{"OPENSHELL_SSH_HANDSHAKE_SECRET": secret}
	shown := func(c *config.Config) string {
		raw, err := c.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var out struct {
			Settings []config.Value `json:"settings"`
			Warnings []string       `json:"warnings"`
		}
		if err := json.Unmarshal(raw, &out); err != nil || len(out.Settings) < 50 || out.Warnings == nil {
			t.Fatalf("JSON: %v, %d settings", err, len(out.Settings))
		}
		return string(raw) + c.TOML() + strings.Join(c.Warnings, "\n")
	}
	with1, err := parse(t, env, with("--allow-shared-sandbox-secret")...)
	if err != nil || with1.Auth.SharedSecret != secret {
		t.Fatal(with1, err)
	}
	if text := shown(with1); strings.Contains(text, secret) || !strings.Contains(text, "****") {
		t.Errorf("the secret is shown, or not masked:\n%s", text)
	}
	with2, err := parse(t, map[string]string{"OPENSHELL_SSH_HANDSHAKE_SECRET": secret + "2"}, with("--allow-shared-sandbox-secret")...)
	if err != nil {
		t.Fatal(err)
	}
	want := []config.Change{{Key: "ssh-handshake-secret", Old: `"****"`, New: `"****"`}}
	if d := cmp.Diff(want, config.Diff(with1, with2)); d != "" {
		t.Errorf("changes (-want +got)\n%s", d)
	}
	// A problem with a secret, or with a URL that has a password, does not tell it.
	_, err = parse(t, nil, with("--allow-shared-sandbox-secret", "--ssh-handshake-secret", "short-secret", "--oidc-issuer", "https://u:"+secret+"@i.test")...)
	if err == nil || strings.Contains(err.Error(), secret) || strings.Contains(err.Error(), "short-secret") {
		t.Errorf("problems: %v", err)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	read := func(text string, args ...string) *config.Config {
		file := filepath.Join(t.TempDir(), "gateway.toml")
		write(t, file, text)
		c, err := parse(t, map[string]string{"HOME": "/home/x"}, append([]string{"--db-url", "sqlite:/data/x.db", "--config", file}, args...)...)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	changed := strings.NewReplacer(
		`"x/y", "x/z"`, `"x/y"`, "optional = true\n", "", ":17001", ":17003", `"workspaces"`, `"roles"`, `issuer = "https://people.test"`, `issuer = "https://new.test"`,
	).Replace(whole) + "[[openshell.gateway.oidc.issuers]]\nname = 'third'\nissuer = 'https://third.test'\naudiences = ['d']\n"
	got := map[string]config.Change{}
	for _, c := range config.Diff(read(whole), read(changed)) {
		got[c.Key] = c
	}
	bound := `{ claim = "\"https://x.test/claims\".tenants", values = ["team1"] }]`
	for _, want := range []config.Change{
		{Key: "port", Old: "17001", New: "17003"},
		{Key: "gateway.authorization_mode", Old: `"workspaces"`, New: `"roles"`, Reloadable: true},
		{Key: "gateway.oidc.issuer", Old: `"https://people.test"`, New: `"https://new.test"`, Reloadable: true},
		{Key: "gateway.oidc.issuers.ci.optional", Old: "true", New: "false", Reloadable: true},
		{
			Key: "gateway.oidc.issuers.ci.required", Old: `[{ claim = "repository", values = ["x/y", "x/z"] }, ` + bound,
			New: `[{ claim = "repository", values = ["x/y"] }, ` + bound, Reloadable: true,
		},
		{Key: "gateway.oidc.issuers.third.issuer", New: `"https://third.test"`, Reloadable: true},
	} {
		if d := cmp.Diff(want, got[want.Key]); d != "" {
			t.Errorf("%s (-want +got)\n%s", want.Key, d)
		}
		delete(got, want.Key)
	}
	for key, c := range got {
		if !strings.HasPrefix(key, "gateway.oidc.issuers.third.") && key != "config" {
			t.Errorf("unexpected change %+v", c)
		}
	}
}
