package profile_test

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

func env(vars map[string]string) profile.Env {
	return func(key string) (string, bool) {
		v, ok := vars[key]
		return v, ok
	}
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func layers(t *testing.T) (r profile.Root, user, system string) {
	t.Helper()
	user, system = filepath.Join(t.TempDir(), "openshell"), t.TempDir()
	return profile.At(user, system), user, system
}

func TestDir(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		vars map[string]string
		want string
		fail bool
	}{
		{name: "home", vars: map[string]string{"HOME": "/h"}, want: "/h/.config/openshell"},
		{name: "xdg wins", vars: map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, want: "/x/openshell"},
		{name: "empty xdg", vars: map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": ""}, want: "/h/.config/openshell"},
		{name: "relative xdg", vars: map[string]string{"HOME": "/h", "XDG_CONFIG_HOME": "x"}, fail: true},
		{name: "nothing", fail: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, err := profile.Dir(env(tc.vars))
			if (err != nil) != tc.fail || r.Path() != tc.want {
				t.Errorf("Dir = %q, %v", r.Path(), err)
			}
		})
	}
}

func TestCheckName(t *testing.T) {
	t.Parallel()
	for name, ok := range map[string]bool{
		"dev": true, "my-special-gateway.brevlab.com": true, "ü": true,
		"": false, ".": false, "..": false, "a/b": false, "../x": false, `a\b`: false, "a\x00": false, "a\n": false,
	} {
		if err := profile.CheckName(name); (err == nil) != ok {
			t.Errorf("CheckName(%q) = %v", name, err)
		}
	}
}

