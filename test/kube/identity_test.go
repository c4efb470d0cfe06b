//go:build linux

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
)

// apiServer is the API server as this machine reaches it.
func apiServer() string { return "https://" + address("0.2") + ":6443" }

// TestServiceAccountsAsUsers has a gateway trust the cluster's API server as an issuer, with the block that docs/auth.md
// gives for it, and shows it tokens that the API server signed.
func TestServiceAccountsAsUsers(t *testing.T) {
	t.Parallel()
	s := require(t).space(t, "build")
	gateway := startOutside(t, s.documented(t))
	for _, account := range []string{"runner", "other"} {
		s.in(t, "create", "serviceaccount", account)
	}
	elsewhere := s.space(t, "elsewhere")
	elsewhere.in(t, "create", "serviceaccount", "runner")

	token := s.token(t, "runner", "--audience", "sallyport")
	me, err := gateway.client.GetCurrentUser(as(t.Context(), token), &openshellpb.GetCurrentUserRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if want := "system:serviceaccount:" + s.name + ":runner"; me.Subject != want || me.DisplayName != want || !slices.Equal(me.Roles, []string{"openshell-user"}) {
		t.Errorf("the runner is %v", me)
	}
	created, err := gateway.client.CreateSandbox(as(t.Context(), token), &openshellpb.CreateSandboxRequest{Name: "job", Spec: &openshellpb.SandboxSpec{}})
	if err != nil {
		t.Errorf("the runner makes a sandbox: %v", err)
	}
	_, err = gateway.client.IssueSandboxToken(as(t.Context(), token), &openshellpb.IssueSandboxTokenRequest{})
	wantRefused(t, "the runner asks for a sandbox's token of "+created.GetSandbox().GetMetadata().GetId(), err, codes.PermissionDenied, "SANDBOX_PRINCIPAL_REQUIRED")

	for _, c := range []struct {
		what, token, reason string
	}{
		{"another account", s.token(t, "other", "--audience", "sallyport"), "TOKEN_CLAIM_REQUIRED"},
		{"the account's namesake in another namespace", elsewhere.token(t, "runner", "--audience", "sallyport"), "TOKEN_CLAIM_REQUIRED"},
		{"a token for the API server", s.token(t, "runner"), "TOKEN_AUDIENCE"},
		{"a token for a sandbox's gateway", s.token(t, "runner", "--audience", "openshell-gateway"), "TOKEN_AUDIENCE"},
		{"a token with a signature of another", token[:strings.LastIndex(token, ".")] + "." + strings.Repeat("A", 342), "TOKEN_SIGNATURE"},
	} {
		_, err := gateway.client.ListSandboxes(as(t.Context(), c.token), &openshellpb.ListSandboxesRequest{})
		wantRefused(t, c.what, err, codes.Unauthenticated, c.reason)
	}

	// The page says so: nobody asks the cluster about a token that is good.
	s.add(t, onePod("short", shell(t), "runner", "sallyport", ""))
	s.waitPod(t, "short")
	bound := s.podToken(t, "short")
	_, err = gateway.client.ListSandboxes(as(t.Context(), bound), &openshellpb.ListSandboxesRequest{})
	if err != nil {
		t.Errorf("a pod's token: %v", err)
	}
	s.in(t, "delete", "pod", "short")
	if _, err = gateway.client.ListSandboxes(as(t.Context(), bound), &openshellpb.ListSandboxesRequest{}); err != nil {
		t.Errorf("the token of a pod that is gone: %v", err)
	}
}

// TestPodsOfSandboxes has the API server judge the tokens of pods that ask for their sandbox's token.
func TestPodsOfSandboxes(t *testing.T) {
	t.Parallel()
	s := require(t).space(t, "boxes")
	elsewhere := s.space(t, "elsewhere")
	for _, account := range []string{"openshell-sandbox", "other", "gateway", "runner"} {
		s.in(t, "create", "serviceaccount", account)
	}
	elsewhere.in(t, "create", "serviceaccount", "openshell-sandbox")
	s.allowReviews(t, "gateway")
	dir := t.TempDir()
	own, ca := filepath.Join(dir, "token"), s.authority(t, dir)
	if err := os.WriteFile(own, []byte(s.token(t, "gateway", "--duration", "1h")), 0o600); err != nil {
		t.Fatal(err)
	}
	gateway := startOutside(t, s.documented(t), "--kubernetes-enabled", "--kubernetes-api-url", apiServer(), "--kubernetes-ca", ca,
		"--kubernetes-token", own, "--kubernetes-namespaces", s.name, "--kubernetes-service-account", "openshell-sandbox")
	user := s.token(t, "runner", "--audience", "sallyport")
	created, err := gateway.client.CreateSandbox(as(t.Context(), user), &openshellpb.CreateSandboxRequest{Name: "box", Spec: &openshellpb.SandboxSpec{}})
	if err != nil {
		t.Fatal(err)
	}
	id := created.GetSandbox().GetMetadata().GetId()
	image := shell(t)
	issue := func(token string) (*openshellpb.IssueSandboxTokenResponse, error) {
		return gateway.client.IssueSandboxToken(as(t.Context(), token), &openshellpb.IssueSandboxTokenRequest{})
	}

	s.add(t, sandboxObject("box", id, id, image, "openshell-sandbox"))
	s.add(t, sandboxObject("liar", "11111111-1111-4111-8111-111111111111", id, image, "openshell-sandbox"))
	s.add(t, sandboxObject("nameless", id, "", image, "openshell-sandbox"))
	s.add(t, sandboxObject("borrowed", id, id, image, "other"))
	elsewhere.add(t, sandboxObject("box", id, id, image, "openshell-sandbox"))
	s.add(t, onePod("loose", image, "openshell-sandbox", "openshell-gateway", "openshell.io/sandbox-id: "+id))
	for _, pod := range []string{"box", "liar", "nameless", "borrowed", "loose"} {
		s.waitPod(t, pod)
	}
	elsewhere.waitPod(t, "box")

	token := s.podToken(t, "box")
	issued, err := issue(token)
	if err != nil {
		t.Fatalf("the sandbox's pod: %v", err)
	}
	sandbox := as(t.Context(), issued.GetToken())
	if _, err := gateway.client.GetSandboxConfig(sandbox, &sandboxpb.GetSandboxConfigRequest{SandboxId: id}); err != nil {
		t.Errorf("the sandbox with its token: %v", err)
	}
	if _, err := gateway.client.RefreshSandboxToken(sandbox, &openshellpb.RefreshSandboxTokenRequest{}); err != nil {
		t.Errorf("the sandbox renews its token: %v", err)
	}
	if _, err := gateway.client.ListSandboxes(as(t.Context(), token), &openshellpb.ListSandboxesRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the pod's token at another method: %v, want UNAUTHENTICATED", err)
	}
	for _, c := range []struct {
		what, token string
		code        codes.Code
		reason      string
	}{
		{"a pod whose Sandbox object names another", s.podToken(t, "liar"), codes.PermissionDenied, "SANDBOX_OWNER_NOT_ACCEPTED"},
		{"a pod that names no sandbox", s.podToken(t, "nameless"), codes.PermissionDenied, "POD_NOT_ACCEPTED"},
		{"a pod with another account", s.podToken(t, "borrowed"), codes.PermissionDenied, "SERVICE_ACCOUNT_NOT_ACCEPTED"},
		{"a pod in another namespace", elsewhere.podToken(t, "box"), codes.PermissionDenied, "SERVICE_ACCOUNT_NOT_ACCEPTED"},
		{"a pod without a Sandbox object", s.podToken(t, "loose"), codes.PermissionDenied, "SANDBOX_OWNER_NOT_ACCEPTED"},
		{"the account without a pod", s.token(t, "openshell-sandbox", "--audience", "openshell-gateway"), codes.PermissionDenied, "POD_NOT_ACCEPTED"},
	} {
		_, err := issue(c.token)
		wantRefused(t, c.what, err, c.code, c.reason)
	}
	if _, err := issue(s.token(t, "openshell-sandbox")); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a token for the API server: %v, want UNAUTHENTICATED", err)
	}

	// The API server takes a token back when its pod is gone, and tells it from its successor of the same name.
	s.in(t, "delete", "pod", "box", "--wait=false")
	s.waitPod(t, "box")
	eventually(t, "the old pod's token is refused", func() error {
		if _, err := issue(token); err == nil {
			return errors.New("it is still accepted")
		}
		return nil
	})
	if _, err := issue(s.podToken(t, "box")); err != nil {
		t.Errorf("the new pod: %v", err)
	}
	if _, err := gateway.client.GetSandboxConfig(sandbox, &sandboxpb.GetSandboxConfigRequest{SandboxId: id}); err != nil {
		t.Errorf("the sandbox with the token that it has: %v", err)
	}
	s.in(t, "delete", "sandboxes.agents.x-k8s.io", "--all")
}

