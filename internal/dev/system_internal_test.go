package dev

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/devidp"
)

// standInSystem is the configuration of a system whose other processes are stand-ins; it starts in about 0.3 s.
func standInSystem(t *testing.T) (config, *said) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range standIns {
		if err := os.Symlink(self, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	s := newSaid()
	return config{stateDir: filepath.Join(dir, "state"), binaries: bin, getenv: noEnv, say: s.say}, s
}

func TestSystemSurvivesARestartAndLeavesNothing(t *testing.T) {
	t.Parallel()
	conf, s := standInSystem(t)
	sys, err := start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := passwordToken(t.Context(), sys.idp.TokenEndpoint(), devidp.CLIClient, "user@test", "user"); err != nil {
		t.Error(err)
	}
	if _, err := start(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "another `sallyport dev`") {
		t.Errorf("second system on the same state: %v", err)
	}
	if config, err := os.ReadFile(sys.path("oauth2", "credentials.yaml")); err != nil || !strings.Contains(string(config), sys.idp.TokenEndpoint()) {
		t.Errorf("driver's configuration %s, error %v", config, err)
	}
	want, issuer, secret := sys.ports, sys.idp.Issuer(), sys.idp.DemoSecret()
	if err := sys.stop(); err != nil {
		t.Fatal(err)
	}
	if left, err := sys.leftovers("", nil); err != nil || len(left) != 0 {
		t.Errorf("left behind %v, error %v", left, err)
	}

	again, err := start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if again.ports != want || again.idp.Issuer() != issuer || again.idp.DemoSecret() != secret {
		t.Errorf("after a restart: ports %v, issuer %s", again.ports, again.idp.Issuer())
	}
	if err := again.stop(); err != nil {
		t.Fatal(err)
	}
	if len(s.lines) != 0 {
		t.Errorf("said %q", s.lines)
	}
}

func TestKilledProcessIsStartedAgain(t *testing.T) {
	t.Parallel()
	conf, s := standInSystem(t)
	sys, err := start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sys.stop(); err != nil {
			t.Error(err)
		}
	}()
	pids, err := processesWith("--health-port\x00" + argumentOf(sys.ports.Health))
	if err != nil || len(pids) != 1 {
		t.Fatalf("gateway's process: %v, %v", pids, err)
	}
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if line := <-s.ch; !strings.Contains(line, "gateway ended (signal: killed)") {
		t.Errorf("said %q", line)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	waitFor(t, func() bool {
		resp, err := client.Get(sys.readyURL())
		return err == nil && resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}

func TestGatewayThatCannotStartIsExplained(t *testing.T) {
	t.Parallel()
	conf, _ := standInSystem(t)
	gateway := filepath.Join(conf.binaries, "sallyport-gateway")
	if err := os.Remove(gateway); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "make build") {
		t.Errorf("without a gateway: %v", err)
	}
	if err := os.WriteFile(gateway, []byte("#!/bin/sh\necho no such flag >&2\nexit 2\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := start(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "no such flag") {
		t.Errorf("with a broken gateway: %v", err)
	}
}

func TestRegistrationKeepsTheSelectedGateway(t *testing.T) {
	conf, _ := standInSystem(t)
	home := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", home)
	sys, err := start(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := sys.stop(); err != nil {
			t.Error(err)
		}
	}()
	root := profile.At(filepath.Join(home, "openshell"), "")
	if active, err := register(sys); err != nil || active != "dev" {
		t.Fatalf("active %q, error %v", active, err)
	}
	m, err := root.Load("dev")
	if err != nil || m.Endpoint != sys.gatewayURL() || m.OIDCIssuer != sys.idp.Issuer() || m.OIDCClientID != "openshell-cli" || m.IsRemote {
		t.Errorf("registration %+v, error %v", m, err)
	}
	if tls, err := root.LoadMTLS("dev"); err != nil || len(tls.CA) == 0 {
		t.Errorf("authority is missing: %v", err)
	}
	if err := root.Save(profile.Metadata{Name: "other", Endpoint: "https://other.test"}); err != nil {
		t.Fatal(err)
	}
	if err := root.SetActive("other"); err != nil {
		t.Fatal(err)
	}
	if active, err := register(sys); err != nil || active != "other" {
		t.Errorf("active %q, error %v", active, err)
	}
	text := usage(sys, "other")
	for _, want := range []string{"gateway select dev", "curl --cacert " + sys.certs.ca, "grpcurl -cacert", sys.gatewayURL()} {
		if !strings.Contains(text, want) {
			t.Errorf("usage lacks %q:\n%s", want, text)
		}
	}
}
