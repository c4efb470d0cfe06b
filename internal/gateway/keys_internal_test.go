package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/keyring"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func plainKey(b byte) []byte { return bytes.Repeat([]byte{b}, keyring.KeySize) }

func TestLoadKeys(t *testing.T) {
	t.Parallel()
	text := func(keys ...byte) string {
		ring := keyring.Ring{}
		for _, k := range keys {
			ring = append(ring, plainKey(k))
		}
		return string(ring.Format())
	}
	for name, tc := range map[string]struct {
		// state is the content of the file in the state directory, file that of the named file.
		state, file *string
		value       string
		want        []byte
		fails       string
	}{
		"state directory, plain":    {state: new(string(plainKey(1))), want: []byte{1}},
		"state directory, text":     {state: new(text(2, 1)), want: []byte{2, 1}},
		"variable":                  {value: text(3, 4), want: []byte{3, 4}},
		"variable after a file":     {value: text(3), state: new(string(plainKey(1))), want: []byte{3, 1}},
		"named file, plain":         {file: new(string(plainKey(5))), want: []byte{5}},
		"named file and the same":   {file: new(text(1)), state: new(string(plainKey(1))), want: []byte{1}},
		"named file is missing":     {value: "", file: nil, fails: "no such file"},
		"named file is short":       {file: new("short"), fails: "must hold 32 bytes, or keys of that length in base64"},
		"named file is empty":       {file: new(""), fails: "no key"},
		"named file is huge":        {file: new(strings.Repeat("#\n", 40_000)), fails: "larger than"},
		"state directory is broken": {state: new("short"), fails: "restore it from the backup of this database"},
		"broken beside a variable":  {state: new("short"), value: text(3), fails: "restore it"},
	} {
		cfg := &config.Config{StateDir: t.TempDir()}
		if tc.state != nil {
			put(t, filepath.Join(cfg.StateDir, credentialKeyFile), *tc.state)
		}
		cfg.CredentialKey.Value = tc.value
		if tc.file != nil || strings.HasPrefix(name, "named file") {
			cfg.CredentialKey.File = filepath.Join(t.TempDir(), "keys")
			if tc.file != nil {
				put(t, cfg.CredentialKey.File, *tc.file)
			}
		}
		ring, err := loadKeys(cfg)
		if tc.fails != "" {
			if err == nil || !strings.Contains(err.Error(), tc.fails) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		want := keyring.Ring{}
		for _, k := range tc.want {
			want = append(want, plainKey(k))
		}
		if err != nil || fmt.Sprint(ring) != fmt.Sprint(want) {
			t.Errorf("%s: %d keys, %v", name, len(ring), err)
		}
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestLoadKeysMakesOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	load := func(dir string) ([]byte, error) {
		ring, err := loadKeys(&config.Config{StateDir: dir})
		if err != nil {
			return nil, err
		}
		return ring[0], nil
	}
	first, err := load(dir)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, credentialKeyFile))
	if err != nil || info.Mode() != 0o600 || info.Size() != keyring.KeySize {
		t.Errorf("%v, %v", info, err)
	}
	if second, err := load(dir); err != nil || !bytes.Equal(first, second) {
		t.Errorf("another key at the second start: %v", err)
	}
	a, err := load("")
	b, err2 := load("")
	if err := errors.Join(err, err2); err != nil || bytes.Equal(a, b) {
		t.Errorf("in memory: %v", err)
	}
	// A key that comes from elsewhere makes no file.
	cfg := &config.Config{StateDir: t.TempDir()}
	cfg.CredentialKey.Value = string(keyring.Ring{plainKey(9)}.Format())
	if _, err := loadKeys(cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cfg.StateDir, credentialKeyFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
	if path := CredentialKeyPath(cfg); path != "" {
		t.Errorf("path %q", path)
	}
}

type anybody struct{}

func (anybody) Workspace(*principal.Principal, string, authz.Role) error { return nil }
func (anybody) PlatformAdmin(*principal.Principal) error                 { return nil }

func TestReseal(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))
	resolver := credential.NewResolver(credential.Options{Logger: logger})
	defer resolver.Close()
	open := func(keys keyring.Ring) *Gateway {
		p, err := provider.New(provider.Options{
			Store: st, Resolver: resolver, Key: keys[0], OldKeys: keys[1:], Logger: logger, Access: anybody{},
			InUse: func(string, string) []string { return nil }, Use: func(_ string, write func() error) error { return write() },
		})
		if err != nil {
			t.Fatal(err)
		}
		return &Gateway{providers: p, log: logger}
	}
	old := keyring.Ring{plainKey(1)}
	g := open(old)
	if _, err := g.providers.Create(t.Context(), provider.Provider{Name: "p", Type: "t", Credentials: map[string]string{"A": "secret-value"}}); err != nil {
		t.Fatal(err)
	}
	g.reseal(t.Context())
	if strings.Contains(log.String(), "needed no more") {
		t.Error("one key was changed")
	}
	both := keyring.Ring{plainKey(2), plainKey(1)}
	open(both).reseal(t.Context())
	if !strings.Contains(log.String(), "changed_providers=1") || strings.Contains(log.String(), "secret-value") {
		t.Errorf("log:\n%s", log.String())
	}
	open(keyring.Ring{plainKey(2)})
}
