package driverkube_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.dev/sallyport/driverkit/computetest"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/manifest"
	"sallyport.dev/sallyport/internal/driverkube/verdict"
)

// Variables that name a real cluster and the image of the supervisor that it has.
const (
	kubeconfigVariable = "SALLYPORT_KUBECONFIG"
	imageVariable      = "SALLYPORT_KUBE_SUPERVISOR_IMAGE"
	defaultImage       = "localhost/sallyport/supervisor:dev"
)

var (
	namespaces = kubeapi.Resource{GroupVersion: "v1", Plural: "namespaces"}
	accounts   = kubeapi.Resource{GroupVersion: "v1", Plural: "serviceaccounts"}
	podObjects = kubeapi.Resource{GroupVersion: "v1", Plural: "pods"}
	claims     = kubeapi.Resource{GroupVersion: "v1", Plural: "persistentvolumeclaims"}
	quotas     = kubeapi.Resource{GroupVersion: "v1", Plural: "resourcequotas"}
	boxes      = kubeapi.Resource{GroupVersion: kubeapi.V1Beta1, Plural: "sandboxes"}
)

type object = map[string]any

// cluster is a real one. Tests that need it skip where there is none, and say so.
func cluster(t testing.TB) (*kubeapi.Client, string) {
	t.Helper()
	path := os.Getenv(kubeconfigVariable)
	if path == "" {
		t.Skipf("NOT PROVEN: %s names no cluster; make e2e-kube starts one and sets it", kubeconfigVariable)
	}
	api, err := kubeapi.New(kubeapi.Config{Kubeconfig: path, UserAgent: "driverkube-test"})
	if err != nil {
		t.Fatal(err)
	}
	return api, path
}

func supervisorImage() string {
	if image := os.Getenv(imageVariable); image != "" {
		return image
	}
	return defaultImage
}

// fixture is a driver process with a namespace of its own.
type fixture struct {
	t         testing.TB
	api       *kubeapi.Client
	namespace string
	socket    string
	args      []string
	cmd       *exec.Cmd
	output    *bytes.Buffer
	once      sync.Once
	conn      *grpc.ClientConn
	// over tells that the driver was ended already.
	over bool
}

func random() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// newNamespace makes a namespace with the sandboxes' service account, and sees to its end.
func newNamespace(t testing.TB, api *kubeapi.Client, labels map[string]string) string {
	t.Helper()
	name := "driver-test-" + random()
	apply(t, api, namespaces, "", name, object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": name, "labels": labels}})
	apply(t, api, accounts, name, "openshell-sandbox", object{
		"apiVersion": "v1", "kind": "ServiceAccount", "metadata": object{"name": "openshell-sandbox", "namespace": name},
	})
	t.Cleanup(func() {
		if err := api.Delete(context.Background(), namespaces, "", name, kubeapi.Precondition{}, false); err != nil && !kubeapi.IsNotFound(err) {
			t.Errorf("delete namespace: %v", err)
		}
	})
	return name
}

func apply(t testing.TB, api *kubeapi.Client, r kubeapi.Resource, namespace, name string, object any) {
	t.Helper()
	if _, err := api.Apply(t.Context(), r, namespace, name, "driverkube-test", true, object, nil); err != nil {
		t.Fatalf("apply %s %s: %v", r, name, err)
	}
}

func newFixture(t testing.TB, args ...string) *fixture {
	t.Helper()
	api, path := cluster(t)
	f := &fixture{t: t, api: api, namespace: newNamespace(t, api, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})}
	f.open(path, append([]string{"--supervisor-image", supervisorImage(), "--default-image", supervisorImage()}, args...))
	return f
}

// open starts the driver and sees to its end.
func (f *fixture) open(kubeconfig string, args []string) {
	f.t.Helper()
	// A short name: the socket's address has few bytes.
	dir, err := os.MkdirTemp("", "sdk")
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { os.RemoveAll(dir) })
	f.socket = filepath.Join(dir, "driver.sock")
	f.args = append([]string{
		"driver", "--socket", f.socket, "--kubeconfig", kubeconfig, "--namespace", f.namespace, "--gateway-id", "gw-" + random(),
		"--gateway-endpoint", "https://127.0.0.1:1", "--workspace-storage-size", "0", "--metrics-port", "0",
	}, args...)
	f.start()
	f.t.Cleanup(f.end)
}

