package v00_test

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/settings"
)

//go:embed testdata/matrix.tsv
var matrixFile string

// row is a method as testdata/matrix.tsv has it.
type row struct{ path, mode, role, scope, object string }

func matrixRows(t *testing.T) map[string]row {
	t.Helper()
	out := map[string]row{}
	lines := bufio.NewScanner(strings.NewReader(matrixFile))
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "#") {
			continue
		}
		f := strings.Split(lines.Text(), "\t")
		if len(f) != 5 {
			t.Fatalf("%q has %d columns", lines.Text(), len(f))
		}
		if !strings.Contains(f[0], "/") {
			f[0] = "openshell.v1.OpenShell/" + f[0]
		}
		out["/"+f[0]] = row{"/" + f[0], f[1], f[2], f[3], f[4]}
	}
	return out
}

// rules are the schemes and owners that the matrix is run with.
type rules struct {
	scheme  authz.Scheme
	private bool
}

// caller is one sort of principal. Users are all alice; what differs is what her token says.
type caller struct {
	kind  string // anonymous, user, sandbox, shared, expired, account
	role  string // admin, user, none
	scope string // all, right, wrong, none
}

func callers() []caller {
	out := []caller{{kind: "anonymous"}, {kind: "sandbox"}, {kind: "shared"}, {kind: "expired"}, {kind: "account"}}
	for _, role := range []string{"admin", "user", "none"} {
		for _, scope := range []string{"all", "right", "wrong", "none"} {
			out = append(out, caller{"user", role, scope})
		}
	}
	return out
}

// object is what a call is about: a workspace, where alice is admin, user or no member, and something in it.
type object struct {
	workspace string // wadmin, wuser, wnone
	which     string // own, foreign, missing, all, granting
}

func (o object) membership() string { return strings.TrimPrefix(o.workspace, "w") }

// objects are those that make a difference to a method: where memberships have no effect, one workspace is as good as
// another.
func objects(rules rules, r row) []object {
	which := map[string][]string{
		"name": {"own", "foreign", "missing"}, "service": {"own", "foreign", "missing"}, "service-absent": {"own", "foreign", "missing"},
		"id": {"own", "foreign", "missing"}, "own": {"own", "foreign", "missing"},
		"own/id": {"own", "foreign", "missing"}, "create": {"own", "missing"}, "list": {"own", "all"},
		"provider": {"own", "missing"}, "absent-ok": {"own", "missing"}, "workspace": {"own", "missing"},
		"grant": {"own", "granting", "missing"}, "policy": {"own", "foreign", "missing", "all"}, "config": {"own", "foreign", "missing", "all"},
	}[r.object]
	if which == nil {
		return []object{{"wuser", "own"}}
	}
	workspaces := []string{"wnone"}
	if rules.scheme == authz.Workspaces {
		workspaces = []string{"wadmin", "wuser", "wnone"}
	}
	var out []object
	for _, w := range workspaces {
		for _, n := range which {
			out = append(out, object{w, n})
		}
	}
	return out
}

// verdict is what must come of a call: a code, and a part of the message where it is a refusal.
type verdict struct {
	code codes.Code
	text string
}

var let = verdict{code: codes.OK}

func denied(format string, args ...any) verdict {
	return verdict{codes.PermissionDenied, fmt.Sprintf(format, args...)}
}

// expect reads the rows as a person would. It shares no code with what it checks.
func expect(rules rules, r row, c caller, o object) verdict {
	if r.mode == "unauthenticated" {
		return let
	}
	switch c.kind {
	case "anonymous":
		return verdict{codes.Unauthenticated, "missing authorization header"}
	case "user":
		return expectUser(rules, r, c, o)
	default:
		return expectSandbox(r, c, o)
	}
}

