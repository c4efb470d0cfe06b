package gateway_test

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/supervisor/identity"
	"sallyport.dev/sallyport/internal/supervisor/link"
)

// keyed starts a gateway whose sandbox keys the test can use too.
func keyed(t *testing.T, args ...string) (*system, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "keys")
	return start(t, append(args, "--sandbox-key-dir", dir)...), dir
}

// mint makes a token with the gateway's own keys, at another time, of another life or for another gateway.
func mint(t *testing.T, dir, gatewayID, box string, ttl time.Duration, at time.Time) string {
	t.Helper()
	tokens, err := sandboxtoken.Open(dir, gatewayID, ttl, func() time.Time { return at })
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := tokens.Mint(box)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// forge signs any header and claims with the first of the gateway's own keys. The header's kid is filled in.
func forge(t *testing.T, dir string, header, claims map[string]any) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "0001.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(raw)
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		t.Fatalf("key is a %T", parsed)
	}
	keys, err := sandboxtoken.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	header["alg"], header["kid"] = "EdDSA", keys[0].ID
	signed := segment(t, header) + "." + segment(t, claims)
	return signed + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(private, []byte(signed)))
}

func segment(t *testing.T, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func claimsFor(box string, exp int64) map[string]any {
	return map[string]any{
		"iss": "openshell-gateway:openshell", "aud": "openshell-gateway:openshell", "sub": "spiffe://openshell/sandbox/" + box,
		"sandbox_id": box, "iat": time.Now().Unix(), "exp": exp,
	}
}

func (s *system) config(token, box string) error {
	_, err := s.client.GetSandboxConfig(bearer(s.t.Context(), token), &sandboxpb.GetSandboxConfigRequest{SandboxId: box})
	return err
}

func (s *system) refresh(token string, names ...string) (*openshellpb.RefreshSandboxTokenResponse, error) {
	return s.client.RefreshSandboxToken(bearer(s.t.Context(), token), &openshellpb.RefreshSandboxTokenRequest{ExtensionServiceNames: names})
}

func wantAnswer(t *testing.T, what string, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || code != codes.OK && !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("%s: %v, want %s with %q", what, err, code, text)
	}
}

func TestSandboxTokenEdges(t *testing.T) {
	t.Parallel()
	s, dir := keyed(t)
	id := s.create("a").Metadata.Id
	own, now := s.driver.token(id), time.Now()
	other := s.create("b").Metadata.Id
	parts := strings.Split(own, ".")
	stranger := mint(t, "", "openshell", id, time.Hour, now)
	for name, tc := range map[string]struct {
		token string
		code  codes.Code
		text  string
	}{
		"its own":                     {own, codes.OK, ""},
		"for ever":                    {forge(t, dir, map[string]any{}, claimsFor(id, 0)), codes.OK, ""},
		"expired within leeway":       {forge(t, dir, map[string]any{}, claimsFor(id, now.Unix()-50)), codes.OK, ""},
		"expired":                     {forge(t, dir, map[string]any{}, claimsFor(id, now.Unix()-70)), codes.Unauthenticated, "ExpiredSignature"},
		"another gateway's":           {mint(t, dir, "other", id, time.Hour, now), codes.Unauthenticated, "InvalidIssuer"},
		"for an extension":            {forge(t, dir, map[string]any{"typ": "openshell-ext+jwt"}, claimsFor(id, now.Unix()+60)), codes.Unauthenticated, "extension tokens cannot authenticate to the gateway"},
		"unknown key":                 {stranger, codes.Unauthenticated, "invalid token"},
		"tampered":                    {parts[0] + "." + segment(t, claimsFor(other, now.Unix()+60)) + "." + parts[2], codes.Unauthenticated, "InvalidSignature"},
		"of the other sandbox":        {s.driver.token(other), codes.PermissionDenied, "cross-sandbox access denied"},
		"of a sandbox that never was": {mint(t, dir, "openshell", "nobody", time.Hour, now), codes.PermissionDenied, "cross-sandbox access denied"},
	} {
		wantAnswer(t, name, s.config(tc.token, id), tc.code, tc.text)
	}

	_, err := s.client.IssueSandboxToken(s.box(id), &openshellpb.IssueSandboxTokenRequest{})
	wantAnswer(t, "issue with a sandbox token", err, codes.PermissionDenied, "use RefreshSandboxToken")
	_, err = s.client.IssueSandboxToken(s.admin(), &openshellpb.IssueSandboxTokenRequest{})
	wantAnswer(t, "issue as an administrator", err, codes.PermissionDenied, "this method requires a sandbox principal")
	_, err = s.refresh(mint(t, dir, "openshell", "nobody", time.Hour, now))
	wantAnswer(t, "refresh for no sandbox", err, codes.NotFound, "sandbox not found")

	many := make([]string, 65)
	for n := range many {
		many[n] = fmt.Sprint("s", n)
	}
	for name, tc := range map[string]struct {
		names []string
		code  codes.Code
		text  string
	}{
		"too many services": {many, codes.InvalidArgument, "at most 64"},
		"a service twice":   {[]string{"a", "b", "a"}, codes.InvalidArgument, "unique"},
		"an empty service":  {[]string{"a", ""}, codes.InvalidArgument, "empty"},
		"services":          {many[:64], codes.FailedPrecondition, "not configured"},
	} {
		_, err := s.refresh(own, tc.names...)
		wantAnswer(t, name, err, tc.code, tc.text)
	}
}

