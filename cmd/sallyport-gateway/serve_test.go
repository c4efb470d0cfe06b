package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// journal is a log that can be waited on.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
	grew chan struct{}
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	select {
	case j.grew <- struct{}{}:
	default:
	}
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}

// await returns when the log has the text.
func (j *journal) await(t *testing.T, text string) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for !strings.Contains(j.String(), text) {
		select {
		case <-j.grew:
		case <-limit:
			t.Fatalf("the log never says %q:\n%s", text, j)
		}
	}
}

func TestServeReloads(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "gateway.toml")
	settings := strings.Replace(sound, "[openshell.gateway]", "[openshell.gateway]\nbind_address = '127.0.0.1:0'\nshutdown_grace_secs = 1", 1)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put(settings)
	log, hangup := &journal{grew: make(chan struct{}, 1)}, make(chan os.Signal, 1)
	env := map[string]string{"HOME": dir, "OPENSHELL_DB_URL": "sqlite:" + filepath.Join(dir, "state", "x.db")}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, []string{"--config", file}, process{
			env: func(k string) (string, bool) { v, ok := env[k]; return v, ok }, stdout: &bytes.Buffer{}, stderr: log, hangup: hangup,
		})
	}()
	log.await(t, "gateway serving")

	put(strings.Replace(settings, "https://i.test", "no URL", 1))
	hangup <- syscall.SIGHUP
	log.await(t, "configuration refused")
	if !strings.Contains(log.String(), file+":9:1: openshell.gateway.oidc.issuer") {
		t.Errorf("the log does not say where:\n%s", log)
	}

	put(strings.Replace(settings, "https://i.test", "https://other.test", 1) + "[openshell.gateway.limits]\nmax_streams = 9\n")
	hangup <- syscall.SIGHUP
	log.await(t, "configuration reloaded")
	log.await(t, `"key":"gateway.limits.max_streams"`)

	cancel()
	if code := <-done; code != 0 {
		t.Errorf("exit status %d:\n%s", code, log)
	}
}
