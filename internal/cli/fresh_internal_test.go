package cli

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/cli/internal/idptest"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// accessLife is how long the access tokens of the test's provider live, commandLife how long its commands run.
const (
	accessLife  = 5 * time.Minute
	commandLife = 20 * time.Minute
)

// longRunner runs every command for commandLife, and a watch for as long as the stream may.
type longRunner struct {
	openshellpb.UnimplementedOpenShellServer
}

func (longRunner) GetCurrentUser(context.Context, *openshellpb.GetCurrentUserRequest) (*openshellpb.GetCurrentUserResponse, error) {
	return &openshellpb.GetCurrentUserResponse{}, nil
}

func (longRunner) ExecSandbox(_ *openshellpb.ExecSandboxRequest, s grpc.ServerStreamingServer[openshellpb.ExecSandboxEvent]) error {
	select {
	case <-s.Context().Done():
		return context.Cause(s.Context())
	case <-time.After(commandLife):
		return s.Send(&openshellpb.ExecSandboxEvent{Payload: &openshellpb.ExecSandboxEvent_Exit{Exit: &openshellpb.ExecSandboxExit{}}})
	}
}

func (longRunner) WatchSandbox(_ *openshellpb.WatchSandboxRequest, s grpc.ServerStreamingServer[openshellpb.SandboxStreamEvent]) error {
	select {
	case <-s.Context().Done():
		return context.Cause(s.Context())
	case <-time.After(commandLife):
		return nil
	}
}

// believer believes the tokens of a provider for as long as they live.
type believer struct {
	idp   *idptest.Provider
	mu    sync.Mutex
	first map[string]time.Time
}

func (b *believer) Authenticate(_ context.Context, r *authn.Request) (*principal.Principal, error) {
	token, _ := authn.Bearer(r.Authorization)
	b.mu.Lock()
	defer b.mu.Unlock()
	began, seen := b.first[token]
	if !seen {
		began = time.Now()
		b.first[token] = began
	}
	p := &principal.Principal{
		Kind: principal.User, Issuer: b.idp.Issuer(), Subject: b.idp.Subject(token), Issued: began, Expires: began.Add(accessLife),
	}
	if p.Subject == "" || time.Now().After(p.Expires) {
		return nil, fault.New(fault.Unauthenticated, "TOKEN", "invalid token")
	}
	return p, nil
}

// bearerOf puts a source's token on each call, as the transport does.
type bearerOf struct{ source *login.Source }

func (b bearerOf) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	token, err := b.source.Token(ctx)
	return map[string]string{"authorization": "Bearer " + token}, err
}
func (bearerOf) RequireTransportSecurity() bool { return false }

// shortLived runs do with a client whose tokens live for five minutes, on the clock of synctest, against the gateway's
// own door and its register of streams.
func shortLived(t *testing.T, do func(t *testing.T, a *app, s *session, idp *idptest.Provider)) {
	idp := idptest.Start(t)
	idp.TTL = accessLife
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		must := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		db, err := sqlite.Open(t.Context(), "sqlite::memory:")
		must(err)
		objects, err := store.Open(t.Context(), db, store.Options{})
		must(err)
		defer objects.Close()
		registry, err := revocation.Open(revocation.Options{Store: objects, Expired: door.ErrCredentialExpired})
		must(err)
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { must(registry.Run(ctx)) })
		defer running.Wait()
		defer cancel()
		table, err := authz.NewTable(openshellpb.File_openshell_v1_openshell_proto.Services().ByName("OpenShell"))
		must(err)
		authorizer, err := authz.New(table, authz.Policy{})
		must(err)
		d, err := door.New(door.Config{
			Authenticator: &believer{idp: idp, first: map[string]time.Time{}}, Authorizer: authorizer, Sessions: registry,
		})
		must(err)
		pipe := bufconn.Listen(1 << 16)
		server := grpc.NewServer(grpc.ChainUnaryInterceptor(d.Unary()), grpc.ChainStreamInterceptor(d.Stream()))
		openshellpb.RegisterOpenShellServer(server, longRunner{})
		running.Go(func() { server.Serve(pipe) })
		defer server.Stop()

		root := profile.At(filepath.Join(dir, "openshell"), "")
		meta := profile.Metadata{Name: "dev", Endpoint: "https://gateway", AuthMode: profile.AuthOIDC, OIDCIssuer: idp.Issuer(), OIDCClientID: "openshell-cli"}
		must(root.Save(meta))
		must(root.SaveToken("dev", profile.Token{
			AccessToken: "old", RefreshToken: idp.Grant(), Issuer: idp.Issuer(), ClientID: "openshell-cli", Expiry: time.Now().Add(-time.Minute),
		}))
		source := login.NewSource(login.SourceOptions{Root: root, Metadata: meta, Client: &http.Client{Transport: idp.Local()}})
		conn, err := grpc.NewClient("passthrough:///gateway", grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }),
			grpc.WithPerRPCCredentials(bearerOf{source}))
		must(err)
		defer conn.Close()
		s := &session{conn: conn, shell: openshellpb.NewOpenShellClient(conn), tokens: source}
		must(s.showToken(t.Context())) // As every command does before it opens a stream.
		a := newApp(Options{
			Env: func(string) (string, bool) { return "", false }, Stdio: Stdio{In: strings.NewReader(""), Out: &bytes.Buffer{}, Err: &bytes.Buffer{}},
		})
		do(t, a, s, idp)
	})
}

