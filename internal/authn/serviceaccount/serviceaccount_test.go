package serviceaccount_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/authn/serviceaccount"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	boxID = "0b5f7a52-3f63-4a7e-9a53-6a1f0e4f8c11"
	// canary is text of the API that must not reach a caller.
	canary   = "canary-text-of-the-api"
	gateways = "the-gateways-own-token"
)

// podToken looks like a pod's token; n makes it another.
func podToken(n int) string {
	body := fmt.Sprintf(`{"sub":"system:serviceaccount:agents:sandbox","iat":1000,"exp":4600,"n":%d}`, n)
	return "e30." + base64.RawURLEncoding.EncodeToString([]byte(body)) + ".c2ln"
}

type m = map[string]any

// cluster is an API server with one pod and its sandbox.
type cluster struct {
	mu sync.Mutex
	// objects are what the server has, by path; an int is a bare status.
	objects map[string]any
	review  m
	// own is the only token that may ask.
	own   string
	calls map[string]int
	// hold, if not nil, keeps token reviews waiting until it is closed; entered is told of each.
	hold    chan struct{}
	entered chan struct{}

	server *httptest.Server
	dir    string
}

const (
	podPath   = "/api/v1/namespaces/agents/pods/box-pod"
	betaPath  = "/apis/agents.x-k8s.io/v1beta1/namespaces/agents/sandboxes/box"
	alphaPath = "/apis/agents.x-k8s.io/v1alpha1/namespaces/agents/sandboxes/box"
	review    = "/apis/authentication.k8s.io/v1/tokenreviews"
)

func newCluster(t testing.TB) *cluster {
	t.Helper()
	c := &cluster{own: gateways, calls: map[string]int{}, dir: t.TempDir(), objects: map[string]any{
		podPath: m{"metadata": m{
			"uid": "pod-uid", "annotations": m{"openshell.io/sandbox-id": boxID},
			"ownerReferences": []m{
				{"apiVersion": "v1", "kind": "Other", "name": "x", "uid": "y"},
				{"apiVersion": "agents.x-k8s.io/v1beta1", "kind": "Sandbox", "name": "box", "uid": "cr-uid", "controller": true},
			},
		}},
		betaPath: m{"metadata": m{"uid": "cr-uid", "labels": m{"openshell.ai/sandbox-id": boxID}}},
	}, review: m{
		"authenticated": true, "audiences": []string{"openshell-gateway"},
		"user": m{"username": "system:serviceaccount:agents:sandbox", "extra": m{
			"authentication.kubernetes.io/pod-name": []string{"box-pod"}, "authentication.kubernetes.io/pod-uid": []string{"pod-uid"},
		}},
	}}
	c.server = httptest.NewUnstartedServer(c)
	c.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.server.EnableHTTP2 = true
	c.server.StartTLS()
	t.Cleanup(c.server.Close)
	c.write(t, "ca.crt", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw}))
	c.write(t, "token", []byte(gateways+"\n"))
	return c
}

