package authn_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// users accepts one token and counts what it is asked.
type users struct{ asked int }

var alice = &principal.Principal{Kind: principal.User, Subject: "alice", Issuer: "idp", Provider: principal.ProviderOIDC}

func (u *users) Verify(_ context.Context, token string) (*principal.Principal, error) {
	u.asked++
	if token == "alices.to.ken" {
		return alice, nil
	}
	return nil, fault.New(fault.Unauthenticated, "TOKEN_MALFORMED", "invalid token: malformed")
}

const (
	secret   = "the shared secret"
	getBox   = "/openshell.v1.OpenShell/GetSandbox"
	update   = "/openshell.v1.OpenShell/UpdateConfig"
	pushLogs = "/openshell.v1.OpenShell/PushSandboxLogs"
	connect  = "/openshell.v1.OpenShell/ConnectSupervisor"
	relay    = "/openshell.v1.OpenShell/RelayStream"
)

// request fills in what the door knows of the method.
func request(method string, r authn.Request) *authn.Request {
	r.Method = method
	r.SandboxOnly = method == pushLogs || method == connect || method == relay
	r.AdmitsSandbox = r.SandboxOnly || method == update
	return &r
}

func bearer(token string) []string { return []string{"Bearer " + token} }

func issuer(t *testing.T) (tokens *sandboxtoken.Issuer, token string) {
	t.Helper()
	tokens, err := sandboxtoken.Open("", "gw", time.Hour, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err = tokens.Mint("box-1")
	if err != nil {
		t.Fatal(err)
	}
	return tokens, token
}

func TestChain(t *testing.T) {
	t.Parallel()
	tokens, token := issuer(t)
	foreign, foreignToken := issuer(t)
	_ = foreign
	tampered := token[:len(token)-8] + "AAAAAAAA"
	box := &principal.Principal{Kind: principal.Sandbox, SandboxID: "box-1", Source: principal.SourceToken}
	anyBox := &principal.Principal{Kind: principal.Sandbox, Source: principal.SourceSharedSecret}
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "carol", OrganizationalUnit: []string{"r1", "r2"}}, Issuer: pkix.Name{CommonName: "ca"}}
	carol := &principal.Principal{
		Kind: principal.User, Subject: "carol", DisplayName: "carol", Issuer: "CN=ca",
		Provider: principal.ProviderMTLS, Roles: []string{"r1", "r2"},
	}
	dev := &principal.Principal{
		Kind: principal.User, Subject: "unauthenticated-local-dev", DisplayName: "unauthenticated-local-dev",
		Issuer: "local_dev", Provider: principal.ProviderLocalDev, Roles: []string{"openshell-admin"},
	}
	all := authn.Config{
		SandboxTokens: tokens, AcceptSharedSecret: true, SharedSecret: secret, Users: &users{},
		Certificates: &authn.Certificates{Roles: []string{"r1", "r2"}}, Development: &authn.Development{Roles: []string{"openshell-admin"}},
	}
	strict := authn.Config{SandboxTokens: tokens, Users: &users{}}
	withSecret := authn.Config{SandboxTokens: tokens, Users: &users{}, AcceptSharedSecret: true, SharedSecret: secret}
	noUsers := authn.Config{SandboxTokens: tokens, Development: all.Development, Certificates: all.Certificates}
	for _, tc := range []struct {
		name   string
		config authn.Config
		method string
		r      authn.Request
		want   *principal.Principal
		text   string
	}{
		{"sandbox token", strict, pushLogs, authn.Request{Authorization: bearer(token)}, box, ""},
		{"sandbox token on a user method is still a sandbox", all, getBox, authn.Request{Authorization: bearer(token)}, box, ""},
		{"sandbox token of another gateway", strict, pushLogs, authn.Request{Authorization: bearer(foreignToken)}, nil, "invalid token"},
		{"tampered sandbox token", all, getBox, authn.Request{Authorization: bearer(tampered)}, nil, "InvalidSignature"},
		{"sandbox token before the secret", all, pushLogs, authn.Request{Authorization: bearer(token), SandboxSecret: []string{secret}}, box, ""},
		{"user", strict, getBox, authn.Request{Authorization: bearer("alices.to.ken")}, alice, ""},
		{"unknown token does not become a certificate's user", all, getBox, authn.Request{Authorization: bearer("x.y.z"), PeerCertificate: cert}, nil, "invalid token"},
		{"unknown token does not become the development user", noUsers, getBox, authn.Request{Authorization: bearer("x.y.z")}, nil, "invalid token"},
		{"malformed header does not become the development user", all, getBox, authn.Request{Authorization: []string{"Basic eDp5"}}, nil, "missing authorization header"},
		{"certificate", all, getBox, authn.Request{PeerCertificate: cert}, carol, ""},
		{"certificate where none are accepted", strict, getBox, authn.Request{PeerCertificate: cert}, nil, "missing authorization header"},
		{"certificate without a name", all, getBox, authn.Request{PeerCertificate: &x509.Certificate{}}, nil, "invalid client certificate"},
		{"token before certificate", all, getBox, authn.Request{Authorization: bearer("alices.to.ken"), PeerCertificate: cert}, alice, ""},
		{"development user", all, getBox, authn.Request{}, dev, ""},
		{"nothing", strict, getBox, authn.Request{}, nil, "missing authorization header"},
		{"nothing on a sandbox method", strict, connect, authn.Request{}, nil, "missing authorization header"},
		{"nothing configured", authn.Config{}, getBox, authn.Request{}, nil, "missing authorization header"},

		{"secret, switched off", strict, pushLogs, authn.Request{SandboxSecret: []string{secret}}, nil, "missing authorization header"},
		{"secret", withSecret, pushLogs, authn.Request{SandboxSecret: []string{secret}}, anyBox, ""},
		{"wrong secret", withSecret, pushLogs, authn.Request{SandboxSecret: []string{secret + "x"}}, nil, "invalid sandbox secret"},
		{"empty secret", withSecret, pushLogs, authn.Request{SandboxSecret: []string{""}}, nil, "invalid sandbox secret"},
		{"secret twice", withSecret, pushLogs, authn.Request{SandboxSecret: []string{secret, secret}}, nil, "invalid sandbox secret"},
		{"no secret", withSecret, pushLogs, authn.Request{}, nil, "sandbox secret required for this method"},
		{"user on a secret-only method", withSecret, pushLogs, authn.Request{Authorization: bearer("alices.to.ken")}, nil, "sandbox secret required for this method"},
		{"secret on a user method", withSecret, getBox, authn.Request{SandboxSecret: []string{secret}}, nil, "missing authorization header"},
		{"secret beside a user's token on a user method", withSecret, getBox, authn.Request{SandboxSecret: []string{secret}, Authorization: bearer("alices.to.ken")}, alice, ""},
		{"dual: secret", withSecret, update, authn.Request{SandboxSecret: []string{secret}}, anyBox, ""},
		{"dual: secret and bad token", withSecret, update, authn.Request{SandboxSecret: []string{secret}, Authorization: bearer("x.y.z")}, anyBox, ""},
		{"dual: secret and malformed header", withSecret, update, authn.Request{SandboxSecret: []string{secret}, Authorization: []string{"?"}}, anyBox, ""},
		{"dual: wrong secret and good token", withSecret, update, authn.Request{SandboxSecret: []string{"x"}, Authorization: bearer("alices.to.ken")}, alice, ""},
		{"dual: wrong secret alone", withSecret, update, authn.Request{SandboxSecret: []string{"x"}}, nil, "missing authorization header"},
		{"dual: nothing", withSecret, update, authn.Request{}, nil, "missing authorization header"},
		{"session without header", withSecret, connect, authn.Request{}, anyBox, ""},
		{"relay without header", withSecret, relay, authn.Request{}, anyBox, ""},
		{"session with a wrong secret", withSecret, connect, authn.Request{SandboxSecret: []string{"x"}}, nil, "invalid sandbox secret"},
		{"session with a user's token", withSecret, connect, authn.Request{Authorization: bearer("alices.to.ken")}, alice, ""},
		{"session with a bad token", withSecret, connect, authn.Request{Authorization: bearer("x.y.z")}, nil, "invalid token"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := tc.config
			if c.Users != nil {
				c.Users = &users{}
			}
			chain, err := authn.New(c)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // The second time, the header of the token is known.
				got, err := chain.Authenticate(t.Context(), request(tc.method, tc.r))
				if tc.text != "" {
					if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), tc.text) {
						t.Errorf("got %v, %v; want Unauthenticated with %q", got, err, tc.text)
					} else if got != nil {
						t.Errorf("an error came with the principal %v", got)
					}
					continue
				}
				if err != nil {
					t.Errorf("refused: %v", err)
					continue
				}
				shown := *got
				shown.Issued, shown.Expires = time.Time{}, time.Time{}
				if diff := cmp.Diff(tc.want, &shown); diff != "" {
					t.Errorf("(-want +got):\n%s", diff)
				}
			}
		})
	}
}

