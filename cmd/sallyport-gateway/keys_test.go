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

func TestCredentialKeys(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	key := filepath.Join(dir, "credential.key")
	if err := os.WriteFile(key, []byte(strings.Repeat("k", 32)), 0o600); err != nil {
		t.Fatal(err)
	}
	mounted := filepath.Join(dir, "mounted")
	if err := os.Symlink(key, mounted); err != nil {
		t.Fatal(err)
	}
	inVariable := map[string]string{"HOME": "/nonexistent", "OPENSHELL_GATEWAY_CREDENTIAL_KEY_ENCRYPTION_KEY": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}
	file := write(t, sound)
	// In the order in which an operator would call them.
	for _, tc := range []struct {
		env  map[string]string
		args []string
		code int
		want string
	}{
		{variables, []string{"list-credential-keys", "--db-url", "sqlite:" + dir + "/x.db"}, 0, "yes       " + key},
		{variables, []string{"rotate-credential-key", "--state-dir", dir}, 0, "1 older ones decrypt"},
		{variables, []string{"rotate-credential-key", "--credential-key-file=" + key}, 0, "2 older ones decrypt"},
		{variables, []string{"list-credential-keys", "--credential-key-file", key}, 0, "no        " + key},
		{variables, []string{"rotate-credential-key", "--credential-key-file", mounted}, 1, "kept by somebody else"},
		{variables, []string{"rotate-credential-key", "--state-dir", t.TempDir()}, 1, "makes the first key when it starts"},
		{inVariable, []string{"list-credential-keys", "--db-url", "sqlite:/x/y.db"}, 0, "variable"},
		{inVariable, []string{"rotate-credential-key", "--config", file, "--db-url", "sqlite:/x/y.db"}, 1, "the keys are in a variable"},
		{variables, []string{"rotate-credential-key"}, 2, "--"},
		{variables, []string{"list-credential-keys", "--config", file, "--db-url", "sqlite::memory:"}, 1, "in memory"},
		{variables, []string{"list-credential-keys", "--help"}, 0, "keys rotate-credential-key [flags]"},
	} {
		code, out, errs := call(t, tc.env, append([]string{"keys"}, tc.args...)...)
		if code != tc.code || !strings.Contains(out+errs, tc.want) {
			t.Errorf("keys %q: %d %q %q; want %d with %q", tc.args, code, out, errs, tc.code, tc.want)
		}
		if strings.Contains(out+errs, "kkkk") || strings.Contains(out+errs, "AQEBAQ") {
			t.Errorf("keys %q shows a key", tc.args)
		}
	}
	data, err := os.ReadFile(key)
	if err != nil || strings.Count(string(data), "\n") != 6 || !strings.Contains(string(data), " encrypts\n") {
		t.Errorf("%q, %v", data, err)
	}
	if info, err := os.Stat(key); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}
