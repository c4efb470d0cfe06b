//go:build linux

package kube_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/test/keycloak"
)

// TestChart installs the chart once and works with it, then takes away one part after another.
func TestChart(t *testing.T) {
	t.Parallel()
	r := install(t, "")
	t.Run("ten cases", r.tenCases)
	t.Run("service account", r.serviceAccount)
	t.Run("rights", r.rights)
	admin := r.signedIn(t, "admin@test")
	t.Run("main job", func(t *testing.T) { r.mainJob(t, admin) })
	t.Run("many bytes", func(t *testing.T) { r.manyBytes(t, admin) })
	t.Run("image missing", func(t *testing.T) { r.imageMissing(t, admin) })
	t.Run("quota exceeded", func(t *testing.T) { r.quotaExceeded(t, admin) })
	t.Run("pod evicted", func(t *testing.T) { r.podEvicted(t, admin) })
	t.Run("driver killed", func(t *testing.T) { r.driverKilled(t, admin) })
	t.Run("gateway killed", func(t *testing.T) { r.gatewayKilled(t, admin) })
	t.Run("upgrade", func(t *testing.T) { r.upgrade(t, admin) })
}

// tenCases are those of the contract, with the gateway in the cluster.
func (r *release) tenCases(t *testing.T) {
	callers, err := r.realm.SignIn(t.Context(), keycloak.People, keycloak.Machine)
	if err != nil {
		t.Fatal(err)
	}
	client := r.dial(t)
	for _, c := range keycloak.Cases(callers, "openshell-admin") {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		if err := c.Check(ctx, client); err != nil {
			t.Error(err)
		}
		cancel()
	}
}

// serviceAccount shows the gateway a token of the cluster that it runs in.
func (r *release) serviceAccount(t *testing.T) {
	r.in(t, "create", "serviceaccount", "runner")
	client := r.dial(t)
	me, err := client.GetCurrentUser(as(t.Context(), r.token(t, "runner", "--audience", "sallyport")), &openshellpb.GetCurrentUserRequest{})
	if want := "system:serviceaccount:" + r.name + ":runner"; err != nil || me.Subject != want || !slices.Equal(me.Roles, []string{"openshell-user"}) {
		t.Errorf("the runner is %v, want %s; error %v", me, want, err)
	}
	_, err = client.GetCurrentUser(as(t.Context(), r.token(t, "runner")), &openshellpb.GetCurrentUserRequest{})
	wantRefused(t, "a token for the API server", err, codes.Unauthenticated, "TOKEN_AUDIENCE")
}

// rights asks the API server what the accounts of the release may do, and looks who holds a token.
func (r *release) rights(t *testing.T) {
	for _, c := range []struct {
		account, verb, resource, want string
	}{
		{releaseName, "create", "sandboxes.agents.x-k8s.io", "yes"},
		{releaseName, "watch", "pods", "yes"},
		{releaseName, "create", "pods", "no"},
		{releaseName, "create", "pods/exec", "no"},
		{releaseName, "list", "secrets", "no"},
		{releaseName, "get", "secrets", "no"},
		{releaseName, "delete", "namespaces", "no"},
		{releaseName + "-sandbox", "get", "pods", "no"},
		{releaseName + "-sandbox", "get", "secrets", "no"},
	} {
		// It ends with 1 for no.
		out, err := r.tryIn(t.Context(), "auth", "can-i", c.verb, c.resource, "--as", "system:serviceaccount:"+r.name+":"+c.account)
		if got := strings.TrimSpace(out); got != c.want {
			t.Errorf("may %s %s %s: %q, want %s; error %v", c.account, c.verb, c.resource, got, c.want, err)
		}
	}
	for container, want := range map[string]bool{"gateway": true, "compute-driver": true, "credentials-driver": false} {
		mounts := ""
		for _, list := range []string{"containers", "initContainers"} {
			mounts += r.in(t, "get", "pod", gatewayPod, "-o", fmt.Sprintf(`jsonpath={.spec.%s[?(@.name==%q)].volumeMounts[*].mountPath}`, list, container))
		}
		if got := strings.Contains(mounts, "/var/run/secrets/kubernetes.io/serviceaccount"); got != want {
			t.Errorf("%s holds a token for the API server: %t, want %t; it mounts %s", container, got, want, mounts)
		}
	}
}