// set is a set of identity providers that may be empty.
type set struct {
	users
	empty bool
}

func (s *set) Empty() bool { return s.empty }

// A gateway without identity provider says that, rather than that the token is of another one.
func TestTokenWithoutIdentityProvider(t *testing.T) {
	t.Parallel()
	providers := &set{empty: true}
	for name, c := range map[string]authn.Config{"none ever": {}, "none now": {Users: providers, Development: &authn.Development{}}} {
		chain, err := authn.New(c)
		if err != nil {
			t.Fatal(err)
		}
		p, err := chain.Authenticate(t.Context(), request(getBox, authn.Request{Authorization: bearer("alices.to.ken")}))
		if p != nil || fault.From(err).Reason != authn.ReasonTokenNotAccepted || !strings.Contains(err.Error(), "no identity provider") {
			t.Errorf("%s: %v, %v", name, p, err)
		}
		providers.empty = false
		if _, err := chain.Authenticate(t.Context(), request(getBox, authn.Request{Authorization: bearer("alices.to.ken")})); (err == nil) != (name == "none now") {
			t.Errorf("%s, then one: %v", name, err)
		}
		providers.empty = true
	}
}

func TestEmptySharedSecretIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := authn.New(authn.Config{AcceptSharedSecret: true}); err == nil {
		t.Error("accepted")
	}
	chain, err := authn.New(authn.Config{SharedSecret: secret}) // Without the flag it means nothing.
	if err != nil {
		t.Fatal(err)
	}
	if p, err := chain.Authenticate(t.Context(), request(connect, authn.Request{SandboxSecret: []string{secret}})); err == nil {
		t.Errorf("let in %v", p)
	}
}

