//go:build linux

package keycloak_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"sallyport.dev/sallyport/internal/cli"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/test/keycloak"
)

// terminal is where somebody runs the command line client, with a configuration of its own.
type terminal struct {
	t     *testing.T
	realm realm
	env   map[string]string
}

func newTerminal(t *testing.T, r realm) *terminal {
	t.Helper()
	return &terminal{t: t, realm: r, env: map[string]string{
		"XDG_CONFIG_HOME": t.TempDir(), "OPENSHELL_SYSTEM_GATEWAY_DIR": "/nonexistent", "OPENSHELL_NO_BROWSER": "1",
	}}
}

func (m *terminal) lookup(key string) (string, bool) {
	v, ok := m.env[key]
	return v, ok
}

// run runs one command line. Once the client shows a page of the provider, user, unless empty, signs in there.
func (m *terminal) run(user string, args ...string) (code int, out, errOut string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), patience)
	defer cancel()
	read, write := io.Pipe()
	var stdout, stderr bytes.Buffer
	var reading sync.WaitGroup
	reading.Go(func() {
		shown := false
		for lines := bufio.NewScanner(io.TeeReader(read, &stderr)); lines.Scan(); {
			if page := strings.TrimSpace(lines.Text()); strings.HasPrefix(page, m.realm.Issuer()) && !shown && user != "" {
				shown = true
				if err := m.realm.FillIn(ctx, page, user); err != nil {
					m.t.Errorf("the login page: %v", err)
					cancel()
				}
			}
		}
	})
	code = cli.Run(ctx, args, cli.Options{
		Version: "test", Stdio: cli.Stdio{In: strings.NewReader(""), Out: &stdout, Err: write}, Env: m.lookup,
	})
	write.Close()
	reading.Wait()
	return code, stdout.String(), stderr.String()
}

// must runs a command line that has to succeed.
func (m *terminal) must(user string, args ...string) string {
	m.t.Helper()
	code, out, errOut := m.run(user, args...)
	if code != 0 {
		m.t.Fatalf("sallyport %s: exit code %d\n%s", strings.Join(args, " "), code, errOut)
	}
	return out
}

// stored is the token of the gateway that was added.
func (m *terminal) stored(name string) profile.Token {
	m.t.Helper()
	root, err := profile.Dir(m.lookup)
	if err != nil {
		m.t.Fatal(err)
	}
	meta, err := root.Load(name)
	if err != nil {
		m.t.Fatal(err)
	}
	token, err := root.LoadToken(meta)
	if err != nil {
		m.t.Fatal(err)
	}
	return token
}

// TestBrowserLogin signs a person in with code and PKCE, and uses the gateway as that person.
func TestBrowserLogin(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	m := newTerminal(t, r)
	m.must("admin@test", "gateway", "add", "http://"+d.address, "--name", "kc", "--oidc-issuer", "auto", "--oidc-scopes", "openshell:all")
	if out := m.must("", "whoami"); !strings.Contains(out, "admin@test") {
		t.Errorf("whoami printed %s", out)
	}
	m.must("", "sandbox", "list")
	m.must("", "gateway", "logout", "kc")
	if code, _, errOut := m.run("", "sandbox", "list"); code == 0 {
		t.Errorf("a call after the logout succeeded: %s", errOut)
	}
	m.must("user@test", "gateway", "login", "kc")
	if out := m.must("", "whoami"); !strings.Contains(out, "user@test") {
		t.Errorf("whoami printed %s", out)
	}
	code, _, errOut := m.run("", "provider", "create", "--name", "p", "--type", "generic", "--credential", "K=v")
	if code == 0 || !strings.Contains(errOut, "openshell-admin") {
		t.Errorf("a user makes a provider: exit code %d, %s", code, errOut)
	}
}

// TestBrowserLoginOverTLS is the same where the gateway shows a certificate of its own authority.
func TestBrowserLoginOverTLS(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := openTLS(t, r)
	m := newTerminal(t, r)
	m.must("user@test", "gateway", "add", "https://"+d.address, "--name", "kc", "--ca", d.tls.ca, "--oidc-issuer", "auto", "--oidc-scopes", "openshell:all")
	m.must("", "sandbox", "list")
}

// TestRenewal has the client renew tokens that live for five seconds, until the session is ended.
func TestRenewal(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	m := newTerminal(t, r)
	m.must("user-b@test", "gateway", "add", "http://"+d.address, "--name", "kc", "--oidc-issuer", "auto",
		"--oidc-client-id", "openshell-cli-short", "--oidc-scopes", "openshell:all")
	first := m.stored("kc")
	m.must("", "sandbox", "list")
	second := m.stored("kc")
	if second.AccessToken == first.AccessToken || second.RefreshToken == "" {
		t.Error("a token that is about to expire was not renewed")
	}
	sid, _ := part(t, second.AccessToken, 1)["sid"].(string)
	r.admin(t, http.MethodDelete, "/"+r.Name+"/sessions/"+sid, nil, nil)
	eventually(t, "the ended session noticed", func() error {
		code, _, errOut := m.run("", "sandbox", "list")
		if code == 0 {
			return errors.New("it still serves") // An access token that has not expired does, by its nature.
		}
		if !strings.Contains(errOut, "gateway login") {
			t.Errorf("what to do is not said: %s", errOut)
		}
		return nil
	})
}

// TestMachineLogin signs a program in, with a secret and without a browser.
func TestMachineLogin(t *testing.T) {
	t.Parallel()
	r := sharedRealm(t)
	d := open(t, r)
	m := newTerminal(t, r)
	m.env["OPENSHELL_OIDC_CLIENT_SECRET"] = keycloak.MachineSecret
	m.must("", "gateway", "add", "http://"+d.address, "--name", "kc", "--oidc-issuer", "auto", "--oidc-client-id", "openshell-ci")
	m.must("", "sandbox", "list")
	if out := m.must("", "whoami"); !strings.Contains(out, "service-account-openshell-ci") {
		t.Errorf("whoami printed %s", out)
	}
	m = newTerminal(t, r)
	m.env["OPENSHELL_OIDC_CLIENT_SECRET"] = "wrong"
	if code, _, errOut := m.run("", "gateway", "add", "http://"+d.address, "--name", "kc", "--oidc-issuer", "auto", "--oidc-client-id", "openshell-ci"); code == 0 {
		t.Errorf("a wrong secret signs in: %s", errOut)
	}
}
