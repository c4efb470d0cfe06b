package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"sallyport.dev/sallyport/internal/devidp"
)

// readyTimeout bounds the start of the whole system.
const readyTimeout = 30 * time.Second

// audience is what tokens for the development gateway must name.
const audience = devidp.CLIClient

// config is what a system needs.
type config struct {
	stateDir string
	// binaries is the directory of the other commands.
	binaries string
	// first are the ports to try when the state has none yet; zero means any free one.
	first  ports
	getenv func(string) string
	// say tells the person at the terminal one line.
	say func(format string, args ...any)
}

// system is a running development system.
type system struct {
	layout
	ports  ports
	certs  certificates
	idp    *devidp.Provider
	say    func(format string, args ...any)
	closes []func() error
}

// start brings everything up and returns when the gateway is ready. On failure all that was started is stopped.
func start(ctx context.Context, conf config) (_ *system, err error) {
	l, err := openLayout(conf.stateDir, conf.getenv)
	if err != nil {
		return nil, err
	}
	s := &system{layout: l, say: conf.say}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	lock, err := l.lock()
	if err != nil {
		return nil, err
	}
	s.closes = append(s.closes, lock.Unlock)
	if s.ports, err = l.loadPorts(conf.first); err != nil {
		return nil, err
	}
	if s.certs, err = ensureCertificates(l.path("tls"), time.Now()); err != nil {
		return nil, err
	}
	if err := s.startIdentity(ctx); err != nil {
		return nil, err
	}
	if err := freePorts(ctx, &s.ports.Gateway, &s.ports.Health, &s.ports.Metrics); err != nil {
		return nil, err
	}
	if err := l.savePorts(s.ports); err != nil {
		return nil, err
	}
	if err := s.writeCredentials(); err != nil {
		return nil, err
	}
	return s, s.startProcesses(ctx, conf.binaries)
}

// startIdentity serves the identity provider in this process.
func (s *system) startIdentity(ctx context.Context) error {
	lis, port, err := listen(ctx, s.ports.Identity)
	if err != nil {
		return err
	}
	s.ports.Identity = port
	log, err := os.OpenFile(s.logFile("identity"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), lis.Close())
	}
	s.idp, err = devidp.New(devidp.Config{
		Issuer:   fmt.Sprintf("http://127.0.0.1:%d/realms/%s", port, devidp.Realm),
		StateDir: s.path("idp"),
		Logger:   slog.New(slog.NewJSONHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		return errors.Join(err, lis.Close(), log.Close())
	}
	serving, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() { done <- s.idp.Serve(serving, lis) }()
	s.closes = append(s.closes, func() error {
		cancel()
		return errors.Join(<-done, log.Close())
	})
	return nil
}

// writeCredentials configures the credentials driver with the one credential of the demo client.
func (s *system) writeCredentials() error {
	secret := s.path("oauth2", "secrets", devidp.DemoClient)
	if err := replaceFile(secret, []byte(s.idp.DemoSecret())); err != nil {
		return err
	}
	return replaceFile(s.path("oauth2", "credentials.yaml"), fmt.Appendf(nil,
		"# Written at each start of `sallyport dev`.\ncredentials:\n  %[1]s:\n    client_id: %[1]s\n"+
			"    client_secret_ref: %[1]s\n    token_endpoint: %[2]s\n", devidp.DemoClient, s.idp.TokenEndpoint()))
}

// commands are the processes in the order in which they are started; they are stopped in the opposite one.
func (s *system) commands(binaries string) []command {
	at := func(name string) string { return filepath.Join(binaries, name) }
	return []command{
		{
			name: "driver-oauth2", path: at("sallyport-driver-oauth2"), log: s.logFile("driver-oauth2"), grace: 5 * time.Second,
			args: []string{
				"--socket", s.credentialsSocket(),
				"--config", s.path("oauth2", "credentials.yaml"),
				"--secrets-dir", s.path("oauth2", "secrets"),
			},
		},
		{
			name: "driver-process", path: at("sallyport-driver-process"), log: s.logFile("driver-process"), grace: 20 * time.Second,
			args: []string{
				"--socket", s.computeSocket(),
				"--state-dir", s.path("process"),
				"--gateway-endpoint", s.gatewayURL(),
				"--gateway-ca", s.certs.ca,
				"--shutdown-sandboxes",
				// The state holds keys and secrets that this user, and so a sandbox of this user, could read.
				"--hide", s.dir,
			},
		},
		{
			name: "gateway", path: at("sallyport-gateway"), log: s.logFile("gateway"), grace: 15 * time.Second,
			args: []string{
				"--bind-address", "127.0.0.1",
				"--port", strconv.Itoa(s.ports.Gateway),
				"--health-port", strconv.Itoa(s.ports.Health),
				"--metrics-port", strconv.Itoa(s.ports.Metrics),
				"--tls-cert", s.certs.cert,
				"--tls-key", s.certs.key,
				"--db-url", "sqlite:" + s.path("gateway", "gateway.db"),
				"--drivers", "external",
				"--compute-driver-socket", s.computeSocket(),
				"--credentials-driver-socket", s.credentialsSocket(),
				"--sandbox-key-dir", s.path("gateway", "sandbox-keys"),
				"--oidc-issuer", s.idp.Issuer(),
				"--oidc-audience", audience,
				"--oidc-scopes-claim", "scope",
			},
		},
	}
}

func (s *system) startProcesses(ctx context.Context, binaries string) error {
	var gateway *child
	for _, cmd := range s.commands(binaries) {
		if _, err := os.Stat(cmd.path); err != nil {
			return fmt.Errorf("find %s: %w: build it with `make build`", cmd.name, err)
		}
		if err := rotateLog(cmd.log); err != nil {
			return err
		}
		gateway = startChild(cmd, s.say)
		s.closes = append(s.closes, func(c *child) func() error {
			return func() error { c.stop(); return nil }
		}(gateway))
	}
	return s.waitReady(ctx, gateway)
}

// waitReady polls the gateway's readiness, which includes both drivers and the database.
func (s *system) waitReady(ctx context.Context, gateway *child) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(25 * time.Millisecond)
	defer tick.Stop()
	last := errors.New("gateway does not answer yet")
	for {
		if last = probe(ctx, client, s.readyURL(), last); last == nil {
			return nil
		}
		if gateway.failed() >= 3 {
			return fmt.Errorf("gateway does not start; the end of %s:\n%s", gateway.log, tail(gateway.log, 10))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for gateway: %w; the end of %s:\n%s", last, gateway.log, tail(gateway.log, 10))
		case <-tick.C:
		}
	}
}

// probe asks once; on a failure of the probe itself the last known reason is kept.
func probe(ctx context.Context, client *http.Client, url string, last error) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return last
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, 4<<10))
	if err != nil {
		return last
	}
	return fmt.Errorf("gateway is not ready: %s", body)
}

func (s *system) gatewayURL() string { return fmt.Sprintf("https://127.0.0.1:%d", s.ports.Gateway) }

func (s *system) readyURL() string { return fmt.Sprintf("http://127.0.0.1:%d/readyz", s.ports.Health) }

func (s *system) metricsURL() string {
	return fmt.Sprintf("http://127.0.0.1:%d/metrics", s.ports.Metrics)
}

// stop ends everything in the opposite order of its start: gateway, compute driver with its sandboxes, credentials
// driver, identity provider. It may be called again.
func (s *system) stop() error {
	var errs []error
	for len(s.closes) > 0 {
		last := s.closes[len(s.closes)-1]
		s.closes = s.closes[:len(s.closes)-1]
		errs = append(errs, last())
	}
	return errors.Join(errs...)
}
