package chart_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const (
	// kubeconfigEnv names the kubeconfig file of a cluster that may be asked, kubectlEnv the kubectl to ask it with.
	kubeconfigEnv = "SALLYPORT_CHART_KUBECONFIG"
	kubectlEnv    = "SALLYPORT_CHART_KUBECTL"
)

// foreignGroups are API groups that a plain cluster has not.
var foreignGroups = []string{"cert-manager.io/", "gateway.networking.k8s.io/", "monitoring.coreos.com/", "route.openshift.io/"}

// TestRealAPIServer has a real API server look at every object of every scenario, strictly, and keep none of them.
func TestRealAPIServer(t *testing.T) {
	t.Parallel()
	kubeconfig := os.Getenv(kubeconfigEnv)
	if kubeconfig == "" {
		t.Skip("NOT PROVEN on a real API server: " + kubeconfigEnv + " names none; make e2e-kube does")
	}
	program := os.Getenv(kubectlEnv)
	if program == "" {
		program = "kubectl"
	}
	kubectl := func(t *testing.T, input string, args ...string) error {
		cmd := exec.CommandContext(t.Context(), program, append([]string{"--kubeconfig", kubeconfig}, args...)...)
		cmd.Stdin = strings.NewReader(input)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("kubectl %s: %w\n%s", args[0], err, out.String())
		}
		return nil
	}
	space := fmt.Sprintf("chart-test-%d", os.Getpid())
	if err := kubectl(t, "", "create", "namespace", space); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context is over by now.
		if out, err := exec.Command(program, "--kubeconfig", kubeconfig, "delete", "namespace", space, "--wait=false").CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	for _, file := range scenarios(t) {
		t.Run(scenarioName(file), func(t *testing.T) {
			t.Parallel()
			var own []string
			for _, document := range strings.Split(release{namespace: space, files: []string{file}}.must(t), "\n---\n") {
				if !isForeign(document) {
					own = append(own, document)
				}
			}
			text := strings.Join(own, "\n---\n")
			// The operator's namespaces are not there.
			for _, name := range []string{"agents-blue", "agents-green"} {
				text = strings.ReplaceAll(text, "namespace: "+name, "namespace: "+space)
			}
			if err := kubectl(t, text, "apply", "--dry-run=server", "--validate=strict", "-f", "-"); err != nil {
				t.Errorf("%s: %v", filepath.Base(file), err)
			}
		})
	}
}

func isForeign(document string) bool {
	for _, group := range foreignGroups {
		if strings.Contains(document, "\napiVersion: "+group) || strings.HasPrefix(document, "apiVersion: "+group) {
			return true
		}
	}
	return false
}
