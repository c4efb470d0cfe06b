package sshconnect_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/driver/compute"
	dcredentials "sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/exec"
	"sallyport.dev/sallyport/internal/relay/pipe"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/sshconnect"
	"sallyport.dev/sallyport/internal/sshsession"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
	"sallyport.dev/sallyport/internal/streamstop"
	"sallyport.dev/sallyport/internal/supervisor"
	"sallyport.dev/sallyport/internal/supervisor/env"
	"sallyport.dev/sallyport/internal/workspace"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const idp = "https://idp.example"

// tokens is an authenticator whose tokens say who the caller is: "user;subject" or "sandbox;id".
type tokens struct{}

func (tokens) Authenticate(_ context.Context, r *authn.Request) (*principal.Principal, error) {
	if len(r.Authorization) == 0 {
		return nil, nil
	}
	kind, name, _ := strings.Cut(strings.TrimPrefix(r.Authorization[0], "Bearer "), ";")
	if kind == "sandbox" {
		return &principal.Principal{Kind: principal.Sandbox, SandboxID: name, Source: principal.SourceToken}, nil
	}
	return user(name), nil
}

func user(subject string) *principal.Principal {
	roles := []string{"openshell-user"}
	if subject == "root" {
		roles = append(roles, "openshell-root")
	}
	return &principal.Principal{
		Kind: principal.User, Issuer: idp, Subject: subject, Roles: roles,
		Issued: time.Now(), Expires: time.Now().Add(time.Hour),
	}
}

// machines is a compute driver that starts nothing.
type machines struct{}

func (machines) Capabilities(context.Context) (compute.Capabilities, error) {
	return compute.Capabilities{Name: "machines", DefaultImage: "image"}, nil
}
func (machines) Validate(context.Context, compute.Spec) error { return nil }
func (machines) Create(context.Context, compute.Spec) error   { return nil }
func (machines) Get(_ context.Context, id, _ string) (compute.Snapshot, error) {
	return compute.Snapshot{ID: id}, nil
}
func (machines) Delete(context.Context, string, string) (bool, error) { return false, nil }
func (machines) Stop(context.Context, string, string) error           { return nil }
func (machines) Start(context.Context, string, string) error          { return nil }

type minted struct{}

func (minted) Mint(string) (string, time.Time, error) { return "token", time.Time{}, nil }

type noCredentials struct{}

func (noCredentials) Resolve(context.Context, string) (dcredentials.Token, error) {
	return dcredentials.Token{}, fault.New(fault.Unavailable, "NONE", "none")
}
func (noCredentials) Last(string) (dcredentials.Token, bool) { return dcredentials.Token{}, false }
func (noCredentials) Configured() bool                       { return false }

type late struct{ relay.Observer }

// recorder keeps what is recorded.
type recorder struct {
	mu      sync.Mutex
	records []audit.Record
}

func (r *recorder) Record(record audit.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.records = append(r.records, record)
}

// of returns the records about SSH connections.
func (r *recorder) of(action string) []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Record
	for _, record := range r.records {
		if record.Action == action && record.Details["via"] == sshconnect.Path {
			out = append(out, record)
		}
	}
	return out
}

// rig is a gateway behind the real port, with everything but drivers and identity providers.
type rig struct {
	t          *testing.T
	address    string
	ca         *x509.CertPool // nil without TLS
	caFile     string
	store      *store.Store
	sandboxes  *sandbox.Service
	workspaces *workspace.Service
	relays     *relay.Registry
	sessions   *sshsession.Service
	revoked    *revocation.Registry
	handler    *sshconnect.Handler
	records    *recorder
	client     openshellpb.OpenShellClient
	// ahead moves the clock of the sessions.
	ahead atomic.Int64
}

type options struct {
	tls     bool
	wait    time.Duration
	pipe    pipe.Options
	private bool
	scheme  authz.Scheme
	limits  ratelimit.Config
}

