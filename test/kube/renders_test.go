//go:build linux

package kube_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// builtIn are the groups that every API server has. What is in others waits for definitions that this cluster has not.
var builtIn = regexp.MustCompile(`(?m)^apiVersion: (v1|(apps|batch|policy|autoscaling)/v1|(networking|rbac\.authorization)\.k8s\.io/v1)$`)

var inNamespace = regexp.MustCompile(`(?m)^(\s+)namespace: \S+$`)

// TestRendersAreAccepted has the API server look at every object of every scenario of the chart and of the plain manifests, as
// strictly as it can, without making it.
func TestRendersAreAccepted(t *testing.T) {
	t.Parallel()
	s := require(t).space(t, "renders")
	s.kubectl(t, "label", "namespace", s.name, "pod-security.kubernetes.io/warn=restricted")
	files, err := filepath.Glob(top(t, "test", "chart", "testdata", "golden", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no renders: %v", err)
	}
	for _, file := range append(files, top(t, "deploy", "manifests", "sallyport.yaml")) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var known []string
		for _, object := range strings.Split(string(raw), "\n---\n") {
			if builtIn.MatchString(object) && !strings.Contains(object, "\nkind: Namespace\n") {
				known = append(known, inNamespace.ReplaceAllString(object, "${1}namespace: "+s.name))
			}
		}
		cmd := exec.CommandContext(t.Context(), filepath.Join(s.bin, "kubectl"), "--kubeconfig", s.kubeconfig,
			"apply", "--dry-run=server", "--validate=strict", "--namespace", s.name, "-f", "-")
		cmd.Stdin = strings.NewReader(strings.Join(known, "\n---\n"))
		out, err := cmd.CombinedOutput()
		// Its warnings are about fields that it does not know, and about pods that the strictest level refuses.
		if err != nil || strings.Contains(string(out), "Warning:") {
			t.Errorf("%s: %v\n%s", filepath.Base(file), err, out)
		}
	}
}
