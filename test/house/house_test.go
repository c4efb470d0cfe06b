// Package house_test keeps the rules of the house that no linter knows: what a binary may link, how
// packages are named and introduced, how long a file may grow, and that no test waits on a real clock. It
// reads the sources and the module graph and knows no package's behaviour.
package house_test

import (
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "sallyport.dev/sallyport"

// pkg is what these tests need of the output of go list.
type pkg struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
}

// list runs go list in the module's root.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-json=ImportPath,Dir,GoFiles,TestGoFiles,XTestGoFiles"}, args...)...)
	cmd.Dir = filepath.Join("..", "..")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list %v: %v", args, err)
	}
	var packages []pkg
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatalf("decode the output of go list: %v", err)
		}
		packages = append(packages, p)
	}
}

// handwritten are the module's packages but the generated ones.
func handwritten(t *testing.T) []pkg {
	t.Helper()
	return slices.DeleteFunc(list(t, "./..."), func(p pkg) bool { return strings.HasPrefix(p.ImportPath, module+"/gen/") })
}

func parse(t *testing.T, dir, file string, mode parser.Mode) *ast.File {
	t.Helper()
	parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, file), nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

func TestEveryPackageIsIntroduced(t *testing.T) {
	t.Parallel()
	for _, p := range handwritten(t) {
		files := p.GoFiles
		if len(files) == 0 {
			files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
		}
		introductions := 0
		for _, file := range files {
			if doc := parse(t, p.Dir, file, parser.PackageClauseOnly|parser.ParseComments).Doc; doc != nil {
				introductions++
			}
		}
		if introductions != 1 {
			t.Errorf("%s: %d package comments; write one that says what the package owns and what it must not know", p.ImportPath, introductions)
		}
	}
}

func TestPackageNamesSaySomething(t *testing.T) {
	t.Parallel()
	empty := []string{"base", "common", "core", "helper", "helpers", "lib", "manager", "misc", "shared", "types", "util", "utils"}
	for _, p := range handwritten(t) {
		if name := filepath.Base(p.ImportPath); slices.Contains(empty, name) {
			t.Errorf("%s: the name %q says nothing; name the package after what it owns", p.ImportPath, name)
		}
	}
}

// maxLines is where a file begins to hide something. Tests may grow longer: their tables are read in parts.
const maxLines = 500

func TestFilesStayShort(t *testing.T) {
	t.Parallel()
	for _, p := range handwritten(t) {
		for _, file := range p.GoFiles {
			content, err := os.ReadFile(filepath.Join(p.Dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(content), "\n"); n > maxLines {
				t.Errorf("%s/%s: %d lines, more than %d; split it by what it does", p.ImportPath, file, n, maxLines)
			}
		}
	}
}

// TestNoTestSleeps allows time.Sleep only in files that use the fake clock of testing/synctest.
func TestNoTestSleeps(t *testing.T) {
	t.Parallel()
	for _, p := range handwritten(t) {
		for _, file := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			parsed := parse(t, p.Dir, file, parser.SkipObjectResolution)
			if imports(parsed, "testing/synctest") || !imports(parsed, "time") {
				continue
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if s, ok := n.(*ast.SelectorExpr); ok && s.Sel.Name == "Sleep" && named(s.X, "time") {
					t.Errorf("%s/%s: sleeps; wait for the event itself, or put the test on testing/synctest", p.ImportPath, file)
				}
				return true
			})
		}
	}
}

func imports(file *ast.File, path string) bool {
	return slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == strconv.Quote(path) })
}

func named(x ast.Expr, name string) bool {
	id, ok := x.(*ast.Ident)
	return ok && id.Name == name
}
