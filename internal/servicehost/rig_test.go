package servicehost_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"

	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/exec"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/servicehost"
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

// domain is that of the services of a rig.
const domain = "apps.example"

// tokens is an authenticator whose tokens say who the caller is: "user-SUBJECT" or "sandbox-ID". A client certificate is
// its holder.
type tokens struct{}

func (tokens) Authenticate(_ context.Context, r *authn.Request) (*principal.Principal, error) {
	if len(r.Authorization) == 0 && r.PeerCertificate != nil {
		return user(r.PeerCertificate.Subject.CommonName), nil
	}
	token, ok := authn.Bearer(r.Authorization)
	kind, name, _ := strings.Cut(token, "-")
	switch {
	case !ok:
		return nil, fault.New(fault.Unauthenticated, authn.ReasonMissingAuthorization, "missing authorization header").WithNext("sign in")
	case kind == "sandbox":
		return &principal.Principal{Kind: principal.Sandbox, SandboxID: name, Source: principal.SourceToken}, nil
	case kind == "user":
		return user(name), nil
	}
	return nil, fault.New(fault.Unauthenticated, "TOKEN", "invalid token: no such user")
}

func user(subject string) *principal.Principal {
	roles := []string{"openshell-user"}
	switch subject {
	case "root":
		roles = append(roles, "openshell-root")
	case "nobody":
		roles = nil
	}
	return &principal.Principal{
		Kind: principal.User, Issuer: idp, Subject: subject, Roles: roles, Issued: time.Now(), Expires: time.Now().Add(time.Hour),
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

func (noCredentials) Resolve(context.Context, string) (credentials.Token, error) {
	return credentials.Token{}, fault.New(fault.Unavailable, "NONE", "none")
}
func (noCredentials) Last(string) (credentials.Token, bool) { return credentials.Token{}, false }
func (noCredentials) Configured() bool                      { return false }

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

func (r *recorder) of(action string) []audit.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []audit.Record
	for _, record := range r.records {
		if record.Action == action {
			out = append(out, record)
		}
	}
	return out
}

type options struct {
	tls, loopback, split bool
	private              bool
	scheme               authz.Scheme
	limits               ratelimit.Config
	host                 servicehost.Config // its limits and times
}

// rig is a gateway behind the real port, with everything but drivers and identity providers.
type rig struct {
	tb         testing.TB
	address    string
	ca         *x509.CertPool // nil without TLS
	caFile     string
	store      *store.Store
	sandboxes  *sandbox.Service
	workspaces *workspace.Service
	services   *service.Service
	relays     *relay.Registry
	revoked    *revocation.Registry
	handler    *servicehost.Handler
	records    *recorder
	// ahead moves the clock of sessions.
	ahead atomic.Int64
}

func newRig(tb testing.TB, o options) *rig {
	tb.Helper()
	quiet := slog.New(slog.DiscardHandler)
	r := &rig{tb: tb, records: &recorder{}}
	db, err := sqlite.Open(tb.Context(), "sqlite::memory:")
	r.must(err)
	r.store, err = store.Open(tb.Context(), db, store.Options{})
	r.must(err)
	tb.Cleanup(func() { r.store.Close() })
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
	r.workspaces, err = workspace.Open(tb.Context(), workspace.Options{
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
	l, err := net.Listen("tcp", "127.0.0.1:0")
	r.must(err)
	r.address = l.Addr().String()
	r.services, err = service.New(service.Config{
		Store: r.store, Access: rules, Sandboxes: r.sandboxes,
		Address: service.Address{Secure: o.tls && !o.split, Port: l.Addr().(*net.TCPAddr).AddrPort().Port(), Domains: []string{domain}},
	})
	r.must(err)
	host := o.host
	host.Services, host.Relays, host.Authenticator, host.Authorizer = r.services, r.relays, tokens{}, rules
	host.Limiter, host.Users, host.Audit, host.Loopback = limiter, r.revoked, r.records, o.loopback
	host.Now = func() time.Time { return time.Now().Add(time.Duration(r.ahead.Load())) }
	r.handler, err = servicehost.New(host)
	r.must(err)
	d, err := door.New(door.Config{Authenticator: tokens{}, Authorizer: rules, Limiter: limiter, Sessions: r.revoked})
	r.must(err)
	server := grpc.NewServer(append(listener.GRPCOptions(), grpc.ChainUnaryInterceptor(d.Unary()), grpc.ChainStreamInterceptor(d.Stream()),
		grpc.InTapHandle(streamstop.Tap(v00.Streams())))...)
	v00.Register(server, v00.Services{
		Sandboxes: r.sandboxes, Providers: providers, Relays: r.relays, Exec: exec.NewRunner(r.relays), Logs: logs,
		Tokens: minted{}, Logger: quiet, Exposed: r.services,
	})
	mux := http.NewServeMux()
	mux.Handle(servicehost.PathLink, r.handler.Links())
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "the gateway's own") })
	cfg := listener.Config{GRPC: server, HTTP: r.handler.Wrap(mux), FastPath: true, Logger: quiet}
	if o.tls {
		cfg.TLS = r.certificate()
	}
	port, err := listener.New(cfg)
	r.must(err)
	if o.split {
		l = servicehost.NewSplit(l, r.handler.Alone(), quiet)
	}
	r.serve(port, l)
	return r
}