func newRig(t *testing.T, o options) *rig {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	r := &rig{t: t, records: &recorder{}}
	db, err := sqlite.Open(t.Context(), "sqlite::memory:")
	r.must(err)
	r.store, err = store.Open(t.Context(), db, store.Options{})
	r.must(err)
	t.Cleanup(func() { r.store.Close() })
	table, err := authz.NewTable(v00.Descriptors()...)
	r.must(err)
	if o.scheme == "" {
		o.scheme = authz.Roles
	}
	authorizer, err := authz.New(table, authz.Policy{
		Scheme: o.scheme, AdminRole: "openshell-root", UserRole: "openshell-user", PrivateSandboxes: o.private,
	})
	r.must(err)
	rules := &authz.Current{}
	r.workspaces, err = workspace.Open(t.Context(), workspace.Options{
		Store: r.store, Access: rules, Logger: quiet, Contents: []store.Kind{sandbox.Kind},
		Issuers: func() workspace.Issuers { return workspace.Issuers{Known: []string{idp}} },
	})
	r.must(err)
	rules.Store(authorizer.WithMembers(r.workspaces))
	providers, err := provider.New(provider.Options{
		Store: r.store, Resolver: noCredentials{}, Key: bytes.Repeat([]byte{7}, provider.KeySize), Logger: quiet,
		InUse: func(string, string) []string { return nil }, Access: rules, Use: r.workspaces.Use,
	})
	r.must(err)
	observer := &late{}
	r.relays = relay.NewRegistry(observer)
	logs := sandboxlog.NewHub(1 << 20)
	r.sandboxes = sandbox.NewService(sandbox.Config{
		Store: r.store, Driver: machines{}, Sessions: r.relays, Tokens: minted{}, Providers: providers, Logs: logs,
		Logger: quiet, Access: rules, Workspaces: r.workspaces,
	})
	observer.Observer = r.sandboxes
	r.revoked, err = revocation.Open(revocation.Options{Store: r.store, Expired: door.ErrCredentialExpired})
	r.must(err)
	limiter, err := ratelimit.New(o.limits, ratelimit.Options{})
	r.must(err)
	r.sessions, err = sshsession.New(sshsession.Config{
		Store: r.store, Sandboxes: r.sandboxes, Users: r.revoked,
		Now: func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) },
	})
	r.must(err)
	r.handler, err = sshconnect.New(sshconnect.Config{
		Sessions: r.sessions, Relays: r.relays, Limiter: limiter, Audit: r.records, SupervisorWait: o.wait, Pipe: o.pipe,
	})
	r.must(err)
	d, err := door.New(door.Config{Authenticator: tokens{}, Authorizer: rules, Limiter: limiter, Sessions: r.revoked, Pass: []string{":authority"}})
	r.must(err)
	server := grpc.NewServer(append(listener.GRPCOptions(), grpc.ChainUnaryInterceptor(d.Unary()), grpc.ChainStreamInterceptor(d.Stream()),
		grpc.InTapHandle(streamstop.Tap(v00.Streams())))...)
	v00.Register(server, v00.Services{
		Sandboxes: r.sandboxes, Providers: providers, Relays: r.relays, Exec: exec.NewRunner(r.relays), Logs: logs,
		Tokens: minted{}, Logger: quiet, SSH: v00.SSH{Sessions: r.sessions, TLS: o.tls},
	})
	mux := http.NewServeMux()
	mux.Handle(sshconnect.Path, r.handler)
	cfg := listener.Config{GRPC: server, HTTP: http.MaxBytesHandler(mux, 1<<20), FastPath: true, Logger: quiet}
	transport := insecure.NewCredentials()
	if o.tls {
		cfg.TLS = r.certificate()
		transport = credentials.NewTLS(&tls.Config{RootCAs: r.ca, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
	}
	port, err := listener.New(cfg)
	r.must(err)
	r.serve(port, transport)
	return r
}

func (r *rig) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// certificate borrows one for this address.
func (r *rig) certificate() *tls.Config {
	lender := httptest.NewTLSServer(http.NotFoundHandler())
	defer lender.Close()
	r.ca = x509.NewCertPool()
	r.ca.AddCert(lender.Certificate())
	r.caFile = filepath.Join(r.t.TempDir(), "ca.pem")
	r.must(os.WriteFile(r.caFile, pemOf(lender.Certificate()), 0o600))
	return &tls.Config{Certificates: lender.TLS.Certificates, MinVersion: tls.VersionTLS12}
}

func (r *rig) serve(port *listener.Port, transport credentials.TransportCredentials) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	r.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, loop := range []func(context.Context) error{r.sessions.Run, r.revoked.Run, r.sandboxes.Follow} {
		running.Go(func() {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				r.t.Error(err)
			}
		})
	}
	running.Go(func() {
		if err := port.Serve(ctx, l, 0); err != nil {
			r.t.Errorf("serve: %v", err)
		}
	})
	conn, err := grpc.NewClient(r.address, grpc.WithTransportCredentials(transport))
	r.must(err)
	r.client = openshellpb.NewOpenShellClient(conn)
	r.t.Cleanup(func() {
		conn.Close()
		r.relays.Close("the test is over")
		cancel()
		r.handler.Close()
		running.Wait()
		r.sandboxes.Wait()
	})
}

// as is the context of a user.
func (r *rig) as(subject string) context.Context {
	return metadata.AppendToOutgoingContext(r.t.Context(), "authorization", "Bearer user;"+subject)
}

