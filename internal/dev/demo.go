package dev

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/devidp"
)

const (
	// driverCredential is how a provider names a credential of the credentials driver in place of a value.
	driverCredential = "driver://credentials/" + devidp.DemoClient
	// credentialKey is the variable that the demo's provider sets in a sandbox.
	credentialKey = "DEMO_TOKEN"
	// streamBytes is what the demo moves through exec.
	streamBytes = 100 << 20
	// outputGoal is the longest that the way from signing in to the first output should take.
	outputGoal = 5 * time.Second
)

// showCredential prints the middle part of the token, its claims, and never the signature that makes it usable.
const showCredential = `printf 'hello from %s\n' "$(uname -n)"
case "$DEMO_TOKEN" in
  '') echo missing ;;
  *.*.*) printf 'token %d %s\n' "${#DEMO_TOKEN}" "$(printf %s "$DEMO_TOKEN" | cut -d. -f2)" ;;
  openshell:*) printf 'placeholder %s\n' "$DEMO_TOKEN" ;;
  *) printf 'opaque %d\n' "${#DEMO_TOKEN}" ;;
esac`

// sendStream writes random bytes to its output and their checksum, taken inside the sandbox, to its errors.
const sendStream = `set -e; d=$(mktemp -d ./stream.XXXXXX); mkfifo "$d/p"
sha256sum <"$d/p" >&2 & head -c %d /dev/urandom | tee "$d/p"; wait; rm -r "$d"`

// demo is the state of one run of the scenario.
type demo struct {
	sys      *system
	user     *session
	admin    *session
	provider string
	name     string
	sandbox  *openshellpb.Sandbox
	// began is when the first user started to sign in.
	began time.Time
	// groups are the control groups of the sandbox's processes.
	groups []string
}

// step is one named part of the scenario.
type step struct {
	name string
	run  func(context.Context) (string, error)
}

func newDemo(sys *system) *demo {
	suffix := strings.ToLower(rand.Text()[:6])
	return &demo{sys: sys, provider: "demo-" + suffix, name: "demo-" + suffix}
}

func (d *demo) steps() []step {
	return []step{
		{"sign in as user@test", d.signInUser},
		{"user@test may not create a provider", d.refusedProvider},
		{"sign in as admin@test", d.signInAdmin},
		{"create a provider with a credential of the credentials driver", d.createProvider},
		{"create a sandbox", d.createSandbox},
		{"wait until it is ready", d.waitReady},
		{"run a command that shows the credential", d.runCommand},
		{"show the isolation in effect", d.showIsolation},
		{"stream 100 MB through exec", d.stream},
		{"list sandboxes", d.list},
		{"delete the sandbox and see its processes gone", d.deleteSandbox},
		{"a second tenant's token is refused", d.otherTenant},
	}
}

// run walks through the scenario to the first failure, and cleans up in any case.
func (d *demo) run(ctx context.Context, r *reporter) {
	for _, s := range d.steps() {
		if !r.step(ctx, s.name, s.run) {
			break
		}
	}
	r.step(context.WithoutCancel(ctx), "clean up", d.cleanUp)
}

func (d *demo) signInUser(ctx context.Context) (string, error) {
	d.began = time.Now()
	var err error
	if d.user, err = signIn(ctx, d.sys, devidp.CLIClient, "user@test", "user"); err != nil {
		return "", err
	}
	return d.user.claims.describe(), nil
}

func (d *demo) signInAdmin(ctx context.Context) (string, error) {
	var err error
	if d.admin, err = signIn(ctx, d.sys, devidp.CLIClient, "admin@test", "admin"); err != nil {
		return "", err
	}
	return d.admin.claims.describe(), nil
}

func (c claims) describe() string {
	return fmt.Sprintf("token of %s, roles %s", c.User, strings.Join(c.Realm.Roles, ", "))
}

func (d *demo) providerRequest() *openshellpb.CreateProviderRequest {
	return &openshellpb.CreateProviderRequest{Provider: &datamodelpb.Provider{
		Metadata:    &datamodelpb.ObjectMeta{Name: d.provider},
		Type:        "generic",
		Credentials: map[string]string{credentialKey: driverCredential},
	}}
}

