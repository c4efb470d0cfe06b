// Package canary_test puts secrets with a mark through every door of a whole gateway and then looks for the mark in
// everything that the gateway leaves behind: its log, its audit log, its metrics, its database, and what it answers to
// others. It knows the gateway from outside only.
package canary_test

import (
	"bytes"
	"context"
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
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/driveroauth2"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/oidctest"
)

// mark begins every secret of this test.
const mark = "cAnArY7"

// buffer is a log that tests can read.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// driver is a compute driver whose sandboxes are ready at once.
type driver struct {
	computepb.UnimplementedComputeDriverServer
	mu    sync.Mutex
	boxes map[string]*computepb.DriverSandbox
}

func (d *driver) GetCapabilities(context.Context, *computepb.GetCapabilitiesRequest) (*computepb.GetCapabilitiesResponse, error) {
	return &computepb.GetCapabilitiesResponse{DriverName: "canary", DriverVersion: "1", DefaultImage: "image"}, nil
}

func (d *driver) ValidateSandboxCreate(context.Context, *computepb.ValidateSandboxCreateRequest) (*computepb.ValidateSandboxCreateResponse, error) {
	return &computepb.ValidateSandboxCreateResponse{}, nil
}

func (d *driver) CreateSandbox(_ context.Context, req *computepb.CreateSandboxRequest) (*computepb.CreateSandboxResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.boxes[req.Sandbox.Id] = req.Sandbox
	return &computepb.CreateSandboxResponse{}, nil
}

func (d *driver) ListSandboxes(context.Context, *computepb.ListSandboxesRequest) (*computepb.ListSandboxesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	resp := &computepb.ListSandboxesResponse{}
	for _, sb := range d.boxes {
		resp.Sandboxes = append(resp.Sandboxes, &computepb.DriverSandbox{Id: sb.Id, Name: sb.Name, Status: &computepb.DriverSandboxStatus{
			Conditions: []*computepb.DriverCondition{{Type: "Ready", Status: "True", Reason: "Running"}},
		}})
	}
	return resp, nil
}

func (d *driver) WatchSandboxes(_ *computepb.WatchSandboxesRequest, stream grpc.ServerStreamingServer[computepb.WatchSandboxesEvent]) error {
	<-stream.Context().Done()
	return nil
}

func (d *driver) token(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.boxes[id].GetSpec().GetSandboxToken()
}

// vault starts the credentials driver with a secret of its own. Its provider takes the secret for "crm" and, for "broken",
// refuses it and repeats it.
func (w *world) vault(ctx context.Context, socket string) (serve func()) {
	t := w.t
	t.Helper()
	provider := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if err := r.ParseForm(); err != nil || r.Form.Get("client_secret") != mark+"-client-secret" {
			t.Errorf("the provider was asked without the secret: %v", err)
		}
		if r.Form.Get("client_id") == "crm" {
			fmt.Fprintf(rw, `{"access_token":"%s-driver-value","token_type":"Bearer","expires_in":3600}`, mark)
			return
		}
		rw.WriteHeader(http.StatusUnauthorized)
		fmt.Fprintf(rw, `{"error":"invalid_client","error_description":"wrong secret %s"}`, r.Form.Get("client_secret"))
	}))
	t.Cleanup(provider.Close)
	// The driver's own files lie apart from the gateway's.
	dir := t.TempDir()
	entries := "credentials:\n"
	for _, name := range []string{"crm", "broken"} {
		entries += fmt.Sprintf("  %s: {client_id: %s, client_secret_ref: secret, token_endpoint: %q}\n", name, name, provider.URL+"/token")
	}
	for name, data := range map[string]string{"secret": mark + "-client-secret", "credentials.yaml": entries} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	client := driveroauth2.NewHTTPClient(nil)
	d, err := driveroauth2.New(driveroauth2.Options{
		ConfigPath: filepath.Join(dir, "credentials.yaml"), SecretsDir: dir, Client: client, Logger: w.logger(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close(); client.CloseIdleConnections() })
	return func() { w.serve(ctx, socket, func(r *grpc.Server) { d.Register(r) }) }
}

// world is a gateway with all it needs.
type world struct {
	t       *testing.T
	dir     string
	log     *buffer
	issuer  *oidctest.Issuer
	driver  *driver
	address string
	metrics string
	client  openshellpb.OpenShellClient
	ext     sallyportpb.GatewayClient
	gateway *gateway.Gateway
	cfg     *config.Config
	args    []string
	// stop ends the gateway and waits for it.
	stop func()

	mu sync.Mutex
	// needles are secrets beside those with the mark: tokens, whole.
	needles []string
	// errors are what callers were told.
	errors []string
}

// secret is what the shared-secret generation would be given.
const sharedSecret = mark + "-shared-secret"

