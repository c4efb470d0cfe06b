package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// good has a value for each setting that its kind does not tell.
var good = map[string]string{
	"bind-address": "127.0.0.2", "tls-external-server-names": "a.test,*.b.test", "oidc-issuer": "https://i.test", "oidc-discovery-url": "https://i.test/d",
	"oidc-algorithms": "RS256,EdDSA", "allowed-origins": "https://a.test,http://localhost:1", "allowed-hosts": "a.test,b.test:443,[::1]:1", "public-addresses": "192.0.2.1,::1",
	"kubernetes-api-url": "https://k.test", "audit-otlp-endpoint": "https://o.test/v1/logs", "otlp-endpoint": "http://o.test:4317", "db-url": "sqlite:/x/y.db", "drivers": "external",
	"health-bind-address": "127.0.0.1:8081", "metrics-bind-address": "[::1]:8082", "port": "18000", "ssh-handshake-secret": "0123456789abcdef",
	"credential-key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "credential-key-env": "KEY_OF_TESTS",
	"service-url": "https://apps.test:8443", "server-san": "gw.test,10.0.0.1,*.apps.test",
}

// bad has values that a setting's kind allows and the setting does not.
var bad = map[string][]string{
	"bind-address":              {"localhost", "", "1.2.3"},
	"tls-external-server-names": {"a b", "*.*.c", "-.", strings.Repeat("a", 64)},
	"oidc-issuer":               {"i.test", "ftp://i.test", "https://u@i.test", "https://i.test#f"},
	"oidc-discovery-url":        {"/d"},
	"oidc-algorithms":           {"HS256", "none", "RS256,none"},
	"oidc-roles-claim":          {`"a`, `a.""`},
	"oidc-scopes-claim":         {`"a`},
	"oidc-username-claim":       {`"a".`},
	"oidc-admin-role":           {"\x01"},
	"oidc-user-role":            {"\x7f"},
	"tenant-claim":              {`"`},
	"mtls-default-roles":        {strings.Repeat("r", 257)},
	"allowed-origins":           {"a.test", "https://a.test/", "https://a.test/x", "null", "*"},
	"service-url":               {"apps.test", "https://apps.test/", "https://*.apps.test", "https://127.0.0.1", "https://[::1]", "https://a..b", "https://apps.test:x", "https://-a.test", "https://a_b.test"},
	"server-san":                {"*.", "*.a_b", "*.a..b", "*.*.c"},
	"allowed-hosts":             {"*", "a b", "https://a.test", "u@a.test", "a.test/x"},
	"kubernetes-api-url":        {"k.test", "http://k.test"},
	"audit-otlp-endpoint":       {"o.test:4318"},
	"otlp-endpoint":             {"o.test:4317"},
	"health-bind-address":       {"8081", "localhost:8081"},
	"metrics-bind-address":      {"127.0.0.1"},
	"db-url":                    {"mysql://x"},
	"drivers":                   {"a/b", "a,b"},
	"compute-driver-socket":     {""},
	"credentials-driver-socket": {""},
	"gateway-id":                {""},
	"oidc-audience":             {""},
	"kubernetes-audience":       {""},
	"credential-key":            {"AQEB", "no base64", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=,AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="},
	"credential-key-env":        {"NO_SUCH_VARIABLE"},
}

// values returns what is allowed, and what is just past the limit, as a flag would have it.
func (s setting) values() (allowed, refused []string) {
	refused = bad[s.name]
	if v := good[s.name]; v != "" {
		return []string{v}, refused
	}
	switch s.kind {
	case number:
		least, most := s.bounds()
		return []string{fmt.Sprint(least), fmt.Sprint(most)}, append(refused, fmt.Sprint(least-1), fmt.Sprint(most+1), "x", "1.5", "")
	case boolean:
		return []string{"true", "false"}, append(refused, "1", "yes", "TRUE", "")
	case choice:
		return append(slices.Clone(s.choices), strings.ToUpper(s.choices[0])), append(refused, "nonsense")
	case list:
		return []string{"one", "one,two"}, append(refused, strings.Repeat("a,", maxList)+"a")
	case address:
		return []string{"127.0.0.1:1"}, refused
	default:
		return []string{"value"}, refused
	}
}

// start is a set of variables with which a gateway starts, whichever setting is tried on it.
func start(s setting) map[string]string {
	env := map[string]string{
		"KEY_OF_TESTS": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "OPENSHELL_DISABLE_TLS": "true", "OPENSHELL_DRIVERS": "external", "OPENSHELL_COMPUTE_DRIVER_SOCKET": "/s", "OPENSHELL_DB_URL": "sqlite:/x/y.db",
		"OPENSHELL_OIDC_ISSUER": "https://default.test", "SALLYPORT_TENANT": "t", "SALLYPORT_TENANT_CLAIM": "c", "SALLYPORT_KUBERNETES_ENABLED": "true",
		"SALLYPORT_KUBERNETES_NAMESPACES": "n", "KUBERNETES_SERVICE_HOST": "10.0.0.1", "OPENSHELL_SSH_HANDSHAKE_SECRET": "0123456789abcdef",
		"OPENSHELL_GRPC_RATE_LIMIT_REQUESTS": "1", "OPENSHELL_GRPC_RATE_LIMIT_WINDOW_SECONDS": "1", "SALLYPORT_GATEWAY_JWT_SIGNING_KEY": "/k",
		"HOME": "/nonexistent",
	}
	switch {
	case s.topic == topicTLS || s.name == "enable-mtls-auth":
		for k, v := range map[string]string{
			"TLS_CERT": "/c", "TLS_KEY": "/k", "TLS_CLIENT_CA": "/a", "DISABLE_TLS": "false",
		} {
			env["OPENSHELL_"+k] = v
		}
		env["SALLYPORT_TLS_EXTERNAL_CERT"], env["SALLYPORT_TLS_EXTERNAL_KEY"], env["SALLYPORT_TLS_EXTERNAL_SERVER_NAMES"] = "/c", "/k", "a.test"
	case strings.HasPrefix(s.name, "principal-"):
		delete(env, "OPENSHELL_GRPC_RATE_LIMIT_REQUESTS")
		delete(env, "OPENSHELL_GRPC_RATE_LIMIT_WINDOW_SECONDS")
	}
	if s.name == "disable-tls" {
		delete(env, "OPENSHELL_TLS_CLIENT_CA")
		delete(env, "SALLYPORT_TLS_REQUIRE_CLIENT_AUTH")
	}
	delete(env, s.env)
	return env
}

func lookup(env map[string]string) func(string) (string, bool) {
	return func(k string) (string, bool) {
		v, ok := env[k]
		return v, ok
	}
}

// about are the problems with a key.
func about(problems Problems, key string) []string {
	var out []string
	for _, p := range problems {
		if p.Key == key {
			out = append(out, p.Error())
		}
		if p.Cause == "" || p.Remedy == "" {
			out = append(out, "without cause or remedy: "+p.Error())
		}
	}
	return out
}

// TestEverySetting tries each setting in each of its three places, within its limits and past them.
func TestEverySetting(t *testing.T) {
	t.Parallel()
	for _, s := range settings {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			allowed, refused := s.values()
			try := func(value string, wrong bool) {
				if s.hasFlag() && (s.kind != boolean || !wrong) && s.name != "config" { // pflag refuses wrong booleans itself.
					c, problems, err := Check([]string{"--" + s.name + "=" + value}, lookup(start(s)))
					report(t, s, "--"+s.name, value, LayerFlag, wrong, c, problems, err)
				}
				if s.env != "" && s.name != "config" && s.name != "local-tls-dir" {
					env := start(s)
					env[s.env] = value
					c, problems, err := Check(nil, lookup(env))
					report(t, s, s.env, value, LayerVariable, wrong, c, problems, err)
				}
				if s.file != "" && s.name != "bind-address" {
					env := start(s)
					env["OPENSHELL_GATEWAY_CONFIG"] = writeFile(t, s.file, asTOML(s, value))
					c, problems, err := Check(nil, lookup(env))
					report(t, s, "openshell."+s.file, value, LayerFile, wrong, c, problems, err)
				}
			}
			for _, value := range allowed {
				try(value, false)
			}
			for _, value := range refused {
				try(value, true)
			}
		})
	}
}

