//go:build linux

package kube_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// imageMissing asks for an image that does not exist.
func (r *release) imageMissing(t *testing.T, m *terminal) {
	e := m.run(t, nil, "", "sandbox", "create", "--name", "pictureless", "--from", "localhost/nobody/nothing:1", "--no-tty", "--timeout", "20", "--", "true")
	r.deleteWith(t, m, "pictureless")
	if e.code == 0 {
		t.Errorf("it ran: %s", e.out)
	}
	s := m.waitPhase(t, "pictureless", "Error", "ImagePullBackOff")
	if !strings.Contains(s.text, "localhost/nobody/nothing:1") {
		t.Errorf("the image is not named:\n%s", s.text)
	}
}

// quotaExceeded leaves no room for any further pod, and then makes room.
func (r *release) quotaExceeded(t *testing.T, m *terminal) {
	r.in(t, "create", "quota", "tight", "--hard=pods=0")
	t.Cleanup(func() {
		if _, err := r.tryIn(context.WithoutCancel(t.Context()), "delete", "quota", "tight", "--ignore-not-found"); err != nil {
			t.Error(err)
		}
	})
	eventually(t, "the quota counts", func() error {
		out, err := r.tryIn(t.Context(), "get", "quota", "tight", "-o", "jsonpath={.status.used.pods}")
		if err == nil && out == "" {
			err = errors.New("not yet")
		}
		return err
	})
	e := m.run(t, nil, "", "sandbox", "create", "--name", "crowded", "--no-tty", "--timeout", "10", "--", "true")
	r.deleteWith(t, m, "crowded")
	if e.code == 0 {
		t.Errorf("it ran: %s", e.out)
	}
	eventually(t, "the reason shows", func() error {
		if s := m.get(t, "crowded"); !strings.Contains(s.text, "QuotaExceeded") || !strings.Contains(s.text, "tight") {
			return errors.New(s.text)
		}
		return nil
	})
	r.in(t, "delete", "quota", "tight")
	m.waitPhase(t, "crowded", "Ready", "")
}

// podEvicted has Kubernetes take a sandbox's pod away, as when a node is drained.
func (r *release) podEvicted(t *testing.T, m *terminal) {
	r.create(t, m, "evicted")
	pod := r.podOf(t, "evicted")
	uid := r.in(t, "get", "pod", pod, "-o", "jsonpath={.metadata.uid}")
	eviction := fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, pod, r.name)
	if _, err := feed(t.Context(), []byte(eviction), filepath.Join(r.bin, "kubectl"), "--kubeconfig", r.kubeconfig, "create", "--raw",
		"/api/v1/namespaces/"+r.name+"/pods/"+pod+"/eviction", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod is gone", func() error {
		if now, err := r.tryIn(t.Context(), "get", "pod", pod, "-o", "jsonpath={.metadata.uid}"); err == nil && now == uid {
			return errors.New("it is there")
		}
		return nil
	})
	// The Sandbox object gets another pod; what happened to the first stays visible.
	if s := m.waitPhase(t, "evicted", "Ready", "PodReplaced"); !strings.Contains(s.text, "evicted from node") {
		t.Errorf("the eviction does not show:\n%s", s.text)
	}
	m.wantWork(t, "evicted")
}

// driverKilled kills the process of the compute driver; Kubernetes starts its container again.
func (r *release) driverKilled(t *testing.T, m *terminal) {
	m.must(t, "sandbox", "create", "--name", "driven", "--no-tty", "--timeout", "120", "--", "true")
	mark := m.mark(t, "driven")
	restarts := r.restarts(t, "compute-driver")
	r.kill(t, "compute-driver")
	eventually(t, "the driver runs again", func() error {
		if now := r.restarts(t, "compute-driver"); now == restarts {
			return fmt.Errorf("restarted %s times", now)
		}
		return nil
	})
	m.wantMark(t, "driven", mark)
	m.waitPhase(t, "driven", "Ready", "")
	// The new one makes and removes pods, and remembers those of the one before.
	r.create(t, m, "after")
	m.must(t, "sandbox", "delete", "driven")
	m.waitGone(t, "driven")
	r.waitNoPod(t, "driven")
}