func start(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "cn")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, log: &buffer{}, issuer: oidctest.New(t), driver: &driver{boxes: map[string]*computepb.DriverSandbox{}}}
	l, side := listen(t), listen(t)
	w.address, w.metrics = l.Addr().String(), side.Addr().String()
	side.Close()
	compute, credentials := filepath.Join(dir, "run", "c.sock"), filepath.Join(dir, "run", "v.sock")
	w.args = []string{
		"--disable-tls", "--drivers", "external", "--compute-driver-socket", compute, "--credentials-driver-socket", credentials,
		"--db-url", "sqlite:" + filepath.Join(dir, "state", "x.db"), "--oidc-issuer", w.issuer.URL, "--oidc-audience", oidctest.Audience,
		"--oidc-scopes-claim", "scope", "--shutdown-grace-secs", "1", "--metrics-port", portOf(w.metrics),
		"--allow-shared-sandbox-secret", "--audit-dir", filepath.Join(dir, "state", "audit"),
	}
	w.cfg = w.parse(sharedSecret)
	w.gateway, err = gateway.New(t.Context(), w.cfg, gateway.Options{Version: "test", Logger: w.logger(), Listener: l})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		w.serve(ctx, compute, func(r *grpc.Server) { computepb.RegisterComputeDriverServer(r, w.driver) })
	})
	running.Go(w.vault(ctx, credentials))
	running.Go(func() {
		if err := w.gateway.Run(ctx); err != nil {
			t.Errorf("gateway: %v", err)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	t.Cleanup(w.stop)
	conn, err := grpc.NewClient(w.address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	w.client, w.ext = openshellpb.NewOpenShellClient(conn), sallyportpb.NewGatewayClient(conn)
	return w
}

// logger writes everything there is to say.
func (w *world) logger() *slog.Logger {
	return slog.New(slog.NewJSONHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (w *world) parse(secret string) *config.Config {
	w.t.Helper()
	cfg, err := config.Parse(w.args, func(k string) (string, bool) {
		switch k {
		case "HOME":
			return w.dir, true
		case "OPENSHELL_SSH_HANDSHAKE_SECRET":
			return secret, true
		}
		return "", false
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return cfg
}

func (w *world) serve(ctx context.Context, socket string, register func(*grpc.Server)) {
	if err := driverkit.Serve(ctx, driverkit.Options{Socket: socket, Logger: w.logger()}, register); err != nil {
		w.t.Errorf("driver: %v", err)
	}
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// mint makes a user's token that holds the mark, and remembers it.
func (w *world) mint(subject string, roles ...string) string {
	token := w.issuer.Mint(map[string]any{
		"sub": subject, "realm_access": oidctest.Roles(roles...), "scope": "openshell:all", "private": mark + "-claim",
	})
	w.hide(token)
	return token
}

func (w *world) hide(secrets ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.needles = append(w.needles, secrets...)
}

// told remembers what a caller was told, and returns the error.
func (w *world) told(err error) error {
	if err == nil {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.errors = append(w.errors, fmt.Sprintf("%v %v", err, status.Convert(err).Details()))
	return err
}

// refused is told of a call that must have failed.
func (w *world) refused(what string, err error) {
	w.t.Helper()
	if w.told(err) == nil {
		w.t.Errorf("%s was not refused", what)
	}
}

func (w *world) with(pairs ...string) context.Context {
	ctx, cancel := context.WithTimeout(w.t.Context(), 20*time.Second)
	w.t.Cleanup(cancel)
	return metadata.AppendToOutgoingContext(ctx, pairs...)
}

func (w *world) as(token string) context.Context { return w.with("authorization", "Bearer "+token) }

// get asks over plain HTTP and remembers what came.
func (w *world) get(url string, header http.Header) string {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), http.MethodGet, url, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header = header
	resp, err := (&http.Client{Timeout: 10 * time.Second}).Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(body)
}

// connect holds a supervisor's session that answers commands by echoing their input.
func (w *world) connect(id, token string) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.as(token))
	stream, err := w.client.ConnectSupervisor(metadata.AppendToOutgoingContext(ctx, execchannel.MetadataKey, execchannel.Capability))
	if err != nil {
		w.t.Fatal(err)
	}
	if err := stream.Send(&openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{
		Hello: &openshellpb.SupervisorHello{SandboxId: id, InstanceId: "i"},
	}}); err != nil {
		w.t.Fatal(err)
	}
	if _, err := stream.Recv(); err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			m, err := stream.Recv()
			if err != nil {
				return
			}
			if open := m.GetRelayOpen(); open != nil {
				running.Go(func() { w.echo(ctx, open.ChannelId) })
			}
		}
	})
	w.t.Cleanup(func() { cancel(); running.Wait() })
}

func (w *world) echo(ctx context.Context, channel string) {
	stream, err := w.client.RelayStream(ctx)
	if err != nil {
		return
	}
	send := func(data []byte) {
		_ = stream.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Data{Data: data}})
	}
	_ = stream.Send(&openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{Init: &openshellpb.RelayInit{ChannelId: channel}}})
	for {
		m, err := stream.Recv()
		if err != nil {
			return
		}
		f, err := execchannel.Decode(m.GetData())
		if err != nil {
			return
		}
		switch f.Type {
		case execchannel.Stdin:
			send(execchannel.Encode(execchannel.Stdout, f.Payload))
		case execchannel.StdinEOF:
			send(execchannel.EncodeExit(0))
			_ = stream.CloseSend()
		}
	}
}

// found tells which secret a text holds; empty for none.
func (w *world) found(text string) string {
	if i := strings.Index(text, mark); i >= 0 {
		return text[i:min(len(text), i+40)]
	}
	for _, needle := range w.needles {
		if strings.Contains(text, needle) {
			return "a token"
		}
		// The signature alone is half of a token.
		if i := strings.LastIndexByte(needle, '.'); i > 0 && len(needle)-i > 20 && strings.Contains(text, needle[i+1:]) {
			return "the signature of a token"
		}
	}
	return ""
}
