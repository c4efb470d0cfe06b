package credentials_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/mvp/credentialspb"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fake struct {
	credentialspb.UnimplementedCredentialsDriverServer
	mu    sync.Mutex
	token *credentialspb.ResolveCredentialResponse
	list  *credentialspb.ListCredentialsResponse
	err   error
	asked string
}

func (f *fake) ResolveCredential(_ context.Context, r *credentialspb.ResolveCredentialRequest) (*credentialspb.ResolveCredentialResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = r.GetName()
	return f.token, f.err
}

func (f *fake) ListCredentials(context.Context, *credentialspb.ListCredentialsRequest) (*credentialspb.ListCredentialsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, f.err
}

func setup(t *testing.T) (*fake, *credentials.Client) {
	t.Helper()
	f := &fake{}
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	srv := grpc.NewServer()
	desc := credentialspb.CredentialsDriver_ServiceDesc
	desc.ServiceName = "openshell.credentials.v1.CredentialsDriver"
	srv.RegisterService(&desc, f)
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(l) }()
	conn, err := driver.Dial(driver.Config{Name: "credentials", Socket: socket, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); srv.Stop(); <-done })
	return f, credentials.New(conn)
}

func TestResolve(t *testing.T) {
	t.Parallel()
	f, c := setup(t)
	const canary = "canary-4711"
	f.token = &credentialspb.ResolveCredentialResponse{Token: canary, ExpiresAtMs: 5000, TokenType: "bearer"}
	tok, err := c.Resolve(t.Context(), "github")
	if err != nil {
		t.Fatal(err)
	}
	if tok.Value != canary || tok.Type != "bearer" || tok.Expires.UnixMilli() != 5000 || f.asked != "github" {
		t.Errorf("%+v", tok)
	}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "token", tok)
	if s := b.String() + fmt.Sprintf("%v %+v %#v %s", tok, tok, tok, tok); strings.Contains(s, canary) {
		t.Errorf("value shown: %s", s)
	}
	f.token = &credentialspb.ResolveCredentialResponse{Token: strings.Repeat("x", credentials.MaxToken)}
	if tok, err = c.Resolve(t.Context(), "n"); err != nil || !tok.Expires.IsZero() {
		t.Errorf("at the limit: %v %v", tok, err)
	}
	for name, lie := range map[string]*credentialspb.ResolveCredentialResponse{
		"empty":        {},
		"too long":     {Token: strings.Repeat("x", credentials.MaxToken+1)},
		"line break":   {Token: canary + "\nHost: evil"},
		"nul":          {Token: canary + "\x00"},
		"negative":     {Token: canary, ExpiresAtMs: -1},
		"far future":   {Token: canary, ExpiresAtMs: 1<<53 + 1},
		"type too big": {Token: canary, TokenType: strings.Repeat("x", 65)},
	} {
		f.token = lie
		_, err := c.Resolve(t.Context(), "n")
		if err == nil || fault.From(err).Reason != driver.ReasonInvalidAnswer || strings.Contains(err.Error(), canary) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.err = status.Error(codes.NotFound, `credential "n" not configured`)
	if _, err := c.Resolve(t.Context(), "n"); driver.CodeOf(err) != codes.NotFound || !driver.Answered(err) {
		t.Errorf("%v", err)
	}
}

func TestList(t *testing.T) {
	t.Parallel()
	f, c := setup(t)
	info := func(name string, scopes ...string) *credentialspb.CredentialInfo {
		return &credentialspb.CredentialInfo{Name: name, Scopes: scopes}
	}
	f.list = &credentialspb.ListCredentialsResponse{Credentials: []*credentialspb.CredentialInfo{info("b", "s1", "s2"), info("a")}}
	got, err := c.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]credentials.Info{{Name: "a"}, {Name: "b", Scopes: []string{"s1", "s2"}}}, got); d != "" {
		t.Error(d)
	}
	many := make([]*credentialspb.CredentialInfo, credentials.MaxList)
	for i := range many {
		many[i] = info(fmt.Sprintf("c%d", i))
	}
	f.list.Credentials = many
	if got, err = c.List(t.Context()); err != nil || len(got) != credentials.MaxList {
		t.Errorf("at the limit: %d %v", len(got), err)
	}
	for name, lie := range map[string][]*credentialspb.CredentialInfo{
		"too many": slices.Concat(many, []*credentialspb.CredentialInfo{info("x")}), "empty name": {info("")}, "bad name": {info("a b")},
		"twice": {info("a"), info("b"), info("a")}, "long scope": {info("a", strings.Repeat("x", 257))},
	} {
		f.list.Credentials = lie
		if _, err := c.List(t.Context()); err == nil || fault.From(err).Reason != driver.ReasonInvalidAnswer {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestValidName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"a": true, "A.b_c-9": true, strings.Repeat("x", 128): true, strings.Repeat("x", 129): false,
		"": false, "a/b": false, "a b": false, "é": false, "a\n": false,
	} {
		if got := credentials.ValidName(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}
