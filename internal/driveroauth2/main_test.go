package driveroauth2_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/driveroauth2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// provider is an identity provider with switches for everything that can go wrong at one.
type provider struct {
	*httptest.Server
	fetches atomic.Int64

	mu sync.Mutex
	// secret is the one accepted; answer, if set, replaces the usual one.
	secret string
	answer http.HandlerFunc
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{secret: "s3cret"}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := p.fetches.Add(1)
		p.mu.Lock()
		secret, answer := p.secret, p.answer
		p.mu.Unlock()
		if answer != nil {
			answer(w, r)
			return
		}
		if r.PostFormValue("client_secret") != secret || r.PostFormValue("grant_type") != "client_credentials" {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":"invalid_client","error_description":"private words of the provider"}`)
			return
		}
		writeToken(w, fmt.Sprintf("token-%d", n), 300)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) set(secret string, answer http.HandlerFunc) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.secret, p.answer = secret, answer
}

func writeToken(w http.ResponseWriter, value string, life int) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": value, "token_type": "Bearer", "expires_in": life})
}

// files is a configuration with its secrets directory.
type files struct{ config, secrets string }

func writeFiles(t *testing.T, config string) files {
	t.Helper()
	dir := t.TempDir()
	f := files{config: filepath.Join(dir, "credentials.yaml"), secrets: filepath.Join(dir, "secrets")}
	if err := os.Mkdir(f.secrets, 0o700); err != nil {
		t.Fatal(err)
	}
	writeFile(t, f.config, config)
	writeFile(t, filepath.Join(f.secrets, "demo"), "s3cret\n")
	return f
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func configFor(names map[string]string) string {
	out := "credentials:\n"
	for name, endpoint := range names {
		out += fmt.Sprintf("  %s:\n    client_id: c\n    client_secret_ref: demo\n    token_endpoint: %s\n    scopes: [a, b]\n", name, endpoint)
	}
	return out
}

func newDriver(t *testing.T, f files, poll time.Duration) *driveroauth2.Driver {
	t.Helper()
	client := driveroauth2.NewHTTPClient(nil)
	d, err := driveroauth2.New(driveroauth2.Options{
		ConfigPath: f.config, SecretsDir: f.secrets, Client: client, Poll: poll,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); client.CloseIdleConnections() })
	return d
}

func resolve(t *testing.T, d *driveroauth2.Driver, name string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	value, _, _, err := d.Resolve(ctx, name)
	if err != nil {
		t.Fatalf("resolve %s: %v", name, err)
	}
	return value
}
