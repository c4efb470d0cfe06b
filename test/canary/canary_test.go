package canary_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/audit"
)

// TestNoSecretIsLeftBehind takes some seconds.
func TestNoSecretIsLeftBehind(t *testing.T) {
	t.Parallel()
	w := start(t)
	admin, user := w.mint("root", "openshell-admin", "openshell-user"), w.mint("alice", "openshell-user")
	id := w.putProviders(admin, user)
	w.putCredentials(id)
	w.putCommands(id, user)
	w.putWeb(user)
	if err := w.gateway.Apply(w.cfg, w.parse(mark+"-another-shared-secret")); err != nil {
		t.Fatal(err)
	}
	w.lookAtAnswers(admin, user, id)
	w.stop()
	w.lookAtLog()
	w.lookAtFiles()
}

func named(name string) *datamodelpb.ObjectMeta { return &datamodelpb.ObjectMeta{Name: name} }

// putProviders stores values of credentials, well and badly formed, and has a sandbox fetch them.
func (w *world) putProviders(admin, user string) (sandboxID string) {
	t := w.t
	t.Helper()
	create := func(ctx context.Context, p *datamodelpb.Provider) error {
		_, err := w.client.CreateProvider(ctx, &openshellpb.CreateProviderRequest{Provider: p}, grpc.WaitForReady(true))
		return w.told(err)
	}
	good := &datamodelpb.Provider{Metadata: named("p"), Type: "generic", Credentials: map[string]string{
		"LITERAL": mark + "-literal", "DRIVER": "driver://credentials/crm", "BROKEN": "driver://credentials/broken",
	}}
	if err := create(w.as(admin), good); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.UpdateProvider(w.as(admin), &openshellpb.UpdateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata: named("p"), Credentials: map[string]string{"LITERAL": mark + "-literal-2", "SECOND": mark + "-second"},
	}}); err != nil {
		t.Fatal(err)
	}
	w.refused("a provider of a user", create(w.as(user), good))
	w.refused("a provider twice", create(w.as(admin), good))
	w.refused("a key without a name", create(w.as(admin), &datamodelpb.Provider{
		Metadata: named("q"), Type: "generic", Credentials: map[string]string{"": mark + "-nameless"},
	}))
	w.refused("a value that is too long", create(w.as(admin), &datamodelpb.Provider{
		Metadata: named("q"), Type: "generic", Credentials: map[string]string{"A": strings.Repeat(mark, 1<<14)},
	}))
	w.refused("a reference with a bad name", create(w.as(admin), &datamodelpb.Provider{
		Metadata: named("q"), Type: "generic", Credentials: map[string]string{"A": "driver://credentials/ " + mark},
	}))
	resp, err := w.client.CreateSandbox(w.as(user), &openshellpb.CreateSandboxRequest{
		Name: "box", Spec: &openshellpb.SandboxSpec{Providers: []string{"p"}},
	}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	return resp.Sandbox.Metadata.Id
}