func readySandbox() *openshellpb.Sandbox {
	return &openshellpb.Sandbox{
		Metadata: &datamodelpb.ObjectMeta{Id: "id", Name: "box"},
		Status:   &openshellpb.SandboxStatus{Phase: openshellpb.SandboxPhase_SANDBOX_PHASE_READY},
	}
}

func TestCommandsOutliveTheirToken(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(ctx context.Context, a *app, s *session) error{
		"exec": func(ctx context.Context, a *app, s *session) error {
			return a.execute(ctx, s, readySandbox(), []string{"make"}, execFlags{})
		},
		"logs": func(ctx context.Context, a *app, s *session) error { return a.tailLogs(ctx, s, "id", logFlags{}, 0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shortLived(t, func(t *testing.T, a *app, s *session, idp *idptest.Provider) {
				began := time.Now()
				if err := run(t.Context(), a, s); err != nil {
					t.Fatalf("after %v: %v", time.Since(began), err)
				}
				if took := time.Since(began); took != commandLife {
					t.Errorf("took %v", took)
				}
				// One at the start, then one every four and a half minutes.
				if n := len(idp.Forms()); n != 5 {
					t.Errorf("%d tokens were obtained, want 5", n)
				}
			})
		})
	}
}

// A provider that is away for a while must not end the command; one that stays away ends it, with the reason.
func TestRenewalIsTriedAgain(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		away time.Duration
		ends bool
	}{"for a while": {accessLife - 15*time.Second, false}, "for good": {time.Hour, true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shortLived(t, func(t *testing.T, a *app, s *session, idp *idptest.Provider) {
				down := func(is bool) {
					idp.Lock()
					defer idp.Unlock()
					idp.Down = is
				}
				down(true)
				back := time.AfterFunc(c.away, func() { down(false) })
				defer back.Stop()
				began := time.Now()
				err := a.execute(t.Context(), s, readySandbox(), []string{"make"}, execFlags{})
				took := time.Since(began)
				if !c.ends {
					if err != nil || took != commandLife {
						t.Errorf("after %v: %v", took, err)
					}
					return
				}
				if took < accessLife || took > accessLife+5*time.Second {
					t.Errorf("ended after %v", took)
				}
				if status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "expired") {
					t.Errorf("ended with %v", err)
				}
				for _, d := range status.Convert(err).Details() {
					if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() != "CREDENTIAL_EXPIRED" {
						t.Errorf("reason %s", info.GetReason())
					}
				}
			})
		})
	}
}

type fixedSource struct{ at time.Time }

func (f *fixedSource) RenewAt() time.Time { return f.at }

func TestRefreshingStops(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		count := func(err error) func(context.Context) error {
			return func(context.Context) error { calls++; return err }
		}
		// A token that does not end.
		refreshing(t.Context(), &fixedSource{}, count(nil))
		// A session that only a person can renew.
		refreshing(t.Context(), &fixedSource{time.Now().Add(time.Minute)}, count(fault.New(fault.Unauthenticated, "X", "sign in")))
		if calls != 1 {
			t.Errorf("%d calls", calls)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		refreshing(ctx, &fixedSource{time.Now()}, count(errors.New("away")))
		if calls < 10 || calls > 15 {
			t.Errorf("%d calls in a minute of failure", calls)
		}
		if stop := (&session{}).keepFresh(t.Context()); stop == nil {
			t.Error("nothing to stop")
		} else {
			stop()
		}
	})
}
