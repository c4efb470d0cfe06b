package driveroauth2_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

func TestParallelResolvesCauseOneFetch(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	d := newDriver(t, writeFiles(t, configFor(map[string]string{"demo": p.URL})), time.Hour)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if got, _, _, err := d.Resolve(t.Context(), "demo"); err != nil || got != "token-1" {
				t.Errorf("token %q, error %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := p.fetches.Load(); n != 1 {
		t.Errorf("provider was asked %d times", n)
	}
}

func TestSlowCredentialDelaysOnlyItself(t *testing.T) {
	t.Parallel()
	fast, slow := newProvider(t), newProvider(t)
	release := make(chan struct{})
	started := make(chan struct{})
	slow.set("", func(w http.ResponseWriter, _ *http.Request) {
		close(started)
		<-release
		writeToken(w, "slow", 300)
	})
	d := newDriver(t, writeFiles(t, configFor(map[string]string{"fast": fast.URL, "slow": slow.URL})), time.Hour)
	got := make(chan string, 1)
	go func() {
		value, _, _, _ := d.Resolve(context.Background(), "slow")
		got <- value
	}()
	<-started
	if v := resolve(t, d, "fast"); v != "token-1" {
		t.Errorf("fast credential: %q", v)
	}
	// A caller that gives up leaves the request to the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, _, err := d.Resolve(ctx, "slow"); err == nil {
		t.Error("a cancelled caller got an answer")
	}
	close(release)
	if v := <-got; v != "slow" {
		t.Errorf("slow credential: %q", v)
	}
}

func TestFailuresNameCredentialAndReasonButNoSecret(t *testing.T) {
	t.Parallel()
	target := newProvider(t)
	t.Cleanup(func() {
		if n := target.fetches.Load(); n != 0 {
			t.Errorf("the redirect was followed %d times", n)
		}
	})
	tests := []struct {
		name   string
		answer http.HandlerFunc
		want   string
	}{
		{"wrong secret", nil, "answered 401 invalid_client"},
		{"redirect", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
		}, "redirect is not followed"},
		{"huge body", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"`+strings.Repeat("a", 1<<20)+`"}`)
		}, "larger than 256 KiB"},
		{"own words", func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, "private words of the provider s3cret")
		}, "answered 500"},
		{"no JSON", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }, "no token response"},
		{"empty token", func(w http.ResponseWriter, _ *http.Request) { writeToken(w, "", 300) }, "no token response"},
		{"line break in token", func(w http.ResponseWriter, _ *http.Request) { writeToken(w, "a\nb", 300) }, "cannot have"},
		{"expired token", func(w http.ResponseWriter, _ *http.Request) { writeToken(w, "a", -5) }, "expired already"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := newProvider(t)
			p.set("another", tt.answer)
			d := newDriver(t, writeFiles(t, configFor(map[string]string{"demo": p.URL})), time.Hour)
			_, _, _, err := d.Resolve(t.Context(), "demo")
			if !fault.Is(err, fault.Unavailable) {
				t.Fatalf("got %v", err)
			}
			text := err.Error()
			if !strings.Contains(text, `failed to resolve credential "demo": `) || !strings.Contains(text, tt.want) {
				t.Errorf("message %q lacks %q", text, tt.want)
			}
			if strings.Contains(text, "private words") || strings.Contains(text, "s3cret") {
				t.Errorf("message %q repeats the provider's words", text)
			}
		})
	}
}

func TestProviderDownAndBack(t *testing.T) {
	t.Parallel()
	down := httptest.NewServer(nil)
	address := down.URL
	down.Close()
	f := writeFiles(t, configFor(map[string]string{"demo": address}))
	d := newDriver(t, f, time.Hour)
	_, _, _, err := d.Resolve(t.Context(), "demo")
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Fatalf("got %v", err)
	}
	up := newProvider(t)
	writeFile(t, f.config, configFor(map[string]string{"demo": up.URL}))
	if err := d.Reload(); err != nil {
		t.Fatal(err)
	}
	resolve(t, d, "demo")
}

func TestNamesAndSecrets(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	f := writeFiles(t, configFor(map[string]string{"demo": p.URL})+
		"  lost:\n    client_id: c\n    client_secret_ref: nowhere\n    token_endpoint: "+p.URL+"\n"+
		"  escapes:\n    client_id: c\n    client_secret_ref: link\n    token_endpoint: "+p.URL+"\n"+
		"  mounted:\n    client_id: c\n    client_secret_ref: inner\n    token_endpoint: "+p.URL+"\n")
	outside := filepath.Join(t.TempDir(), "outside")
	writeFile(t, outside, "s3cret")
	for link, target := range map[string]string{"link": outside, "inner": "demo"} {
		if err := os.Symlink(target, filepath.Join(f.secrets, link)); err != nil {
			t.Fatal(err)
		}
	}
	d := newDriver(t, f, time.Hour)
	tests := []struct {
		name, credential string
		kind             fault.Kind
		want             string
	}{
		{"empty name", "", fault.InvalidArgument, "credential name is required"},
		{"long name", strings.Repeat("a", 254), fault.InvalidArgument, "longer than 253"},
		{"longest name", strings.Repeat("a", 253), fault.NotFound, "not configured"},
		{"unknown", "x", fault.NotFound, `credential "x" not configured`},
		{"missing file", "lost", fault.Internal, `secret not resolved for credential "lost"`},
		{"link that leads outside", "escapes", fault.Internal, "escapes from parent"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, _, _, err := d.Resolve(t.Context(), tt.credential)
			if !fault.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v", err)
			}
		})
	}
	resolve(t, d, "mounted")
}

func TestRotatedSecretAndChangedConfigAreNoticed(t *testing.T) {
	t.Parallel()
	p := newProvider(t)
	f := writeFiles(t, configFor(map[string]string{"demo": p.URL}))
	d := newDriver(t, f, 10*time.Millisecond)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { d.Run(ctx, nil) })
	defer wg.Wait()
	defer cancel()

	if got := resolve(t, d, "demo"); got != "token-1" {
		t.Fatalf("got %q", got)
	}
	p.set("rotated", nil)
	writeFile(t, filepath.Join(f.secrets, "demo"), "  rotated\r\n")
	eventually(t, func() bool { return resolve(t, d, "demo") != "token-1" })

	before := resolve(t, d, "demo")
	writeFile(t, f.config, configFor(map[string]string{"demo": p.URL, "second": p.URL}))
	eventually(t, func() bool { return len(d.List()) == 2 })
	if got := resolve(t, d, "demo"); got != before {
		t.Error("an unchanged credential lost its token in a reload")
	}
	writeFile(t, f.config, "credentials: 5")
	writeFile(t, filepath.Join(f.secrets, "demo"), "rotated")
	if err := d.Reload(); err == nil {
		t.Error("a broken file was accepted")
	}
	if len(d.List()) != 2 {
		t.Error("a broken file replaced the configuration")
	}
}

// eventually polls cond, which observes another goroutine's work, until it holds.
func eventually(t *testing.T, cond func() bool) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-deadline.C:
			t.Fatal("did not happen within 10 s")
		case <-tick.C:
		}
	}
}