func TestModesAndContent(t *testing.T) {
	t.Parallel()
	r, user, _ := layers(t)
	write(t, filepath.Join(user, "gateways", "dev", "metadata.json"), "{}")
	m := profile.Metadata{
		Name: "dev", Endpoint: "https://127.0.0.1:8080", AuthMode: profile.AuthOIDC,
		OIDCIssuer: "http://localhost:1/realms/openshell", OIDCClientID: "openshell-cli",
	}
	expiry := time.Now().Add(5 * time.Minute).Truncate(time.Second)
	token := profile.Token{AccessToken: "a", RefreshToken: "r", Expiry: expiry, Issuer: m.OIDCIssuer, ClientID: "openshell-cli"}
	for _, err := range []error{r.Save(m), r.SetActive("dev"), r.SaveToken("dev", token)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := filepath.WalkDir(user, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	active, err := os.ReadFile(filepath.Join(user, "active_gateway"))
	if err != nil || string(active) != "dev" {
		t.Errorf("active_gateway = %q, %v", active, err)
	}
	keys := map[string]any{}
	for _, f := range []string{"metadata.json", "oidc_token.json"} {
		data, err := os.ReadFile(filepath.Join(user, "gateways", "dev", f))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &keys); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]any{
		"name": "dev", "gateway_endpoint": m.Endpoint, "is_remote": false, "gateway_port": 0.0, "auth_mode": "oidc",
		"oidc_issuer": m.OIDCIssuer, "oidc_client_id": "openshell-cli",
		"access_token": "a", "refresh_token": "r", "expires_at": float64(expiry.Unix()),
		"issuer": m.OIDCIssuer, "client_id": "openshell-cli", "expiry": expiry.UTC().Format(time.RFC3339),
	}
	ignore := cmpopts.IgnoreMapEntries(func(k string, _ any) bool { return k == "expires_in" })
	if diff := cmp.Diff(want, keys, ignore); diff != "" {
		t.Error(diff)
	}
	got, err := r.LoadToken(m)
	if diff := cmp.Diff(token, got); err != nil || diff != "" {
		t.Error(err, diff)
	}
}

func TestTokensOfOtherClients(t *testing.T) {
	t.Parallel()
	m := profile.Metadata{Name: "dev", Endpoint: "https://h", OIDCIssuer: "https://i", OIDCClientID: "c"}
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tc := range []struct {
		name, file string
		want       profile.Token
		fail       bool
	}{
		{
			name: "integer expiry", file: `{"access_token":"a","expires_at":1893553445,"issuer":"https://x","client_id":"y"}`,
			want: profile.Token{AccessToken: "a", Expiry: at, Issuer: "https://x", ClientID: "y"},
		},
		{
			name: "rfc 3339 expiry, no issuer", file: `{"access_token":"a","refresh_token":"r","expiry":"2030-01-02T03:04:05Z","expires_in":300}`,
			want: profile.Token{AccessToken: "a", RefreshToken: "r", Expiry: at, Issuer: "https://i", ClientID: "c"},
		},
		{
			name: "fractional expiry", file: `{"access_token":"a","expires_at":1893553445.9}`,
			want: profile.Token{AccessToken: "a", Expiry: at, Issuer: "https://i", ClientID: "c"},
		},
		{
			name: "no expiry", file: `{"access_token":"a","extra":{"k":1}}`,
			want: profile.Token{AccessToken: "a", Issuer: "https://i", ClientID: "c"},
		},
		{name: "cut off", file: `{"access_token":"a`, fail: true},
		{name: "no token", file: `{}`, fail: true},
		{name: "empty", file: ``, fail: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, user, _ := layers(t)
			write(t, filepath.Join(user, "gateways", "dev", "oidc_token.json"), tc.file)
			got, err := r.LoadToken(m)
			if tc.fail != fault.Is(err, fault.Unauthenticated) {
				t.Fatalf("LoadToken: %v", err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateApproxTime(0)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestMetadataOfOtherClients(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name, file string
		want       profile.Metadata
		kind       fault.Kind
	}{
		{
			name: "unknown keys, no port", file: `{"gateway_endpoint":"https://h","client_lifecycle_managed":true,"x":[1]}`,
			want: profile.Metadata{Name: "dev", Endpoint: "https://h", Source: profile.SourceUser},
		},
		{
			name: "old keys", file: `{"name":"other","gateway_endpoint":"https://h","auth_mode":"cloudflare_jwt","cf_auth_url":"u","cf_team_domain":"t"}`,
			want: profile.Metadata{
				Name: "dev", Endpoint: "https://h", AuthMode: profile.AuthEdge, EdgeAuthURL: "u",
				EdgeTeamDomain: "t", Source: profile.SourceUser,
			},
		},
		{name: "cut off", file: `{"gateway_endpoint":"https:`, kind: fault.FailedPrecondition},
		{name: "no endpoint", file: `{"name":"dev"}`, kind: fault.FailedPrecondition},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			r, user, system := layers(t)
			write(t, filepath.Join(user, "gateways", "dev", "metadata.json"), tc.file)
			// A damaged registration must not move the user to the machine's.
			write(t, filepath.Join(system, "gateways", "dev", "metadata.json"), `{"gateway_endpoint":"https://system"}`)
			got, err := r.Load("dev")
			if err != nil && !fault.Is(err, tc.kind) {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLayers(t *testing.T) {
	t.Parallel()
	r, user, system := layers(t)
	write(t, filepath.Join(system, "gateways", "corp", "metadata.json"), `{"gateway_endpoint":"https://corp","auth_mode":"oidc","oidc_issuer":"https://i"}`)
	write(t, filepath.Join(system, "active_gateway"), " corp\n")
	if active, err := r.Active(); active != "corp" || err != nil {
		t.Errorf("Active = %q, %v", active, err)
	}
	if err := r.SaveLastSandbox("corp", "default", "s"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(user, "gateways")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("remembering a sandbox made a directory that hides the machine's layer: %v", err)
	}
	if err := r.Remove("corp"); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("Remove = %v", err)
	}
	if err := r.SaveToken("corp", profile.Token{AccessToken: "a"}); err != nil {
		t.Fatal(err)
	}
	m, err := r.Load("corp")
	if err != nil || m.Source != profile.SourceUser || m.OIDCIssuer != "https://i" {
		t.Errorf("after signing in: %+v, %v", m, err)
	}
	if _, err := r.Load("absent"); !fault.Is(err, fault.NotFound) {
		t.Errorf("Load(absent) = %v", err)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	r, user, _ := layers(t)
	if err := r.Save(profile.Metadata{Name: "dev", Endpoint: "https://h"}); err != nil {
		t.Fatal(err)
	}
	if err := r.SetActive("dev"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"oidc_token.json", "edge_token", "mtls/tls.key", "last_sandbox"} {
		write(t, filepath.Join(user, "gateways", "dev", f), "secret")
	}
	if err := r.Remove("dev"); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"gateways/dev", "active_gateway"} {
		if _, err := os.Stat(filepath.Join(user, f)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there: %v", f, err)
		}
	}
	if err := r.Remove("dev"); !fault.Is(err, fault.NotFound) {
		t.Errorf("second Remove = %v", err)
	}
}

func TestByEndpoint(t *testing.T) {
	t.Parallel()
	r, _, _ := layers(t)
	for name, endpoint := range map[string]string{"b": "https://h:443/", "a": "https://H", "c": "https://h", "d": "http://h"} {
		if err := r.Save(profile.Metadata{Name: name, Endpoint: endpoint}); err != nil {
			t.Fatal(err)
		}
	}
	find := func(endpoint string) string {
		t.Helper()
		m, _, err := r.ByEndpoint(endpoint)
		if err != nil {
			t.Fatal(err)
		}
		return m.Name
	}
	if got := find("https://h/"); got != "a" {
		t.Errorf("first by name: %q", got)
	}
	if err := r.SetActive("c"); err != nil {
		t.Fatal(err)
	}
	if got := find("https://h"); got != "c" {
		t.Errorf("active first: %q", got)
	}
	if got := find("https://h:8443"); got != "" {
		t.Errorf("another port: %q", got)
	}
}

func TestLastSandbox(t *testing.T) {
	t.Parallel()
	r, user, _ := layers(t)
	if err := r.Save(profile.Metadata{Name: "dev", Endpoint: "https://h"}); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ file, workspace, want string }{
		{"s", "default", "s"},
		{"s", "other", ""},
		{"w\ns", "w", "s"},
		{"w\ns", "default", ""},
		{"a\nb\nc", "a", ""},
		{"", "default", ""},
	} {
		write(t, filepath.Join(user, "gateways", "dev", "last_sandbox"), tc.file)
		if got := r.LastSandbox("dev", tc.workspace); got != tc.want {
			t.Errorf("LastSandbox(%q) of %q = %q, want %q", tc.workspace, tc.file, got, tc.want)
		}
	}
}

func TestLockExcludes(t *testing.T) {
	t.Parallel()
	r, _, _ := layers(t)
	unlock, err := r.Lock(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
	defer cancel()
	if _, err := r.Lock(ctx, "dev"); !fault.Is(err, fault.DeadlineExceeded) {
		t.Fatalf("second Lock = %v", err)
	}
	unlock()
	again, err := r.Lock(t.Context(), "dev")
	if err != nil {
		t.Fatal(err)
	}
	again()
}

func TestSaveCARefusesOtherThings(t *testing.T) {
	t.Parallel()
	r, _, _ := layers(t)
	for _, data := range []string{
		"", "hello", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
		"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
	} {
		if err := r.SaveCA("dev", []byte(data)); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("SaveCA(%q) = %v", data, err)
		}
	}
}
