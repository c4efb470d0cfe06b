package gateway

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
)

// BenchmarkScrape measures what Prometheus costs a gateway with 10,000 sandboxes.
func BenchmarkScrape(b *testing.B) {
	dir := b.TempDir()
	cfg, err := config.Parse([]string{
		"--disable-tls", "--drivers", "external", "--compute-driver-socket", filepath.Join(dir, "c.sock"), "--db-url", "sqlite:" + filepath.Join(dir, "x.db"),
	}, func(k string) (string, bool) { return dir, k == "HOME" })
	if err != nil {
		b.Fatal(err)
	}
	g, err := New(b.Context(), cfg, Options{Version: "bench", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer g.Close()
	for i := range 20 {
		ops := make([]store.Op, 500)
		for n := range ops {
			id := fmt.Sprint("s", i, "-", n)
			ops[n] = store.Create(&store.Object{Kind: sandbox.Kind, ID: id, Name: id, Workspace: "default", Payload: []byte(`{"accepted":true}`)})
		}
		if _, err := g.store.Write(b.Context(), ops...); err != nil {
			b.Fatal(err)
		}
	}
	g.observe()
	handler := g.metrics.handler()
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", http.NoBody))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}

// BenchmarkObserve measures what a call pays for being counted.
func BenchmarkObserve(b *testing.B) {
	m := newMetrics("bench")
	m.know([]string{"/openshell.v1.OpenShell/GetSandbox"})
	b.ReportAllocs()
	for b.Loop() {
		m.Observe("/openshell.v1.OpenShell/GetSandbox", codes.OK, time.Millisecond)
		m.Verified("default", "remembered")
		m.attempted.of(m.attempts, "oidc", "accepted").Inc()
	}
}

func TestEverySeriesOfTheCatalogIsMade(t *testing.T) {
	t.Parallel()
	made := map[string]bool{}
	for _, name := range scraped {
		made[name] = true
	}
	names := map[string]bool{}
	for _, s := range catalog {
		if names[s.name] || s.help == "" || len(s.labels) > 0 && s.values == "" && s.name != "sallyport_build_info" && s.labels[0] != "issuer" {
			t.Errorf("%s: twice, or not explained", s.name)
		}
		names[s.name] = true
		if s.kind == histogram && len(s.buckets) == 0 {
			t.Errorf("%s has no buckets of its own", s.name)
		}
	}
	for name := range made {
		if !names[name] {
			t.Errorf("%s is made and not in the catalog", name)
		}
	}
}