// putCredentials calls with credentials of every kind, good and bad.
func (w *world) putCredentials(id string) {
	t := w.t
	t.Helper()
	box := w.driver.token(id)
	if box == "" {
		t.Fatal("the driver was given no token")
	}
	w.hide(box)
	env, err := w.client.GetSandboxProviderEnvironment(w.as(box), &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
	if err != nil || env.Environment["LITERAL"] != mark+"-literal-2" || env.Environment["DRIVER"] != mark+"-driver-value" {
		t.Fatalf("environment: %v", err)
	}
	fresh, err := w.client.RefreshSandboxToken(w.as(box), &openshellpb.RefreshSandboxTokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	w.hide(fresh.Token)
	if _, err := w.client.GetSandboxConfig(w.with("x-sandbox-secret", sharedSecret), &sandboxpb.GetSandboxConfigRequest{SandboxId: id}); err != nil {
		t.Errorf("with the shared secret: %v", err)
	}
	foreign := w.issuer.Mint(map[string]any{"iss": "https://elsewhere.example/" + mark, "sub": mark})
	expired := w.issuer.Mint(map[string]any{"exp": time.Now().Add(-time.Hour).Unix(), "realm_access": mark + "-claim"})
	other := w.issuer.Mint(map[string]any{"aud": mark + "-audience"})
	odd := w.issuer.Mint(map[string]any{"typ": mark + "-typ", "nbf": time.Now().Add(time.Hour).Unix()})
	w.hide(foreign, expired, other, odd)
	for _, header := range []string{
		"Bearer " + mark, "Bearer " + foreign, "Bearer " + expired, "Bearer " + other, "Bearer " + odd, "Bearer " + box + "x",
		"Bearer " + strings.Replace(box, ".", "."+mark, 1), "Basic " + mark, mark, "Bearer", "Bearer " + mark + "." + mark + "." + mark,
		"Bearer " + w.issuer.HMAC(mark, []byte(mark), nil), "Bearer " + w.issuer.Unsigned(map[string]any{"kid": mark, "alg": mark}, nil),
	} {
		_, err := w.client.ListSandboxes(w.with("authorization", header), &openshellpb.ListSandboxesRequest{})
		w.refused("a call with "+header, err)
	}
	_, err = w.client.GetSandboxProviderEnvironment(w.with("x-sandbox-secret", mark+"-wrong"),
		&openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id})
	w.refused("a wrong shared secret", err)
	_, err = w.client.ListSandboxes(w.with("authorization", "Bearer "+mark, "authorization", "Bearer "+mark, "cookie", mark,
		"x-forwarded-for", mark, "x-api-key", mark), &openshellpb.ListSandboxesRequest{})
	w.refused("two credentials", err)
	w.connect(id, fresh.Token)
}

// putCommands runs commands that hold secrets in every place, and some that are refused for it.
func (w *world) putCommands(id, user string) {
	t := w.t
	t.Helper()
	request := func() *openshellpb.ExecSandboxRequest {
		return &openshellpb.ExecSandboxRequest{
			SandboxId: id, Command: []string{"login", "--password", mark + "-argument"}, Workdir: "/" + mark,
			Environment: map[string]string{"PASSWORD": mark + "-environment"}, Stdin: []byte(mark + "-stdin"),
		}
	}
	run := func(r *openshellpb.ExecSandboxRequest) error {
		stream, err := w.client.ExecSandbox(w.as(user), r)
		for err == nil {
			_, err = stream.Recv()
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		return w.told(err)
	}
	if err := run(request()); err != nil {
		t.Fatal(err)
	}
	r := request()
	r.Environment["BAD NAME"] = mark
	if run(r) == nil {
		t.Error("a bad name of a variable was not refused")
	}
	r = request()
	r.Command = append(r.Command, mark+"\x00")
	w.refused("a NUL", run(r))
	r = request()
	r.SandboxId = "absent"
	w.refused("an absent sandbox", run(r))
	interactive, err := w.client.ExecSandboxInteractive(w.as(user))
	if err != nil {
		t.Fatal(err)
	}
	r = request()
	r.Stdin, r.Tty = nil, true
	if err := interactive.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{Start: r}}); err != nil {
		t.Fatal(err)
	}
	if err := interactive.Send(&openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Stdin{Stdin: []byte(mark)}}); err != nil {
		t.Fatal(err)
	}
	if _, err := interactive.Recv(); err != nil {
		t.Errorf("interactive: %v", err)
	}
	if err := interactive.CloseSend(); err != nil {
		t.Error(err)
	}
	for err == nil {
		_, err = interactive.Recv()
	}
	if _, err := w.client.RevokeSshSession(w.as(user), &openshellpb.RevokeSshSessionRequest{Token: mark + "-session"}); err == nil {
		t.Log("sessions of SSH are built: issue one here")
	} else {
		_ = w.told(err)
	}
}