func (f *fixture) start() {
	f.t.Helper()
	self, err := os.Executable()
	if err != nil {
		f.t.Fatal(err)
	}
	f.output = &bytes.Buffer{}
	f.cmd = exec.Command(self, f.args...)
	f.cmd.Stderr = f.output
	f.cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
	if err := f.cmd.Start(); err != nil {
		f.t.Fatal(err)
	}
	eventually(f.t, "the driver's socket", func() bool {
		conn, err := net.Dial("unix", f.socket)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	})
}

func (f *fixture) kill() {
	f.t.Helper()
	if err := f.cmd.Process.Kill(); err != nil {
		f.t.Fatal(err)
	}
	f.cmd.Wait()
}

func (f *fixture) restart(testing.TB) {
	f.t.Helper()
	f.kill()
	f.start()
	if f.conn != nil {
		f.conn.Close()
	}
	f.once = sync.Once{}
}

// end deletes every sandbox and checks that the driver leaves nothing.
func (f *fixture) end() {
	if f.over {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	defer func() {
		if f.t.Failed() {
			f.t.Logf("driver's log:\n%s", f.output)
		}
	}()
	c := f.client()
	resp, err := c.ListSandboxes(ctx, &computepb.ListSandboxesRequest{})
	if err != nil {
		f.t.Errorf("list at the end: %v", err)
	}
	for _, sb := range resp.GetSandboxes() {
		if _, err := c.DeleteSandbox(ctx, &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()}); err != nil {
			f.t.Errorf("delete at the end: %v", err)
		}
	}
	f.conn.Close()
	if err := f.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		f.t.Errorf("stop driver: %v", err)
	}
	if err := f.cmd.Wait(); err != nil {
		f.t.Errorf("driver ended with %v", err)
	}
	for _, r := range []kubeapi.Resource{boxes, podObjects, claims} {
		eventuallyIn(f.t, 90*time.Second, "no "+r.Plural+" left", func() bool {
			n := 0
			err := kubeapi.List(ctx, f.api, r, f.namespace, manifest.LabelManagedBy, func(*verdict.Sandbox) { n++ })
			return (err == nil || kubeapi.IsNotFound(err)) && n == 0
		})
	}
}

func (f *fixture) client() computepb.ComputeDriverClient {
	f.t.Helper()
	f.once.Do(func() {
		conn, err := grpc.NewClient("unix:"+f.socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
		if err != nil {
			f.t.Fatal(err)
		}
		f.conn = conn
	})
	return computepb.NewComputeDriverClient(f.conn)
}

func (f *fixture) context() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	f.t.Cleanup(cancel)
	return ctx
}

// sandbox is an ordinary one with an image.
func sandbox() *computepb.DriverSandbox {
	sb := computetest.Sandbox()
	sb.GetSpec().GetTemplate().Image = supervisorImage()
	return sb
}

func (f *fixture) create(sb *computepb.DriverSandbox) {
	f.t.Helper()
	if _, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: sb}); err != nil {
		f.t.Fatalf("create: %v", err)
	}
}

func (f *fixture) delete(sb *computepb.DriverSandbox) {
	f.t.Helper()
	resp, err := f.client().DeleteSandbox(f.context(), &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()})
	if err != nil || !resp.GetDeleted() {
		f.t.Fatalf("delete: %v %v", resp, err)
	}
}