func TestCertificateWithoutUnitHasDefaultRoles(t *testing.T) {
	t.Parallel()
	chain, err := authn.New(authn.Config{Certificates: &authn.Certificates{DefaultRoles: []string{"openshell-user"}}})
	if err != nil {
		t.Fatal(err)
	}
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "carol"}, NotAfter: time.Now().Add(time.Hour)}
	p, err := chain.Authenticate(t.Context(), request(getBox, authn.Request{PeerCertificate: cert}))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"openshell-user"}, p.Roles); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	if !p.Expires.Equal(cert.NotAfter) {
		t.Errorf("expires %v, want the certificate's end", p.Expires)
	}
}

func TestBearer(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name   string
		values []string
		want   string
	}{
		{"usual", []string{"Bearer a.b.c"}, "a.b.c"},
		{"lower case", []string{"bearer a.b.c"}, "a.b.c"},
		{"upper case", []string{"BEARER a.b-c_d~e+f/g="}, "a.b-c_d~e+f/g="},
		{"none", nil, ""},
		{"empty", []string{""}, ""},
		{"no token", []string{"Bearer"}, ""},
		{"no token but a space", []string{"Bearer "}, ""},
		{"two spaces", []string{"Bearer  a"}, ""},
		{"tab", []string{"Bearer\ta"}, ""},
		{"space within", []string{"Bearer a b"}, ""},
		{"trailing space", []string{"Bearer a "}, ""},
		{"leading space", []string{" Bearer a"}, ""},
		{"other scheme", []string{"Basic a"}, ""},
		{"longer scheme", []string{"Bearerx a"}, ""},
		{"non-ASCII", []string{"Bearer tökén"}, ""},
		{"kelvin sign for k", []string{"Bearer a\u212A"}, ""},
		{"control character", []string{"Bearer a\x00"}, ""},
		{"two headers", []string{"Bearer a", "Bearer a"}, ""},
		{"two in one", []string{"Bearer a, Bearer b"}, ""},
		{"at the limit", []string{"Bearer " + strings.Repeat("a", 16<<10)}, strings.Repeat("a", 16<<10)},
		{"past the limit", []string{"Bearer " + strings.Repeat("a", 16<<10+1)}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			if got, ok := authn.Bearer(tc.values); got != tc.want || ok != (tc.want != "") {
				t.Errorf("got %q, %v", got, ok)
			}
		})
	}
}

func FuzzBearer(f *testing.F) {
	for _, s := range []string{"Bearer a.b.c", "bearer x", "Bearer  ", "Basic eDp5", "Bearer \xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, header string) {
		token, ok := authn.Bearer([]string{header})
		if ok != (token != "") {
			t.Fatalf("%q, %v", token, ok)
		}
		if !ok {
			return
		}
		if !strings.HasSuffix(header, " "+token) || len(header) != len("Bearer ")+len(token) {
			t.Errorf("%q gave %q", header, token)
		}
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			t.Errorf("unprintable token %q", token)
		}
	})
}

func TestManyForeignHeadersDoNotConfuseRecognition(t *testing.T) {
	t.Parallel()
	tokens, token := issuer(t)
	u := &users{}
	chain, err := authn.New(authn.Config{SandboxTokens: tokens, Users: u})
	if err != nil {
		t.Fatal(err)
	}
	const n = 1_000
	for i := range n {
		_, err := chain.Authenticate(t.Context(), request(getBox, authn.Request{Authorization: bearer(strings.Repeat("x", i%600) + ".y.z")}))
		if !fault.Is(err, fault.Unauthenticated) {
			t.Fatal(errors.Join(errors.New("let in"), err))
		}
		p, err := chain.Authenticate(t.Context(), request(pushLogs, authn.Request{Authorization: bearer(token)}))
		if err != nil || p.SandboxID != "box-1" {
			t.Fatalf("sandbox: %v, %v", p, err)
		}
	}
	if u.asked != n {
		t.Errorf("the issuer of users was asked %d times, want %d", u.asked, n)
	}
}
