package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKeys(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	file := write(t, sound)
	// In the order in which an operator would call them; the second form takes the folder from the settings.
	for _, tc := range []struct {
		env  map[string]string
		args []string
		code int
		want string
	}{
		{variables, []string{"list", "--sandbox-key-dir", dir}, 1, "no such file"},
		{variables, []string{"rotate", "--sandbox-key-dir=" + dir}, 0, "2 keys verify"},
		{map[string]string{"HOME": "/nonexistent", "OPENSHELL_DB_URL": "sqlite:/data/x.db", "SALLYPORT_SANDBOX_KEY_DIR": dir}, []string{"rotate", "--config", file}, 0, "3 keys verify"},
		{variables, []string{"list", "--sandbox-key-dir", dir}, 0, "0003.pem"},
		{variables, []string{"retire", "--sandbox-key-dir", dir}, 0, "no key is old enough"},
		{variables, []string{"retire", "--sandbox-key-dir", dir, "--sandbox-token-ttl-secs", "0"}, 1, "never expire"},
		{variables, []string{"rotate", "--sandbox-key-dir", dir, "--gateway-jwt-signing-key", filepath.Join(dir, "0001.pem")}, 1, "then replace the file"},
		{variables, []string{"rotate"}, 2, "--"},
		{variables, []string{"rotate", "--no-such-flag"}, 2, "no-such-flag"},
		{variables, nil, 2, "keys needs one of"},
		{variables, []string{"burn"}, 2, `keys has no command "burn"`},
		{variables, []string{"--help"}, 0, "keys rotate [flags]"},
		{variables, []string{"list", "--help"}, 0, "keys rotate [flags]"},
	} {
		code, out, errs := call(t, tc.env, append([]string{"keys"}, tc.args...)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("keys %q: %d %q %q; want %d with %q", tc.args, code, out, errs, tc.code, tc.want)
		}
		if strings.Contains(out+errs, "PRIVATE") {
			t.Errorf("keys %q shows a key", tc.args)
		}
	}
	_, out, _ := call(t, variables, "keys", "list", "--sandbox-key-dir", dir)
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 4 || strings.Count(out, "yes") != 1 || !strings.Contains(lines[3], "yes") {
		t.Errorf("list:\n%s", out)
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 3 {
		t.Errorf("%v, %v", entries, err)
	}
}