func (d *demo) refusedProvider(ctx context.Context) (string, error) {
	_, err := d.user.CreateProvider(ctx, d.providerRequest())
	st := status.Convert(err)
	if st.Code() != codes.PermissionDenied || !strings.Contains(st.Message(), devidp.RoleAdmin) {
		return "", fmt.Errorf("wanted a refusal that names role %s, got: %w", devidp.RoleAdmin, orSuccess(err))
	}
	return "refused: " + st.Message(), nil
}

// orSuccess makes an unexpected success readable.
func orSuccess(err error) error {
	if err == nil {
		return errors.New("success")
	}
	return err
}

func (d *demo) createProvider(ctx context.Context) (string, error) {
	resp, err := d.admin.CreateProvider(ctx, d.providerRequest())
	if err != nil {
		return "", fmt.Errorf("create provider: %w", err)
	}
	return fmt.Sprintf("provider %s: %s = %s", resp.GetProvider().GetMetadata().GetName(), credentialKey, driverCredential), nil
}

func (d *demo) createSandbox(ctx context.Context) (string, error) {
	resp, err := d.user.CreateSandbox(ctx, &openshellpb.CreateSandboxRequest{
		Name: d.name,
		Spec: &openshellpb.SandboxSpec{Providers: []string{d.provider}},
	})
	if err != nil {
		return "", fmt.Errorf("create sandbox: %w", err)
	}
	d.sandbox = resp.GetSandbox()
	return fmt.Sprintf("%s, id %s", d.sandbox.GetMetadata().GetName(), d.id()), nil
}

func (d *demo) id() string { return d.sandbox.GetMetadata().GetId() }

// phase reads the phase from where either generation puts it.
func phase(s *openshellpb.Sandbox) openshellpb.SandboxPhase {
	if p := s.GetPhase(); p != openshellpb.SandboxPhase_SANDBOX_PHASE_UNSPECIFIED {
		return p
	}
	return s.GetStatus().GetPhase()
}

func (d *demo) waitReady(ctx context.Context) (string, error) {
	// Ends the stream on return.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	events, err := d.user.WatchSandbox(ctx, &openshellpb.WatchSandboxRequest{Id: d.id(), FollowStatus: true})
	if err != nil {
		return "", fmt.Errorf("watch sandbox: %w", err)
	}
	var seen []string
	for {
		event, err := events.Recv()
		if err != nil {
			return "", fmt.Errorf("watch sandbox (phases so far: %s): %w", strings.Join(seen, ", "), err)
		}
		sandbox := event.GetSandbox()
		if sandbox == nil {
			continue
		}
		word := strings.TrimPrefix(phase(sandbox).String(), "SANDBOX_PHASE_")
		if len(seen) == 0 || seen[len(seen)-1] != word {
			seen = append(seen, word)
		}
		switch phase(sandbox) {
		case openshellpb.SandboxPhase_SANDBOX_PHASE_READY:
			d.sandbox = sandbox
			return strings.Join(seen, " -> "), nil
		case openshellpb.SandboxPhase_SANDBOX_PHASE_ERROR:
			return "", fmt.Errorf("sandbox failed: %s", conditions(sandbox))
		}
	}
}

func conditions(s *openshellpb.Sandbox) string {
	var out []string
	for _, c := range s.GetStatus().GetConditions() {
		out = append(out, fmt.Sprintf("%s=%s %s %s", c.GetType(), c.GetStatus(), c.GetReason(), c.GetMessage()))
	}
	return strings.Join(out, "; ")
}

// exec runs a shell script in the sandbox, its output going to the two writers.
func (d *demo) exec(ctx context.Context, script string, stdout, stderr io.Writer) error {
	stream, err := d.user.ExecSandbox(ctx, &openshellpb.ExecSandboxRequest{SandboxId: d.id(), Command: []string{"sh", "-c", script}})
	if err != nil {
		return fmt.Errorf("start command: %w", err)
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("read command's output: %w", err)
		}
		var writeErr error
		switch p := event.GetPayload().(type) {
		case *openshellpb.ExecSandboxEvent_Stdout:
			_, writeErr = stdout.Write(p.Stdout.GetData())
		case *openshellpb.ExecSandboxEvent_Stderr:
			_, writeErr = stderr.Write(p.Stderr.GetData())
		case *openshellpb.ExecSandboxEvent_Exit:
			if code := p.Exit.GetExitCode(); code != 0 {
				return fmt.Errorf("command ended with exit code %d", code)
			}
			return nil
		}
		if writeErr != nil {
			return writeErr
		}
	}
}