func (r *rig) must(err error) {
	r.tb.Helper()
	if err != nil {
		r.tb.Fatal(err)
	}
}

// certificate borrows one for this address.
func (r *rig) certificate() *tls.Config {
	lender := httptest.NewTLSServer(http.NotFoundHandler())
	defer lender.Close()
	r.ca = x509.NewCertPool()
	r.ca.AddCert(lender.Certificate())
	r.caFile = filepath.Join(r.tb.TempDir(), "ca.pem")
	r.must(os.WriteFile(r.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: lender.Certificate().Raw}), 0o600))
	return &tls.Config{Certificates: lender.TLS.Certificates, MinVersion: tls.VersionTLS12}
}

func (r *rig) serve(port *listener.Port, l net.Listener) {
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for _, loop := range []func(context.Context) error{r.handler.Run, r.services.Run, r.revoked.Run, r.sandboxes.Follow} {
		running.Go(func() {
			if err := loop(ctx); err != nil && ctx.Err() == nil {
				r.tb.Error(err)
			}
		})
	}
	running.Go(func() {
		if err := port.Serve(ctx, l, 0); err != nil {
			r.tb.Errorf("serve: %v", err)
		}
	})
	r.tb.Cleanup(func() {
		r.relays.Close("the test is over")
		cancel()
		r.handler.Close()
		running.Wait()
		r.sandboxes.Wait()
	})
}

// box makes a sandbox of a user, without a supervisor.
func (r *rig) box(name, owner string) string {
	r.tb.Helper()
	sb, err := r.sandboxes.Create(as(r.tb.Context(), owner), sandbox.CreateRequest{Name: name, Spec: &sandbox.Spec{}})
	r.must(err)
	return sb.Object.ID
}

func as(ctx context.Context, subject string) context.Context {
	return principal.With(ctx, user(subject))
}

// expose makes a sandbox with a supervisor whose service, of this name, is the program.
func (r *rig) expose(box, name, owner string, program http.Handler) *service.Endpoint {
	r.tb.Helper()
	r.supervise(r.box(box, owner))
	return r.program(box, name, owner, program)
}

// program starts a program and makes it a service of a sandbox.
func (r *rig) program(box, name, owner string, program http.Handler) *service.Endpoint {
	r.tb.Helper()
	server := httptest.NewServer(program)
	r.tb.Cleanup(server.Close)
	at, err := url.Parse(server.URL)
	r.must(err)
	port, err := strconv.ParseUint(at.Port(), 10, 16)
	r.must(err)
	return r.port(box, name, owner, uint32(port))
}

func (r *rig) port(box, name, owner string, port uint32) *service.Endpoint {
	r.tb.Helper()
	e, err := r.services.Expose(as(r.tb.Context(), owner), service.ExposeRequest{Name: service.Name{Sandbox: box, Service: name}, Port: port})
	r.must(err)
	return e
}

