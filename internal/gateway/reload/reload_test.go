package reload_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/gateway/reload"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway is what Watch works on: real files, and a record of what was applied.
type gateway struct {
	t       *testing.T
	dir     string
	signal  chan os.Signal
	mu      sync.Mutex
	applied []*config.Config
	refuse  error
	log     bytes.Buffer
}

func (g *gateway) path(name string) string { return filepath.Join(g.dir, name) }

func (g *gateway) write(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(g.path(name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// replace writes as careful programs do: a new file, renamed over the old one.
func (g *gateway) replace(name, text string) {
	g.t.Helper()
	g.write(name+".new", text)
	if err := os.Rename(g.path(name+".new"), g.path(name)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) parse() (*config.Config, error) {
	args := []string{"--config", g.path("gateway.toml"), "--compute-driver-socket", "/s", "--drivers", "external", "--db-url", "sqlite:/data/x.db"}
	return config.Parse(args, func(string) (string, bool) { return "", false })
}

func (g *gateway) apply(_, next *config.Config) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.refuse != nil {
		return g.refuse
	}
	g.applied = append(g.applied, next)
	return nil
}

func (g *gateway) times() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.applied)
}

// pass lets time go by until every look is done.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// logged is what the log says; Watch must be waiting.
func (g *gateway) logged() string {
	synctest.Wait()
	return g.log.String()
}

func file(text string) string {
	return "[openshell.gateway]\n" + text + "\n[openshell.gateway.tls]\ncert_path = \"CERT\"\nkey_path = \"KEY\"\n"
}

// run starts Watch on a sound configuration, inside a bubble of fake time.
func run(t *testing.T, test func(*gateway)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		g := &gateway{t: t, dir: t.TempDir(), signal: make(chan os.Signal, 1)}
		g.write("tls.crt", "one")
		g.write("tls.key", "one")
		g.write("gateway.toml", g.text("log_level = 'info'"))
		current, err := g.parse()
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			done <- reload.Watch(ctx, reload.Options{
				Current: current, Parse: g.parse, Apply: g.apply, Signal: g.signal, Logger: slog.New(slog.NewTextHandler(&g.log, nil)),
			})
		}()
		synctest.Wait()
		test(g)
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Watch = %v", err)
		}
	})
}

func (g *gateway) text(settings string) string {
	return strings.NewReplacer("CERT", g.path("tls.crt"), "KEY", g.path("tls.key")).Replace(file(settings))
}

func TestNothingHappensWithoutAChange(t *testing.T) {
	run(t, func(g *gateway) {
		pass(time.Minute)
		if n := g.times(); n != 0 {
			t.Errorf("%d reloads", n)
		}
	})
}

func TestAChangedFileIsReadOnceItIsCalm(t *testing.T) {
	run(t, func(g *gateway) {
		g.write("gateway.toml", g.text("log_level = 'debug'"))
		pass(reload.Interval)
		if n := g.times(); n != 0 {
			t.Errorf("%d reloads before two looks found the same", n)
		}
		pass(reload.Interval)
		if n := g.times(); n != 1 || g.applied[0].LogLevel != "debug" {
			t.Errorf("%d reloads", n)
		}
		pass(time.Minute)
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads of one change", n)
		}
	})
}

func TestRenameAndLink(t *testing.T) {
	run(t, func(g *gateway) {
		g.replace("gateway.toml", g.text("log_level = 'warn'"))
		pass(3 * reload.Interval)
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads after a rename", n)
		}
		// As Kubernetes does: the name is a link, and the link is replaced.
		g.write("second.toml", g.text("log_level = 'error'"))
		if err := os.Symlink("second.toml", g.path("link")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(g.path("link"), g.path("gateway.toml")); err != nil {
			t.Fatal(err)
		}
		pass(3 * reload.Interval)
		if n := g.times(); n != 2 || g.applied[1].LogLevel != "error" {
			t.Errorf("%d reloads after a link", n)
		}
	})
}

