package docs_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// weakPoints is how many weak points of the reference gateways there are.
const weakPoints = 24

var (
	weakPoint = regexp.MustCompile(`\*\*W(\d+)\.\*\*`)
	testName  = regexp.MustCompile(`^([\w./-]+_test\.go):((?:Test|Fuzz|Benchmark)\w+)$`)
)

// testsIn are the tests, fuzz targets and benchmarks of a file.
func testsIn(t *testing.T, file string) []string {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(top, filepath.FromSlash(file)), nil, parser.SkipObjectResolution)
	if err != nil {
		t.Error(err)
		return nil
	}
	var names []string
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
			names = append(names, f.Name.Name)
		}
	}
	return names
}

// Each threat is answered by tests that exist, or says that it is open; no weak point is forgotten.
func TestThreatsAreAnswered(t *testing.T) {
	t.Parallel()
	files := map[string][]string{}
	seen := map[string]int{}
	rows := 0
	for _, s := range page(t, "threat-model.md") {
		for _, row := range s.table("Threat", "What stops it", "Answered by") {
			rows++
			if len(row) != 3 || row[0] == "" || row[1] == "" {
				t.Errorf("%s: row %q", s.title, row)
				continue
			}
			for _, m := range weakPoint.FindAllStringSubmatch(row[0], -1) {
				seen["W"+m[1]]++
			}
			answers := words(row[2])
			if len(answers) == 0 && !strings.Contains(row[1], "**open**") {
				t.Errorf("%s: %q has no test and does not say that it is open", s.title, row[0])
			}
			for _, a := range answers {
				m := testName.FindStringSubmatch(a)
				if m == nil {
					t.Errorf("%s: %q names no test", s.title, a)
					continue
				}
				if _, read := files[m[1]]; !read {
					files[m[1]] = testsIn(t, m[1])
				}
				if !slices.Contains(files[m[1]], m[2]) {
					t.Errorf("%s: there is no %s in %s", s.title, m[2], m[1])
				}
			}
		}
	}
	if rows < 60 {
		t.Errorf("only %d rows were found", rows)
	}
	for n := 1; n <= weakPoints; n++ {
		if name := fmt.Sprintf("W%d", n); seen[name] != 1 {
			t.Errorf("%s begins %d rows, want one", name, seen[name])
		}
	}
	if len(seen) != weakPoints {
		t.Errorf("there are %d weak points: %v", len(seen), seen)
	}
}
