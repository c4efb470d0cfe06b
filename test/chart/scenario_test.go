package chart_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

// scenarios are the files of values that docs/kubernetes.md offers.
func scenarios(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(top, "deploy", "scenarios", "*.yaml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no scenarios: %v", err)
	}
	return files
}

func scenarioName(file string) string { return strings.TrimSuffix(filepath.Base(file), ".yaml") }

// apis are what the clusters of some scenarios have.
var apis = map[string][]string{
	"cert-manager": {"gateway.networking.k8s.io/v1/TLSRoute"},
}

// TestScenarios renders each scenario and the defaults, and compares with the golden file.
func TestScenarios(t *testing.T) {
	t.Parallel()
	all := map[string]release{"defaults": {}}
	for _, file := range scenarios(t) {
		name := scenarioName(file)
		all[name] = release{files: []string{file}, apis: apis[name]}
	}
	for name, r := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			whole := r.must(t)
			got := withoutFiles(whole)
			golden := filepath.Join("testdata", "golden", name+".yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("the render differs from %s; look at it, then go test ./test/chart -update (-want +got):\n%s", golden, diff)
			}
			// The same again: nothing is random, so that what a pipeline renders does not change by itself.
			if again := r.must(t); again != whole {
				t.Error("a second render is another one")
			}
			objects := manifests(t, whole)
			settingsOf(t, objects, t.TempDir()).check(t)
			for _, o := range objects {
				sound(t, o)
			}
		})
	}
}

// TestLongNames renders for the longest name that a release may have.
func TestLongNames(t *testing.T) {
	t.Parallel()
	for _, o := range manifests(t, release{name: strings.Repeat("long-", 10) + "end", text: `{dashboards: {enabled: true}, quota: {enabled: true}}`}.must(t)) {
		name := text(o, "metadata", "name")
		// The names of CronJobs and StatefulSets are parts of labels of their pods.
		if len(name) > 63 || len(name) > 52 && (o["kind"] == "CronJob" || o["kind"] == "StatefulSet") {
			t.Errorf("%s %s has %d characters", o["kind"], name, len(name))
		}
	}
}

// TestOpenShiftIsFoundOut renders for a cluster that has OpenShift's APIs.
func TestOpenShiftIsFoundOut(t *testing.T) {
	t.Parallel()
	found := release{apis: []string{"security.openshift.io/v1"}}.must(t)
	if said := (release{text: `{openshift: {enabled: true}}`}).must(t); found != said {
		t.Errorf("what is found out differs from what is said (-said +found):\n%s", cmp.Diff(said, found))
	}
	if strings.Contains(found, "runAsUser") || strings.Contains(found, "fsGroup") {
		t.Error("a user or a group is set")
	}
	if denied := (release{text: `{openshift: {enabled: false}}`, apis: []string{"security.openshift.io/v1"}}).must(t); denied == found {
		t.Error("openshift.enabled=false changes nothing on OpenShift")
	}
}

var betweenDocuments = regexp.MustCompile(`\n+---\n`)

// withoutFiles leaves out of a render what the chart takes from files as they are: alerts and dashboards.
func withoutFiles(render string) string {
	// Versions of Helm differ in empty lines between documents.
	render = strings.TrimRight(betweenDocuments.ReplaceAllString(render, "\n---\n"), "\n") + "\n"
	documents := strings.SplitAfter(render, "\n---\n")
	for i, document := range documents {
		for kind, key := range map[string]string{"\nkind: PrometheusRule\n": "\n  groups:\n", "-dashboards\n": "\ndata:\n"} {
			if head, _, found := strings.Cut(document, key); found && strings.Contains(head, kind) {
				documents[i] = head + key + "    # from the chart's files\n---\n"
			}
		}
	}
	return strings.Join(documents, "")
}

