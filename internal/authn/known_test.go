package authn_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"testing"

	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// mindful remembers the tokens that it was asked to verify.
type mindful struct {
	users

	known map[string]*principal.Principal
}

func (m *mindful) Verify(ctx context.Context, token string) (*principal.Principal, error) {
	p, err := m.users.Verify(ctx, token)
	if err == nil {
		m.known[token] = p
	}
	return p, err
}

func (m *mindful) Known(token string) (*principal.Principal, bool) {
	p, ok := m.known[token]
	return p, ok
}

func TestOnlyKnownCredentials(t *testing.T) {
	t.Parallel()
	cert := &x509.Certificate{Subject: pkix.Name{CommonName: "carol"}}
	for _, tc := range []struct {
		name   string
		method string
		r      authn.Request
		want   string // the subject; empty: refused
	}{
		{"known token", getBox, authn.Request{Authorization: bearer("alices.to.ken")}, "alice"},
		{"unknown token", getBox, authn.Request{Authorization: bearer("x.y.z")}, ""},
		{"unknown token beside a certificate", getBox, authn.Request{Authorization: bearer("x.y.z"), PeerCertificate: cert}, ""},
		{"malformed header beside a certificate", getBox, authn.Request{Authorization: []string{"?"}, PeerCertificate: cert}, ""},
		{"certificate, verified with the connection", getBox, authn.Request{PeerCertificate: cert}, "carol"},
		{"right secret", pushLogs, authn.Request{SandboxSecret: []string{secret}}, ""},
		{"secret beside a certificate", pushLogs, authn.Request{SandboxSecret: []string{secret}, PeerCertificate: cert}, ""},
		{"older supervisor that presents nothing", connect, authn.Request{}, ""},
		{"nothing, where the development user is on", getBox, authn.Request{}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tokens, _ := issuer(t)
			m := &mindful{known: map[string]*principal.Principal{}}
			chain, err := authn.New(authn.Config{
				SandboxTokens: tokens, AcceptSharedSecret: true, SharedSecret: secret, Users: m,
				Certificates: &authn.Certificates{}, Development: &authn.Development{},
			})
			if err != nil {
				t.Fatal(err)
			}
			// Before it was verified, nobody's token is known.
			r := request(getBox, authn.Request{Authorization: bearer("alices.to.ken"), KnownOnly: true})
			if p, err := chain.Authenticate(t.Context(), r); !fault.Is(err, fault.ResourceExhausted) {
				t.Fatalf("got %v, %v", p, err)
			}
			r.KnownOnly = false
			if _, err := chain.Authenticate(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			tc.r.KnownOnly = true
			p, err := chain.Authenticate(t.Context(), request(tc.method, tc.r))
			if tc.want != "" {
				if err != nil || p.Subject != tc.want {
					t.Errorf("got %v, %v", p, err)
				}
				return
			}
			if f := fault.From(err); p != nil || f.Kind != fault.ResourceExhausted || f.Reason != authn.ReasonTooManyAttempts || f.Next == "" {
				t.Errorf("got %v, %v", p, err)
			}
			if m.asked != 1 {
				t.Errorf("%d tokens were verified, want the one before", m.asked)
			}
		})
	}
}

func TestUsersWithoutMemoryAreNotKnown(t *testing.T) {
	t.Parallel()
	u := &users{}
	chain, err := authn.New(authn.Config{Users: u})
	if err != nil {
		t.Fatal(err)
	}
	r := request(getBox, authn.Request{Authorization: bearer("alices.to.ken"), KnownOnly: true})
	if p, err := chain.Authenticate(t.Context(), r); !fault.Is(err, fault.ResourceExhausted) || u.asked != 0 {
		t.Errorf("got %v, %v after %d questions", p, err, u.asked)
	}
}
