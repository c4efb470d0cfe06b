//go:build linux

// Package kube_test proves the product on a real Kubernetes: a gateway that trusts the cluster's API server, and the chart
// with both of its drivers and sandboxes as pods. It owns how the cluster is started (see README.md), talks to it with
// kubectl and helm as people do, and knows nothing of the programs' inside.
package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const (
	// requireEnv decides what happens where no cluster runs: 1 starts one and fails the tests if that cannot be, unset
	// skips them. 0 leaves them out in any case, for a run beside others.
	requireEnv = "SALLYPORT_REQUIRE_KUBE"
	// keepEnv leaves namespaces and releases where they are, to look at them.
	keepEnv = "SALLYPORT_KUBE_KEEP"
	// patience bounds every wait; the machine may be busy with other things.
	patience  = 3 * time.Minute
	pollEvery = 100 * time.Millisecond
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(withServices{m}, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

// withServices ends what the tests shared when the last one has ended. The cluster stays.
type withServices struct{ *testing.M }

func (m withServices) Run() int {
	code := m.M.Run()
	if err := endShared(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return max(code, 1)
	}
	return code
}

// cluster is the running Kubernetes.
type cluster struct {
	// kubeconfig is a file, bin the folder of kubectl and helm.
	kubeconfig, bin string
}

// running returns the cluster, or says why there is none. It starts one only where it is required: without its programs in
// the cache that takes half an hour.
var running = sync.OnceValues(func() (cluster, error) {
	var c cluster
	verb := []string{"--running"}
	switch os.Getenv(requireEnv) {
	case "0":
		return c, errors.New(requireEnv + "=0 leaves it out")
	case "1":
		verb = nil
	}
	out, err := tell("./up", verb...)
	if err == nil {
		c.kubeconfig = strings.TrimSpace(out)
		out, err = tell("./up", "--built")
		c.bin = strings.TrimSpace(out)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "NOT PROVEN on a real Kubernetes: %v\n", err)
	}
	return c, err
})

func require(t *testing.T) cluster {
	t.Helper()
	c, err := running()
	switch {
	case err == nil:
	case os.Getenv(requireEnv) == "1":
		t.Fatalf("no Kubernetes: %v", err)
	default:
		t.Skipf("no Kubernetes: %v", err)
	}
	return c
}

// address is one in the cluster's network: 0.1 this machine as the cluster sees it, 0.2 the node.
func address(host string) string {
	network := os.Getenv("SALLYPORT_KUBE_NET")
	if network == "" {
		network = "10.213"
	}
	return network + "." + host
}

// tell runs a program and returns what it printed; its error holds what it complained about.
func tell(program string, args ...string) (string, error) {
	return feed(context.Background(), nil, program, args...)
}

func feed(ctx context.Context, input []byte, program string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, program, args...)
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &out, &complaint
	// What it leaves behind with its output open must not hold this up.
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(program), strings.Join(args, " "), err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out.String(), nil
}

// try runs kubectl.
func (c cluster) try(ctx context.Context, args ...string) (string, error) {
	return feed(ctx, nil, filepath.Join(c.bin, "kubectl"), append([]string{"--kubeconfig", c.kubeconfig}, args...)...)
}

// kubectl runs a command that has to succeed.
func (c cluster) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.try(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// apply makes the objects of a manifest.
func (c cluster) apply(t *testing.T, manifest string, args ...string) {
	t.Helper()
	args = append([]string{"--kubeconfig", c.kubeconfig, "apply", "-f", "-"}, args...)
	if _, err := feed(t.Context(), []byte(manifest), filepath.Join(c.bin, "kubectl"), args...); err != nil {
		t.Fatal(err)
	}
}

// space is a namespace for one test. What happened in it is written down if the test fails, and it goes with the test.
type space struct {
	cluster
	name string
}

// unique is a name that no other test and no other run has.
func unique(prefix string) string {
	return fmt.Sprintf("%s-%x", prefix, time.Now().UnixNano()&0xffffffff)
}

func (c cluster) space(t *testing.T, prefix string) space {
	t.Helper()
	s := space{cluster: c, name: unique(prefix)}
	c.kubectl(t, "create", "namespace", s.name)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if t.Failed() {
			s.record(ctx, t)
		}
		if os.Getenv(keepEnv) != "" {
			t.Logf("namespace %s is left", s.name)
			return
		}
		if _, err := c.try(ctx, "delete", "namespace", s.name); err != nil {
			t.Error(err)
		}
	})
	return s
}

// in runs kubectl in the namespace.
func (s space) in(t *testing.T, args ...string) string {
	t.Helper()
	return s.kubectl(t, append([]string{"--namespace", s.name}, args...)...)
}

func (s space) tryIn(ctx context.Context, args ...string) (string, error) {
	return s.try(ctx, append([]string{"--namespace", s.name}, args...)...)
}

// add makes objects in the namespace.
func (s space) add(t *testing.T, manifest string) {
	t.Helper()
	s.apply(t, manifest, "--namespace", s.name)
}

// record writes what Kubernetes knows about the namespace into files, for whoever asks why a test failed.
func (s space) record(ctx context.Context, t *testing.T) {
	t.Helper()
	root, err := filepath.Abs("../../build/kube")
	if err != nil {
		t.Error(err)
		return
	}
	dir := filepath.Join(root, strings.ReplaceAll(t.Name(), "/", "-"))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Error(err)
		return
	}
	write := func(name string, args ...string) {
		out, err := s.tryIn(ctx, args...)
		if err != nil {
			out += "\n" + err.Error()
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(out), 0o600); err != nil {
			t.Error(err)
		}
	}
	write("pods.txt", "get", "pods,sandboxes.agents.x-k8s.io,persistentvolumeclaims,statefulsets,jobs", "-o", "wide")
	write("pods.describe.txt", "describe", "pods")
	write("sandboxes.yaml", "get", "sandboxes.agents.x-k8s.io", "-o", "yaml")
	write("events.txt", "get", "events", "--sort-by", ".lastTimestamp")
	pods, err := s.tryIn(ctx, "get", "pods", "-o", "name")
	if err != nil {
		t.Error(err)
	}
	for _, pod := range strings.Fields(pods) {
		name := strings.TrimPrefix(pod, "pod/")
		write(name+".log", "logs", pod, "--all-containers", "--prefix", "--tail=2000")
		write(name+".before.log", "logs", pod, "--all-containers", "--prefix", "--previous", "--tail=2000")
	}
	t.Logf("what Kubernetes knows is in %s", dir)
}

// eventually calls try until it returns nil, and fails the test with its last error when patience runs out.
func eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := try()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s: not after %s: %v", what, patience, err)
		case <-tick.C:
		}
	}
}

// top is the repository.
func top(t *testing.T, elem ...string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(append([]string{"..", ".."}, elem...)...))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// program is one of those that make build made.
func program(t *testing.T, name string) string {
	t.Helper()
	path := top(t, "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("run make build: %v", err)
	}
	return path
}