// putWeb asks over plain HTTP with secrets where browsers and proxies put them.
func (w *world) putWeb(user string) {
	header := http.Header{
		"Authorization": {"Bearer " + user}, "Cookie": {"CF_Authorization=" + mark, "session=" + mark}, "X-Auth": {mark},
		"Origin": {"https://" + mark + ".example"}, "Referer": {"https://x/?code=" + mark},
	}
	for _, path := range []string{"/healthz", "/readyz", "/auth/connect?callback_port=1&code=" + mark, "/auth/oidc-config", "/_ws_tunnel", "/" + mark} {
		body := w.get("http://"+w.address+path, header.Clone())
		w.mu.Lock()
		// The page that hands a proxy's cookie to its owner is made for that; it is off here.
		w.errors = append(w.errors, body)
		w.mu.Unlock()
	}
}

// lookAtAnswers looks at what others are told, and at the metrics.
func (w *world) lookAtAnswers(admin, user, id string) {
	t := w.t
	t.Helper()
	look := func(what, text string) {
		t.Helper()
		if secret := w.found(text); secret != "" {
			t.Errorf("%s holds %s", what, secret)
		}
	}
	provider, err := w.client.GetProvider(w.as(admin), &openshellpb.GetProviderRequest{Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	look("the provider", provider.String())
	sandbox, err := w.client.GetSandbox(w.as(user), &openshellpb.GetSandboxRequest{Name: "box"})
	if err != nil {
		t.Fatal(err)
	}
	look("the sandbox", sandbox.String())
	logs, err := w.client.GetSandboxLogs(w.as(user), &openshellpb.GetSandboxLogsRequest{SandboxId: id})
	if err != nil {
		t.Fatal(err)
	}
	look("the sandbox's log", logs.String())
	for _, text := range w.errors {
		look("an answer to a caller", text)
	}
	look("the metrics", w.get("http://"+w.metrics+"/metrics", http.Header{}))
	// The audit log is read the way people read it; it must have seen all this.
	actions := map[string]int{}
	req := &sallyportpb.ListAuditRecordsRequest{PageSize: 1000}
	for {
		page, err := w.ext.ListAuditRecords(w.as(admin), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page.Records {
			actions[r.Action+" "+r.Verdict]++
			actions[r.Action+" "+r.Target]++
			look("an audit record", r.String())
		}
		if req.PageToken = page.NextPageToken; req.PageToken == "" {
			break
		}
	}
	for _, want := range []string{
		"/openshell.v1.OpenShell/CreateProvider allowed", "/openshell.v1.OpenShell/CreateProvider denied",
		"/openshell.v1.OpenShell/CreateProvider failed", "/openshell.v1.OpenShell/UpdateProvider allowed",
		"/openshell.v1.OpenShell/ExecSandbox allowed", "/openshell.v1.OpenShell/ListSandboxes denied",
		"credential.disclose provider/default/p", "credential.disclose sandbox/" + id, "session.open allowed", "config.reload allowed", "gateway.start allowed",
	} {
		if actions[want] == 0 {
			t.Errorf("the audit log has no %q: %v", want, actions)
		}
	}
}

func (w *world) lookAtLog() {
	w.t.Helper()
	for line := range strings.Lines(w.log.String()) {
		if secret := w.found(line); secret != "" {
			w.t.Errorf("the log holds %s: %s", secret, line)
		}
	}
}

// lookAtFiles looks through every file that the gateway has written: database, write-ahead log, audit log.
func (w *world) lookAtFiles() {
	t := w.t
	t.Helper()
	seen := map[string]bool{}
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		seen[filepath.Ext(path)] = true
		if secret := w.found(string(data)); secret != "" {
			i := max(0, bytes.Index(data, []byte(mark)))
			t.Errorf("%s holds %s: %q", path, secret, data[max(0, i-60):min(len(data), i+60)])
		}
		return nil
	})
	if err != nil || !seen[".db"] || !seen[".jsonl"] {
		t.Errorf("files looked at: %v, %v", seen, err)
	}
	report, err := audit.Verify([]string{filepath.Join(w.dir, "state", "audit")})
	if err != nil || !report.OK() || report.Records < 20 {
		t.Errorf("the audit log: %+v, %v", report, err)
	}
}
