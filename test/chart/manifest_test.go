package chart_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// plainNamespace is where the plain manifests and the one for k3s put everything.
const plainNamespace = "sallyport"

const madeFrom = "# Made by make manifests from %s. Change that file, not this one.\n"

// TestManifests compares the manifests that come from the chart with what is in the repository.
func TestManifests(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		dir  string
		make func(t *testing.T, values string) string
	}{{"k3s", helmChart}, {"manifests", plainManifests}} {
		t.Run(c.dir, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(top, "deploy", c.dir)
			raw, err := os.ReadFile(filepath.Join(dir, "values.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			got := fmt.Sprintf(madeFrom, "values.yaml and deploy/helm/sallyport") + c.make(t, string(raw))
			file := filepath.Join(dir, "sallyport.yaml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("%s is not up to date; run make manifests (-want +got):\n%s", file, diff)
			}
			manifests(t, got)
		})
	}
}

// plainManifests are for kubectl apply: the render, in a namespace that it makes.
func plainManifests(t *testing.T, values string) string {
	t.Helper()
	return "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: " + plainNamespace +
		"\n  labels:\n    pod-security.kubernetes.io/enforce: restricted\n    pod-security.kubernetes.io/warn: restricted\n" +
		withoutFiles(release{name: "sallyport", namespace: plainNamespace, text: values}.must(t))
}

// helmChart is for the Helm controller of k3s, with the chart in the folder that its server serves.
func helmChart(t *testing.T, values string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(chartDir, "Chart.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var chart struct{ Name, Version string }
	if err := yaml.Unmarshal(raw, &chart); err != nil {
		t.Fatal(err)
	}
	// The values have to be such as the chart takes.
	release{text: values}.must(t)
	var b strings.Builder
	fmt.Fprintf(&b, "# Put build/chart/%s-%s.tgz, which make chart writes, into /var/lib/rancher/k3s/server/static/charts, and this file\n", chart.Name, chart.Version)
	b.WriteString("# into /var/lib/rancher/k3s/server/manifests.\n")
	fmt.Fprintf(&b, "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata:\n  name: %s\n  namespace: kube-system\nspec:\n", chart.Name)
	fmt.Fprintf(&b, "  chart: https://%%{KUBERNETES_API}%%/static/charts/%s-%s.tgz\n", chart.Name, chart.Version)
	fmt.Fprintf(&b, "  targetNamespace: %s\n  createNamespace: true\n  valuesContent: |-\n", plainNamespace)
	for line := range strings.Lines(values) {
		if !strings.HasPrefix(line, "#") {
			b.WriteString("    " + line)
		}
	}
	return b.String()
}

// TestKeycloak renders the Keycloak for trials, whose realm must be a part of the one that the tests prove against a real
// Keycloak.
func TestKeycloak(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(top, "deploy", "keycloak")
	if _, err := helm(t, "template", "kc", dir, "--kube-version", kubeVersion); err == nil || !strings.Contains(err.Error(), "/image") {
		t.Errorf("without an image: got %v, want an error that names it", err)
	}
	if out, err := helm(t, "lint", "--strict", dir, "--set", "image=keycloak:26"); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	out, err := helm(t, "template", "kc", dir, "--kube-version", kubeVersion, "--set", "image=keycloak:26,machineSecret=other-secret")
	if err != nil {
		t.Fatal(err)
	}
	objects := manifests(t, out)
	pod, _ := at(object(objects, "Deployment", "keycloak"), "spec", "template", "spec").(node)
	if text(pod["containers"].([]any)[0], "image") != "keycloak:26" {
		t.Errorf("the containers are %v", pod["containers"])
	}
	var made, proven node
	if err := json.Unmarshal([]byte(text(object(objects, "ConfigMap", "keycloak-realm"), "data", "openshell.json")), &made); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(top, "test", "keycloak", "realm.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &proven); err != nil {
		t.Fatal(err)
	}
	if users, _ := made["users"].([]any); len(users) != 4 {
		t.Errorf("users are %v", made["users"])
	}
	delete(made, "users")
	for _, client := range made["clients"].([]any) {
		if c := client.(node); c["secret"] == "other-secret" {
			c["secret"] = "ci-test-secret"
		}
	}
	if diff := cmp.Diff(proven["clients"].([]any)[:2], made["clients"]); diff != "" {
		t.Errorf("the clients differ from those that are proven (-proven +made):\n%s", diff)
	}
	delete(made, "clients")
	for key, value := range made {
		if diff := cmp.Diff(proven[key], value); diff != "" {
			t.Errorf("%s differs from what is proven (-proven +made):\n%s", key, diff)
		}
	}
}
