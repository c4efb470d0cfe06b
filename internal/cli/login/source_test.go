package login_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/cli/internal/idptest"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

// registered is a root with one OIDC gateway whose token expires after ttl.
func registered(t *testing.T, idp *idptest.Provider, ttl time.Duration, refresh string) (profile.Root, profile.Metadata) {
	t.Helper()
	root := profile.At(filepath.Join(t.TempDir(), "openshell"), "")
	m := profile.Metadata{
		Name: "dev", Endpoint: "https://h", AuthMode: profile.AuthOIDC, OIDCIssuer: idp.Issuer(), OIDCClientID: idptest.Client,
	}
	if err := root.Save(m); err != nil {
		t.Fatal(err)
	}
	token := profile.Token{
		AccessToken: "old", RefreshToken: refresh, Issuer: idp.Issuer(), ClientID: "openshell-cli", Expiry: time.Now().Add(ttl),
	}
	if err := root.SaveToken("dev", token); err != nil {
		t.Fatal(err)
	}
	return root, m
}

func source(t *testing.T, root profile.Root, m profile.Metadata, change func(*login.SourceOptions)) *login.Source {
	t.Helper()
	o := login.SourceOptions{Root: root, Metadata: m, Client: client(t)}
	if change != nil {
		change(&o)
	}
	return login.NewSource(o)
}

func TestRenewalBegins30SecondsBeforeExpiry(t *testing.T) {
	t.Parallel()
	expiry := time.Now().Add(time.Hour).Truncate(time.Second)
	for _, tc := range []struct {
		before  time.Duration
		renewed bool
	}{{30*time.Second + time.Nanosecond, false}, {30 * time.Second, true}} {
		idp := idptest.Start(t)
		root, m := registered(t, idp, 0, "")
		if err := root.SaveToken("dev", profile.Token{
			AccessToken: "old", RefreshToken: idp.Grant(), Issuer: idp.Issuer(), ClientID: "c", Expiry: expiry,
		}); err != nil {
			t.Fatal(err)
		}
		s := source(t, root, m, func(o *login.SourceOptions) {
			o.Now = func() time.Time { return expiry.Add(-tc.before) }
		})
		got, err := s.Token(t.Context())
		if err != nil || (got != "old") != tc.renewed {
			t.Errorf("%s before the expiry: %q, %v", tc.before, got, err)
		}
	}
}

func TestRefreshTokens(t *testing.T) {
	t.Parallel()
	for _, keep := range []bool{false, true} {
		idp := idptest.Start(t)
		idp.KeepRefresh = keep
		first := idp.Grant()
		root, m := registered(t, idp, -time.Hour, first)
		got, err := source(t, root, m, nil).Token(t.Context())
		if err != nil || idp.Subject(got) != idptest.User {
			t.Fatalf("Token = %q, %v", got, err)
		}
		stored, err := root.LoadToken(m)
		if err != nil || stored.AccessToken != got || (stored.RefreshToken == first) != keep || stored.RefreshToken == "" {
			t.Errorf("keep %v: stored %q, %v", keep, stored.RefreshToken, err)
		}
		if form := idp.Forms()[0]; form.Get("client_id") != "openshell-cli" || form.Has("client_secret") {
			t.Errorf("form %v", form)
		}
	}
}

func TestRenewalsOfManySourcesUseOneRefreshToken(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	root, m := registered(t, idp, -time.Hour, idp.Grant())
	var wg sync.WaitGroup
	for range 8 {
		s := source(t, root, m, nil)
		wg.Go(func() {
			if got, err := s.Token(t.Context()); err != nil || idp.Subject(got) == "" {
				t.Errorf("Token = %q, %v", got, err)
			}
		})
	}
	wg.Wait()
	if n := len(idp.Forms()); n != 1 {
		t.Errorf("%d renewals, want 1", n)
	}
}

func TestExpiredSessions(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		ttl     time.Duration
		refresh string
		prepare func(*idptest.Provider)
		mint    bool
		secret  string
		kind    fault.Kind
		want    string
	}{
		{name: "no refresh token", ttl: -time.Hour, kind: fault.Unauthenticated},
		{name: "refresh token used up", ttl: -time.Hour, refresh: "gone", kind: fault.Unauthenticated},
		{name: "provider down", ttl: -time.Hour, refresh: "any", prepare: func(p *idptest.Provider) { p.Down = true }, kind: fault.Unavailable},
		{
			name: "provider down, not yet expired", ttl: 20 * time.Second, refresh: "any",
			prepare: func(p *idptest.Provider) { p.Down = true }, want: "old",
		},
		{name: "a machine is signed in again", ttl: -time.Hour, mint: true, secret: idptest.Secret},
		{name: "a machine with a used up token", ttl: -time.Hour, refresh: "gone", mint: true, secret: idptest.Secret},
		{name: "empty secret", ttl: -time.Hour, mint: true, kind: fault.Unauthenticated},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			idp := idptest.Start(t)
			if tc.prepare != nil {
				tc.prepare(idp)
			}
			root, m := registered(t, idp, tc.ttl, tc.refresh)
			got, err := source(t, root, m, func(o *login.SourceOptions) { o.Mint, o.Secret = tc.mint, tc.secret }).Token(t.Context())
			if tc.kind != 0 {
				if !fault.Is(err, tc.kind) || got != "" {
					t.Fatalf("Token = %q, %v", got, err)
				}
				return
			}
			if err != nil || (tc.want != "" && got != tc.want) || (tc.want == "" && idp.Subject(got) == "") {
				t.Fatalf("Token = %q, %v", got, err)
			}
		})
	}
}

func TestMachineWithoutStoredToken(t *testing.T) {
	t.Parallel()
	idp := idptest.Start(t)
	root, m := registered(t, idp, time.Hour, "")
	if err := os.Remove(filepath.Join(root.Path(), "gateways", "dev", "oidc_token.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := source(t, root, m, nil).Token(t.Context()); !fault.Is(err, fault.Unauthenticated) {
		t.Fatalf("without a secret: %v", err)
	}
	s := source(t, root, m, func(o *login.SourceOptions) { o.Mint, o.Secret = true, idptest.Secret })
	if got, err := s.Token(t.Context()); err != nil || idp.Subject(got) == "" {
		t.Fatalf("Token = %q, %v", got, err)
	}
}