// token has the API server sign a token for an account.
func (s space) token(t *testing.T, account string, args ...string) string {
	t.Helper()
	return strings.TrimSpace(s.in(t, append([]string{"create", "token", account}, args...)...))
}

// podToken reads the token that the kubelet keeps in a pod.
func (s space) podToken(t *testing.T, pod string) string {
	t.Helper()
	return strings.TrimSpace(s.in(t, "exec", pod, "--", "cat", "/var/run/secrets/openshell/token"))
}

// waitPod waits for a pod to be ready, which may not be there yet or be on its way out.
func (s space) waitPod(t *testing.T, pod string) {
	t.Helper()
	eventually(t, "pod "+pod+" ready", func() error {
		out, err := s.tryIn(t.Context(), "get", "pod", pod, "-o", `jsonpath={.metadata.deletionTimestamp}{.status.conditions[?(@.type=="Ready")].status}`)
		if err == nil && out != "True" {
			err = fmt.Errorf("it is %q", out)
		}
		return err
	})
}

// authority writes the file of the API server's authority.
func (c cluster) authority(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(dir, "ca.crt")
	pem := c.kubectl(t, "get", "configmap", "kube-root-ca.crt", "-o", `jsonpath={.data.ca\.crt}`)
	if err := os.WriteFile(path, []byte(pem), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// allowDiscovery lets everybody read the API server's discovery document and keys.
func (c cluster) allowDiscovery(t *testing.T) {
	t.Helper()
	c.kubectl(t, "apply", "-f", filepath.Join("testdata", "discovery.yaml"))
}

// documented is the block of docs/auth.md for service accounts, for accounts of this namespace and a gateway outside of the
// cluster: it reads the discovery document at the API server's own address, and it has no certificates of its own.
func (s space) documented(t *testing.T) string {
	t.Helper()
	s.allowDiscovery(t)
	raw, err := os.ReadFile(top(t, "docs", "auth.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(raw), "\n## Kubernetes service accounts\n")
	_, block, _ := strings.Cut(section, "```toml\n")
	block, _, ok := strings.Cut(block, "```")
	if !ok {
		t.Fatal("docs/auth.md has no block for service accounts")
	}
	for _, change := range [][2]string{
		{`values = ["build"]`, fmt.Sprintf("values = [%q]", s.name)},
		{`ca_path = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"`, fmt.Sprintf("ca_path = %q\ndiscovery_url = %q", s.authority(t, t.TempDir()), apiServer()+"/.well-known/openid-configuration")},
		{"[openshell.gateway.tls]\ncert_path = \"/etc/openshell/tls/tls.crt\"\nkey_path = \"/etc/openshell/tls/tls.key\"\n", ""},
		{"bind_address = \"0.0.0.0:17670\"\n", ""},
		{"compute_drivers = [\"external\"]\n", ""},
		{"[openshell.drivers.external]\nsocket_path = \"/run/openshell/compute.sock\"\n", ""},
	} {
		if !strings.Contains(block, change[0]) {
			t.Fatalf("the block for service accounts in docs/auth.md has no %q", change[0])
		}
		block = strings.Replace(block, change[0], change[1], 1)
	}
	return block
}

// allowReviews gives a gateway's account what docs/auth.md says it must be allowed.
func (s space) allowReviews(t *testing.T, account string) {
	t.Helper()
	s.kubectl(t, "create", "clusterrolebinding", s.name, "--clusterrole=system:auth-delegator", "--serviceaccount="+s.name+":"+account)
	t.Cleanup(func() {
		if _, err := s.try(context.WithoutCancel(t.Context()), "delete", "clusterrolebinding", s.name); err != nil {
			t.Error(err)
		}
	})
	s.in(t, "create", "role", "sandbox-reader", "--verb=get", "--resource=pods,sandboxes.agents.x-k8s.io")
	s.in(t, "create", "rolebinding", "sandbox-reader", "--role=sandbox-reader", "--serviceaccount="+s.name+":"+account)
}

// onePod is a pod with a projected token, and one annotation if any.
func onePod(name, image, account, audience, annotation string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, annotations: {%s}}
spec: %s
`, name, annotation, podSpec(image, account, audience))
}

// podSpec is in flow style, to stand in any manifest.
func podSpec(image, account, audience string) string {
	return fmt.Sprintf(`{terminationGracePeriodSeconds: 0, automountServiceAccountToken: false, serviceAccountName: %s,
  containers: [{name: agent, image: %s, command: [sleep, 1d], volumeMounts: [{name: token, mountPath: /var/run/secrets/openshell}]}],
  volumes: [{name: token, projected: {sources: [{serviceAccountToken: {path: token, audience: %s, expirationSeconds: 600}}]}}]}`, account, image, audience)
}

// sandboxObject is an object of the agent-sandbox controller, which makes the pod. The object says of itself that it is
// labelled, the pod that it is annotated, unless that is empty.
func sandboxObject(name, labelled, annotated, image, account string) string {
	annotations := ""
	if annotated != "" {
		annotations = "openshell.io/sandbox-id: " + annotated
	}
	return fmt.Sprintf(`
apiVersion: agents.x-k8s.io/v1beta1
kind: Sandbox
metadata: {name: %s, labels: {openshell.ai/sandbox-id: %s}}
spec: {podTemplate: {metadata: {annotations: {%s}}, spec: %s}}
`, name, labelled, annotations, podSpec(image, account, "openshell-gateway"))
}