func expectSandbox(r row, c caller, o object) verdict {
	switch {
	case c.kind == "expired" && r.object != "refresh":
		return verdict{codes.Unauthenticated, "ExpiredSignature"}
	case c.kind == "account" && r.object != "issue":
		return denied("use IssueSandboxToken for bootstrap")
	case r.mode == "bearer":
		return denied("sandbox principals may not call this method")
	case r.object == "unbuilt":
		return verdict{codes.Unimplemented, ""}
	case r.object == "issue" && c.kind != "account":
		return denied("use RefreshSandboxToken")
	case r.object == "refresh" && c.kind == "shared":
		return denied("use IssueSandboxToken for bootstrap")
	case r.object == "channel":
		return verdict{codes.NotFound, "unknown or expired relay channel"}
	case r.object == "config":
		return expectOwnConfig(c, o)
	case r.object != "own" && r.object != "own/id" || o.which == "own":
		return let
	case c.kind != "shared":
		return denied("cross-sandbox access denied")
	case o.which == "missing" && !strings.HasSuffix(r.path, "ReportMainProcessExit"):
		return verdict{codes.NotFound, "sandbox not found"}
	}
	// The secret of all sandboxes names none, so the caller is taken at its word. A late report changes nothing.
	return let
}

// expectOwnConfig is what a sandbox may change: its own policy.
func expectOwnConfig(c caller, o object) verdict {
	switch {
	case o.which == "all" && c.kind == "shared":
		return denied("sandbox secret cannot mutate global config")
	case o.which == "all":
		return denied("sandbox principals cannot perform cross-workspace operations")
	case o.which == "own":
		return let
	case c.kind != "shared":
		return denied("sandbox not found or not owned by caller")
	case o.which == "missing":
		return verdict{codes.NotFound, "sandbox not found"}
	}
	return let
}

func expectUser(rules rules, r row, c caller, o object) verdict {
	if r.mode == "sandbox" {
		return denied("this method requires a sandbox principal")
	}
	needsAdmin := r.role == "platform" || r.role == "admin" && rules.scheme == authz.Roles
	switch {
	case rules.scheme == authz.Authenticated || r.role == "-":
	case needsAdmin && c.role != "admin":
		return denied("role 'openshell-admin' required")
	case c.role == "none":
		return denied("role 'openshell-user' required")
	}
	if r.scope != "-" && (c.scope == "wrong" || c.scope == "none") {
		return denied("scope '%s' required", r.scope)
	}
	if r.object == "unbuilt" {
		return verdict{codes.Unimplemented, ""}
	}
	if v := expectInside(rules, r, c, o); v != let {
		return v
	}
	return expectObject(rules, r, c, o)
}

// platform tells whether the caller is an administrator of everything.
func platform(rules rules, c caller) bool {
	return rules.scheme == authz.Authenticated || c.role == "admin"
}

// expectInside is what memberships decide.
func expectInside(rules rules, r row, c caller, o object) verdict {
	switch {
	case o.which == "all" && !platform(rules, c):
		return denied("platform admin role required for cross-workspace operations")
	case o.which == "all", rules.scheme != authz.Workspaces, c.role == "admin":
		return let
	}
	switch r.object {
	case "-", "mine":
		return let
	case "id", "own/id":
		if o.membership() == "none" || o.which == "missing" {
			return verdict{codes.NotFound, "sandbox not found"}
		}
		return let
	}
	name, member := o.workspace, o.membership()
	if o.which == "missing" && slices.Contains([]string{"create", "workspace", "grant"}, r.object) {
		name, member = "absent", "none"
	}
	hint := func(role string) string {
		return fmt.Sprintf("openshell workspace member add --workspace '%s' --subject 'alice' --role %s", name, role)
	}
	switch {
	case member == "none":
		return denied("not a member of workspace '%s'; an administrator can run: %s", name, hint(r.role))
	case member == "user" && r.role == "admin":
		return denied("workspace role 'admin' required in workspace '%s'; an administrator can run: %s", name, hint("admin"))
	case o.which == "granting":
		return denied("only platform admins can assign the workspace admin role")
	}
	return let
}

// expectObject is what is left once the caller may act in the workspace.
func expectObject(rules rules, r row, c caller, o object) verdict {
	bypass := c.role == "admin" && rules.scheme != authz.Authenticated || rules.scheme == authz.Workspaces && o.membership() == "admin"
	foreign := o.which == "foreign" && rules.private && !bypass
	switch r.object {
	case "name", "id", "own/id", "policy", "config":
		if o.which == "missing" || foreign {
			return verdict{codes.NotFound, "sandbox not found"}
		}
	case "service":
		if o.which == "missing" || foreign {
			return verdict{codes.NotFound, "service endpoint not found"}
		}
	case "provider":
		if o.which == "missing" {
			return verdict{codes.NotFound, "provider not found"}
		}
	case "create", "workspace", "grant":
		if o.which == "missing" {
			return verdict{codes.NotFound, "workspace 'absent' not found"}
		}
	}
	return let
}

