//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// credentialKey is the variable that the tests' providers set in a sandbox.
const credentialKey = "E2E_TOKEN"

// plainHTTP keeps no connections, so that a test leaves no goroutine behind.
var plainHTTP = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

// client is one caller of the gateway.
type client struct {
	openshellpb.OpenShellClient
	conn  *grpc.ClientConn
	token string
}

func (c *client) close() { _ = c.conn.Close() }

// bearer puts a token on every call.
type bearer string

func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }

// connect signs a person in.
func (s *system) connect(clientID, user, password string) *client {
	s.t.Helper()
	return s.dial(s.token(clientID, user, password))
}

// dial connects with a token, or with none if it is empty. The connection is closed with the test.
func (s *system) dial(token string) *client {
	s.t.Helper()
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: s.tls.pool, MinVersion: tls.VersionTLS12})),
		// The gateway is away for moments only.
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: 200 * time.Millisecond},
			MinConnectTimeout: 5 * time.Second,
		}),
	}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	conn, err := grpc.NewClient(s.address(), options...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	return &client{OpenShellClient: openshellpb.NewOpenShellClient(conn), conn: conn, token: token}
}

func (s *system) token(clientID, user, password string) string {
	s.t.Helper()
	resp, err := plainHTTP.PostForm(s.idp.TokenEndpoint(), url.Values{
		"grant_type": {"password"}, "client_id": {clientID}, "username": {user}, "password": {password}, "scope": {"openid openshell:all"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct {
		AccessToken string `json:"access_token"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || body.AccessToken == "" {
		s.t.Fatalf("no token for %s: HTTP %d, error %v", user, resp.StatusCode, err)
	}
	return body.AccessToken
}

// readiness is what the gateway says of itself.
type readiness struct {
	Status string `json:"status"`
	Checks map[string]struct {
		Status string `json:"status"`
		Error  string `json:"error"`
	} `json:"checks"`
}

func (s *system) readiness() (readiness, int, error) {
	var r readiness
	resp, err := plainHTTP.Get("http://127.0.0.1:" + strconv.Itoa(s.health) + "/readyz")
	if err != nil {
		return r, 0, err
	}
	defer resp.Body.Close()
	return r, resp.StatusCode, json.NewDecoder(resp.Body).Decode(&r)
}

func (s *system) waitReady() {
	s.t.Helper()
	eventually(s.t, "gateway ready", func() error {
		if !s.gateway.running() {
			s.t.Fatalf("gateway ended: %v\n%s", s.gateway.err, tail(s.gateway.log, 20))
		}
		r, code, err := s.readiness()
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%+v", r)
		}
		return err
	})
}

// created remembers a sandbox, whose processes must be gone when the test ends.
func (s *system) created(id, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sandboxes[id] = name
}

func (s *system) create(t *testing.T, name string, providers ...string) string {
	t.Helper()
	id, err := s.tryCreate(t.Context(), name, providers...)
	if err != nil {
		t.Fatalf("create %s: %v", name, err)
	}
	return id
}

func (s *system) tryCreate(ctx context.Context, name string, providers ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	resp, err := s.user.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{Name: name, Spec: &openshellpb.SandboxSpec{Providers: providers}})
	if err != nil {
		return "", err
	}
	id := resp.GetSandbox().GetMetadata().GetId()
	s.created(id, name)
	return id, nil
}

// createReady creates a sandbox and waits until it is ready.
func (s *system) createReady(t *testing.T, name string, providers ...string) string {
	t.Helper()
	id := s.create(t, name, providers...)
	s.waitPhase(t, id, "READY")
	return id
}

func phaseOf(sb *openshellpb.Sandbox) string {
	p := sb.GetPhase()
	if p == openshellpb.SandboxPhase_SANDBOX_PHASE_UNSPECIFIED {
		p = sb.GetStatus().GetPhase()
	}
	return strings.TrimPrefix(p.String(), "SANDBOX_PHASE_")
}

// waitPhase follows a sandbox until it is in one of the phases. It outlives restarts of the gateway.
func (s *system) waitPhase(t *testing.T, id string, phases ...string) {
	t.Helper()
	eventually(t, "sandbox "+strings.Join(phases, " or "), func() error { return s.follow(t, id, phases) })
}

func (s *system) follow(t *testing.T, id string, phases []string) error {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := s.user.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{Id: id, FollowStatus: true})
	if err != nil {
		return err
	}
	last := "none"
	for {
		event, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("last phase %s: %w", last, err)
		}
		if event.GetSandbox() == nil {
			continue
		}
		last = phaseOf(event.GetSandbox())
		for _, p := range phases {
			if last == p {
				return nil
			}
		}
	}
}

// stored lists what the gateway knows, id to phase.
func (s *system) stored(t *testing.T) map[string]string {
	t.Helper()
	resp, err := s.user.ListSandboxes(t.Context(), &openshellpb.ListSandboxesRequest{Limit: 1000}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, sb := range resp.GetSandboxes() {
		out[sb.GetMetadata().GetId()] = phaseOf(sb)
		s.created(sb.GetMetadata().GetId(), sb.GetMetadata().GetName())
	}
	return out
}

// driven lists what the compute driver has.
func (s *system) driven(t *testing.T) map[string]bool {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+s.path("run", "p.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	resp, err := computepb.NewComputeDriverClient(conn).ListSandboxes(t.Context(), &computepb.ListSandboxesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]bool{}
	for _, sb := range resp.GetSandboxes() {
		out[sb.GetId()] = true
		s.created(sb.GetId(), sb.GetName())
	}
	return out
}

// remove deletes a sandbox and waits until neither the gateway nor the machine has anything of it.
func (s *system) remove(t *testing.T, id, name string) {
	t.Helper()
	if _, err := s.user.DeleteSandbox(t.Context(), &openshellpb.DeleteSandboxRequest{Name: name}); err != nil && status.Code(err) != codes.NotFound {
		t.Fatalf("delete %s: %v", name, err)
	}
	s.waitGone(t, id, name)
}

func (s *system) waitGone(t *testing.T, id, name string) {
	t.Helper()
	eventually(t, "sandbox "+name+" gone", func() error {
		resp, err := s.user.GetSandbox(t.Context(), &openshellpb.GetSandboxRequest{Name: name}, grpc.WaitForReady(true))
		if status.Code(err) != codes.NotFound {
			return fmt.Errorf("gateway answers %s, error %w", phaseOf(resp.GetSandbox()), orNone(err))
		}
		if pids := pidsWith(t, sandboxMarker+id); len(pids) > 0 {
			return fmt.Errorf("%d processes left", len(pids))
		}
		return nil
	})
}

func orNone(err error) error {
	if err == nil {
		return errors.New("none")
	}
	return err
}

// createProvider makes a provider that sets credentialKey to a credential of the credentials driver.
func (s *system) createProvider(t *testing.T, name, credential string) {
	t.Helper()
	_, err := s.admin.CreateProvider(t.Context(), &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: &datamodelpb.ObjectMeta{Name: name}, Type: "generic",
		Credentials: map[string]string{credentialKey: "driver://credentials/" + credential},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// result is how a command ended.
type result struct {
	code           int32
	stdout, stderr []byte
}

// exec executes a command and collects its output. Every call ends within patience.
func (s *system) exec(ctx context.Context, req *openshellpb.ExecSandboxRequest) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	stream, err := s.user.ExecSandbox(ctx, req)
	if err != nil {
		return result{}, err
	}
	return collect(stream)
}

func collect(stream grpc.ServerStreamingClient[openshellpb.ExecSandboxEvent]) (result, error) {
	var out, errs bytes.Buffer
	r := result{code: -1}
	for {
		event, err := stream.Recv()
		if errors.Is(err, io.EOF) && r.code >= 0 {
			r.stdout, r.stderr = out.Bytes(), errs.Bytes()
			return r, nil
		}
		if err != nil {
			return result{stdout: out.Bytes(), stderr: errs.Bytes()}, err
		}
		switch p := event.GetPayload().(type) {
		case *openshellpb.ExecSandboxEvent_Stdout:
			out.Write(p.Stdout.GetData())
		case *openshellpb.ExecSandboxEvent_Stderr:
			errs.Write(p.Stderr.GetData())
		case *openshellpb.ExecSandboxEvent_Exit:
			r.code = p.Exit.GetExitCode()
		}
	}
}

// sh runs a script that has to succeed and returns what it printed.
func (s *system) sh(t *testing.T, id, script string) string {
	t.Helper()
	r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"sh", "-c", script}})
	if err != nil || r.code != 0 {
		t.Fatalf("exec: exit code %d, error %v, stderr %s", r.code, err, r.stderr)
	}
	return string(r.stdout)
}

// wantFault checks an error's code and that it names a reason and a next step.
func wantFault(t *testing.T, err error, code codes.Code) {
	t.Helper()
	st := status.Convert(err)
	if st.Code() != code {
		t.Errorf("got %s %q, want %s", st.Code(), st.Message(), code)
		return
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			if info.GetReason() == "" || info.GetMetadata()["next"] == "" {
				t.Errorf("error %q has reason %q and next step %q, want both", st.Message(), info.GetReason(), info.GetMetadata()["next"])
			}
			return
		}
	}
	t.Errorf("error %q carries no reason", st.Message())
}