// box makes a sandbox of a user, without a supervisor.
func (r *rig) box(name, owner string) string {
	r.t.Helper()
	sb, err := r.sandboxes.Create(principal.With(r.t.Context(), user(owner)), sandbox.CreateRequest{Name: name, Spec: &sandbox.Spec{}})
	r.must(err)
	return sb.Object.ID
}

// running lets the driver say that a sandbox runs.
func (r *rig) running(id string) {
	r.sandboxes.Changed(r.t.Context(), compute.Snapshot{
		ID: id, HasStatus: true, Conditions: []compute.Condition{{Type: "Ready", Status: "True", Reason: "Running"}},
	})
}

// supervise starts a real supervisor for a sandbox and waits until it is connected. The result ends it.
func (r *rig) supervise(id string) (stop func()) {
	r.t.Helper()
	scheme := "http"
	if r.ca != nil {
		scheme = "https"
	}
	vars := map[string]string{
		"OPENSHELL_SANDBOX_ID": id, "OPENSHELL_SANDBOX": "box", "OPENSHELL_ENDPOINT": scheme + "://" + r.address,
		"OPENSHELL_TLS_CA": r.caFile, "SALLYPORT_WORKDIR": r.t.TempDir(), "PATH": os.Getenv("PATH"),
		"SALLYPORT_SANDBOX_ID": id, "OPENSHELL_SANDBOX_TOKEN": "sandbox;" + id,
	}
	c, err := env.Load(func(name string) string { return vars[name] })
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := supervisor.Run(ctx, supervisor.Options{Config: c, Output: io.Discard, SFTP: []string{"/bin/false"}}); err != nil {
			r.t.Errorf("supervisor: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	r.t.Cleanup(stop)
	wait, end := context.WithTimeout(r.t.Context(), 20*time.Second)
	defer end()
	_, err = r.relays.Session(wait, id)
	r.must(err)
	return stop
}

// session makes an SSH session.
func (r *rig) session(subject, id string) *openshellpb.CreateSshSessionResponse {
	r.t.Helper()
	resp, err := r.client.CreateSshSession(r.as(subject), &openshellpb.CreateSshSessionRequest{SandboxId: id})
	r.must(err)
	return resp
}

// dial opens a connection to the port.
func (r *rig) dial() net.Conn {
	r.t.Helper()
	conn, err := net.Dial("tcp", r.address)
	r.must(err)
	if r.ca != nil {
		conn = tls.Client(conn, &tls.Config{RootCAs: r.ca, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12})
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// tunnel is a connection after the answer.
type tunnel struct {
	net.Conn
	in *bufio.Reader
}

func (t *tunnel) Read(p []byte) (int, error) { return t.in.Read(p) }

// answer is the head of a response, and its body if it is a refusal.
type answer struct {
	code   int
	header http.Header
	body   string
}

// ask sends a request as clients of the older generation write it, with what is sent right behind it.
func (r *rig) ask(method, headers, behind string) (answer, *tunnel) {
	r.t.Helper()
	conn := r.dial()
	_, err := fmt.Fprintf(conn, "%s /connect/ssh HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", method, r.address, headers, behind)
	r.must(err)
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, &http.Request{Method: method})
	r.must(err)
	defer resp.Body.Close()
	a := answer{code: resp.StatusCode, header: resp.Header}
	if a.code != http.StatusOK {
		body, err := io.ReadAll(resp.Body)
		r.must(err)
		a.body = string(body)
	}
	return a, &tunnel{conn, in}
}

// connect asks with a token and returns the status.
func (r *rig) connect(id, token string) (int, *tunnel) {
	r.t.Helper()
	a, conn := r.ask("CONNECT", "X-Sandbox-Id: "+id+"\r\nX-Sandbox-Token: "+token+"\r\n", "")
	return a.code, conn
}

// open connects and fails the test if that is refused.
func (r *rig) open(id, token string) *tunnel {
	r.t.Helper()
	status, conn := r.connect(id, token)
	if status != http.StatusOK {
		r.t.Fatalf("status %d", status)
	}
	return conn
}

// eventually waits for something that happens beside.
func (r *rig) eventually(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			r.t.Fatalf("not within 20 s: %s", what)
		case <-tick.C:
		}
	}
}

// join and leave change who is a member of the default workspace.
func (r *rig) join(subject string) {
	r.t.Helper()
	_, err := r.workspaces.AddMember(principal.With(r.t.Context(), user("root")), "", subject, authz.User)
	r.must(err)
}

func (r *rig) leave(subject string) error {
	_, err := r.workspaces.RemoveMember(principal.With(r.t.Context(), user("root")), "", subject)
	return err
}
