package driverkube_test

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/driverkit/computetest"
	"sallyport.dev/sallyport/gen/v00/computepb"
	"sallyport.dev/sallyport/internal/driverkube/kubeapi"
	"sallyport.dev/sallyport/internal/driverkube/kubetest"
)

const fakeNamespace = "boxes"

// newFake starts a driver at an API server of tests.
func newFake(t testing.TB, prepare func(*kubetest.Server), args ...string) (*fixture, *kubetest.Server) {
	t.Helper()
	server := kubetest.New(t)
	server.Controller = true
	if prepare != nil {
		prepare(server)
	}
	path := server.Kubeconfig(t)
	api, err := kubeapi.New(kubeapi.Config{Kubeconfig: path, UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, api: api, namespace: fakeNamespace}
	f.open(path, append([]string{"--supervisor-image", "registry/supervisor:1", "--default-image", "registry/base:1"}, args...))
	return f, server
}

// TestConformanceOfVersions runs the suite for each version of Sandbox objects, without a cluster.
func TestConformanceOfVersions(t *testing.T) {
	t.Parallel()
	for _, versions := range [][]string{{"v1beta1", "v1alpha1"}, {"v1alpha1"}} {
		t.Run(versions[0], func(t *testing.T) {
			t.Parallel()
			computetest.Run(t, func(t *testing.T) computetest.Driver {
				t.Helper()
				f, _ := newFake(t, func(s *kubetest.Server) { s.Serve(versions...) })
				return computetest.Driver{Socket: f.socket, Restart: f.restart}
			})
		})
	}
}

func (f *fixture) createErr(sb *computepb.DriverSandbox) error {
	_, err := f.client().CreateSandbox(f.context(), &computepb.CreateSandboxRequest{Sandbox: sb})
	return err
}

func wantStatus(t *testing.T, what string, err error, code codes.Code, text string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(status.Convert(err).Message(), text) {
		t.Errorf("%s: got %v, want %s with %q", what, err, code, text)
	}
}

// TestRefusals has the API refuse what the driver writes, in its own words.
func TestRefusals(t *testing.T) {
	t.Parallel()
	var refusal struct {
		code            int
		reason, message string
	}
	f, _ := newFake(t, func(s *kubetest.Server) {
		s.Fail = func(r *http.Request) (int, string, string) {
			if r.Method == http.MethodPatch {
				return refusal.code, refusal.reason, refusal.message
			}
			return 0, "", ""
		}
	})
	for name, c := range map[string]struct {
		code            int
		reason, message string
		want            codes.Code
		text            string
	}{
		"quota": {
			403, "Forbidden", `sandboxes.agents.x-k8s.io "default--x" is forbidden: exceeded quota: boxes, requested: count/sandboxes.agents.x-k8s.io=1, used: count/sandboxes.agents.x-k8s.io=5, limited: count/sandboxes.agents.x-k8s.io=5`,
			codes.ResourceExhausted, "quota boxes exceeded: asked for count/sandboxes.agents.x-k8s.io=1, in use count/sandboxes.agents.x-k8s.io=5, allowed count/sandboxes.agents.x-k8s.io=5; delete",
		},
		"permission": {
			403, "Forbidden", `sandboxes.agents.x-k8s.io "x" is forbidden: User "system:serviceaccount:a:b" cannot patch resource "sandboxes" in API group "agents.x-k8s.io" in the namespace "boxes"`,
			codes.FailedPrecondition, "may not patch sandboxes.agents.x-k8s.io in namespace boxes",
		},
		"admission":  {403, "Forbidden", "admission webhook \"rules\" denied the request:\nno", codes.FailedPrecondition, "the cluster's rules refuse the object"},
		"invalid":    {422, "Invalid", "spec.podTemplate: Required value", codes.FailedPrecondition, "Kubernetes refuses the object: spec.podTemplate: Required value"},
		"busy":       {500, "InternalError", "etcd says: secret words", codes.Unavailable, "busy or failing"},
		"credential": {401, "Unauthorized", "Unauthorized", codes.Unavailable, "does not accept the driver's credential"},
		"conflict":   {409, "Conflict", "conflict", codes.AlreadyExists, "already has a Sandbox object"},
		"large":      {413, "RequestEntityTooLarge", "too large", codes.FailedPrecondition, "too large"},
	} {
		refusal.code, refusal.reason, refusal.message = c.code, c.reason, c.message
		err := f.createErr(sandbox())
		wantStatus(t, name, err, c.want, c.text)
		if strings.Contains(err.Error(), "secret words") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNames keeps a name from being taken over: an object of it may be anybody's.
func TestNames(t *testing.T) {
	t.Parallel()
	f, server := newFake(t, nil)
	server.SetController(false)
	sb := sandbox()
	sb.Name, sb.Workspace = "mine", "team"
	foreign := kubetest.Object{"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "metadata": kubetest.Object{"name": "team--mine", "namespace": fakeNamespace}}
	server.Put("sandboxes", foreign)
	wantStatus(t, "a name that somebody's object has", f.createErr(sb), codes.AlreadyExists, "that is not this sandbox's")
	if got := server.Get("sandboxes", fakeNamespace, "team--mine"); kubetest.Meta(got)["labels"] != nil {
		t.Errorf("the object was changed: %v", got)
	}
	// Deleting goes by id: the foreign object stays.
	resp, err := f.client().DeleteSandbox(f.context(), &computepb.DeleteSandboxRequest{SandboxId: sb.GetId(), SandboxName: "mine"})
	if err != nil || resp.GetDeleted() {
		t.Errorf("delete: %v %v", resp, err)
	}
	if server.Get("sandboxes", fakeNamespace, "team--mine") == nil {
		t.Error("somebody's object was deleted")
	}
	list, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
	if err != nil || len(list.GetSandboxes()) > 0 {
		t.Errorf("objects without labels are no sandboxes: %v %v", list, err)
	}
	server.Remove("sandboxes", fakeNamespace, "team--mine")
}

// TestOtherGateway keeps the sandboxes of two gateways in one namespace apart.
func TestOtherGateway(t *testing.T) {
	t.Parallel()
	f, server := newFake(t, nil)
	sb := sandbox()
	f.create(sb)
	other := &fixture{t: t, api: f.api, namespace: fakeNamespace}
	other.open(server.Kubeconfig(t), []string{"--supervisor-image", "registry/supervisor:1"})
	list, err := other.client().ListSandboxes(other.context(), &computepb.ListSandboxesRequest{})
	if err != nil || len(list.GetSandboxes()) > 0 {
		t.Errorf("another gateway's sandboxes: %v %v", list, err)
	}
	_, err = other.client().StopSandbox(other.context(), &computepb.StopSandboxRequest{SandboxId: sb.GetId()})
	wantStatus(t, "stop by another gateway", err, codes.NotFound, "")
	resp, err := other.client().DeleteSandbox(other.context(), &computepb.DeleteSandboxRequest{SandboxId: sb.GetId()})
	if err != nil || resp.GetDeleted() {
		t.Errorf("delete by another gateway: %v %v", resp, err)
	}
	f.await(sb, "ready", isReady)
	f.delete(sb)
}

// TestDefinition has the cluster lose and change the definition of Sandbox objects.
func TestDefinition(t *testing.T) {
	t.Parallel()
	f, server := newFake(t, func(s *kubetest.Server) { s.Serve() })
	wantStatus(t, "without the definition", f.createErr(sandbox()), codes.FailedPrecondition, "the cluster has no Sandbox objects")
	_, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
	wantStatus(t, "list", err, codes.Unavailable, "install the agent-sandbox controller")
	server.Serve("v1alpha1")
	eventually(t, "the older version", func() bool {
		_, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
		return err == nil
	})
	old := sandbox()
	f.create(old)
	f.await(old, "ready", isReady)
	server.Serve("v1beta1", "v1alpha1")
	eventually(t, "the newer version", func() bool {
		sb := sandbox()
		f.create(sb)
		made := server.Get("sandboxes", fakeNamespace, "default--"+sb.GetName())
		f.delete(sb)
		return made["apiVersion"] == kubeapi.V1Beta1
	})
	f.delete(old)
}

// TestLostWatch has the API forget what a watch had not told.
func TestLostWatch(t *testing.T) {
	t.Parallel()
	f, server := newFake(t, nil)
	kept, gone := sandbox(), sandbox()
	f.create(kept)
	f.create(gone)
	f.await(kept, "ready", isReady)
	w, err := f.client().WatchSandboxes(f.context(), &computepb.WatchSandboxesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		server.Forget()
	}
	server.Remove("sandboxes", fakeNamespace, "default--"+gone.GetName())
	server.Remove("pods", fakeNamespace, "default--"+gone.GetName())
	for {
		e, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetDeleted().GetSandboxId() == gone.GetId() {
			break
		}
	}
	f.await(kept, "ready", isReady)
	f.delete(kept)
}

// TestAPIAway has the API server stop answering and come back.
func TestAPIAway(t *testing.T) {
	t.Parallel()
	away := make(chan bool, 1)
	away <- false
	f, server := newFake(t, func(s *kubetest.Server) {
		s.Fail = func(*http.Request) (int, string, string) {
			is := <-away
			away <- is
			if is {
				return 503, "ServiceUnavailable", "down"
			}
			return 0, "", ""
		}
	})
	sb := sandbox()
	f.create(sb)
	f.await(sb, "ready", isReady)
	<-away
	away <- true
	server.Forget()
	eventually(t, "no list", func() bool {
		_, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
		return status.Code(err) == codes.Unavailable
	})
	wantStatus(t, "create", f.createErr(sandbox()), codes.Unavailable, "")
	_, err := f.client().GetSandbox(f.context(), &computepb.GetSandboxRequest{SandboxId: sb.GetId()})
	wantStatus(t, "get, which must not say that it is gone", err, codes.Unavailable, "")
	<-away
	away <- false
	eventuallyIn(t, 30*time.Second, "the list again", func() bool {
		list, err := f.client().ListSandboxes(f.context(), &computepb.ListSandboxesRequest{})
		return err == nil && len(list.GetSandboxes()) == 1
	})
	f.delete(sb)
}

// TestImpostors has somebody pass objects off as a sandbox's own: what a label says is not believed where it matters.
func TestImpostors(t *testing.T) {
	t.Parallel()
	f, server := newFake(t, nil)
	sb := sandbox()
	f.create(sb)
	instance := f.await(sb, "ready", isReady).GetStatus().GetInstanceId()
	server.SetController(false)
	labels := kubetest.Meta(server.Get("sandboxes", fakeNamespace, "default--"+sb.GetName()))["labels"]
	server.Put("pods", kubetest.Object{
		"metadata": kubetest.Object{"name": "impostor", "namespace": fakeNamespace, "labels": labels},
		"status":   kubetest.Object{"phase": "Failed", "reason": "Evicted"},
	})
	server.Put("sandboxes", kubetest.Object{
		"apiVersion": kubeapi.V1Beta1, "kind": "Sandbox",
		"metadata": kubetest.Object{"name": "a-impostor", "namespace": fakeNamespace, "labels": labels, "deletionTimestamp": "2026-01-02T03:04:05Z", "creationTimestamp": "2999-01-02T03:04:05Z"},
	})
	// Another sandbox that was made later tells that the driver has seen both.
	marker := sandbox()
	f.create(marker)
	server.Edit("sandboxes", fakeNamespace, "default--"+marker.GetName(), func(o kubetest.Object) { kubetest.Meta(o)["deletionTimestamp"] = "2026-01-02T03:04:05Z" })
	f.await(marker, "deleting", func(s *computepb.DriverSandbox) bool { return s.GetStatus().GetDeleting() })
	got := f.await(sb, "still ready", isReady)
	if got.GetStatus().GetInstanceId() != instance || got.GetStatus().GetDeleting() {
		t.Errorf("got %v", got)
	}
	f.delete(sb)
	if server.Get("sandboxes", fakeNamespace, "default--"+sb.GetName()) != nil || server.Get("sandboxes", fakeNamespace, "a-impostor") == nil {
		t.Errorf("the wrong object was deleted: %v", server.Names("sandboxes"))
	}
	for _, name := range []string{"a-impostor", "default--" + marker.GetName()} {
		server.Remove("sandboxes", fakeNamespace, name)
	}
	server.Remove("pods", fakeNamespace, "impostor")
	server.Remove("pods", fakeNamespace, "default--"+sb.GetName())
}