func TestADeletedSandboxIsNotRefreshed(t *testing.T) {
	t.Parallel()
	s, dir := keyed(t)
	id := s.create("a").Metadata.Id
	token := s.driver.token(id)
	expired := mint(t, dir, "openshell", id, time.Hour, time.Now().Add(-48*time.Hour))
	watch, err := s.client.WatchSandbox(s.user(), &openshellpb.WatchSandboxRequest{Id: id, FollowStatus: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.client.DeleteSandbox(s.user(), &openshellpb.DeleteSandboxRequest{Name: "a"}); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = watch.Recv()
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for name, token := range map[string]string{"a live token": token, "an expired token": expired} {
		_, err := s.refresh(token)
		wantAnswer(t, name, err, codes.NotFound, "sandbox not found")
	}
}

// The gateway was away for longer than the token lived.
func TestAnExpiredSandboxGetsBackIn(t *testing.T) {
	t.Parallel()
	s, dir := keyed(t, "--sandbox-token-recovery-secs", "259200")
	id := s.create("a").Metadata.Id
	ago := func(d time.Duration) string { return mint(t, dir, "openshell", id, time.Hour, time.Now().Add(-d)) }
	expired := ago(48 * time.Hour)
	wantAnswer(t, "any call", s.config(expired, id), codes.Unauthenticated, "ExpiredSignature")
	_, err := s.client.IssueSandboxToken(bearer(t.Context(), expired), &openshellpb.IssueSandboxTokenRequest{})
	wantAnswer(t, "issue", err, codes.Unauthenticated, "ExpiredSignature")
	_, err = s.refresh(ago(74 * time.Hour))
	wantAnswer(t, "after the time of recovery", err, codes.Unauthenticated, "ExpiredSignature")

	// Our own supervisor does it by itself.
	source, err := identity.Open(identity.Config{Token: expired, Secure: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	endpoint, err := link.ParseEndpoint("http://" + s.conn.Target())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := link.Dial(endpoint, link.TLSFiles{}, source)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	shell := openshellpb.NewOpenShellClient(conn)
	_, err = shell.GetSandboxConfig(t.Context(), &sandboxpb.GetSandboxConfigRequest{SandboxId: id})
	wantAnswer(t, "before the renewal", err, codes.Unauthenticated, "ExpiredSignature")
	source.Renew(t.Context(), shell, err)
	_, err = shell.GetSandboxConfig(t.Context(), &sandboxpb.GetSandboxConfigRequest{SandboxId: id})
	wantAnswer(t, "after the renewal", err, codes.OK, "")

	off, dir := keyed(t, "--sandbox-token-recovery-secs", "0")
	id = off.create("a").Metadata.Id
	_, err = off.refresh(mint(t, dir, "openshell", id, time.Hour, time.Now().Add(-2*time.Hour)))
	wantAnswer(t, "switched off", err, codes.Unauthenticated, "ExpiredSignature")
}

// Keys rotate while supervisors hold sessions and call: none is lost, none is refused.
func TestRotationUnderLoadLosesNobody(t *testing.T) {
	t.Parallel()
	s, dir := keyed(t)
	const boxes = 6
	var lost atomic.Int32
	stop := make(chan struct{})
	var working sync.WaitGroup
	for n := range boxes {
		id := s.create(fmt.Sprint("box-", n)).Metadata.Id
		ctx, cancel := context.WithCancel(s.box(id))
		defer cancel()
		session, err := s.client.ConnectSupervisor(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Send(hello(id)); err != nil {
			t.Fatal(err)
		}
		if m, err := session.Recv(); err != nil || m.GetSessionAccepted() == nil {
			t.Fatalf("session: %v, %v", m, err)
		}
		go func() {
			if _, err := session.Recv(); err != nil && ctx.Err() == nil {
				lost.Add(1)
			}
		}()
		working.Go(func() {
			token := s.driver.token(id)
			for {
				select {
				case <-stop:
					return
				default:
				}
				wantAnswer(t, "a call meanwhile", s.config(token, id), codes.OK, "")
				next, err := s.refresh(token)
				wantAnswer(t, "a refresh meanwhile", err, codes.OK, "")
				token = next.GetToken()
			}
		})
	}
	gateway := sallyportpb.NewGatewayClient(s.conn)
	var last *sallyportpb.RotateSandboxKeysResponse
	for n := range 10 {
		resp, err := gateway.RotateSandboxKeys(s.admin(), &sallyportpb.RotateSandboxKeysRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if len(resp.VerifyingKeyIds) != n+2 || resp.VerifyingKeyIds[n+1] != resp.KeyId {
			t.Errorf("rotation %d: %v", n, resp)
		}
		last = resp
	}
	close(stop)
	working.Wait()
	if n := lost.Load(); n != 0 {
		t.Errorf("%d sessions were lost", n)
	}
	keys, err := sandboxtoken.List(dir)
	if err != nil || !slices.ContainsFunc(keys, func(k sandboxtoken.KeyInfo) bool { return k.ID == last.KeyId }) {
		t.Errorf("the new key is not on disk: %v, %v", keys, err)
	}
	if _, err := gateway.RotateSandboxKeys(s.user(), &sallyportpb.RotateSandboxKeysRequest{}); status.Code(err) != codes.PermissionDenied {
		t.Errorf("a user rotates: %v", err)
	}
}

// kubernetes is an API server that knows one pod, whose sandbox has the id that is asked for.
func kubernetes(t *testing.T, id func() string) *httptest.Server {
	t.Helper()
	type m = map[string]any
	answers := map[string]func() any{
		"POST /apis/authentication.k8s.io/v1/tokenreviews": func() any {
			return m{"status": m{"authenticated": true, "audiences": []string{"openshell-gateway"}, "user": m{
				"username": "system:serviceaccount:agents:sandbox", "extra": m{
					"authentication.kubernetes.io/pod-name": []string{"pod"}, "authentication.kubernetes.io/pod-uid": []string{"1"},
				},
			}}}
		},
		"GET /api/v1/namespaces/agents/pods/pod": func() any {
			return m{"metadata": m{"uid": "1", "annotations": m{"openshell.io/sandbox-id": id()}, "ownerReferences": []m{
				{"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "box", "uid": "2", "controller": true},
			}}}
		},
		"GET /apis/agents.x-k8s.io/v1beta1/namespaces/agents/sandboxes/box": func() any {
			return m{"metadata": m{"uid": "2", "labels": m{"openshell.ai/sandbox-id": id()}}}
		},
	}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := answers[r.Method+" "+r.URL.Path]
		if answer == nil {
			http.NotFound(w, r)
			return
		}
		if err := json.NewEncoder(w).Encode(answer()); err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func TestAPodGetsItsFirstToken(t *testing.T) {
	t.Parallel()
	var id atomic.Value
	id.Store("nobody")
	api := kubernetes(t, func() string { s, _ := id.Load().(string); return s })
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"ca": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw}), "token": []byte("gateway"),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := start(t, "--kubernetes-enabled", "--kubernetes-api-url", api.URL, "--kubernetes-ca", filepath.Join(dir, "ca"),
		"--kubernetes-token", filepath.Join(dir, "token"), "--kubernetes-namespaces", "agents", "--kubernetes-service-account", "sandbox")
	pod := func(n int) string {
		return "e30." + segment(t, map[string]any{"sub": "system:serviceaccount:agents:sandbox", "n": n}) + ".c2ln"
	}
	issue := func(token string) (*openshellpb.IssueSandboxTokenResponse, error) {
		return s.client.IssueSandboxToken(bearer(t.Context(), token), &openshellpb.IssueSandboxTokenRequest{}, grpc.WaitForReady(true))
	}
	_, err := issue(pod(1))
	wantAnswer(t, "a pod of a sandbox that is gone", err, codes.NotFound, "sandbox not found")
	box := s.create("a").Metadata.Id
	id.Store(box)
	resp, err := issue(pod(2))
	if err != nil {
		t.Fatal(err)
	}
	if resp.ExpiresAtMs < time.Now().UnixMilli() {
		t.Errorf("expires %d", resp.ExpiresAtMs)
	}
	wantAnswer(t, "with the token", s.config(resp.Token, box), codes.OK, "")
	// Its service account opens nothing else.
	wantAnswer(t, "with the service account", s.config(pod(2), box), codes.Unauthenticated, "invalid token")
	_, err = s.refresh(pod(2))
	wantAnswer(t, "refresh with the service account", err, codes.Unauthenticated, "invalid token")
	_, err = issue(resp.Token)
	wantAnswer(t, "issue with the sandbox token", err, codes.PermissionDenied, "use RefreshSandboxToken")

	off := start(t)
	_, err = off.client.IssueSandboxToken(bearer(t.Context(), pod(3)), &openshellpb.IssueSandboxTokenRequest{}, grpc.WaitForReady(true))
	wantAnswer(t, "switched off", err, codes.Unauthenticated, "invalid token")
}

func TestSandboxKeysArePublished(t *testing.T) {
	t.Parallel()
	s, dir := keyed(t)
	get := func(path string, into any) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-Forwarded-Proto", "http")
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %d, %v", path, resp.StatusCode, err)
		}
	}
	var document struct {
		Issuer string
		Keys   string `json:"jwks_uri"`
	}
	get("http://"+s.conn.Target()+"/.well-known/openid-configuration", &document)
	var set struct{ Keys []map[string]string }
	get(document.Keys, &set)
	keys, err := sandboxtoken.List(dir)
	if err != nil || len(set.Keys) != 1 || set.Keys[0]["kid"] != keys[0].ID || document.Issuer != "openshell-gateway:openshell" {
		t.Errorf("%+v, %+v, %v", document, set, err)
	}
}

// What a sandbox may say of itself, and take from its own relays, it may not of and from another.
func TestASandboxReachesNoOther(t *testing.T) {
	t.Parallel()
	s := start(t)
	a, b := s.create("a").Metadata.Id, s.create("b").Metadata.Id
	for _, id := range []string{b, "no-such-sandbox"} {
		_, err := s.client.ReportMainProcessExit(s.box(a), &openshellpb.ReportMainProcessExitRequest{SandboxId: id, InstanceId: "i"})
		wantAnswer(t, "exit of "+id, err, codes.PermissionDenied, "cross-sandbox access denied")
	}
	ctx, cancel := context.WithCancel(s.box(b))
	defer cancel()
	session, err := s.client.ConnectSupervisor(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Send(hello(b)); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Recv(); err != nil {
		t.Fatal(err)
	}
	use, done := context.WithCancel(s.user())
	defer done()
	if _, err := s.client.ExecSandbox(use, &openshellpb.ExecSandboxRequest{SandboxId: b, Command: []string{"cat"}}); err != nil {
		t.Fatal(err)
	}
	channel := ""
	for channel == "" {
		m, err := session.Recv()
		if err != nil {
			t.Fatal(err)
		}
		channel = m.GetRelayOpen().GetChannelId()
	}
	relay, err := s.client.RelayStream(s.box(a))
	if err != nil {
		t.Fatal(err)
	}
	if err := relay.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{Init: &openshellpb.RelayInit{ChannelId: channel}}}); err != nil {
		t.Fatal(err)
	}
	_, err = relay.Recv()
	wantAnswer(t, "relay of another sandbox", err, codes.PermissionDenied, "")
}
