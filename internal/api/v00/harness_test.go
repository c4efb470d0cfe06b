package v00_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"sallyport.dev/sallyport/internal/access"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/exec"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
	"sallyport.dev/sallyport/internal/streamstop"
	"sallyport.dev/sallyport/internal/workspace"
)

// tokens is an authenticator whose tokens say who the caller is: "user;subject;roles;scopes[;issuer]" with commas
// between roles and scopes, or "sandbox;id;source".
type tokens struct{}

func (tokens) Authenticate(_ context.Context, r *authn.Request) (*principal.Principal, error) {
	if len(r.Authorization) == 0 {
		return nil, nil
	}
	parts := strings.Split(strings.TrimPrefix(r.Authorization[0], "Bearer "), ";")
	words := func(s string) []string { return strings.FieldsFunc(s, func(r rune) bool { return r == ',' }) }
	switch {
	case parts[0] == "sandbox" && len(parts) == 3:
		return &principal.Principal{Kind: principal.Sandbox, SandboxID: parts[1], Source: parts[2]}, nil
	case parts[0] == "user" && len(parts) >= 4:
		p := user(parts[1], words(parts[2])...)
		p.Scopes = words(parts[3])
		if len(parts) > 4 {
			p.Issuer = parts[4]
		}
		return p, nil
	}
	return nil, fault.New(fault.Unauthenticated, "TOKEN_NOT_ACCEPTED", "invalid token")
}

func user(subject string, roles ...string) *principal.Principal {
	return &principal.Principal{
		Kind: principal.User, Issuer: testIssuer, Subject: subject, Roles: roles, Provider: principal.ProviderOIDC,
	}
}

// pliant is a compute driver that does as it is told and remembers nothing.
type pliant struct{}

func (pliant) Capabilities(context.Context) (compute.Capabilities, error) {
	return compute.Capabilities{Name: "pliant", DefaultImage: "image"}, nil
}

func (pliant) Validate(context.Context, compute.Spec) error { return nil }
func (pliant) Create(context.Context, compute.Spec) error   { return nil }
func (pliant) Get(_ context.Context, id, _ string) (compute.Snapshot, error) {
	return compute.Snapshot{ID: id}, nil
}

func (pliant) Delete(context.Context, string, string) (bool, error) { return false, nil }
func (pliant) Stop(context.Context, string, string) error           { return nil }
func (pliant) Start(context.Context, string, string) error          { return nil }

type minted struct{}

func (minted) Mint(string) (string, time.Time, error) { return "token", time.Time{}, nil }

type noCredentials struct{}

func (noCredentials) Resolve(context.Context, string) (credentials.Token, error) {
	return credentials.Token{}, fault.New(fault.Unavailable, "NONE", "none")
}

func (noCredentials) Last(string) (credentials.Token, bool)            { return credentials.Token{}, false }
func (noCredentials) Configured() bool                                 { return false }
func (noCredentials) List(context.Context) ([]credentials.Info, error) { return nil, nil }

type explained struct{}

func (explained) Explain(context.Context, access.Question) (*access.Report, error) {
	return &access.Report{}, nil
}

func (explained) Preview(context.Context, []byte) ([]access.Change, int, error) { return nil, 0, nil }

// late hands a registry its observer once there is one.
type late struct{ relay.Observer }

// audited keeps the records of a rig.
type audited struct {
	mu      sync.Mutex
	records []audit.Record
}

func (a *audited) Record(r audit.Record) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.records = append(a.records, r)
}

// of returns the records of one method.
func (a *audited) of(action string) []audit.Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []audit.Record
	for _, r := range a.records {
		if strings.HasSuffix(r.Action, action) {
			out = append(out, r)
		}
	}
	return out
}

// rig is a gateway of everything but its drivers and identity providers, behind a real socket.
type rig struct {
	current    *authz.Current
	store      *store.Store
	workspaces *workspace.Service
	sandboxes  *sandbox.Service
	providers  *provider.Service
	exposed    *service.Service
	conn       *grpc.ClientConn
	audit      audited
}