// await returns the sandbox's snapshot once ok accepts it.
func (f *fixture) await(sb *computepb.DriverSandbox, what string, ok func(*computepb.DriverSandbox) bool) *computepb.DriverSandbox {
	f.t.Helper()
	var last *computepb.DriverSandbox
	defer func() {
		if f.t.Failed() {
			f.t.Logf("last: %v", last.GetStatus())
		}
	}()
	eventuallyIn(f.t, 60*time.Second, what, func() bool {
		resp, err := f.client().GetSandbox(f.context(), &computepb.GetSandboxRequest{SandboxId: sb.GetId()})
		if err != nil {
			f.t.Fatalf("get: %v", err)
		}
		last = resp.GetSandbox()
		return ok(last)
	})
	return last
}

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	eventuallyIn(t, 20*time.Second, what, ok)
}

func eventuallyIn(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func find(sb *computepb.DriverSandbox, kind string) *computepb.DriverCondition {
	for _, c := range sb.GetStatus().GetConditions() {
		if c.GetType() == kind {
			return c
		}
	}
	return &computepb.DriverCondition{}
}

func isReady(sb *computepb.DriverSandbox) bool { return find(sb, "Ready").GetStatus() == "True" }

func hasProblem(word string) func(*computepb.DriverSandbox) bool {
	return func(sb *computepb.DriverSandbox) bool { return find(sb, "Problem").GetReason() == word }
}

func TestConformance(t *testing.T) {
	cluster(t)
	for name, args := range map[string][]string{
		"image volume":   {"--supervisor-sideload", "image-volume"},
		"init container": {"--supervisor-sideload", "init-container"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			computetest.Run(t, func(t *testing.T) computetest.Driver {
				t.Helper()
				f := newFixture(t, args...)
				return computetest.Driver{Socket: f.socket, Restart: f.restart, Timeout: 90 * time.Second}
			})
		})
	}
}

// TestProblems has a real cluster fail in each way that it can be made to, and sees the reason and the next step.
func TestProblems(t *testing.T) {
	cluster(t)
	template := func(change func(*computepb.DriverSandboxTemplate)) func(*computepb.DriverSandbox) {
		return func(sb *computepb.DriverSandbox) { change(sb.GetSpec().GetTemplate()) }
	}
	unchanged := func(*computepb.DriverSandbox) {}
	for name, c := range map[string]struct {
		args   []string
		change func(*computepb.DriverSandbox)
		want   string
	}{
		"missing image": {nil, template(func(s *computepb.DriverSandboxTemplate) { s.Image = "localhost/sallyport/no-such:dev" }), "ImagePullBackOff"},
		"image name":    {nil, template(func(s *computepb.DriverSandboxTemplate) { s.Image = "a::b" }), "InvalidImageName"},
		"too much": {nil, template(func(s *computepb.DriverSandboxTemplate) {
			s.Resources = &computepb.DriverResourceRequirements{CpuRequest: "10000"}
		}), "Unschedulable"},
		"no such node": {[]string{"--node-selector", "no-such=node"}, unchanged, "Unschedulable"},
		"too little memory": {nil, template(func(s *computepb.DriverSandboxTemplate) {
			s.Resources = &computepb.DriverResourceRequirements{MemoryLimit: "2Mi"}
		}), "OOMKilledRestarting OOMKilled ContainerCreateFailed InitFailed ContainerRestarting"},
		"supervisor crashes": {nil, func(sb *computepb.DriverSandbox) { sb.Spec.LogLevel = "nonsense" }, "ContainerRestarting"},
		"no secret":          {[]string{"--tls-ca-secret", "no-such-secret"}, unchanged, "VolumeMountFailed"},
		"no service account": {[]string{"--service-account", "no-such-account"}, unchanged, "ServiceAccountMissing"},
		"no storage class":   {[]string{"--workspace-storage-size", "1Mi", "--workspace-storage-class", "no-such-class"}, unchanged, "VolumeNotBound VolumeProvisioningFailed"},
		"pod security":       {[]string{"--pod-security", "privileged", "--capabilities", "SYS_ADMIN"}, unchanged, "PodRefused"},
		"no runtime class":   {[]string{"--runtime-class", "no-such-class"}, unchanged, "PodRefused"},
		"image never pulled": {
			[]string{"--sandbox-image-pull-policy", "Never", "--workspace-seed=false"},
			template(func(s *computepb.DriverSandboxTemplate) { s.Image = "localhost/sallyport/no-such:dev" }), "ImageNeverPulled",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t, c.args...)
			sb := sandbox()
			c.change(sb)
			f.create(sb)
			words := strings.Fields(c.want)
			got := f.await(sb, c.want, func(sb *computepb.DriverSandbox) bool {
				return slices.Contains(words, find(sb, "Problem").GetReason())
			})
			if message := find(got, "Ready").GetMessage(); !strings.Contains(message, "next: ") {
				t.Errorf("no next step: %v", got.GetStatus())
			}
			t.Logf("%s", find(got, "Problem"))
			f.delete(sb)
		})
	}
}

