package authn_test

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const (
	issue   = "/openshell.v1.OpenShell/IssueSandboxToken"
	refresh = "/openshell.v1.OpenShell/RefreshSandboxToken"
)

// accounts knows one token and counts what it is asked.
type accounts struct{ asked int }

func (a *accounts) Authenticate(_ context.Context, token string) (*principal.Principal, error) {
	a.asked++
	switch token {
	case "pods.to.ken":
		return &principal.Principal{Kind: principal.Sandbox, SandboxID: "box-2", Source: principal.SourceServiceAccount}, nil
	case "odd.to.ken":
		return &principal.Principal{Kind: principal.User, Subject: "pod"}, nil
	case "bad.to.ken":
		return nil, fault.New(fault.PermissionDenied, "POD_NOT_ACCEPTED", "pod names no sandbox")
	}
	return nil, nil
}

func TestServiceAccountsOpenOneMethodOnly(t *testing.T) {
	t.Parallel()
	tokens, token := issuer(t)
	for _, tc := range []struct {
		name, method, token string
		known               bool
		want                string
		text                string
		asked               int
	}{
		{"a pod", issue, "pods.to.ken", false, "box-2", "", 1},
		{"a pod elsewhere", pushLogs, "pods.to.ken", false, "", "invalid token", 0},
		{"a pod on refresh", refresh, "pods.to.ken", false, "", "invalid token", 0},
		{"a pod that is refused", issue, "bad.to.ken", false, "", "pod names no sandbox", 1},
		{"a principal of the wrong kind", issue, "odd.to.ken", false, "", "names no sandbox", 1},
		{"a user, after Kubernetes passed", issue, "alices.to.ken", false, "alice", "", 1},
		{"a sandbox token is not sent to Kubernetes", issue, token, false, "box-1", "", 0},
		{"a flooded address", issue, "pods.to.ken", true, "", "too many", 0},
		{"no token", issue, "", false, "", "missing authorization header", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			a := &accounts{}
			chain, err := authn.New(authn.Config{SandboxTokens: tokens, ServiceAccounts: a, Users: &users{}})
			if err != nil {
				t.Fatal(err)
			}
			r := authn.Request{KnownOnly: tc.known}
			if tc.token != "" {
				r.Authorization = bearer(tc.token)
			}
			p, err := chain.Authenticate(t.Context(), request(tc.method, r))
			if tc.text != "" {
				if err == nil || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %v, %v; want %q", p, err, tc.text)
				}
			} else if err != nil || p.SandboxID+p.Subject != tc.want {
				t.Errorf("got %+v, %v; want %s", p, err, tc.want)
			}
			if a.asked != tc.asked {
				t.Errorf("Kubernetes was asked %d times, want %d", a.asked, tc.asked)
			}
		})
	}
}

func TestAnExpiredTokenOpensRefreshOnly(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_000_000, 0)
	tokens, err := sandboxtoken.New(sandboxtoken.Options{
		GatewayID: "gw", TTL: time.Hour, Recovery: 24 * time.Hour, Now: func() time.Time { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	token, expires, err := tokens.Mint("box-1")
	if err != nil {
		t.Fatal(err)
	}
	chain, err := authn.New(authn.Config{SandboxTokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method string, known bool) (*principal.Principal, error) {
		return chain.Authenticate(t.Context(), request(method, authn.Request{Authorization: bearer(token), KnownOnly: known}))
	}
	issued := now
	now = expires.Add(2 * time.Hour)
	if _, err := ask(refresh, true); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("a token that nobody verified is known: %v", err)
	}
	for _, method := range []string{pushLogs, connect, relay, update, issue, getBox} {
		if _, err := ask(method, false); !fault.Is(err, fault.Unauthenticated) || fault.From(err).Reason != "SANDBOX_TOKEN_EXPIRED" {
			t.Errorf("%s: %v", method, err)
		}
	}
	want := &principal.Principal{
		Kind: principal.Sandbox, SandboxID: "box-1", Source: principal.SourceExpiredToken, Issued: issued, Expires: expires,
	}
	// Having been refused, the token is known, so that even a flooded address gets back in.
	for _, known := range []bool{false, true} {
		p, err := ask(refresh, known)
		if err != nil {
			t.Fatalf("known only %v: %v", known, err)
		}
		if diff := cmp.Diff(want, p); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
	}
	if _, err := ask(connect, true); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("an expired token on another method, known only: %v", err)
	}
	now = expires.Add(24 * time.Hour)
	if _, err := ask(refresh, false); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("after the time of recovery: %v", err)
	}
}

func TestFloodedAddressesKeepTheirKnownTokens(t *testing.T) {
	t.Parallel()
	tokens, token := issuer(t)
	chain, err := authn.New(authn.Config{SandboxTokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(known bool) error {
		_, err := chain.Authenticate(t.Context(), request(connect, authn.Request{Authorization: bearer(token), KnownOnly: known}))
		return err
	}
	if err := ask(true); !fault.Is(err, fault.ResourceExhausted) || fault.From(err).Reason != authn.ReasonTooManyAttempts {
		t.Errorf("a token that was never seen: %v", err)
	}
	if err := ask(false); err != nil {
		t.Fatal(err)
	}
	if err := ask(true); err != nil {
		t.Errorf("a token that was verified: %v", err)
	}
}

// A token of two parts with our header must not make the gateway forget that the header is its own.
func TestMalformedTokensDoNotSpoilTheHeader(t *testing.T) {
	t.Parallel()
	tokens, token := issuer(t)
	head, _, _ := strings.Cut(token, ".")
	for _, spoiler := range []string{head + ".x", head + ".x.y.z", head + "."} {
		tokens.Recognizes(spoiler)
		if !tokens.Recognizes(token) {
			t.Errorf("%q spoilt it", spoiler)
		}
	}
	if tokens.Recognizes(base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","kid":"x"}`)) + ".x.y") {
		t.Error("a foreign header is ours")
	}
}