// supervise starts a real supervisor for a sandbox and waits until it is connected. The result ends it.
func (r *rig) supervise(id string) (stop func()) {
	r.tb.Helper()
	r.sandboxes.Changed(r.tb.Context(), compute.Snapshot{
		ID: id, HasStatus: true, Conditions: []compute.Condition{{Type: "Ready", Status: "True", Reason: "Running"}},
	})
	scheme := "http"
	if r.ca != nil {
		scheme = "https"
	}
	vars := map[string]string{
		"OPENSHELL_SANDBOX_ID": id, "OPENSHELL_SANDBOX": "box", "OPENSHELL_ENDPOINT": scheme + "://" + r.address,
		"OPENSHELL_TLS_CA": r.caFile, "SALLYPORT_WORKDIR": r.tb.TempDir(), "PATH": os.Getenv("PATH"),
		"SALLYPORT_SANDBOX_ID": id, "OPENSHELL_SANDBOX_TOKEN": "sandbox-" + id,
	}
	c, err := env.Load(func(name string) string { return vars[name] })
	r.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if _, err := supervisor.Run(ctx, supervisor.Options{Config: c, Output: io.Discard, SFTP: []string{"/bin/false"}}); err != nil {
			r.tb.Errorf("supervisor: %v", err)
		}
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		<-done
	})
	r.tb.Cleanup(stop)
	wait, end := context.WithTimeout(r.tb.Context(), 20*time.Second)
	defer end()
	_, err = r.relays.Session(wait, id)
	r.must(err)
	return stop
}

// host is that of a service.
func (r *rig) host(box, name string) string {
	return r.services.Address().Host(service.Name{Sandbox: box, Service: name})
}

func (r *rig) scheme() string {
	if r.ca != nil {
		return "https"
	}
	return "http"
}

// client is a browser or a program that finds every host at the gateway and follows no redirection.
func (r *rig) client(version2 bool) *http.Client {
	r.tb.Helper()
	protocols := &http.Protocols{}
	protocols.SetHTTP1(!version2)
	protocols.SetHTTP2(version2)
	t := &http.Transport{
		Protocols: protocols, DisableCompression: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, network, r.address)
		},
	}
	if r.ca != nil {
		t.TLSClientConfig = &tls.Config{RootCAs: r.ca, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS12}
		if version2 {
			t.TLSClientConfig.NextProtos = []string{"h2", "http/1.1"}
		}
	}
	r.tb.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// answer is a response, its body read.
type answer struct {
	*http.Response
	body string
}

// ask makes a request to a host; headers are "Name: value".
func (r *rig) ask(method, host, path string, headers ...string) answer {
	r.tb.Helper()
	return r.askWith(r.client(false), method, host, path, nil, headers...)
}

func (r *rig) askWith(c *http.Client, method, host, path string, body io.Reader, headers ...string) answer {
	r.tb.Helper()
	return r.askOver(c, r.scheme(), method, host, path, body, headers...)
}

func (r *rig) askOver(c *http.Client, scheme, method, host, path string, body io.Reader, headers ...string) answer {
	r.tb.Helper()
	req, err := http.NewRequestWithContext(r.tb.Context(), method, scheme+"://"+host+path, body)
	r.must(err)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	resp, err := c.Do(req)
	r.must(err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	r.must(err)
	return answer{resp, string(text)}
}

const bearer = "Authorization: Bearer user-"

// link asks for a link on the gateway's own host.
func (r *rig) link(subject, box, name string) (answer, string) {
	r.tb.Helper()
	body, err := json.Marshal(map[string]string{"sandbox": box, "service": name})
	r.must(err)
	a := r.askWith(r.client(false), http.MethodPost, r.address, servicehost.PathLink, bytes.NewReader(body), bearer+subject, "Content-Type: application/json")
	var out struct {
		URL string `json:"url"`
	}
	r.must(json.Unmarshal([]byte(a.body), &out))
	return a, out.URL
}

// signIn opens a link and returns the header with which the browser is signed in.
func (r *rig) signIn(subject, box, name string) string {
	r.tb.Helper()
	a, link := r.link(subject, box, name)
	if link == "" {
		r.tb.Fatalf("no link: %d %s", a.StatusCode, a.body)
	}
	u, err := url.Parse(link)
	r.must(err)
	in := r.ask(http.MethodGet, u.Host, u.RequestURI(), "Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Sec-Fetch-Site: none")
	if in.StatusCode != http.StatusSeeOther || len(in.Cookies()) != 1 {
		r.tb.Fatalf("not signed in: %d %s", in.StatusCode, in.body)
	}
	return "Cookie: " + in.Cookies()[0].Name + "=" + in.Cookies()[0].Value
}

// eventually waits for something that happens beside.
func (r *rig) eventually(what string, ok func() bool) {
	r.tb.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			r.tb.Fatalf("not within 20 s: %s", what)
		case <-tick.C:
		}
	}
}