// newRig starts a gateway with a policy. Its users come from the issuers, testIssuer if none is given.
func newRig(tb testing.TB, policy authz.Policy, issuers ...string) *rig {
	tb.Helper()
	must := func(err error) {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
	}
	if len(issuers) == 0 {
		issuers = []string{testIssuer}
	}
	quiet := slog.New(slog.DiscardHandler)
	db, err := sqlite.Open(tb.Context(), "sqlite::memory:")
	must(err)
	r := &rig{current: &authz.Current{}}
	r.store, err = store.Open(tb.Context(), db, store.Options{})
	must(err)
	tb.Cleanup(func() { r.store.Close() })
	r.workspaces, err = workspace.Open(tb.Context(), workspace.Options{
		Store: r.store, Access: r.current, Logger: quiet, Contents: []store.Kind{sandbox.Kind, provider.Kind},
		Issuers: func() workspace.Issuers { return workspace.Issuers{Known: issuers} },
		Left:    func() { r.sandboxes.Recheck() },
	})
	must(err)
	table, err := authz.NewTable(v00.Descriptors()...)
	must(err)
	authorizer, err := authz.New(table, policy)
	must(err)
	r.current.Store(authorizer.WithMembers(r.workspaces))
	r.providers, err = provider.New(provider.Options{
		Store: r.store, Resolver: noCredentials{}, Key: bytes.Repeat([]byte{7}, provider.KeySize), Logger: quiet,
		InUse:  func(workspace, name string) []string { return r.sandboxes.UsersOf(workspace, name) },
		Access: r.current, Use: r.workspaces.Use,
	})
	must(err)
	observer := &late{}
	relays, logs := relay.NewRegistry(observer), sandboxlog.NewHub(1<<20)
	r.sandboxes = sandbox.NewService(sandbox.Config{
		Store: r.store, Driver: pliant{}, Sessions: relays, Tokens: minted{}, Providers: r.providers, Logs: logs, Logger: quiet,
		Access: r.current, Workspaces: r.workspaces,
	})
	observer.Observer = r.sandboxes
	r.exposed, err = service.New(service.Config{
		Store: r.store, Access: r.current, Sandboxes: r.sandboxes,
		Address: service.Address{Secure: true, Port: 8080, Domains: []string{"services.example", service.DefaultDomain}},
	})
	must(err)
	d, err := door.New(door.Config{Authenticator: tokens{}, Authorizer: r.current, Audit: &r.audit, Describe: v00.Describe})
	must(err)
	server := grpc.NewServer(grpc.ChainUnaryInterceptor(d.Unary()), grpc.ChainStreamInterceptor(d.Stream()),
		grpc.UnknownServiceHandler(d.Unknown()), grpc.InTapHandle(streamstop.Tap(v00.Streams())))
	v00.Register(server, v00.Services{
		Sandboxes: r.sandboxes, Providers: r.providers, Workspaces: r.workspaces, Credentials: noCredentials{}, Compute: pliant{},
		Relays: relays, Exec: exec.NewRunner(relays), Logs: logs, Tokens: minted{}, Logger: quiet, Explain: explained{},
		Exposed: r.exposed,
	})
	r.serve(tb, server)
	tb.Cleanup(r.sandboxes.Wait)
	return r
}

func (r *rig) serve(tb testing.TB, server *grpc.Server) {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	go server.Serve(l)
	tb.Cleanup(server.Stop)
	if r.conn, err = grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { r.conn.Close() })
}

// box creates a sandbox on behalf of a user who is made an administrator for it.
func (r *rig) box(tb testing.TB, workspace, name, subject string) string {
	tb.Helper()
	ctx := principal.With(context.Background(), user(subject, "openshell-admin"))
	sb, err := r.sandboxes.Create(ctx, sandbox.CreateRequest{Workspace: workspace, Name: name, Spec: &sandbox.Spec{}})
	if err != nil {
		tb.Fatal(err)
	}
	return sb.Object.ID
}

// root is the context of a platform administrator behind the door.
func root() context.Context {
	return principal.With(context.Background(), user("root", "openshell-admin"))
}

// first sends one message and returns the first answer's error; the end of the stream is no error.
func first(ctx context.Context, conn *grpc.ClientConn, method string, in, out any) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, method)
	if err != nil {
		return err
	}
	// A refusal may come before the message is sent; it shows on receiving.
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if err := stream.RecvMsg(out); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
