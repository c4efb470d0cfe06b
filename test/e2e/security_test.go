//go:build linux

package e2e_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/devidp"
)

func TestSecurity(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.createProvider(t, "secretive", cachedCredential)
	const literal = "literal-canary-5d1f0c"
	_, err := s.admin.CreateProvider(t.Context(), &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: "literal"}, Type: "generic", Credentials: map[string]string{"LITERAL": literal},
	}})
	if err != nil {
		t.Fatal(err)
	}
	id := s.createReady(t, "guarded", "secretive", "literal")
	value := s.waitCredential(t, id)
	if got := s.sh(t, id, `printf %s "$LITERAL"`); got != literal {
		t.Errorf("literal credential arrived as %q", got)
	}
	t.Run("callers", func(t *testing.T) { s.testCallers(t, id) })
	t.Run("inside", func(t *testing.T) { s.testInside(t, id) })
	// Another start reads everything again, and so has another chance to log it.
	s.gateway.kill(t)
	s.gateway.restart(t)
	s.waitReady()
	s.waitPhase(t, id, "READY")
	s.waitCredential(t, id)
	if _, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{
		SandboxId: id, Command: []string{"echo", "command-canary-77aa"}, Environment: map[string]string{"X": "variable-canary-77aa"}, Stdin: []byte("input-canary-77aa"),
	}); err != nil {
		t.Error(err)
	}
	identity := s.sandboxTokens(t)
	// What is no secret must be found, or the search proves nothing.
	if hits := s.filesWith(t, "secretive", "gateway"); len(hits) == 0 {
		t.Error("a provider's name is not found in the database's files")
	}
	if hits := s.filesWith(t, "gateway serving", "log"); len(hits) == 0 {
		t.Error("the gateway's start is not found in its log")
	}
	s.searchFiles(t, map[string]string{
		"the driver credential's value": value, "its signature": value[strings.LastIndex(value, ".")+1:],
		"the client's secret": s.idp.DemoSecret(), "a provider's value": literal, "a user's token": s.user.token, "an administrator's token": s.admin.token,
	}, "process", "gateway", "log", "run")
	s.searchFiles(t, identity, "gateway", "log")
	s.searchFiles(t, map[string]string{"a command line": "command-canary-77aa", "a variable": "variable-canary-77aa", "an input": "input-canary-77aa"}, "gateway", "log", "process")
	s.remove(t, id, "guarded")
}

func (s *system) testCallers(t *testing.T, id string) {
	calls := map[string]func(*client) error{
		"list": func(c *client) error {
			_, err := c.ListSandboxes(t.Context(), &openshellpb.ListSandboxesRequest{})
			return err
		},
		"create": func(c *client) error {
			_, err := c.CreateSandbox(t.Context(), &openshellpb.CreateSandboxRequest{Spec: &openshellpb.SandboxSpec{}})
			return err
		},
		"exec": func(c *client) error {
			stream, err := c.ExecSandbox(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"logs": func(c *client) error {
			_, err := c.GetSandboxLogs(t.Context(), &openshellpb.GetSandboxLogsRequest{SandboxId: id})
			return err
		},
	}
	signature := strings.LastIndex(s.user.token, ".") + 1
	callers := map[string]*client{
		"nobody":              s.dial(""),
		"another tenant":      s.connect(devidp.TenantBClient, "user@tenant-b", "user"),
		"a forger":            s.dial(s.user.token[:signature] + strings.Repeat("A", len(s.user.token)-signature)),
		"an unsigned token":   s.dial("eyJhbGciOiJub25lIn0." + strings.Split(s.user.token, ".")[1] + "."),
		"a provider's token":  s.dial(s.sh(t, id, `printf %s "$`+credentialKey+`"`)),
		"a word that is none": s.dial("token"),
	}
	for who, c := range callers {
		for what, call := range calls {
			if err := call(c); status.Code(err) != codes.Unauthenticated {
				t.Errorf("%s may %s: %v", who, what, err)
			}
		}
	}
	_, err := s.user.CreateProvider(t.Context(), &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: "mine"}, Type: "generic", Credentials: map[string]string{"A": "b"},
	}})
	wantFault(t, err, codes.PermissionDenied)
	if msg := status.Convert(err).Message(); !strings.Contains(msg, devidp.RoleAdmin) {
		t.Errorf("refusal %q does not name the missing role", msg)
	}
	// What belongs to sandboxes is closed to people, administrators included.
	for who, c := range map[string]*client{"user": s.user, "admin": s.admin} {
		_, err := c.GetSandboxProviderEnvironment(t.Context(), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
		if status.Code(err) != codes.PermissionDenied {
			t.Errorf("%s may read a sandbox's provider environment: %v", who, err)
		}
	}
	resp, err := s.admin.GetProvider(t.Context(), &openshellpb.GetProviderRequest{Name: "literal"})
	if err != nil || strings.Contains(resp.String(), "canary") {
		t.Errorf("a provider's value is shown: %v, error %v", resp, err)
	}
	// A sandbox's identity opens its own things only, and nothing of people.
	other := s.createReady(t, "other")
	for _, token := range s.sandboxTokens(t) {
		c := s.dial(token)
		_, one := c.GetSandboxProviderEnvironment(t.Context(), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
		_, two := c.GetSandboxProviderEnvironment(t.Context(), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: other})
		if (one == nil) == (two == nil) {
			t.Errorf("a sandbox's identity must open exactly one sandbox: %v, %v", one, two)
		}
		if _, err := c.ListSandboxes(t.Context(), &openshellpb.ListSandboxesRequest{}); status.Code(err) != codes.PermissionDenied {
			t.Errorf("a sandbox may list sandboxes: %v", err)
		}
	}
	s.remove(t, other, "other")
}