func (d *demo) runCommand(ctx context.Context) (string, error) {
	out, errs := firstWrite{limit: 64 << 10}, firstWrite{limit: 64 << 10}
	if err := d.exec(ctx, showCredential, &out, &errs); err != nil {
		return "", fmt.Errorf("%w: %s", err, errs.text())
	}
	hello, rest, _ := strings.Cut(strings.TrimSpace(out.text()), "\n")
	kind, value, _ := strings.Cut(rest, " ")
	var arrived string
	switch kind {
	case "token":
		var length int
		var payload string
		if _, err := fmt.Sscan(value, &length, &payload); err != nil {
			return "", fmt.Errorf("read command's output: %w", err)
		}
		c, err := parsePayload(payload)
		if err != nil {
			return "", err
		}
		left := time.Until(time.Unix(int64(c.Exp), 0)).Round(time.Second)
		if c.Azp != devidp.DemoClient || left <= 0 {
			return "", fmt.Errorf("%s is a token of %q with %s left, wanted one of %s", credentialKey, c.Azp, left, devidp.DemoClient)
		}
		arrived = fmt.Sprintf("a token of %d bytes, azp=%s, %s left", length, c.Azp, left)
	case "placeholder":
		arrived = "the placeholder " + value + ", the value stays outside"
	default:
		return "", fmt.Errorf("%s did not arrive: %q", credentialKey, rest)
	}
	first := out.at.Sub(d.began)
	detail := fmt.Sprintf("%q; %s holds %s; login to first output: %.2f s", hello, credentialKey, arrived, first.Seconds())
	if first > outputGoal {
		detail += fmt.Sprintf(" (warning: more than %s)", outputGoal)
	}
	return detail, nil
}

// firstWrite keeps output up to a limit and when it began.
type firstWrite struct {
	limit int
	buf   []byte
	at    time.Time
}

func (w *firstWrite) Write(p []byte) (int, error) {
	if w.at.IsZero() {
		w.at = time.Now()
	}
	if len(w.buf)+len(p) > w.limit {
		return 0, fmt.Errorf("command wrote more than %d bytes", w.limit)
	}
	w.buf = append(w.buf, p...)
	return len(p), nil
}

func (w *firstWrite) text() string { return string(w.buf) }

func (d *demo) showIsolation(ctx context.Context) (string, error) {
	resp, err := d.user.GetSandbox(ctx, &openshellpb.GetSandboxRequest{Name: d.name})
	if err != nil {
		return "", fmt.Errorf("get sandbox: %w", err)
	}
	for _, c := range resp.GetSandbox().GetStatus().GetConditions() {
		if c.GetType() == "Isolation" {
			return fmt.Sprintf("%s (%s): %s", c.GetStatus(), c.GetReason(), c.GetMessage()), nil
		}
	}
	return "", errors.New("sandbox's status says nothing of its isolation")
}

func (d *demo) stream(ctx context.Context) (string, error) {
	sum := counter{hash: sha256.New()}
	errs := firstWrite{limit: 64 << 10}
	begin := time.Now()
	if err := d.exec(ctx, fmt.Sprintf(sendStream, streamBytes), &sum, &errs); err != nil {
		return "", fmt.Errorf("%w: %s", err, errs.text())
	}
	took := time.Since(begin)
	here := hex.EncodeToString(sum.hash.Sum(nil))
	there, _, _ := strings.Cut(strings.TrimSpace(errs.text()), " ")
	if sum.n != streamBytes || here != there {
		return "", fmt.Errorf("%d of %d bytes arrived, SHA-256 here %s, in the sandbox %s", sum.n, streamBytes, here, there)
	}
	return fmt.Sprintf("%d bytes at %.0f MB/s, SHA-256 %s... on both sides", sum.n, streamBytes/1e6/took.Seconds(), here[:16]), nil
}

// counter counts and hashes what is written to it.
type counter struct {
	hash hash.Hash
	n    int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return c.hash.Write(p)
}
