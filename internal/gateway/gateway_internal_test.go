package gateway

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/gateway/config"
)

// BenchmarkNew measures what the gateway does at start beyond the runtime's own work, with an existing database.
func BenchmarkNew(b *testing.B) {
	dir := b.TempDir()
	cfg, err := config.Parse([]string{
		"--disable-tls", "--drivers", "external", "--compute-driver-socket", filepath.Join(dir, "c.sock"),
		"--db-url", "sqlite:" + filepath.Join(dir, "x.db"), "--oidc-issuer", "http://127.0.0.1:1/realms/x",
	}, func(k string) (string, bool) { return dir, k == "HOME" })
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		g, err := New(b.Context(), cfg, Options{Version: "bench", Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			b.Fatal(err)
		}
		g.Close()
	}
}

// TestReadinessTellsOfTheDatabase takes the database away: the gateway lives and says that it is not ready.
func TestReadinessTellsOfTheDatabase(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	cfg, err := config.Parse([]string{
		"--disable-tls", "--drivers", "external", "--compute-driver-socket", filepath.Join(dir, "c.sock"),
		"--db-url", "sqlite:" + filepath.Join(dir, "x.db"),
	}, func(k string) (string, bool) { return dir, k == "HOME" })
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(t.Context(), cfg, Options{Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		g.readiness.handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, http.NoBody))
		return w.Code, w.Body.String()
	}
	g.readiness.probe(t.Context())
	if _, body := get("/readyz"); !strings.Contains(body, `"database":{"status":"healthy"}`) {
		t.Errorf("with a database: %s", body)
	}
	if err := g.store.Close(); err != nil {
		t.Fatal(err)
	}
	g.readiness.probe(t.Context())
	if code, body := get("/readyz"); code != http.StatusServiceUnavailable || !strings.Contains(body, `"database":{"status":"unhealthy","error":"unavailable"}`) {
		t.Errorf("without: %d %s", code, body)
	}
	if code, _ := get("/healthz"); code != http.StatusOK {
		t.Errorf("liveness without a database: %d", code)
	}
}