func report(t *testing.T, s setting, key, value, layer string, wrong bool, c *Config, problems Problems, err error) {
	t.Helper()
	found := about(problems, key)
	switch {
	case err != nil:
		t.Errorf("%s = %q: %v", key, value, err)
	case wrong && len(found) == 0:
		t.Errorf("%s = %q is not refused: %v", key, value, problems)
	case !wrong && len(problems) > 0:
		t.Errorf("%s = %q: %v", key, value, problems)
	case !wrong && !s.unused && !slices.ContainsFunc(c.entries, func(e inForce) bool { return (e.Key == s.file || e.Key == s.name) && e.Layer == layer }):
		t.Errorf("%s = %q is not shown as in force from a %s", key, value, layer)
	case !wrong && s.unused && !slices.ContainsFunc(c.Warnings, func(w string) bool { return strings.Contains(w, "has no effect") }):
		t.Errorf("%s = %q has no effect and nobody says so", key, value)
	}
	for _, p := range problems {
		if p.Key == key && layer == LayerFile && (p.File == "" || p.Line != 2 || p.Column != 1) {
			t.Errorf("%s: the problem is said to be at %s:%d:%d, want line 2", key, p.File, p.Line, p.Column)
		}
	}
}

func writeFile(t *testing.T, key, value string) string {
	t.Helper()
	table, field := cutLast(key)
	path := filepath.Join(t.TempDir(), "gateway.toml")
	if err := os.WriteFile(path, fmt.Appendf(nil, "[openshell.%s]\n%s = %s\n", table, field, value), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// asTOML writes a value as the file should have it; one of the wrong form becomes a string.
func asTOML(s setting, value string) string {
	switch s.kind {
	case number:
		if strings.Trim(value, "-0123456789.") == "" && value != "" {
			return value
		}
	case boolean:
		if value == "true" || value == "false" {
			return value
		}
	case list:
		return literal(splitList(value))
	}
	return quoted(value)
}

// TestEveryKind gives each key of the file a value of another kind.
func TestEveryKind(t *testing.T) {
	t.Parallel()
	for _, s := range settings {
		if s.file == "" {
			continue
		}
		for _, value := range []string{"{ a = 1 }", "[1]", "1.5", "1979-05-27"} {
			env := start(s)
			env["OPENSHELL_GATEWAY_CONFIG"] = writeFile(t, s.file, value)
			_, problems, err := Check(nil, lookup(env))
			if err != nil || len(about(problems, "openshell."+s.file)) == 0 {
				t.Errorf("%s = %s: %v, %v; want a problem", s.file, value, problems, err)
			}
		}
	}
}

func TestTableIsWhole(t *testing.T) {
	t.Parallel()
	names, envs, files := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, s := range settings {
		for _, seen := range []struct {
			word string
			in   map[string]bool
		}{{s.name, names}, {s.env, envs}, {s.file, files}} {
			if seen.word != "" && seen.in[seen.word] {
				t.Errorf("%q is there twice", seen.word)
			}
			seen.in[seen.word] = true
		}
		if s.usage == "" || (s.unused != (s.topic == topicUnused)) {
			t.Errorf("%s: no usage, or the wrong topic", s.name)
		}
		if strings.HasPrefix(s.env, "SALLYPORT_") && s.file == "" {
			t.Errorf("%s has no key in the file", s.name)
		}
		if s.preset != "" {
			if cause, _ := s.check(s.preset); cause != "" {
				t.Errorf("%s: its own default %q: %s", s.name, s.preset, cause)
			}
		}
	}
	for name := range referenceNotes {
		if !names[name] {
			t.Errorf("a note on %q, which is no setting", name)
		}
	}
	for _, f := range issuerFields {
		if f.like != "" && !names[f.like] {
			t.Errorf("%s is like %q, which is no setting", f.key, f.like)
		}
		if (f.like != "" || f.key == "name") != f.alone {
			t.Errorf("%s: a key that is a setting belongs to the list alone, the others to both", f.key)
		}
	}
	// What the code asks for by name exists.
	sources, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, source := range sources {
		if strings.HasSuffix(source, "_test.go") {
			continue
		}
		text, err := os.ReadFile(source)
		if err != nil {
			t.Fatal(err)
		}
		for _, call := range []string{"v.text(\"", "v.flag(\"", "v.number(\"", "v.list(\"", "v.set(\"", "v.fail(\"", "v.derive(\"", "v.said(\""} {
			for _, rest := range strings.Split(string(text), call)[1:] {
				if name, _, _ := strings.Cut(rest, `"`); !names[name] {
					t.Errorf("%s: %s%s\": no such setting", source, call, name)
				}
			}
		}
	}
}

// TestEveryIssuerField tries each key of a listed issuer.
func TestEveryIssuerField(t *testing.T) {
	t.Parallel()
	wrong := map[fieldKind][]string{
		fieldText: {"1", `""`}, fieldNumber: {`"1"`, "1", "604801"}, fieldFlag: {`"true"`, "1"}, fieldList: {`"a"`, "[1]", `[""]`},
		fieldClaims: {`"a"`, "[1]", `[{ claim = "a" }]`, `[{ claim = "a", values = [] }]`, `[{ claim = "a", values = ["b"], more = 1 }]`, `[{ claim = '"', values = ["b"] }]`},
		fieldMap:    {`"a"`, `{ a = "b" }`, `{ a = [] }`, `{ "" = ["b"] }`},
	}
	right := map[string]string{
		"name": `"n.1"`, "issuer": `"https://x.test"`, "audiences": `["a", "b"]`, "algorithms": `["ES256"]`, "discovery_url": `"https://d.test"`, "ca_path": `"/ca"`,
		"jwks_ttl_secs": "10", "roles_claim": `"groups"`, "scopes_claim": `"scp"`, "username_claim": `"email"`, "required": `[{ claim = "a", values = ["b", "c"] }]`,
		"role_map": `{ "x y" = ["z"] }`, "strict_roles": "false", "default_roles": `["r"]`, "tenant": `"t"`, "allow_missing_audience": "true",
		"accept_id_tokens": "true", "optional": "true",
	}
	for _, f := range issuerFields {
		if right[f.key] == "" {
			t.Errorf("%s: no value to try", f.key)
		}
		bad := slices.Clone(wrong[f.kind])
		if f.key == "discovery_url" || f.key == "ca_path" || strings.HasSuffix(f.key, "_claim") {
			bad = []string{"1", "[]"} // Empty means the default.
		}
		if strings.HasSuffix(f.key, "_claim") {
			bad = append(bad, `'"'`)
		}
		for n, value := range append([]string{right[f.key]}, bad...) {
			fields := map[string]string{"name": `"n"`, "issuer": `"https://i.test"`, "audiences": `["a"]`}
			fields[f.key] = value
			var text strings.Builder
			text.WriteString("[[openshell.gateway.oidc.issuers]]\n" + f.key + " = " + value + "\n")
			delete(fields, f.key)
			for _, k := range sortedKeys(fields) {
				text.WriteString(k + " = " + fields[k] + "\n")
			}
			path := filepath.Join(t.TempDir(), "gateway.toml")
			if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
				t.Fatal(err)
			}
			env := start(setting{})
			env["OPENSHELL_GATEWAY_CONFIG"] = path
			_, problems, err := Check(nil, lookup(env))
			if err != nil || (len(problems) > 0) != (n > 0) {
				t.Errorf("%s = %s: %v, %v", f.key, value, problems, err)
			}
			for _, p := range problems {
				if !strings.HasPrefix(p.Key, issuersPath+"[0]."+f.key) || p.Line != 2 || p.Remedy == "" {
					t.Errorf("%s = %s: the problem is not where it should be: %v", f.key, value, p)
				}
			}
		}
	}
}

// TestPrecedenceOfEverySetting takes the lower layers away one by one.
func TestPrecedenceOfEverySetting(t *testing.T) {
	t.Parallel()
	for _, s := range settings {
		if !s.hasFlag() || s.file == "" || s.unused || s.name == "config" || s.name == "bind-address" {
			continue
		}
		allowed, _ := s.values()
		env := start(s)
		env["OPENSHELL_GATEWAY_CONFIG"] = writeFile(t, s.file, asTOML(s, allowed[0]))
		layer := func(args ...string) string {
			c, problems, err := Check(args, lookup(env))
			if err != nil || len(problems) > 0 {
				t.Fatalf("%s: %v %v", s.name, problems, err)
			}
			for _, e := range c.entries {
				if e.Key == s.file {
					return e.Layer
				}
			}
			return "nowhere"
		}
		below := layer()
		env[s.env] = allowed[len(allowed)-1]
		middle := layer()
		above := layer("--" + s.name + "=" + allowed[0])
		if below != LayerFile || middle != LayerVariable || above != LayerFlag {
			t.Errorf("%s comes from %s, then %s, then %s", s.name, below, middle, above)
		}
	}
}
