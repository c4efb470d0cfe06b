package docs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/cli"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/oidctest"
)

// documented is the address of the gateway in the page.
const documented = "https://gw.example.org:17670"

// client is the command line client with a home of its own.
type client struct {
	t   *testing.T
	env map[string]string
}

func (c client) run(args ...string) string {
	c.t.Helper()
	var out, notes bytes.Buffer
	code := cli.Run(c.t.Context(), args, cli.Options{
		Version: "test", Stdio: cli.Stdio{In: strings.NewReader(""), Out: &out, Err: &notes},
		Env: func(name string) (string, bool) {
			value, ok := c.env[name]
			return value, ok
		},
	})
	if code != 0 {
		c.t.Errorf("%q ended with %d: %s", args, code, notes.String())
	}
	return out.String()
}

// The lines by which a machine signs in do what the page says.
func TestMachinesSignInAsDocumented(t *testing.T) {
	t.Parallel()
	sections := page(t, "auth.md")
	for title, machine := range map[string]struct {
		id     string
		claims map[string]any
	}{
		"Keycloak": {"openshell-ci", map[string]any{"aud": "openshell-cli", "realm_access": oidctest.Roles("openshell-user")}},
		"Okta":     {"0oa1client", map[string]any{"aud": "api://sallyport", "cid": "0oa1client", "scp": []string{"sandbox:read"}}},
	} {
		t.Run(title, func(t *testing.T) {
			t.Parallel()
			s := named(t, sections, title)
			address, idps := serve(t, s.of("toml")[0])
			idps[config.DefaultIssuer].AddClient(machine.id, oidctest.Client{Secret: "the-secret", Claims: machine.claims})
			blocks := s.of("sh")
			c := client{t: t, env: map[string]string{"XDG_CONFIG_HOME": t.TempDir(), "OPENSHELL_OIDC_CLIENT_SECRET": "the-secret"}}
			ran := 0
			for line := range strings.Lines(placeholders.Replace(strings.ReplaceAll(blocks[len(blocks)-1], "\\\n", " "))) {
				if fields := shellWords(strings.ReplaceAll(line, documented, "http://"+address)); fields[0] == "sallyport" {
					c.run(fields[1:]...)
					ran++
				}
			}
			if ran == 0 {
				t.Error("no line was run")
			}
			if out := c.run("whoami"); !strings.Contains(out, "service-account-"+machine.id) {
				t.Errorf("whoami: %s", out)
			}
		})
	}
}

// The scripts by which a job and a pod hand their token to the client do.
func TestTokensAreHandedOverAsDocumented(t *testing.T) {
	t.Parallel()
	sections := page(t, "auth.md")
	for _, p := range []provider{
		{title: "GitHub Actions", shape: oidctest.GitHubActions(), issuer: "github"},
		{title: "Kubernetes service accounts", shape: oidctest.Kubernetes(), issuer: "cluster"},
	} {
		t.Run(p.title, func(t *testing.T) {
			t.Parallel()
			s := named(t, sections, p.title)
			address, idps := serve(t, s.of("toml")[0])
			blocks := s.of("sh")
			dir := t.TempDir()
			minted := idps[p.issuer].MintAs(p.shape, nil)
			write(t, filepath.Join(dir, "token"), minted, 0o600)
			// The job's surroundings: a provider that answers, and no client to be called for.
			write(t, filepath.Join(dir, "bin", "curl"), "#!/bin/sh\nprintf '{\"value\":\"%s\"}' \"$(cat \"$TOKEN\")\"\n", 0o700)
			write(t, filepath.Join(dir, "bin", "jq"), "#!/bin/sh\nsed 's/.*\"value\":\"\\([^\"]*\\)\".*/\\1/'\n", 0o700)
			write(t, filepath.Join(dir, "bin", "sallyport"), "#!/bin/sh\necho called \"$@\"\n", 0o700)
			script := strings.NewReplacer(documented, "http://"+address, "/var/run/secrets/sallyport/token", filepath.Join(dir, "token")).
				Replace(blocks[len(blocks)-1])
			cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", script)
			cmd.Env = []string{
				"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH"), "HOME=" + dir, "TOKEN=" + filepath.Join(dir, "token"),
				"ACTIONS_ID_TOKEN_REQUEST_TOKEN=request", "ACTIONS_ID_TOKEN_REQUEST_URL=https://provider.test/?a=b",
			}
			out, err := cmd.CombinedOutput()
			if err != nil || !strings.Contains(string(out), "called --gateway ci whoami") {
				t.Fatalf("%v: %s", err, out)
			}
			c := client{t: t, env: map[string]string{"XDG_CONFIG_HOME": filepath.Join(dir, ".config")}}
			subject, _ := p.shape.Claims(time.Now())["sub"].(string)
			if who := c.run("--gateway", "ci", "whoami"); !strings.Contains(who, subject) {
				t.Errorf("whoami: %s", who)
			}
			stored := filepath.Join(dir, ".config", "openshell", "gateways", "ci", "oidc_token.json")
			if info, err := os.Stat(stored); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the token's file: %v, %v", info, err)
			}
		})
	}
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}
