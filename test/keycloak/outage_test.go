//go:build linux

package keycloak_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/test/keycloak"
)

// TestOutage takes the provider away from gateways that serve, that start, and that are asked about unknown keys. It has a
// server of its own, behind TLS with an authority of its own.
func TestOutage(t *testing.T) {
	t.Parallel()
	s := own(t, "--https")
	r := realm{s.Realm()}
	d := openTLS(t, r, "--oidc-jwks-ttl", "10")
	d.tenCases(t, signIn(t, r, "openshell-cli", "openshell-ci"), "openshell-admin")
	// Both servers were made from one database and have the same keys, so that the issuer alone tells them apart.
	d.wantOut("a token of another server", sharedRealm(t).password(t, "openshell-cli", "admin@test", everything).Access, "TOKEN_ISSUER")
	// What the callers present while the server is away, none of it seen by the gateway before.
	var unseen []string
	for range 20 {
		for _, user := range []string{"user@test", "user-b@test", "alice", "bob"} {
			unseen = append(unseen, r.password(t, "openshell-cli", user, everything).Access)
		}
	}
	session := r.password(t, "openshell-cli", "user@test", everything).Refresh
	known := r.machine(t, "openshell-ci")

	l := d.load(append([]string{known}, unseen[:len(unseen)/2]...))
	l.wait(t, callers)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	l.wait(t, 3*callers)
	for i, token := range unseen[len(unseen)/2:] {
		d.wantIn(fmt.Sprintf("token %d, unseen before the outage", i), token)
	}

	late := launch(t, r, nil)
	eventually(t, "the late gateway waits for the issuer alone", func() error {
		ready, err := late.readiness()
		if err != nil {
			return err
		}
		unhealthy := ""
		for name, check := range ready.Checks {
			if check.Status != "healthy" {
				unhealthy += name + ": " + check.Error + "; "
			}
		}
		if ready.Status == "healthy" || !strings.HasPrefix(unhealthy, "oidc") || strings.Count(unhealthy, ";") != 1 {
			return fmt.Errorf("%s: %s", ready.Status, unhealthy)
		}
		if !strings.Contains(unhealthy, config.DefaultIssuer) && !strings.Contains(unhealthy, r.Issuer()) {
			t.Errorf("readiness does not name the issuer that is missing: %q", unhealthy)
		}
		return nil
	})
	if err := late.list(known); status.Code(err) != codes.Unavailable || reasonOf(err) != "OIDC_KEYS_UNAVAILABLE" {
		t.Errorf("a token at a gateway without keys: %v, want UNAVAILABLE with OIDC_KEYS_UNAVAILABLE", err)
	}
	d.waitReady()

	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	late.waitReady()
	late.wantIn("a token from before the outage, at the late gateway", known)
	renewed, err := r.Grant(t.Context(), url.Values{"grant_type": {"refresh_token"}, "client_id": {"openshell-cli"}, "refresh_token": {session}})
	if err != nil {
		t.Errorf("the session did not outlive the restart: %v", err)
	} else {
		d.wantIn("a token from after the outage", renewed.Access)
	}
	if calls, failed := l.end(); failed != nil {
		t.Errorf("of %d calls some failed: %v", calls, failed)
	} else {
		t.Logf("%d calls of %d callers, none failed", calls, callers)
	}
	frozen(t, s, d, known, r.password(t, "openshell-cli", "user@test", everything).Access)
}

// frozen checks that a server that accepts connections and never answers holds up those with an unknown key only, and
// these not for long.
func frozen(t *testing.T, s *keycloak.Server, d *door, known, unseen string) {
	t.Helper()
	if err := s.Freeze(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Thaw(); err != nil {
			t.Error(err)
		}
	}()
	parts := strings.Split(known, ".")
	parts[0] = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"RS256","typ":"JWT","kid":"nobody-has-it"}`))
	refused := make(chan error, 1)
	go func() { refused <- d.list(strings.Join(parts, ".")) }()
	d.wantIn("a known token", known)
	d.wantIn("an unseen token", unseen)
	if err := <-refused; status.Code(err) != codes.Unauthenticated || reasonOf(err) != "TOKEN_KEY_UNKNOWN" {
		t.Errorf("an unknown key: %v (reason %s), want UNAUTHENTICATED with TOKEN_KEY_UNKNOWN", err, reasonOf(err))
	}
	d.wantIn("a known token after the fetch was given up", known)
}

// callers is the number of those who call all the time, each once a second.
const (
	callers     = 200
	callerPause = time.Second
)

// load is what the callers do.
type load struct {
	calls, failures atomic.Int64
	first           atomic.Pointer[string]
	stop            context.CancelFunc
	group           sync.WaitGroup
}

// load starts the callers, who share the tokens.
func (d *door) load(tokens []string) *load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{stop: cancel}
	d.t.Cleanup(func() { _, _ = l.end() })
	const connections = 8
	var clients [connections]openshellpb.OpenShellClient
	for i := range clients {
		clients[i] = d.dial()
	}
	for i := range callers {
		l.group.Go(func() { l.call(ctx, clients[i%connections], tokens, i) })
	}
	return l
}

func (l *load) call(ctx context.Context, client openshellpb.OpenShellClient, tokens []string, i int) {
	tick := time.NewTicker(callerPause)
	defer tick.Stop()
	for {
		_, err := client.ListSandboxes(as(ctx, tokens[i%len(tokens)]), &openshellpb.ListSandboxesRequest{})
		if ctx.Err() != nil {
			return
		}
		i++
		l.calls.Add(1)
		if err != nil {
			l.failures.Add(1)
			text := err.Error()
			l.first.CompareAndSwap(nil, &text)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// wait returns after so many more calls.
func (l *load) wait(t *testing.T, calls int64) {
	t.Helper()
	want := l.calls.Load() + calls
	eventually(t, "calls under load", func() error {
		if got := l.calls.Load(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// end stops the callers and returns how many calls they made, and an error if any failed.
func (l *load) end() (int64, error) {
	l.stop()
	l.group.Wait()
	if n := l.failures.Load(); n > 0 {
		return l.calls.Load(), fmt.Errorf("%d failed, the first with: %w", n, errors.New(*l.first.Load()))
	}
	return l.calls.Load(), nil
}