// testInside looks for secrets where a command in the sandbox could find them.
func (s *system) testInside(t *testing.T, id string) {
	environment := s.sh(t, id, "env; cat /proc/1/environ 2>/dev/null | tr '\\0' '\\n' || :")
	for what, token := range s.sandboxTokens(t) {
		if strings.Contains(environment, token) {
			t.Errorf("%s is in a command's environment", what)
		}
	}
	for _, path := range []string{s.path("secrets", devidp.DemoClient), s.path("run", "p.sock")} {
		r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"test", "-e", path}})
		if err != nil {
			t.Error(err)
		}
		// Without mounts of its own a sandbox is only as separate as its status says.
		if r.code == 0 && s.hasMounts(t, id) {
			t.Errorf("the sandbox sees %s", path)
		}
	}
}

// hasMounts tells whether the sandbox has a mount namespace of its own.
func (s *system) hasMounts(t *testing.T, id string) bool {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(s.sh(t, id, "readlink /proc/self/ns/mnt")) != own
}

// sandboxTokens reads the credentials with which the sandboxes identify themselves from the driver's files.
func (s *system) sandboxTokens(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	walk(t, s.path("process"), func(path string, content []byte) {
		if token := strings.TrimSpace(string(content)); strings.HasPrefix(token, "ey") && strings.Count(token, ".") == 2 {
			out["the identity of "+filepath.Base(filepath.Dir(path))] = token
		}
	})
	if len(out) == 0 {
		t.Fatal("no sandbox's credential found")
	}
	return out
}

// searchFiles fails the test for every file below the folders that has one of the secrets in it.
func (s *system) searchFiles(t *testing.T, secrets map[string]string, folders ...string) {
	t.Helper()
	for what, secret := range secrets {
		if secret == "" {
			t.Fatalf("%s is empty", what)
		}
		for _, path := range s.filesWith(t, secret, folders...) {
			t.Errorf("%s is in %s", what, path)
		}
	}
}

// filesWith lists the files below the folders that have the text in them.
func (s *system) filesWith(t *testing.T, text string, folders ...string) []string {
	t.Helper()
	var out []string
	for _, folder := range folders {
		walk(t, s.path(folder), func(path string, content []byte) {
			if bytes.Contains(content, []byte(text)) {
				out = append(out, strings.TrimPrefix(path, s.dir))
			}
		})
	}
	return out
}

func walk(t *testing.T, root string, visit func(path string, content []byte)) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err == nil {
			visit(path, content)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