// TestWorkspaceIsKept stops and starts a sandbox that has a claim, and sees to its pod: what Pod Security says of it,
// and that its workspace was filled once.
func TestWorkspaceIsKept(t *testing.T) {
	f := newFixture(t, "--workspace-storage-size", "64Mi")
	sb := sandbox()
	sb.Spec.SandboxToken = "secret-token"
	sb.Spec.Environment["OPENSHELL_SANDBOX_TOKEN"] = "secret-token"
	f.create(sb)
	ready := f.await(sb, "ready", isReady)
	if c := find(ready, "Isolation"); c.GetStatus() != "True" || !strings.Contains(c.GetMessage(), "pod-security=restricted user=1000") {
		t.Errorf("isolation: %v", c)
	}
	claim := f.text(claims, "workspace-default--"+sb.GetName())
	if !strings.Contains(claim, `"openshell.ai/sandbox-id":"`+sb.GetId()+`"`) {
		t.Errorf("claim: %s", claim)
	}
	pod := f.text(podObjects, "default--"+sb.GetName())
	if strings.Contains(pod, "secret-token") {
		t.Error("the sandbox's token stands in the pod")
	}
	call := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	call("stop", func() error {
		_, err := f.client().StopSandbox(f.context(), &computepb.StopSandboxRequest{SandboxId: sb.GetId()})
		return err
	})
	stopped := f.await(sb, "stopped", func(s *computepb.DriverSandbox) bool { return find(s, "Suspended").GetStatus() == "True" })
	if stopped.GetStatus().GetInstanceId() != "" {
		t.Errorf("a stopped sandbox has an instance: %v", stopped)
	}
	call("start", func() error {
		_, err := f.client().StartSandbox(f.context(), &computepb.StartSandboxRequest{SandboxId: sb.GetId()})
		return err
	})
	again := f.await(sb, "ready again", isReady)
	if again.GetStatus().GetInstanceId() == ready.GetStatus().GetInstanceId() {
		t.Error("the same instance runs after a stop")
	}
	if now := f.text(claims, "workspace-default--"+sb.GetName()); uidIn(now) != uidIn(claim) {
		t.Error("the claim is another one")
	}
	f.delete(sb)
}

// text reads an object as JSON.
func (f *fixture) text(r kubeapi.Resource, name string) string {
	f.t.Helper()
	var raw json.RawMessage
	if err := f.api.Get(f.t.Context(), r, f.namespace, name, &raw); err != nil {
		f.t.Fatalf("get %s %s: %v", r, name, err)
	}
	return string(raw)
}

// names lists the objects of the namespace.
func (f *fixture) names(r kubeapi.Resource) []string {
	f.t.Helper()
	var all []string
	if err := kubeapi.List(f.t.Context(), f.api, r, f.namespace, "", func(s *verdict.Sandbox) { all = append(all, s.Metadata.Name) }); err != nil {
		f.t.Fatal(err)
	}
	return all
}

func uidIn(object string) string {
	var o struct {
		Metadata struct {
			UID string `json:"uid"`
		} `json:"metadata"`
	}
	json.Unmarshal([]byte(object), &o)
	return o.Metadata.UID
}