// TestFiles compares alerts and dashboards of a render with the files that they come from.
func TestFiles(t *testing.T) {
	t.Parallel()
	objects := manifests(t, release{text: `{prometheusRule: {enabled: true}, dashboards: {enabled: true}}`}.must(t))
	raw, err := os.ReadFile(filepath.Join(chartDir, "files", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var alerts node
	if err := yaml.Unmarshal(raw, &alerts); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(alerts["groups"], at(object(objects, "PrometheusRule", "gw-sallyport"), "spec", "groups")); diff != "" {
		t.Errorf("alerts (-file +render):\n%s", diff)
	}
	files, err := filepath.Glob(filepath.Join(chartDir, "files", "dashboards", "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	data, _ := object(objects, "ConfigMap", "gw-sallyport-dashboards")["data"].(node)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := data[filepath.Base(file)].(string); strings.TrimSpace(got) != strings.TrimSpace(string(raw)) {
			t.Errorf("%s differs in the ConfigMap", file)
		}
	}
	if len(data) != len(files) {
		t.Errorf("the ConfigMap has %d dashboards, there are %d files", len(data), len(files))
	}
}

// TestGoldenFiles finds files of scenarios that are gone.
func TestGoldenFiles(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "golden", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, file := range scenarios(t) {
		names = append(names, scenarioName(file))
	}
	for _, file := range files {
		if name := scenarioName(file); name != "defaults" && !slices.Contains(names, name) {
			t.Errorf("%s is of no scenario", file)
		}
	}
}

// sound checks what holds for every object and every pod of the chart.
func sound(t *testing.T, o node) {
	t.Helper()
	title := o["kind"].(string) + " " + text(o, "metadata", "name")
	for _, label := range []string{"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/component", "helm.sh/chart"} {
		if text(o, "metadata", "labels", label) == "" {
			t.Errorf("%s has no label %s", title, label)
		}
	}
	if o["kind"] == "Secret" {
		t.Errorf("%s: a Secret of the chart would stand in the release's history", title)
	}
	for _, path := range [][]string{{"spec", "template", "spec"}, {"spec", "jobTemplate", "spec", "template", "spec"}} {
		if pod, ok := at(o, path...).(node); ok && pod["containers"] != nil {
			soundPod(t, title, pod)
		}
	}
	if rules, ok := o["rules"].([]any); ok {
		for _, rule := range rules {
			soundRule(t, title, rule.(node))
		}
	}
}

// soundPod checks that a pod keeps to the restricted level, and has a token only where it is mounted by hand.
func soundPod(t *testing.T, title string, pod node) {
	t.Helper()
	if pod["enableServiceLinks"] != false || pod["automountServiceAccountToken"] != false {
		t.Errorf("%s: service links %v, token %v, want both off", title, pod["enableServiceLinks"], pod["automountServiceAccountToken"])
	}
	if at(pod, "securityContext", "runAsNonRoot") != true || text(pod, "securityContext", "seccompProfile", "type") != "RuntimeDefault" {
		t.Errorf("%s: security context %v", title, pod["securityContext"])
	}
	containers := slices.Clone(pod["containers"].([]any))
	if more, ok := pod["initContainers"].([]any); ok {
		containers = append(containers, more...)
	}
	for _, c := range containers {
		name := title + ", container " + text(c, "name")
		if at(c, "securityContext", "readOnlyRootFilesystem") != true || at(c, "securityContext", "allowPrivilegeEscalation") != false {
			t.Errorf("%s: security context %v", name, at(c, "securityContext"))
		}
		if drop, _ := at(c, "securityContext", "capabilities", "drop").([]any); !slices.Contains(drop, any("ALL")) {
			t.Errorf("%s keeps capabilities", name)
		}
		if at(c, "resources", "requests", "memory") == nil || at(c, "resources", "limits", "memory") == nil {
			t.Errorf("%s asks for no memory or has no limit", name)
		}
		if token := at(c, "volumeMounts", "api-token"); (token != nil) == (text(c, "name") == "credentials-driver") {
			t.Errorf("%s: token of the API server mounted: %v", name, token != nil)
		}
	}
}

// soundRule checks that nobody gets leave by wildcards, or to read all Secrets.
func soundRule(t *testing.T, title string, rule node) {
	t.Helper()
	for _, key := range []string{"apiGroups", "resources", "verbs"} {
		if list, _ := rule[key].([]any); slices.Contains(list, any("*")) {
			t.Errorf("%s: %s has a wildcard", title, key)
		}
	}
	resources, _ := rule["resources"].([]any)
	verbs, _ := rule["verbs"].([]any)
	if slices.Contains(resources, any("secrets")) && (slices.Contains(verbs, any("list")) || slices.Contains(verbs, any("watch"))) {
		t.Errorf("%s may list Secrets", title)
	}
}
