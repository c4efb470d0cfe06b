package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/gateway/config"
)

// call runs the program's command line with a file and variables of its own.
func call(t *testing.T, env map[string]string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), args, process{
		env:    func(k string) (string, bool) { v, ok := env[k]; return v, ok },
		stdout: &out, stderr: &errs,
	})
	return code, out.String(), errs.String()
}

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gateway.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const sound = `[openshell]
version = 1
[openshell.gateway]
compute_drivers = ["external"]
disable_tls = true
[openshell.gateway.oidc]
issuer = "https://i.test"
[openshell.drivers.external]
socket_path = "/run/x.sock"
`

var variables = map[string]string{"HOME": "/nonexistent", "OPENSHELL_DB_URL": "sqlite:/data/x.db"}

func TestConfigCheck(t *testing.T) {
	t.Parallel()
	file := write(t, sound)
	if code, out, errs := call(t, variables, "config", "check", "--config", file); code != 0 || out != file+": no problems, 0 warnings\n" || errs != "" {
		t.Errorf("sound: %d %q %q", code, out, errs)
	}
	if code, out, _ := call(t, variables, "config", "check", "--config", file, "--bind-address", "0.0.0.0"); code != 0 || !strings.Contains(out, "warning: --disable-tls") || !strings.Contains(out, "1 warnings") {
		t.Errorf("with a warning: %d %q", code, out)
	}
	broken := write(t, sound+"[openshell.gateway.audit]\nkeep_files = 'x'\nmax_byte = 1\n")
	code, out, errs := call(t, variables, "config", "check", "--config", broken)
	want := []string{
		broken + ":11:1: openshell.gateway.audit.keep_files: must be a whole number; write digits without quotes",
		broken + `:12:1: openshell.gateway.audit.max_byte: unknown key "openshell.gateway.audit.max_byte"; did you mean "max_bytes"?`, "",
	}
	if code != 2 || out != strings.Join(want, "\n") || errs != "" {
		t.Errorf("broken: %d\n%s%s", code, out, errs)
	}
	absent := write(t, strings.Replace(sound, "disable_tls = true", "tls = { cert_path = '/nonexistent.crt', key_path = '/nonexistent.key' }", 1))
	if code, out, _ := call(t, variables, "config", "check", "--config", absent); code != 2 || !strings.Contains(out, absent+":5:9: openshell.gateway.tls.cert_path: open /nonexistent.crt") {
		t.Errorf("absent certificate: %d %q", code, out)
	}
	if code, out, _ := call(t, variables, "config", "check", "--no-such-flag"); code != 2 || !strings.Contains(out, "unknown flag") {
		t.Errorf("unknown flag: %d %q", code, out)
	}
}

func TestConfigShow(t *testing.T) {
	t.Parallel()
	file := write(t, sound)
	env := map[string]string{"HOME": "/nonexistent", "OPENSHELL_DB_URL": "sqlite:/data/x.db", "OPENSHELL_SSH_HANDSHAKE_SECRET": "hunter2hunter2hunter2"}
	code, out, errs := call(t, env, "config", "show", "--config", file, "--port", "18000")
	if code != 0 || errs != "" || strings.Contains(out, "hunter2") || !strings.Contains(out, `issuer = "https://i.test"  # `+file+":7") ||
		!strings.Contains(out, `bind_address = "127.0.0.1:18000"  # default, port --port`) || !strings.Contains(out, `# --ssh-handshake-secret = "****"  # OPENSHELL_SSH_HANDSHAKE_SECRET`) {
		t.Errorf("%d %s\n%s", code, errs, out)
	}
	for _, args := range [][]string{{"-o", "json"}, {"--output=json"}} {
		code, out, _ = call(t, env, append([]string{"config", "show", "--config", file}, args...)...)
		var shown struct {
			File     string         `json:"file"`
			Settings []config.Value `json:"settings"`
		}
		if err := json.Unmarshal([]byte(out), &shown); code != 0 || err != nil || shown.File != file || len(shown.Settings) < 50 || strings.Contains(out, "hunter2") {
			t.Errorf("%q: %d %v %s", args, code, err, out)
		}
	}
	for _, args := range [][]string{{"-o"}, {"-o", "yaml"}, {"--drivers", ""}} {
		if code, out, errs := call(t, variables, append([]string{"config", "show"}, args...)...); code != 2 || out != "" || errs == "" {
			t.Errorf("%q: %d %q %q", args, code, out, errs)
		}
	}
}

func TestConfigSchemaAndHelp(t *testing.T) {
	t.Parallel()
	if code, out, _ := call(t, variables, "config", "schema"); code != 0 || out != string(config.Schema()) {
		t.Errorf("schema: %d", code)
	}
	for _, args := range [][]string{{"config", "--help"}, {"config", "check", "--help"}, {"config", "show", "--help"}} {
		if code, out, _ := call(t, variables, args...); code != 0 || !strings.Contains(out, "config check [flags]") {
			t.Errorf("%q: %d %q", args, code, out)
		}
	}
	for _, args := range [][]string{{"config"}, {"config", "verify"}, {"config", "schema", "x"}} {
		if code, _, errs := call(t, variables, args...); code != 2 || errs == "" {
			t.Errorf("%q: %d %q", args, code, errs)
		}
	}
	code, out, _ := call(t, variables, "--help")
	if code != 0 || !strings.Contains(out, "sallyport-gateway config check|show|schema") || !strings.Contains(out, "\nLimits:\n") || strings.Contains(out, "--sandbox-namespace") {
		t.Errorf("--help: %d %s", code, out)
	}
	if code, out, _ := call(t, variables, "--version"); code != 0 || out != "sallyport-gateway dev\n" {
		t.Errorf("--version: %d %q", code, out)
	}
}

func TestServeTellsEveryProblem(t *testing.T) {
	t.Parallel()
	code, out, errs := call(t, variables, "--health-port", "x")
	if code != 2 || out != "" || strings.Count(errs, "sallyport-gateway: ") != 3 {
		t.Errorf("%d %q\n%s", code, out, errs)
	}
	if code, _, errs := call(t, variables, "word"); code != 2 || !strings.Contains(errs, `unexpected argument "word"`) {
		t.Errorf("%d %s", code, errs)
	}
}
