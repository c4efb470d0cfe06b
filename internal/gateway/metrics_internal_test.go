package gateway

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/tlsfiles"
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

func TestCertificatesAreTold(t *testing.T) {
	t.Parallel()
	end := time.Unix(1_900_000_000, 0)
	got := map[string]float64{}
	s := &scrape{certificates: func() []tlsfiles.Certificate {
		return []tlsfiles.Certificate{{Path: "/tls/tls.crt", NotAfter: end}, {Path: "/tls/ca.crt", NotAfter: end.Add(time.Hour)}}
	}}
	s.operation(func(name string, value float64, labels ...string) {
		if !slices.Contains(scraped, name) {
			t.Errorf("%s is not described", name)
		}
		got[name+" "+labels[0]] = value
	})
	if len(got) != 2 || got["sallyport_certificate_expiry_timestamp_seconds /tls/tls.crt"] != 1_900_000_000 {
		t.Errorf("%v", got)
	}
}

// TestWhatIsPutIsDescribed keeps the names in the code and in scraped together.
func TestWhatIsPutIsDescribed(t *testing.T) {
	t.Parallel()
	source, err := os.ReadFile("scrape.go")
	if err != nil {
		t.Fatal(err)
	}
	put := map[string]bool{}
	for _, m := range regexp.MustCompile(`put\("([a-z_]+)"`).FindAllStringSubmatch(string(source), -1) {
		put[m[1]] = true
		if !slices.Contains(scraped, m[1]) {
			t.Errorf("%s is put and not described", m[1])
		}
	}
	for _, name := range scraped {
		if !put[name] {
			t.Errorf("%s is described and never put", name)
		}
	}
}