func (c *cluster) write(t testing.TB, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(c.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (c *cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.calls[r.URL.Path]++
	hold, entered := c.hold, c.entered
	object, ok := c.objects[r.URL.Path]
	own := c.own
	c.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+own:
		answer(w, http.StatusUnauthorized, m{"kind": "Status", "reason": "Unauthorized", "message": canary})
	case r.URL.Path == review && r.Method == http.MethodPost && !ok:
		if hold != nil {
			entered <- struct{}{}
			<-hold
		}
		var in struct {
			Kind string
			Spec struct {
				Token     string
				Audiences []string
			}
		}
		if json.NewDecoder(r.Body).Decode(&in) != nil || in.Kind != "TokenReview" || in.Spec.Token == "" || len(in.Spec.Audiences) != 1 {
			answer(w, http.StatusBadRequest, m{"reason": "BadRequest"})
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		answer(w, http.StatusCreated, m{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": c.review})
	case !ok:
		answer(w, http.StatusNotFound, m{"kind": "Status", "reason": "NotFound", "message": canary})
	default:
		if status, isStatus := object.(int); isStatus {
			w.Header().Set("Location", "/elsewhere")
			answer(w, status, m{"kind": "Status", "reason": "Forbidden", "message": canary})
			return
		}
		if raw, isRaw := object.(string); isRaw {
			_, _ = io.WriteString(w, raw)
			return
		}
		answer(w, http.StatusOK, object)
	}
}

func answer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

func (c *cluster) count(path string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.calls[path]
}

func (c *cluster) config() serviceaccount.Config {
	return serviceaccount.Config{
		APIURL: c.server.URL, CAPath: filepath.Join(c.dir, "ca.crt"), TokenPath: filepath.Join(c.dir, "token"),
		ServiceAccount: "sandbox", Namespaces: []string{"agents"},
	}
}

func authenticator(t testing.TB, c serviceaccount.Config) *serviceaccount.Authenticator {
	t.Helper()
	a, err := serviceaccount.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// in returns the map at a path of keys.
func in(v any, path ...string) m {
	for _, k := range path {
		v = v.(m)[k]
	}
	return v.(m)
}

func TestAPodBecomesItsSandbox(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(c *cluster, config *serviceaccount.Config){
		"exact namespace": func(*cluster, *serviceaccount.Config) {},
		"one of several":  func(_ *cluster, config *serviceaccount.Config) { config.Namespaces = []string{"a", "agents"} },
		"prefix": func(_ *cluster, config *serviceaccount.Config) {
			config.Namespaces, config.NamespacePrefix = nil, "age"
		},
		"older version": func(c *cluster, _ *serviceaccount.Config) {
			c.objects[alphaPath] = c.objects[betaPath]
			delete(c.objects, betaPath)
		},
		"both versions":     func(c *cluster, _ *serviceaccount.Config) { c.objects[alphaPath] = 500 },
		"owner of old kind": func(c *cluster, _ *serviceaccount.Config) { owner(c)["apiVersion"] = "agents.x-k8s.io/v1alpha1" },
		"another audience": func(c *cluster, config *serviceaccount.Config) {
			config.Audience, c.review["audiences"] = "mine", []string{"x", "mine"}
		},
		"in a cluster": func(c *cluster, config *serviceaccount.Config) {
			host, port, _ := strings.Cut(strings.TrimPrefix(c.server.URL, "https://"), ":")
			config.APIURL, config.Env = "", func(k string) (string, bool) {
				return map[string]string{"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}[k], true
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			config := c.config()
			change(c, &config)
			p, err := authenticator(t, config).Authenticate(t.Context(), podToken(1))
			if err != nil {
				t.Fatal(err, errors.Unwrap(err))
			}
			want := &principal.Principal{
				Kind: principal.Sandbox, SandboxID: boxID, Source: principal.SourceServiceAccount, DisplayName: "agents/box-pod",
				Issued: time.Unix(1000, 0), Expires: time.Unix(4600, 0),
			}
			if diff := cmp.Diff(want, p); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func owner(c *cluster) m {
	return in(c.objects[podPath], "metadata")["ownerReferences"].([]m)[1]
}

// Each check fails once, in the order in which they are made.
func TestEachCheckRefuses(t *testing.T) {
	t.Parallel()
	extra := func(c *cluster) m { return in(c.review, "user", "extra") }
	for name, tc := range map[string]struct {
		change func(c *cluster)
		kind   fault.Kind
		text   string
	}{
		"review fails":          {func(c *cluster) { c.objects[review] = 403 }, fault.Internal, "cannot be checked"},
		"review is redirected":  {func(c *cluster) { c.objects[review] = 307 }, fault.Internal, "cannot be checked"},
		"review is no JSON":     {func(c *cluster) { c.objects[review] = canary }, fault.Internal, "cannot be checked"},
		"review is huge":        {func(c *cluster) { c.objects[review] = strings.Repeat(" ", 3<<20) }, fault.Internal, "cannot be checked"},
		"our token is refused":  {func(c *cluster) { c.own = "another" }, fault.Internal, "cannot be checked"},
		"other audience":        {func(c *cluster) { c.review["audiences"] = []string{"api"} }, fault.Unauthenticated, "not made for this gateway"},
		"no audience":           {func(c *cluster) { delete(c.review, "audiences") }, fault.Unauthenticated, "not made for this gateway"},
		"a user":                {func(c *cluster) { in(c.review, "user")["username"] = "alice" }, fault.PermissionDenied, "not of a service account"},
		"a node":                {func(c *cluster) { in(c.review, "user")["username"] = "system:node:agents:sandbox" }, fault.PermissionDenied, "not of a service account"},
		"three parts":           {func(c *cluster) { in(c.review, "user")["username"] = "system:serviceaccount:agents:sandbox:x" }, fault.PermissionDenied, "not of a service account"},
		"other account":         {func(c *cluster) { in(c.review, "user")["username"] = "system:serviceaccount:agents:default" }, fault.PermissionDenied, "service account is not"},
		"other namespace":       {func(c *cluster) { in(c.review, "user")["username"] = "system:serviceaccount:agents2:sandbox" }, fault.PermissionDenied, "namespace is not"},
		"path as namespace":     {func(c *cluster) { in(c.review, "user")["username"] = "system:serviceaccount:../x:sandbox" }, fault.PermissionDenied, "not of a service account"},
		"no pod":                {func(c *cluster) { delete(extra(c), "authentication.kubernetes.io/pod-name") }, fault.PermissionDenied, "not bound to one pod"},
		"two pods":              {func(c *cluster) { extra(c)["authentication.kubernetes.io/pod-name"] = []string{"box-pod", "b"} }, fault.PermissionDenied, "not bound to one pod"},
		"empty pod":             {func(c *cluster) { extra(c)["authentication.kubernetes.io/pod-name"] = []string{""} }, fault.PermissionDenied, "not bound to one pod"},
		"path as pod":           {func(c *cluster) { extra(c)["authentication.kubernetes.io/pod-name"] = []string{"../x"} }, fault.PermissionDenied, "not bound to one pod"},
		"no pod uid":            {func(c *cluster) { extra(c)["authentication.kubernetes.io/pod-uid"] = []string{""} }, fault.PermissionDenied, "not bound to one pod"},
		"two pod uids":          {func(c *cluster) { extra(c)["authentication.kubernetes.io/pod-uid"] = []string{"pod-uid", "pod-uid"} }, fault.PermissionDenied, "not bound to one pod"},
		"pod is gone":           {func(c *cluster) { delete(c.objects, podPath) }, fault.NotFound, "pod not found"},
		"pod cannot be read":    {func(c *cluster) { c.objects[podPath] = 403 }, fault.Internal, "cannot be checked"},
		"another pod":           {func(c *cluster) { in(c.objects[podPath], "metadata")["uid"] = "other" }, fault.PermissionDenied, "not the one"},
		"no sandbox id":         {func(c *cluster) { delete(in(c.objects[podPath], "metadata", "annotations"), "openshell.io/sandbox-id") }, fault.PermissionDenied, "names no sandbox"},
		"odd sandbox id":        {func(c *cluster) { in(c.objects[podPath], "metadata", "annotations")["openshell.io/sandbox-id"] = "a/b" }, fault.PermissionDenied, "names no sandbox"},
		"no owner":              {func(c *cluster) { delete(in(c.objects[podPath], "metadata"), "ownerReferences") }, fault.PermissionDenied, "not controlled"},
		"owner does not own":    {func(c *cluster) { delete(owner(c), "controller") }, fault.PermissionDenied, "not controlled"},
		"owner of other kind":   {func(c *cluster) { owner(c)["kind"] = "Job" }, fault.PermissionDenied, "not controlled"},
		"owner of other API":    {func(c *cluster) { owner(c)["apiVersion"] = "agents.x-k8s.io/v2" }, fault.PermissionDenied, "not controlled"},
		"path as owner":         {func(c *cluster) { owner(c)["name"] = "../x" }, fault.PermissionDenied, "not controlled"},
		"two owners":            {func(c *cluster) { in(c.objects[podPath], "metadata")["ownerReferences"] = []m{owner(c), owner(c)} }, fault.PermissionDenied, "more than one"},
		"sandbox is gone":       {func(c *cluster) { delete(c.objects, betaPath) }, fault.PermissionDenied, "sandbox object not found"},
		"sandbox is not read":   {func(c *cluster) { c.objects[betaPath] = 403 }, fault.Internal, "cannot be checked"},
		"another sandbox":       {func(c *cluster) { in(c.objects[betaPath], "metadata")["uid"] = "other" }, fault.PermissionDenied, "not the one"},
		"owner without uid":     {func(c *cluster) { owner(c)["uid"], in(c.objects[betaPath], "metadata")["uid"] = "", "" }, fault.PermissionDenied, "not the one"},
		"label of other":        {func(c *cluster) { in(c.objects[betaPath], "metadata", "labels")["openshell.ai/sandbox-id"] = "other" }, fault.PermissionDenied, "different sandboxes"},
		"no label":              {func(c *cluster) { delete(in(c.objects[betaPath], "metadata"), "labels") }, fault.PermissionDenied, "different sandboxes"},
		"older sandbox is odd":  {func(c *cluster) { c.objects[alphaPath] = m{}; delete(c.objects, betaPath) }, fault.PermissionDenied, "not the one"},
		"older sandbox forbids": {func(c *cluster) { c.objects[alphaPath] = 403; delete(c.objects, betaPath) }, fault.Internal, "cannot be checked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCluster(t)
			tc.change(c)
			p, err := authenticator(t, c.config()).Authenticate(t.Context(), podToken(1))
			if p != nil || !fault.Is(err, tc.kind) || !strings.Contains(fault.From(err).Message, tc.text) {
				t.Fatalf("got %v, %v; want kind %d with %q", p, err, tc.kind, tc.text)
			}
			public := fault.From(err)
			if public.Next == "" {
				t.Error("no next step")
			}
			if strings.Contains(public.Message+public.Next+err.Error(), canary) {
				t.Errorf("text of the API got out: %v", err)
			}
			if strings.Contains(err.Error(), podToken(1)) || strings.Contains(err.Error(), gateways) {
				t.Error("a token is in the error")
			}
		})
	}
}

func TestWhatIsNotKnownIsLeftToOthers(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.review = m{"authenticated": false, "error": canary}
	a := authenticator(t, c.config())
	for range 3 {
		if p, err := a.Authenticate(t.Context(), podToken(1)); p != nil || err != nil {
			t.Errorf("got %v, %v", p, err)
		}
	}
	if n := c.count(review); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	// What is no service account's token is none of Kubernetes' business.
	alice := "e30." + base64.RawURLEncoding.EncodeToString([]byte(`{"sub":"alice"}`)) + ".c2ln"
	for _, token := range []string{"", "opaque", "a.b.c", alice, "e30.e30.c2ln", podToken(2) + ".x", strings.Repeat("a", 1<<20)} {
		if p, err := a.Authenticate(t.Context(), token); p != nil || err != nil {
			t.Errorf("%.20q: got %v, %v", token, p, err)
		}
	}
	if n := c.count(review); n != 1 {
		t.Errorf("foreign tokens were sent to Kubernetes: asked %d times", n)
	}
}

func TestRefusalsStandForAMoment(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	pod := c.objects[podPath]
	delete(c.objects, podPath)
	now := time.Unix(2000, 0)
	config := c.config()
	config.Now = func() time.Time { return now }
	a := authenticator(t, config)
	for range 3 {
		if _, err := a.Authenticate(t.Context(), podToken(1)); !fault.Is(err, fault.NotFound) {
			t.Fatal(err)
		}
	}
	if n := c.count(podPath); n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	if _, err := a.Authenticate(t.Context(), podToken(2)); !fault.Is(err, fault.NotFound) || c.count(podPath) != 2 {
		t.Errorf("another token was not looked at: %v", err)
	}
	c.mu.Lock()
	c.objects[podPath] = pod
	c.mu.Unlock()
	now = now.Add(6 * time.Second)
	if _, err := a.Authenticate(t.Context(), podToken(1)); err != nil {
		t.Errorf("the refusal stays: %v", err)
	}
}

func TestFailuresOfTheAPIAreNotRemembered(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.own = "new"
	a := authenticator(t, c.config())
	if _, err := a.Authenticate(t.Context(), podToken(1)); !fault.Is(err, fault.Internal) {
		t.Fatal(err)
	}
	// The token's file is replaced, as Kubernetes does.
	c.write(t, "token", []byte("new"))
	if _, err := a.Authenticate(t.Context(), podToken(1)); err != nil {
		t.Error(err)
	}
}

func TestAuthoritiesAreReadAgain(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	right, err := os.ReadFile(filepath.Join(c.dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	a := authenticator(t, c.config())
	for _, wrong := range [][]byte{[]byte("no certificate"), bytes.Repeat([]byte("x"), 1<<20)} {
		c.write(t, "ca.crt", wrong)
		if _, err := a.Authenticate(t.Context(), podToken(1)); !fault.Is(err, fault.Internal) {
			t.Errorf("got %v", err)
		}
	}
	if n := c.count(review); n != 0 {
		t.Errorf("a token went to a server that nobody vouched for, %d times", n)
	}
	c.write(t, "ca.crt", right)
	if _, err := a.Authenticate(t.Context(), podToken(1)); err != nil {
		t.Error(err)
	}
}

func TestTheServerMustBeTheRightOne(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	config := c.config()
	config.APIURL = strings.Replace(c.server.URL, "127.0.0.1", "localhost", 1) // not in its certificate
	if _, err := authenticator(t, config).Authenticate(t.Context(), podToken(1)); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v", err)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	const most = 16
	c.hold, c.entered = make(chan struct{}), make(chan struct{}, 100)
	config := c.config()
	config.Timeout = time.Minute // The calls are held until the test is done with them.
	a := authenticator(t, config)
	results := make(chan error, most)
	for n := range most {
		go func() {
			_, err := a.Authenticate(t.Context(), podToken(n))
			results <- err
		}()
	}
	for range most {
		<-c.entered
	}
	if _, err := a.Authenticate(t.Context(), podToken(most)); !fault.Is(err, fault.Unavailable) {
		t.Errorf("one more: %v, want Unavailable", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := a.Authenticate(gone, podToken(most)); !fault.Is(err, fault.Canceled) {
		t.Errorf("a caller that went away: %v", err)
	}
	close(c.hold)
	for range most {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

func TestAServerThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	c.hold, c.entered = make(chan struct{}), make(chan struct{}, 1)
	defer close(c.hold)
	config := c.config()
	config.Timeout = 100 * time.Millisecond
	if _, err := authenticator(t, config).Authenticate(t.Context(), podToken(1)); !fault.Is(err, fault.Internal) {
		t.Errorf("got %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	good := serviceaccount.Config{APIURL: "https://k", ServiceAccount: "s", Namespaces: []string{"n"}}
	for name, change := range map[string]func(c *serviceaccount.Config){
		"no account":      func(c *serviceaccount.Config) { c.ServiceAccount = "" },
		"no namespace":    func(c *serviceaccount.Config) { c.Namespaces = nil },
		"empty namespace": func(c *serviceaccount.Config) { c.Namespaces = []string{""} },
		"plaintext":       func(c *serviceaccount.Config) { c.APIURL = "http://k" },
		"no host":         func(c *serviceaccount.Config) { c.APIURL = "https:///x" },
		"credentials":     func(c *serviceaccount.Config) { c.APIURL = "https://a:b@k" },
		"not in a pod": func(c *serviceaccount.Config) {
			c.APIURL, c.Env = "", func(string) (string, bool) { return "", false }
		},
	} {
		c := good
		change(&c)
		if _, err := serviceaccount.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := serviceaccount.New(good); err != nil {
		t.Error(err)
	}
}

func FuzzToken(f *testing.F) {
	// Nothing is listening: whatever looks like a pod's token fails, everything else is left to others.
	a := authenticator(f, serviceaccount.Config{
		APIURL: "https://127.0.0.1:1", CAPath: "/nonexistent", TokenPath: "/nonexistent", ServiceAccount: "s", Namespaces: []string{"n"},
	})
	f.Add(podToken(1))
	f.Add("e30.e30.c2ln")
	f.Add("..")
	f.Fuzz(func(t *testing.T, token string) {
		if p, err := a.Authenticate(t.Context(), token); p != nil || err != nil && !fault.Is(err, fault.Internal) {
			t.Errorf("%q: %v, %v", token, p, err)
		}
	})
}
