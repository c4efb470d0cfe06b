package login_test

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/cli/internal/idptest"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/fault"
)

// onFakeClock signs in on another device, where nothing but the polling takes time.
func onFakeClock(t *testing.T, change func(*idptest.Provider), do func(t *testing.T, p *idptest.Provider, run func(context.Context) error)) {
	t.Helper()
	p := idptest.Start(t)
	change(p)
	synctest.Test(t, func(t *testing.T) {
		var notes bytes.Buffer
		do(t, p, func(ctx context.Context) error {
			d := login.Device{Client: &http.Client{Transport: p.Local()}, Notes: &notes}
			token, err := d.Login(ctx, login.Config{Issuer: p.Issuer(), ClientID: "openshell-cli", Audience: "gw", Scopes: "a"})
			if err == nil && (p.Subject(token.AccessToken) != idptest.User || token.RefreshToken == "" || token.Issuer != p.Issuer()) {
				t.Errorf("token %+v", token)
			}
			if err == nil && (!strings.Contains(notes.String(), "/device?user_code=ABCD-EFGH") || !strings.Contains(notes.String(), "the code ABCD-EFGH")) {
				t.Errorf("notes %q", notes.String())
			}
			return err
		})
	})
}

func TestDeviceLogin(t *testing.T) {
	none := func(*idptest.Provider) {}
	t.Run("pending, slow down, success", func(t *testing.T) {
		polls := func(p *idptest.Provider) {
			p.Devices = []string{"authorization_pending", "slow_down", "authorization_pending", ""}
		}
		onFakeClock(t, polls, func(t *testing.T, p *idptest.Provider, run func(context.Context) error) {
			began := time.Now()
			if err := run(t.Context()); err != nil {
				t.Fatal(err)
			}
			// One second each, and five more after the provider asked for it.
			if took := time.Since(began); took != 14*time.Second {
				t.Errorf("four polls took %s", took)
			}
			sent := p.Authorize()
			if sent.Get("scope") != "openid a" || sent.Get("audience") != "gw" || len(sent.Get("code_challenge")) != 43 {
				t.Errorf("asked with %v", sent)
			}
		})
	})
	for name, tc := range map[string]struct {
		change func(*idptest.Provider)
		reason string
	}{
		"denied":             {func(p *idptest.Provider) { p.Devices = []string{"access_denied"} }, login.ReasonRefused},
		"expired":            {func(p *idptest.Provider) { p.Devices = []string{"expired_token"} }, login.ReasonTimeout},
		"unknown":            {func(p *idptest.Provider) { p.NoDevice = true }, login.ReasonDevice},
		"not for the client": {func(p *idptest.Provider) { p.Refuse = "unauthorized_client" }, login.ReasonDevice},
		"never entered": {func(p *idptest.Provider) {
			for range 100 {
				p.Devices = append(p.Devices, "authorization_pending")
			}
		}, login.ReasonTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			onFakeClock(t, tc.change, func(t *testing.T, _ *idptest.Provider, run func(context.Context) error) {
				if err := run(t.Context()); fault.From(err).Reason != tc.reason || fault.From(err).Next == "" {
					t.Errorf("%v (%s), want reason %s and a next step", err, fault.From(err).Reason, tc.reason)
				}
			})
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		onFakeClock(t, none, func(t *testing.T, _ *idptest.Provider, run func(context.Context) error) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if err := run(ctx); err == nil {
				t.Error("a login that was interrupted succeeded")
			}
		})
	})
}

// The browser comes back to the very port that was asked for, which has to be free.
func TestCallbackPort(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	var lc net.ListenConfig
	taken, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, text, err := net.SplitHostPort(taken.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	cfg := login.Config{Issuer: idp.Issuer(), ClientID: "openshell-cli"}
	_, err = signIn(t, cfg, login.Browser{Port: uint16(port)}, func(string) {})
	if fault.From(err).Reason != login.ReasonListen {
		t.Errorf("a port that is taken: %v", err)
	}
	if err := taken.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := signIn(t, cfg, login.Browser{Port: uint16(port)}, func(address string) { visit(t, http.MethodGet, address) }); err != nil {
		t.Fatal(err)
	}
	if got, want := idp.Authorize().Get("redirect_uri"), "http://127.0.0.1:"+text+"/callback"; got != want {
		t.Errorf("redirect_uri %s, want %s", got, want)
	}
}

func TestTokenFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1000, 0)
	f := &login.File{Path: path, Now: func() time.Time { return now }}
	want := func(token string) {
		t.Helper()
		if got, err := f.Token(t.Context()); err != nil || got != token {
			t.Errorf("Token = %q, %v; want %q", got, err, token)
		}
	}
	if _, err := f.Token(t.Context()); fault.From(err).Reason != login.ReasonTokenFile {
		t.Errorf("no file: %v", err)
	}
	write(" first\n")
	want("first")
	write("second")
	want("first")
	now = now.Add(time.Minute)
	want("second")
	for _, bad := range []string{"", " \n", "two words", "tab\there", "bell\a", "schlüssel", strings.Repeat("x", 17<<10)} {
		write(bad)
		now = now.Add(time.Minute)
		_, err := f.Token(t.Context())
		if fault.From(err).Reason != login.ReasonTokenFile || strings.Contains(err.Error(), "schl") {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	in := &login.File{Path: "-", In: strings.NewReader("piped\n")}
	for range 2 {
		if got, err := in.Token(t.Context()); err != nil || got != "piped" {
			t.Errorf("from standard input: %q, %v", got, err)
		}
	}
	if none := (&login.File{Path: "-"}); none.String() != "-" {
		t.Error("the name is not the path")
	} else if _, err := none.Token(t.Context()); err == nil {
		t.Error("a token from no input")
	}
}