// mainJob is what the product is for: a credential from Keycloak in a sandbox that is a pod.
func (r *release) mainJob(t *testing.T, m *terminal) {
	if out := m.must(t, "whoami"); !strings.Contains(out, "admin@test") {
		t.Errorf("whoami printed %s", out)
	}
	m.must(t, "provider", "create", "--name", "demo", "--type", "generic", "--driver-credential", "DEMO_TOKEN="+credential)
	out := m.must(t, "sandbox", "create", "--name", "job", "--provider", "demo", "--no-tty", "--", "sh", "-c", `echo "token=$DEMO_TOKEN"`)
	_, token, _ := strings.Cut(out, "token=")
	if err := r.wantMachine(strings.TrimSpace(token)); err != nil {
		t.Errorf("the credential in the sandbox: %v", err)
	}
	if out := m.must(t, "sandbox", "list"); !strings.Contains(out, "job") {
		t.Errorf("sandbox list printed %s", out)
	}
	pod := r.podOf(t, "job")
	if pod == "" {
		t.Fatal("the sandbox has no pod")
	}
	if got := r.in(t, "get", "pod", pod, "-o", "jsonpath={.status.phase}"); got != "Running" {
		t.Errorf("the pod is %s", got)
	}
	for _, c := range []struct {
		command   string
		code      int
		out, errs string
	}{
		{"echo out; echo err >&2", 0, "out\n", "err\n"},
		{"exit 7", 7, "", ""},
		{"kill -9 $$", 137, "", ""},
	} {
		e := m.run(t, nil, "", "sandbox", "exec", "-n", "job", "--no-tty", "--", "sh", "-c", c.command)
		if e.code != c.code || e.out != c.out || !strings.Contains(e.errOut, c.errs) {
			t.Errorf("%s: exit code %d, output %q, errors %q, want %d, %q, %q", c.command, e.code, e.out, e.errOut, c.code, c.out, c.errs)
		}
	}
	m.must(t, "sandbox", "delete", "job")
	m.waitGone(t, "job")
	r.waitNoPod(t, "job")
	m.must(t, "provider", "delete", "demo")
}

// wantMachine checks that a token is one that Keycloak gives to the credential's client. The token itself is not shown.
func (r *release) wantMachine(token string) error {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return fmt.Errorf("it has %d parts", len(parts))
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return err
	}
	var claims struct {
		Issuer string `json:"iss"`
		Client string `json:"azp"`
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		return err
	}
	if claims.Issuer != r.realm.Issuer() || claims.Client != keycloak.Machine {
		return fmt.Errorf("it is of %s for %s", claims.Issuer, claims.Client)
	}
	return nil
}

// create makes a sandbox that stays, and deletes it with the test.
func (r *release) create(t *testing.T, m *terminal, name string, args ...string) {
	t.Helper()
	m.must(t, append([]string{"sandbox", "create", "--name", name, "--no-tty", "--timeout", "120"}, append(args, "--", "true")...)...)
	r.deleteWith(t, m, name)
}

// deleteWith deletes a sandbox when the test ends.
func (r *release) deleteWith(t *testing.T, m *terminal, name string) {
	t.Cleanup(func() {
		if t.Failed() {
			return // what is left of it goes with the namespace, after it was written down
		}
		if e := m.run(t, nil, "", "sandbox", "delete", name); e.code != 0 {
			t.Errorf("delete %s: %s", name, e.errOut)
		}
	})
}

// sh runs a command line in a sandbox, which has to succeed.
func (m *terminal) sh(t *testing.T, sandbox, command string) string {
	t.Helper()
	return m.must(t, "sandbox", "exec", "-n", sandbox, "--no-tty", "--", "sh", "-c", command)
}

// waitPhase waits for a sandbox's phase, and for a reason unless it is empty. It returns what is shown then.
func (m *terminal) waitPhase(t *testing.T, sandbox, phase, reason string) shown {
	t.Helper()
	var s shown
	eventually(t, "sandbox "+sandbox+" "+phase+" "+reason, func() error {
		if s = m.get(t, sandbox); !strings.EqualFold(s.phase, phase) || !strings.Contains(s.text, reason) {
			return errors.New(s.text)
		}
		return nil
	})
	return s
}

// waitGone waits until the gateway knows nothing of a sandbox any more.
func (m *terminal) waitGone(t *testing.T, sandbox string) {
	t.Helper()
	eventually(t, "sandbox "+sandbox+" is gone", func() error {
		for _, name := range strings.Fields(m.must(t, "sandbox", "list", "--names")) {
			if name == sandbox {
				return errors.New("it is listed")
			}
		}
		return nil
	})
}

func (r *release) waitNoPod(t *testing.T, sandbox string) {
	t.Helper()
	eventually(t, "the pod of "+sandbox+" is gone", func() error {
		if pod := r.podOf(t, sandbox); pod != "" {
			return errors.New(pod)
		}
		return nil
	})
}