func TestACertificateAlone(t *testing.T) {
	run(t, func(g *gateway) {
		g.replace("tls.crt", "second")
		pass(reload.Interval)
		g.replace("tls.key", "second")
		pass(reload.Interval)
		if n := g.times(); n != 0 {
			t.Errorf("%d reloads between certificate and key", n)
		}
		pass(reload.Interval)
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads", n)
		}
		// A file that goes away and comes back is a change, too.
		if err := os.Remove(g.path("tls.key")); err != nil {
			t.Fatal(err)
		}
		pass(3 * reload.Interval)
		g.write("tls.key", "third")
		pass(3 * reload.Interval)
		if n := g.times(); n != 3 {
			t.Errorf("%d reloads", n)
		}
	})
}

func TestNewFilesAreLookedAt(t *testing.T) {
	run(t, func(g *gateway) {
		g.write("other.crt", "one")
		g.write("gateway.toml", strings.Replace(g.text("log_level = 'info'"), "tls.crt", "other.crt", 1))
		pass(3 * reload.Interval)
		g.write("other.crt", "another")
		pass(3 * reload.Interval)
		if n := g.times(); n != 2 {
			t.Errorf("%d reloads, want one for the settings and one for the certificate", n)
		}
	})
}

func TestABrokenFileKeepsTheOldOne(t *testing.T) {
	run(t, func(g *gateway) {
		g.write("gateway.toml", g.text("log_level = 'loud'\ncolour = 1"))
		pass(time.Minute)
		if n := g.times(); n != 0 {
			t.Errorf("%d reloads of a broken file", n)
		}
		log := g.logged()
		if strings.Count(log, "configuration refused") != 2 || !strings.Contains(log, "gateway.toml:2:1: openshell.gateway.log_level") {
			t.Errorf("the log must tell each problem once:\n%s", log)
		}
		g.write("gateway.toml", g.text("log_level = 'debug'"))
		pass(3 * reload.Interval)
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads after it was mended", n)
		}
	})
}

func TestApplyMayRefuse(t *testing.T) {
	run(t, func(g *gateway) {
		g.refuse = errors.New("the key does not match")
		g.write("gateway.toml", g.text("log_level = 'debug'"))
		pass(3 * reload.Interval)
		if log := g.logged(); !strings.Contains(log, "the key does not match") {
			t.Errorf("the log does not say why:\n%s", log)
		}
		g.mu.Lock()
		g.refuse = nil
		g.mu.Unlock()
		g.signal <- syscall.SIGHUP
		pass(0)
		if n := g.times(); n != 1 || g.applied[0].LogLevel != "debug" {
			t.Errorf("%d reloads after the signal", n)
		}
	})
}

func TestSignalReloadsAtOnce(t *testing.T) {
	run(t, func(g *gateway) {
		g.signal <- syscall.SIGHUP
		pass(0)
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads", n)
		}
		pass(time.Minute)
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads in all", n)
		}
	})
}

func TestSettingsThatNeedARestartAreNamed(t *testing.T) {
	run(t, func(g *gateway) {
		g.write("gateway.toml", g.text("bind_address = '127.0.0.1:17999'\nauthorization_mode = 'workspaces'"))
		pass(3 * reload.Interval)
		log := g.logged()
		if !strings.Contains(log, "key=port old=17670 new=17999") || strings.Contains(log, "key=gateway.authorization_mode") {
			t.Errorf("the log must name what waits for a restart, and nothing else:\n%s", log)
		}
	})
}

func TestAChangeBeforeTheFirstLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := &gateway{t: t, dir: t.TempDir()}
		g.write("gateway.toml", g.text("log_level = 'info'"))
		current, err := g.parse()
		if err != nil {
			t.Fatal(err)
		}
		g.write("gateway.toml", g.text("log_level = 'debug'"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- reload.Watch(ctx, reload.Options{Current: current, Parse: g.parse, Apply: g.apply}) }()
		synctest.Wait()
		if n := g.times(); n != 1 {
			t.Errorf("%d reloads", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestOptionsAreNeeded(t *testing.T) {
	if err := reload.Watch(t.Context(), reload.Options{}); err == nil {
		t.Error("Watch without options is accepted")
	}
}
