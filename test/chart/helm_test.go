package chart_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	// requireEnv makes a missing Helm a failure with 1, and leaves the tests out with 0.
	requireEnv = "SALLYPORT_REQUIRE_HELM"
	// helmEnv names a Helm to use in place of the pinned one.
	helmEnv = "SALLYPORT_HELM"
)

// kubeVersion is what charts are rendered for.
const kubeVersion = "1.33.0"

// found is the Helm of all tests.
var found = sync.OnceValues(findHelm)

// helm runs Helm and returns what it prints.
func helm(t *testing.T, args ...string) (string, error) {
	t.Helper()
	return helmWith(t, "", args...)
}

// requireHelm returns the program. Without one the test is skipped, loudly, or fails.
func requireHelm(t *testing.T) string {
	t.Helper()
	if os.Getenv(requireEnv) == "0" {
		t.Skip("NOT PROVEN: " + requireEnv + "=0 leaves Helm out; make chart runs this")
	}
	binary, err := found()
	if err == nil {
		return binary
	}
	if os.Getenv(requireEnv) == "1" {
		t.Fatalf("no Helm: %v", err)
	}
	t.Skipf("NOT PROVEN, no Helm: %v", err)
	return ""
}

// helmWith is helm with something on its standard input.
func helmWith(t *testing.T, input string, args ...string) (string, error) {
	t.Helper()
	binary := requireHelm(t)
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}
	cmd.Stdin = strings.NewReader(input)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("helm %s: %w\n%s%s", args[0], err, errOut.String(), out.String())
	}
	return out.String(), nil
}

// findHelm returns the Helm that tools/helm pins. It is built on first use, which takes minutes, into a folder that is
// named after the versions it is built from.
func findHelm() (string, error) {
	if named := os.Getenv(helmEnv); named != "" {
		return named, nil
	}
	sums, err := os.ReadFile(filepath.Join(top, "tools", "helm", "go.sum"))
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(sums)
	binary := filepath.Join(cache, "sallyport", "helm", hex.EncodeToString(sum[:8]), "helm")
	if _, err := os.Stat(binary); err == nil {
		return binary, nil
	}
	if err := os.MkdirAll(filepath.Dir(binary), 0o755); err != nil {
		return "", err
	}
	// Another process may build it at the same time: the name is given last.
	made := fmt.Sprintf("%s.%d", binary, os.Getpid())
	// As go tool builds it, so that both share what the compiler made.
	build := exec.CommandContext(context.Background(), "go", "build", "-o", made, "helm.sh/helm/v4/cmd/helm")
	build.Dir = filepath.Join(top, "tools", "helm")
	if out, err := build.CombinedOutput(); err != nil {
		return "", errors.Join(fmt.Errorf("build Helm from tools/helm: %w: %s", err, lastLines(string(out))), os.RemoveAll(made))
	}
	return binary, os.Rename(made, binary)
}

func lastLines(text string) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], "\n")
}

// release is what one render is of.
type release struct {
	name, namespace string
	// files are files of values, text more values over them.
	files []string
	text  string
	// apis are API versions that the cluster has beside those of every cluster.
	apis []string
}

// render renders the chart.
func (r release) render(t *testing.T) (string, error) {
	t.Helper()
	if r.name == "" {
		r.name = "gw"
	}
	if r.namespace == "" {
		r.namespace = "team1"
	}
	args := []string{"template", r.name, chartDir, "--namespace", r.namespace, "--kube-version", kubeVersion}
	for _, file := range r.files {
		args = append(args, "--values", file)
	}
	if r.text != "" {
		args = append(args, "--values", "-")
	}
	for _, api := range r.apis {
		args = append(args, "--api-versions", api)
	}
	return helmWith(t, r.text, args...)
}

// must is render for values that are right.
func (r release) must(t *testing.T) string {
	t.Helper()
	out, err := r.render(t)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
