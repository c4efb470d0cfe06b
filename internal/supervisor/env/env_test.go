package env_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/supervisor/env"
)

const scrubFlag = "scrub-and-show"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == scrubFlag {
		if err := env.Scrub(); err != nil {
			fmt.Println("scrub:", err)
			os.Exit(1)
		}
		raw, err := os.ReadFile("/proc/self/environ")
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Printf("%s\n%s\n", strings.Join(os.Environ(), "\n"), bytes.ReplaceAll(raw, []byte{0}, []byte{'\n'}))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func load(vars map[string]string) (*env.Config, error) {
	all := map[string]string{"OPENSHELL_SANDBOX_ID": "id", "OPENSHELL_ENDPOINT": "https://gateway:8080"}
	for k, v := range vars {
		all[k] = v
	}
	return env.Load(func(name string) string { return all[name] })
}

func TestLoadMainProcess(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		vars map[string]string
		want *env.MainProcess
		fail string
	}{
		"none":      {},
		"words":     {vars: map[string]string{"OPENSHELL_SANDBOX_COMMAND": "sleep infinity"}, want: &env.MainProcess{Command: []string{"sleep", "infinity"}}},
		"json":      {vars: map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": `{"version":1,"command":["a","b c"],"tty":true}`, "OPENSHELL_SANDBOX_COMMAND": "x"}, want: &env.MainProcess{Command: []string{"a", "b c"}, Terminal: true}},
		"base64url": {vars: map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": "base64url:eyJ2ZXJzaW9uIjoxLCJjb21tYW5kIjpbImEiXX0"}, want: &env.MainProcess{Command: []string{"a"}}},
		"version":   {vars: map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": `{"version":2,"command":["a"]}`}, fail: "version 2 is unknown"},
		"empty":     {vars: map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": `{"version":1,"command":[]}`}, fail: "command must have"},
		"no json":   {vars: map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": `sleep`}, fail: "JSON object"},
		"no base64": {vars: map[string]string{"OPENSHELL_MAIN_PROCESS_SPEC": `base64url:%%`}, fail: "base64url"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := load(tc.vars)
			if tc.fail != "" {
				if err == nil || !strings.Contains(err.Error(), tc.fail) {
					t.Errorf("error = %v, want %q", err, tc.fail)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, c.Main); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestLoadReportsAllProblems(t *testing.T) {
	t.Parallel()
	_, err := load(map[string]string{
		"OPENSHELL_SANDBOX_ID": "", "OPENSHELL_ENDPOINT": "gateway:8080", "OPENSHELL_USER_ENVIRONMENT": `{"A":"secret"`,
		"OPENSHELL_LOG_LEVEL": "loud", "OPENSHELL_POLICY_POLL_INTERVAL_SECS": "0", "SALLYPORT_WORKDIR": "/no/such",
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, name := range []string{"SANDBOX_ID", "ENDPOINT", "USER_ENVIRONMENT", "LOG_LEVEL", "POLL_INTERVAL", "WORKDIR"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s is not named in %v", name, err)
		}
	}
	if strings.Contains(err.Error(), "secret") {
		t.Error("a value is shown")
	}
}

func TestLoadDecidesWhetherTheConnectionIsSafe(t *testing.T) {
	t.Parallel()
	for endpoint, want := range map[string]bool{
		"https://gateway": true, "http://127.0.0.1:1": true, "http://localhost:1": true, "http://[::1]:1": true,
		"http://gateway:1": false, "http://10.0.0.1:1": false, "http://localhost.example.com": false,
	} {
		c, err := load(map[string]string{"OPENSHELL_ENDPOINT": endpoint})
		if err != nil || c.Identity.Secure != want {
			t.Errorf("%s: secure %v, %v", endpoint, c.Identity.Secure, err)
		}
	}
}

func TestChildrenDoNotGetTheCredential(t *testing.T) {
	t.Parallel()
	c, err := load(map[string]string{"OPENSHELL_USER_ENVIRONMENT": `{"A":"b","OPENSHELL_SANDBOX_TOKEN":"t","OPENSHELL_SANDBOX_TOKEN_FILE":"f",` +
		`"OPENSHELL_K8S_SA_TOKEN_FILE":"k","OPENSHELL_SSH_HANDSHAKE_SECRET":"s"}`})
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"A": "b"}, c.UserEnvironment); d != "" {
		t.Error(d)
	}
}

func TestScrubHidesSecretsFromOthers(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, scrubFlag)
	cmd.Env = []string{
		"BEFORE=1", "OPENSHELL_SANDBOX_TOKEN=token-value", "OPENSHELL_SSH_HANDSHAKE_SECRET=secret-value",
		"OPENSHELL_USER_ENVIRONMENT={\"A\":\"user-value\"}", "OPENSHELL_ENDPOINT=x", "SALLYPORT_SANDBOX_ID=marker", "AFTER=2",
	}
	raw, err := cmd.CombinedOutput()
	out := string(raw)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, secret := range []string{"token-value", "secret-value", "user-value"} {
		if strings.Contains(out, secret) {
			t.Errorf("%s is visible", secret)
		}
	}
	// Once in the process's own view, once in the kernel's.
	for _, kept := range []string{"BEFORE=1", "AFTER=2", "SALLYPORT_SANDBOX_ID=marker"} {
		if strings.Count(out, kept) != 2 {
			t.Errorf("%s is not kept: %s", kept, out)
		}
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(`{"version":1,"command":["a"]}`, "sleep 1", "https://a", `{"A":"b"}`)
	f.Add("base64url:e30", "", "http://[::1]:80/", "")
	f.Fuzz(func(t *testing.T, spec, words, endpoint, user string) {
		c, err := load(map[string]string{
			"OPENSHELL_MAIN_PROCESS_SPEC": spec, "OPENSHELL_SANDBOX_COMMAND": words, "OPENSHELL_ENDPOINT": endpoint,
			"OPENSHELL_USER_ENVIRONMENT": user,
		})
		if err == nil && c.Main != nil && (len(c.Main.Command) == 0 || c.Main.Command[0] == "") {
			t.Errorf("empty command accepted: %q %q", spec, words)
		}
	})
}
