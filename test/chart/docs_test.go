package chart_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// named finds what a document writes as code.
var named = regexp.MustCompile("`([^`]+)`")

func document(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(top, "docs", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// TestMappedValuesExist checks that docs/chart-values.md sends nobody to a value that is not there.
func TestMappedValuesExist(t *testing.T) {
	t.Parallel()
	var values []string
	readSchema(t).each("", func(path string, _ *schema) { values = append(values, path) }, nil)
	rows := 0
	for line := range strings.Lines(document(t, "chart-values.md")) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 || strings.Contains(cells[1], "---") || strings.TrimSpace(cells[1]) == "There" {
			continue
		}
		rows++
		for _, code := range named.FindAllStringSubmatch(cells[2], -1) {
			if !slices.Contains(values, code[1]) {
				t.Errorf("%s: there is no value %s", strings.TrimSpace(cells[1]), code[1])
			}
		}
		if strings.TrimSpace(cells[2]) == "" && strings.TrimSpace(cells[3]) == "" {
			t.Errorf("%s has neither a value nor a reason", strings.TrimSpace(cells[1]))
		}
	}
	if rows < 80 {
		t.Errorf("only %d rows were read", rows)
	}
}

// TestPageNamesWhatIsThere checks the scenarios and the values that docs/kubernetes.md names.
func TestPageNamesWhatIsThere(t *testing.T) {
	t.Parallel()
	page := document(t, "kubernetes.md")
	var files, listed []string
	for _, file := range scenarios(t) {
		files = append(files, filepath.Base(file))
	}
	for line := range strings.Lines(page) {
		if row, ok := strings.CutPrefix(line, "| `"); ok {
			if name, _, found := strings.Cut(row, "` |"); found && strings.HasSuffix(name, ".yaml") && !strings.Contains(name, "/") {
				listed = append(listed, name)
			}
		}
	}
	slices.Sort(listed)
	if !slices.Equal(files, listed) {
		t.Errorf("the page lists the scenarios %v, there are %v", listed, files)
	}
	var values, tables []string
	readSchema(t).each("", func(path string, _ *schema) { values = append(values, path) }, func(path string, _ *schema) { tables = append(tables, path) })
	roots := map[string]bool{}
	for _, path := range values {
		root, _, _ := strings.Cut(path, ".")
		roots[root] = true
	}
	for _, code := range named.FindAllStringSubmatch(page, -1) {
		name, _, _ := strings.Cut(code[1], "=")
		root, _, dotted := strings.Cut(name, ".")
		if !dotted || !roots[root] || strings.ContainsAny(name, "/ ") {
			continue
		}
		if !slices.Contains(values, name) && !slices.Contains(tables, name) && !strings.HasPrefix(name, "gateway.config.") {
			t.Errorf("the page names %s, and there is no such value", name)
		}
	}
}