// gatewayKilled takes the gateway's pod away without any warning.
func (r *release) gatewayKilled(t *testing.T, m *terminal) {
	r.create(t, m, "kept")
	mark := m.mark(t, "kept")
	uid := r.in(t, "get", "pod", gatewayPod, "-o", "jsonpath={.metadata.uid}")
	r.in(t, "delete", "pod", gatewayPod, "--grace-period=0", "--force")
	r.waitOther(t, uid)
	m.waitPhase(t, "kept", "Ready", "")
	m.wantMark(t, "kept", mark)
}

// upgrade changes the chart's values while sandboxes live.
func (r *release) upgrade(t *testing.T, m *terminal) {
	names := []string{"first", "second", "third"}
	marks := map[string]string{}
	for _, name := range names {
		r.create(t, m, name)
		marks[name] = m.mark(t, name)
	}
	uid := r.in(t, "get", "pod", gatewayPod, "-o", "jsonpath={.metadata.uid}")
	r.addValues(t, "podAnnotations: {upgraded: \"yes\"}\n")
	r.helm(t, "upgrade")
	r.waitOther(t, uid)
	for _, name := range names {
		m.waitPhase(t, name, "Ready", "")
		m.wantMark(t, name, marks[name])
	}
}

// waitOther waits until another pod of the gateway is ready in place of one.
func (r *release) waitOther(t *testing.T, uid string) {
	t.Helper()
	eventually(t, "another pod of the gateway is ready", func() error {
		out, err := r.tryIn(t.Context(), "get", "pod", gatewayPod, "-o", `jsonpath={.metadata.uid} {.status.conditions[?(@.type=="Ready")].status}`)
		if now, ready, _ := strings.Cut(out, " "); err == nil && (now == uid || ready != "True") {
			err = errors.New(out)
		}
		return err
	})
}

// mark starts a process in a sandbox that outlives its caller, and returns what tells it from any other.
func (m *terminal) mark(t *testing.T, sandbox string) string {
	t.Helper()
	m.sh(t, sandbox, "setsid sleep 100000 </dev/null >/dev/null 2>&1 & echo $! >/tmp/mark")
	return m.marked(t, sandbox)
}

// marked reads the process's id and start time.
func (m *terminal) marked(t *testing.T, sandbox string) string {
	t.Helper()
	return m.sh(t, sandbox, `read -r pid </tmp/mark && awk '{print $1, $22}' "/proc/$pid/stat"`)
}

// wantWork waits until commands run in a sandbox.
func (m *terminal) wantWork(t *testing.T, sandbox string) {
	t.Helper()
	eventually(t, "an exec in "+sandbox, func() error {
		if e := m.run(t, nil, "", "sandbox", "exec", "-n", sandbox, "--no-tty", "--", "true"); e.code != 0 {
			return errors.New(e.errOut)
		}
		return nil
	})
}

// wantMark checks that the marked process outlived whatever happened.
func (m *terminal) wantMark(t *testing.T, sandbox, want string) {
	t.Helper()
	m.wantWork(t, sandbox)
	if got := m.marked(t, sandbox); got != want {
		t.Errorf("the process in %s is %q, want %q: it did not survive", sandbox, got, want)
	}
}

// restarts is how often a container of the gateway's pod was started again.
func (r *release) restarts(t *testing.T, container string) string {
	t.Helper()
	return r.ofContainer(t, container, "restartCount")
}

func (r *release) ofContainer(t *testing.T, container, field string) string {
	t.Helper()
	for _, list := range []string{"containerStatuses", "initContainerStatuses"} {
		if out := r.in(t, "get", "pod", gatewayPod, "-o", fmt.Sprintf(`jsonpath={.status.%s[?(@.name==%q)].%s}`, list, container, field)); out != "" {
			return out
		}
	}
	t.Fatalf("%s has no container %s", gatewayPod, container)
	return ""
}

// kill kills the first process of a container of the gateway's pod. The node's processes are among this machine's, and their
// control groups name the container.
func (r *release) kill(t *testing.T, container string) {
	t.Helper()
	_, id, _ := strings.Cut(r.ofContainer(t, container, "containerID"), "://")
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		// What has ended meanwhile cannot be read.
		groups, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cgroup"))
		if err != nil || id == "" || !strings.Contains(string(groups), id) {
			continue
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatalf("no process of container %s of %s", container, gatewayPod)
}