// TestAuthorizationMatrix calls every method of the descriptors as every caller about every object under all rules.
func TestAuthorizationMatrix(t *testing.T) {
	t.Parallel()
	rows := matrixRows(t)
	var methods []protoreflect.MethodDescriptor
	for _, s := range v00.Descriptors() {
		for i := range s.Methods().Len() {
			m := s.Methods().Get(i)
			if _, ok := rows[pathOf(m)]; !ok {
				t.Errorf("%s is not in testdata/matrix.tsv", pathOf(m))
				continue
			}
			methods = append(methods, m)
		}
	}
	if len(methods) != len(rows) {
		t.Errorf("%d rows for %d methods", len(rows), len(methods))
	}
	for _, scheme := range []authz.Scheme{authz.Roles, authz.Workspaces, authz.Authenticated} {
		for _, private := range []bool{false, true} {
			rules := rules{scheme, private}
			t.Run(fmt.Sprintf("%s, private %t", scheme, private), func(t *testing.T) {
				t.Parallel()
				w := newMatrixWorld(t, rules)
				for _, m := range methods {
					w.method(t, m, rows[pathOf(m)])
				}
				t.Logf("%d calls", w.calls)
			})
		}
	}
}

func pathOf(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

// matrixWorld is a gateway with the objects of the matrix.
type matrixWorld struct {
	*rig
	rules rules
	calls int
	made  int
	// ids are the sandboxes' ids by workspace and name.
	ids map[string]string
}

const absentID = "00000000-0000-4000-8000-000000000000"

func newMatrixWorld(t *testing.T, rules rules) *matrixWorld {
	t.Helper()
	policy := authz.Policy{Scheme: rules.scheme, ScopesEnabled: true, PrivateSandboxes: rules.private}
	if rules.scheme != authz.Authenticated {
		policy.AdminRole, policy.UserRole = "openshell-admin", "openshell-user"
	}
	w := &matrixWorld{rig: newRig(t, policy), rules: rules, ids: map[string]string{}}
	for name, role := range map[string]authz.Role{"wadmin": authz.Admin, "wuser": authz.User, "wnone": authz.NoRole} {
		if _, err := w.workspaces.Create(root(), name, nil); err != nil {
			t.Fatal(err)
		}
		if role != authz.NoRole {
			if _, err := w.workspaces.AddMember(root(), name, "alice", role); err != nil {
				t.Fatal(err)
			}
		}
	}
	// There is a policy of all sandboxes to be read, which is not in force.
	if _, err := w.sandboxes.Settings.SetPolicy(root(), &sandboxpb.SandboxPolicy{Version: 1}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.sandboxes.Settings.Delete(root(), settings.Reserved); err != nil {
		t.Fatal(err)
	}
	// Calls about nothing come from a sandbox too.
	w.ids["wuser/box-own"] = w.box(t, "wuser", "box-own", "alice")
	return w
}

// method makes all calls of one method.
func (w *matrixWorld) method(t *testing.T, m protoreflect.MethodDescriptor, r row) {
	t.Helper()
	for _, c := range callers() {
		for _, o := range objects(w.rules, r) {
			w.ensure(t, r, o)
			want := expect(w.rules, r, c, o)
			got := status.Convert(w.call(t, m, r, c, o))
			w.calls++
			if !satisfies(got, want) {
				t.Errorf("%+v calls %s about %+v: %v, want %s %q", c, r.path, o, got.Err(), want.code, want.text)
			}
			if want.code != codes.OK {
				w.untouched(t, r, c, o)
			}
		}
	}
}

// satisfies tells whether an answer is the expected one. A call that is let through may still fail for what it asks.
func satisfies(got *status.Status, want verdict) bool {
	if want != let {
		return got.Code() == want.code && strings.Contains(got.Message(), want.text)
	}
	switch got.Code() {
	case codes.OK, codes.InvalidArgument, codes.FailedPrecondition, codes.AlreadyExists:
		return true
	default:
		return false
	}
}

func (w *matrixWorld) boxName(r row, o object) string {
	// A supervisor's session makes its sandbox ready, which others are not meant to be.
	if r.object == "own" {
		return "super-" + o.which
	}
	return "box-" + o.which
}

// ensure brings back what calls before took away.
func (w *matrixWorld) ensure(t *testing.T, r row, o object) {
	t.Helper()
	switch r.object {
	case "name", "id", "own", "own/id", "config", "policy", "service", "service-absent":
		if o.which == "missing" || o.which == "all" {
			return
		}
		if strings.HasPrefix(r.object, "service") {
			defer w.expose(t, o)
		}
		if r.object == "policy" {
			defer w.givePolicy(t, o)
		}
		name := w.boxName(r, o)
		if _, err := w.store.ByName(sandbox.Kind, o.workspace, name); err == nil {
			return
		}
		w.ids[o.workspace+"/"+name] = w.box(t, o.workspace, name, ownerOf(o))
	case "provider", "absent-ok":
		_, err := w.providers.Create(root(), provider.Provider{
			Workspace: o.workspace, Name: "thing", Type: "generic", Credentials: map[string]string{"A": "b"},
		})
		if err != nil && !fault.Is(err, fault.AlreadyExists) {
			t.Fatal(err)
		}
	}
}

func ownerOf(o object) string { return map[string]string{"own": "alice", "foreign": "bob"}[o.which] }

// givePolicy makes a sandbox's owner give it a policy, unless it has it.
func (w *matrixWorld) givePolicy(t *testing.T, o object) {
	t.Helper()
	ctx := principal.With(context.Background(), user(ownerOf(o), "openshell-admin"))
	_, err := w.sandboxes.UpdateConfig(ctx, sandbox.ConfigUpdate{
		Workspace: o.workspace, Name: "box-" + o.which, Policy: &sandboxpb.SandboxPolicy{Version: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// expose makes a sandbox's owner expose a service of it, unless it is there.
func (w *matrixWorld) expose(t *testing.T, o object) {
	t.Helper()
	ctx := principal.With(context.Background(), user(ownerOf(o), "openshell-admin"))
	name := service.Name{Workspace: o.workspace, Sandbox: "box-" + o.which, Service: "web"}
	if _, err := w.exposed.Get(ctx, name); err == nil {
		return
	}
	if _, err := w.exposed.Expose(ctx, service.ExposeRequest{Name: name, Port: 80}); err != nil {
		t.Fatal(err)
	}
}

// untouched checks that a refused call has changed nothing.
func (w *matrixWorld) untouched(t *testing.T, r row, c caller, o object) {
	t.Helper()
	name := w.boxName(r, o)
	id, ok := w.ids[o.workspace+"/"+name]
	if !ok {
		return
	}
	if got, err := w.store.ByName(sandbox.Kind, o.workspace, name); err != nil || got.ID != id {
		t.Errorf("%+v was refused %s about %+v, and the sandbox is gone: %v", c, r.path, o, err)
	}
	if strings.HasPrefix(r.object, "service") {
		if _, err := w.store.ByName(service.Kind, o.workspace, name+"--web"); err != nil {
			t.Errorf("%+v was refused %s about %+v, and the service is gone: %v", c, r.path, o, err)
		}
	}
}

func (w *matrixWorld) call(t *testing.T, m protoreflect.MethodDescriptor, r row, c caller, o object) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if token := w.token(r, c, o); token != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
	}
	in := w.request(t, m, r, o)
	return first(ctx, w.conn, r.path, in, fresh(t, m.Output()))
}

func (w *matrixWorld) token(r row, c caller, o object) string {
	id := w.ids[o.workspace+"/"+w.boxName(r, object{o.workspace, "own"})]
	if id == "" {
		id = "11111111-1111-4111-8111-111111111111"
	}
	switch c.kind {
	case "anonymous":
		return ""
	case "sandbox":
		return "sandbox;" + id + ";" + principal.SourceToken
	case "shared":
		return "sandbox;;" + principal.SourceSharedSecret
	case "expired":
		return "sandbox;" + w.anyBox() + ";" + principal.SourceExpiredToken
	case "account":
		return "sandbox;" + w.anyBox() + ";" + principal.SourceServiceAccount
	}
	roles := map[string]string{"admin": "openshell-admin", "user": "other,openshell-user", "none": "other"}[c.role]
	scopes := map[string]string{"all": "openshell:all", "right": r.scope, "wrong": "inference:read,config:none", "none": ""}[c.scope]
	if r.scope == "inference:read" && c.scope == "wrong" {
		scopes = "inference:write"
	}
	return "user;alice;" + roles + ";" + scopes
}

func (w *matrixWorld) anyBox() string {
	for _, id := range w.ids {
		if _, err := w.store.Get(sandbox.Kind, id); err == nil {
			return id
		}
	}
	return absentID
}

func fresh(t *testing.T, d protoreflect.MessageDescriptor) proto.Message {
	t.Helper()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// request builds what is asked of an object. Methods about nothing, and those that are not built, get an empty one.
func (w *matrixWorld) request(t *testing.T, m protoreflect.MethodDescriptor, r row, o object) proto.Message {
	t.Helper()
	name, id := w.boxName(r, o), w.ids[o.workspace+"/"+w.boxName(r, o)]
	if id == "" {
		id = absentID
	}
	inside := o.workspace
	if o.which == "missing" {
		inside = "absent"
	}
	w.made++
	unique := fmt.Sprintf("n%d", w.made)
	switch string(m.Name()) {
	case "GetSandbox":
		return &openshellpb.GetSandboxRequest{Workspace: o.workspace, Name: name}
	case "DeleteSandbox":
		return &openshellpb.DeleteSandboxRequest{Workspace: o.workspace, Name: name}
	case "StopSandbox":
		return &openshellpb.StopSandboxRequest{Workspace: o.workspace, Name: name}
	case "StartSandbox":
		return &openshellpb.StartSandboxRequest{Workspace: o.workspace, Name: name}
	case "ListSandboxProviders":
		return &openshellpb.ListSandboxProvidersRequest{Workspace: o.workspace, SandboxName: name}
	case "AttachSandboxProvider":
		return &openshellpb.AttachSandboxProviderRequest{Workspace: o.workspace, SandboxName: name, ProviderName: "nothing"}
	case "DetachSandboxProvider":
		return &openshellpb.DetachSandboxProviderRequest{Workspace: o.workspace, SandboxName: name, ProviderName: "nothing"}
	case "CreateSandbox":
		return &openshellpb.CreateSandboxRequest{Workspace: inside, Name: unique, Spec: &openshellpb.SandboxSpec{}}
	case "ListSandboxes":
		if o.which == "all" {
			return &openshellpb.ListSandboxesRequest{AllWorkspaces: true, Limit: 1}
		}
		return &openshellpb.ListSandboxesRequest{Workspace: o.workspace, Limit: 1}
	case "WatchSandbox":
		return &openshellpb.WatchSandboxRequest{Id: id}
	case "GetSandboxLogs":
		return &openshellpb.GetSandboxLogsRequest{SandboxId: id, Workspace: "wuser"}
	case "ExecSandbox":
		return &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}, TimeoutSeconds: 1}
	case "ExecSandboxInteractive":
		return &openshellpb.ExecSandboxInput{Payload: &openshellpb.ExecSandboxInput_Start{
			Start: &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}, TimeoutSeconds: 1},
		}}
	case "CreateSshSession":
		return &openshellpb.CreateSshSessionRequest{SandboxId: id}
	case "RevokeSshSession":
		return &openshellpb.RevokeSshSessionRequest{Token: "unknown"}
	case "ForwardTcp":
		return &openshellpb.TcpForwardFrame{Payload: &openshellpb.TcpForwardFrame_Init{
			Init: &openshellpb.TcpForwardInit{SandboxId: id, Target: &openshellpb.TcpForwardInit_Ssh{}},
		}}
	case "GetSandboxConfig":
		return &sandboxpb.GetSandboxConfigRequest{SandboxId: id}
	case "UpdateConfig":
		if o.which == "all" {
			return &openshellpb.UpdateConfigRequest{Global: true, SettingKey: "ocsf_json_enabled", SettingValue: yes()}
		}
		return &openshellpb.UpdateConfigRequest{Workspace: o.workspace, Name: name, Policy: &sandboxpb.SandboxPolicy{Version: 1}}
	case "GetSandboxPolicyStatus":
		return &openshellpb.GetSandboxPolicyStatusRequest{Workspace: o.workspace, Name: name, Global: o.which == "all"}
	case "ListSandboxPolicies":
		return &openshellpb.ListSandboxPoliciesRequest{Workspace: o.workspace, Name: name, Global: o.which == "all"}
	case "GetSandboxProviderEnvironment":
		return &openshellpb.GetSandboxProviderEnvironmentRequest{SandboxId: id}
	case "PushSandboxLogs":
		return &openshellpb.PushSandboxLogsRequest{SandboxId: id}
	case "ReportPolicyStatus":
		return &openshellpb.ReportPolicyStatusRequest{SandboxId: id}
	case "ReportMainProcessExit":
		return &openshellpb.ReportMainProcessExitRequest{SandboxId: id, InstanceId: "i"}
	case "ConnectSupervisor":
		return &openshellpb.SupervisorMessage{Payload: &openshellpb.SupervisorMessage_Hello{
			Hello: &openshellpb.SupervisorHello{SandboxId: id, InstanceId: unique},
		}}
	case "RelayStream":
		return &openshellpb.RelayFrame{Payload: &openshellpb.RelayFrame_Init{Init: &openshellpb.RelayInit{ChannelId: "none"}}}
	}
	return w.requestAboutWorkspace(t, m, o, inside, unique)
}

func (w *matrixWorld) requestAboutWorkspace(t *testing.T, m protoreflect.MethodDescriptor, o object, inside, unique string) proto.Message {
	t.Helper()
	thing := "thing"
	if o.which == "missing" {
		thing = "nothing"
	}
	named := func(name string) *datamodelpb.Provider {
		return &datamodelpb.Provider{
			Metadata: &datamodelpb.ObjectMeta{Name: name}, Type: "generic", Credentials: map[string]string{"A": "b"},
		}
	}
	switch string(m.Name()) {
	case "ExposeService":
		return &openshellpb.ExposeServiceRequest{Workspace: o.workspace, Sandbox: "box-" + o.which, Service: "web", TargetPort: 8080}
	case "GetService":
		return &openshellpb.GetServiceRequest{Workspace: o.workspace, Sandbox: "box-" + o.which, Service: "web"}
	case "DeleteService":
		return &openshellpb.DeleteServiceRequest{Workspace: o.workspace, Sandbox: "box-" + o.which, Service: "web"}
	case "ListServices":
		if o.which == "all" {
			return &openshellpb.ListServicesRequest{AllWorkspaces: true, Limit: 1}
		}
		return &openshellpb.ListServicesRequest{Workspace: o.workspace, Limit: 1}
	case "CreateProvider":
		return &openshellpb.CreateProviderRequest{Workspace: inside, Provider: named(unique)}
	case "UpdateProvider":
		return &openshellpb.UpdateProviderRequest{Workspace: o.workspace, Provider: named(thing)}
	case "GetProvider":
		return &openshellpb.GetProviderRequest{Workspace: o.workspace, Name: thing}
	case "DeleteProvider":
		return &openshellpb.DeleteProviderRequest{Workspace: o.workspace, Name: thing}
	case "ListProviders":
		if o.which == "all" {
			return &openshellpb.ListProvidersRequest{AllWorkspaces: true, Limit: 1}
		}
		return &openshellpb.ListProvidersRequest{Workspace: o.workspace, Limit: 1}
	case "CreateWorkspace":
		return &openshellpb.CreateWorkspaceRequest{Name: unique}
	case "DeleteWorkspace":
		return &openshellpb.DeleteWorkspaceRequest{Name: "absent"}
	case "GetWorkspace":
		return &openshellpb.GetWorkspaceRequest{Name: inside}
	case "ListWorkspaceMembers":
		return &openshellpb.ListWorkspaceMembersRequest{Workspace: inside}
	case "AddWorkspaceMember":
		role := openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER
		if o.which == "granting" {
			role = openshellpb.WorkspaceRole_WORKSPACE_ROLE_ADMIN
		}
		return &openshellpb.AddWorkspaceMemberRequest{Workspace: inside, PrincipalSubject: unique, Role: role}
	case "RemoveWorkspaceMember":
		return &openshellpb.RemoveWorkspaceMemberRequest{Workspace: inside, PrincipalSubject: "nobody"}
	}
	return fresh(t, m.Input())
}