// TestPodTakenAway has somebody take the sandbox's pod, through the API's eviction, which only a person may do.
func TestPodTakenAway(t *testing.T) {
	f := newFixture(t)
	sb := sandbox()
	f.create(sb)
	first := f.await(sb, "ready", isReady).GetStatus().GetInstanceId()
	w, err := f.client().WatchSandboxes(f.context(), &computepb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	name := "default--" + sb.GetName()
	err = f.api.Create(t.Context(), kubeapi.Resource{GroupVersion: "v1", Plural: "pods/" + name + "/eviction"}, f.namespace, "driverkube-test", object{
		"apiVersion": "policy/v1", "kind": "Eviction", "metadata": object{"name": name, "namespace": f.namespace},
	})
	if err != nil {
		t.Fatalf("evict: %v", err)
	}
	told := false
	for !told {
		e, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		p := e.GetPlatformEvent().GetEvent()
		told = p.GetReason() == "PodReplaced" && strings.Contains(p.GetMessage(), "evicted from node")
	}
	f.await(sb, "ready in another pod", func(s *computepb.DriverSandbox) bool {
		return isReady(s) && s.GetStatus().GetInstanceId() != first
	})
	f.delete(sb)
}

// TestQuota has the namespace's quota let no pod in, and then one.
func TestQuota(t *testing.T) {
	f := newFixture(t)
	quota := func(pods string) {
		apply(t, f.api, quotas, f.namespace, "small", object{
			"apiVersion": "v1", "kind": "ResourceQuota", "metadata": object{"name": "small", "namespace": f.namespace},
			"spec": object{"hard": object{"pods": pods}},
		})
	}
	quota("0")
	eventually(t, "the quota in force", func() bool { return strings.Contains(f.text(quotas, "small"), `"used"`) })
	sb := sandbox()
	f.create(sb)
	got := f.await(sb, "the quota's problem", hasProblem("QuotaExceeded"))
	ready := find(got, "Ready")
	if ready.GetReason() != "QuotaExceeded" || !strings.Contains(ready.GetMessage(), "quota small exceeded: asked for pods=1, in use pods=0, allowed pods=0; next: delete sandboxes") {
		t.Errorf("got %v", ready)
	}
	quota("1")
	f.await(sb, "ready when the quota allows it", isReady)
	f.delete(sb)
}

// TestManagedWorkspaces makes namespaces, and leaves those alone that are not its own.
func TestManagedWorkspaces(t *testing.T) {
	f := newFixture(t, "--workspace-mode", "managed", "--quota-pods", "3")
	prefix := f.namespacePrefix()
	first := sandbox()
	first.Workspace = "team-a"
	f.create(first)
	own := f.namespace
	f.namespace = prefix + "team-a"
	f.await(first, "ready in a namespace of its own", isReady)
	for r, name := range map[kubeapi.Resource]string{
		accounts: "openshell-sandbox", quotas: "openshell-workspace", {GroupVersion: "v1", Plural: "limitranges"}: "openshell-workspace",
		{GroupVersion: "networking.k8s.io/v1", Plural: "networkpolicies"}: "openshell-no-ingress",
		boxes: first.GetName(),
	} {
		if text := f.text(r, name); !strings.Contains(text, `"openshell.ai/managed-by":"openshell"`) {
			t.Errorf("%s %s: %s", r, name, text)
		}
	}
	f.delete(first)
	foreign := prefix + "foreign"
	apply(t, f.api, namespaces, "", foreign, object{"apiVersion": "v1", "kind": "Namespace", "metadata": object{"name": foreign}})
	t.Cleanup(func() { f.api.Delete(context.Background(), namespaces, "", foreign, kubeapi.Precondition{}, false) })
	second := sandbox()
	second.Workspace = "foreign"
	wantStatus(t, "a namespace of somebody else's", f.createErr(second), codes.FailedPrecondition, "exists and is not this gateway's")
	_, err := f.client().DeleteWorkspace(f.context(), &computepb.DeleteWorkspaceRequest{Workspace: "foreign"})
	wantStatus(t, "deleting it", err, codes.FailedPrecondition, "is not this gateway's and stays")
	second.Workspace = "Not A Name"
	wantStatus(t, "a workspace that is no name", f.createErr(second), codes.FailedPrecondition, "cannot have a namespace")
	for range 2 {
		if _, err := f.client().DeleteWorkspace(f.context(), &computepb.DeleteWorkspaceRequest{Workspace: "team-a"}); err != nil {
			t.Errorf("delete workspace: %v", err)
		}
	}
	eventuallyIn(t, 60*time.Second, "the namespace's end", func() bool {
		var raw json.RawMessage
		return kubeapi.IsNotFound(f.api.Get(t.Context(), namespaces, "", f.namespace, &raw))
	})
	f.namespace = own
}

// namespacePrefix is how the names of managed namespaces begin by default.
func (f *fixture) namespacePrefix() string {
	for i, a := range f.args {
		if a == "--gateway-id" {
			return "openshell-" + f.args[i+1] + "-"
		}
	}
	f.t.Fatal("no gateway id")
	return ""
}

// TestOperatorWorkspaces uses the namespaces that are labelled, and no others.
func TestOperatorWorkspaces(t *testing.T) {
	f := newFixture(t, "--workspace-mode", "operator", "--namespace-label", "driver-test=yes")
	sb := sandbox()
	sb.Workspace = "ops-" + random()
	wantStatus(t, "no namespace", f.createErr(sb), codes.FailedPrecondition, "no namespace is labelled for workspace")
	space := newNamespace(t, f.api, map[string]string{"driver-test": "yes", "openshell.ai/workspace": sb.GetWorkspace()})
	eventually(t, "the namespace to be known", func() bool { return f.createErr(sb) == nil })
	f.await(sb, "ready", isReady)
	if got := f.await(sb, "ready", isReady); got.GetNamespace() != space {
		t.Errorf("it is in %q, want %q", got.GetNamespace(), space)
	}
	f.delete(sb)
	f.awaitGone(sb)
}

// awaitGone waits until a sandbox is gone.
func (f *fixture) awaitGone(sb *computepb.DriverSandbox) {
	f.t.Helper()
	eventuallyIn(f.t, 60*time.Second, "the sandbox's end", func() bool {
		_, err := f.client().GetSandbox(f.context(), &computepb.GetSandboxRequest{SandboxId: sb.GetId()})
		return status.Code(err) == codes.NotFound
	})
}

// TestRefusalsOfTheRealAPI has the API server itself refuse objects, in the words of today's version.
func TestRefusalsOfTheRealAPI(t *testing.T) {
	missing := newFixture(t, "--namespace", "driver-test-no-such")
	wantStatus(t, "no namespace", missing.createErr(sandbox()), codes.FailedPrecondition, `namespace "driver-test-no-such" does not exist`)
	f := newFixture(t)
	apply(t, f.api, quotas, f.namespace, "objects", object{
		"apiVersion": "v1", "kind": "ResourceQuota", "metadata": object{"name": "objects", "namespace": f.namespace},
		"spec": object{"hard": object{"count/sandboxes.agents.x-k8s.io": "0"}},
	})
	eventually(t, "the quota in force", func() bool { return strings.Contains(f.text(quotas, "objects"), `"used"`) })
	wantStatus(t, "quota", f.createErr(sandbox()), codes.ResourceExhausted, "quota objects exceeded: asked for count/sandboxes.agents.x-k8s.io=1, in use count/sandboxes.agents.x-k8s.io=0, allowed count/sandboxes.agents.x-k8s.io=0")
	claim := sandbox()
	config, err := structpb.NewStruct(object{"mounts": []any{object{"path": "/data", "claim": "gateway-data"}}})
	if err != nil {
		t.Fatal(err)
	}
	claim.Spec.Template.DriverConfig = config
	apply(t, f.api, claims, f.namespace, "gateway-data", object{
		"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": object{"name": "gateway-data", "namespace": f.namespace},
		"spec": object{"accessModes": []any{"ReadWriteOnce"}, "resources": object{"requests": object{"storage": "1Mi"}}},
	})
	wantStatus(t, "a claim that nobody opened", f.createErr(claim), codes.FailedPrecondition, `claim "gateway-data" does not exist or is not open to sandboxes`)
}
