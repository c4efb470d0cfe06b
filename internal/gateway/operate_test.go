package gateway_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// asked is an expression of an alert or a dashboard, and who asks it.
type asked struct{ who, expr string }

// rule is an alert of files/alerts.yaml.
type rule struct {
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

func alertRules(t *testing.T) []rule {
	t.Helper()
	data, err := os.ReadFile("../../deploy/helm/sallyport/files/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Name  string `yaml:"name"`
			Rules []rule `yaml:"rules"`
		} `yaml:"groups"`
	}
	if err := yaml.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var all []rule
	for _, g := range file.Groups {
		all = append(all, g.Rules...)
	}
	return all
}

// TestEachAlertIsExplained compares the alerts with the sections of docs/operate.md.
func TestEachAlertIsExplained(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	_, part, _ := strings.Cut(string(page), "\n## Alerts\n")
	sections := map[string]string{}
	for _, s := range strings.Split(part, "\n### ")[1:] {
		name, text, _ := strings.Cut(s, "\n")
		sections[name] = text
	}
	alerts := map[string]bool{}
	for _, r := range alertRules(t) {
		alerts[r.Alert] = true
		text, ok := sections[r.Alert]
		if !ok || !strings.Contains(text, "**Cause.**") || !strings.Contains(text, "**Check.**") || !strings.Contains(text, "**Remedy.**") {
			t.Errorf("%s has no section with cause, check and remedy", r.Alert)
		}
		if _, anchor, _ := strings.Cut(r.Annotations["runbook_url"], "#"); anchor != strings.ToLower(r.Alert) {
			t.Errorf("%s leads to #%s", r.Alert, anchor)
		}
		if !slices.Contains([]string{"critical", "warning", "info"}, r.Labels["severity"]) || r.Annotations["summary"] == "" || r.Annotations["description"] == "" {
			t.Errorf("%s: severity %q, or no text", r.Alert, r.Labels["severity"])
		}
	}
	for name := range sections {
		if !alerts[name] {
			t.Errorf("docs/operate.md explains %s, which is no alert", name)
		}
	}
	// The links inside the page lead to headings.
	headings := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		if title, ok := strings.CutPrefix(strings.TrimLeft(line, "#"), " "); ok && strings.HasPrefix(line, "#") {
			title = regexp.MustCompile(`[^a-z0-9 -]`).ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			headings[strings.ReplaceAll(title, " ", "-")] = true
		}
	}
	for _, link := range regexp.MustCompile(`\]\(#([a-z0-9-]+)\)`).FindAllStringSubmatch(string(page), -1) {
		if !headings[link[1]] {
			t.Errorf("a link leads to #%s", link[1])
		}
	}
}

// panels collects every expression of a dashboard.
func panels(t *testing.T, path string) []asked {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID, Title string
		Panels     []struct {
			ID      int
			Type    string
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	if board.UID == "" || board.Title == "" || len(board.Panels) == 0 {
		t.Errorf("%s is no dashboard", path)
	}
	var out []asked
	ids := map[int]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("%s: panel %d %q is there twice or shows nothing", path, p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			out = append(out, asked{filepath.Base(path) + ": " + p.Title, target.Expr})
		}
	}
	return out
}

var (
	seriesName = regexp.MustCompile(`\b(?:sallyport|openshell_server|process|go)_[a-z0-9_]+`)
	selector   = regexp.MustCompile(`\b([a-z_]+)(\{[^}]*\})`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"`)
)

// outside are the labels that Prometheus adds.
var outside = []string{"namespace", "pod", "job", "instance", "service"}

// TestAlertsAndDashboardsAskForWhatThereIs compares every name and label with a real scrape.
func TestAlertsAndDashboardsAskForWhatThereIs(t *testing.T) {
	t.Parallel()
	var all []asked
	for _, r := range alertRules(t) {
		all = append(all, asked{r.Alert, r.Expr})
	}
	boards, err := filepath.Glob("../../deploy/helm/sallyport/files/dashboards/*.json")
	if err != nil || len(boards) == 0 {
		t.Fatal("no dashboards", err)
	}
	for _, b := range boards {
		all = append(all, panels(t, b)...)
	}
	_, endpoint := collect(t)
	s, address := observed(t, "--otlp-endpoint", endpoint, "--audit-otlp-endpoint", "http://127.0.0.1:1/v1/logs")
	s.create("one")
	scraped := scrape(t, address)
	labels := map[string][]string{}
	for name, f := range scraped {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				labels[name] = append(labels[name], l.GetName())
			}
		}
	}
	// Known from the page, which another test holds to the scrape: certificates need TLS, refusals a stranger.
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(page)) {
		if cells := strings.Split(line, "|"); len(cells) == 7 && strings.HasPrefix(cells[1], " `") && strings.TrimSpace(cells[5]) != "" {
			name := strings.Trim(cells[1], " `")
			labels[name] = append(labels[name], strings.Split(strings.ReplaceAll(strings.TrimSpace(cells[3]), "`", ""), ", ")...)
		}
	}
	base := func(name string) string {
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if cut, ok := strings.CutSuffix(name, suffix); ok && (scraped[cut] != nil || labels[cut] != nil) {
				return cut
			}
		}
		return name
	}
	for _, a := range all {
		names := seriesName.FindAllString(a.expr, -1)
		if len(names) == 0 || strings.Count(a.expr, "(") != strings.Count(a.expr, ")") || strings.Count(a.expr, "{") != strings.Count(a.expr, "}") {
			t.Errorf("%s: %s", a.who, a.expr)
		}
		for _, name := range names {
			if scraped[base(name)] == nil && labels[base(name)] == nil {
				t.Errorf("%s asks for %s, which no gateway has", a.who, name)
			}
		}
		for _, sel := range selector.FindAllStringSubmatch(a.expr, -1) {
			for _, m := range matcher.FindAllStringSubmatch(sel[2], -1) {
				if !slices.Contains(outside, m[1]) && !slices.Contains(labels[base(sel[1])], m[1]) {
					t.Errorf("%s: %s has no label %s", a.who, sel[1], m[1])
				}
			}
		}
		for _, by := range regexp.MustCompile(`by \(([^)]*)\)`).FindAllStringSubmatch(a.expr, -1) {
			for label := range strings.SplitSeq(by[1], ",") {
				label = strings.TrimSpace(label)
				if label == "le" || slices.Contains(outside, label) {
					continue
				}
				if !slices.ContainsFunc(names, func(n string) bool { return slices.Contains(labels[base(n)], label) }) {
					t.Errorf("%s groups by %s, which %v do not have", a.who, label, names)
				}
			}
		}
	}
}
