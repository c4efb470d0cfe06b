package gateway

import (
	"log/slog"
	"path/filepath"
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
