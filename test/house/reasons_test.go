package house_test

import (
	"go/ast"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// reasonWord is what a stable reason looks like.
var reasonWord = regexp.MustCompile(`^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$`)

// reasons finds the stable reasons of the module's errors in the sources, each with the package that has it: what is
// handed to a fault as its reason, directly or through a constant, and every constant whose name says that it is one.
func reasons(t *testing.T) map[string][]string {
	t.Helper()
	found := make(map[string][]string)
	for _, p := range handwritten(t) {
		if p.ImportPath == withoutStatus || strings.HasPrefix(p.ImportPath, withoutStatus+"/") {
			continue
		}
		add := func(x ast.Expr) {
			literal, ok := x.(*ast.BasicLit)
			if !ok || literal.Kind != token.STRING {
				return // a variable or a constant: found where it gets its value
			}
			word, err := strconv.Unquote(literal.Value)
			if err != nil {
				t.Fatal(err)
			}
			if !reasonWord.MatchString(word) {
				return
			}
			if at := strings.TrimPrefix(p.ImportPath, module+"/"); !slices.Contains(found[word], at) {
				found[word] = append(found[word], at)
			}
		}
		sources := make(map[string]*ast.File)
		for _, file := range p.GoFiles {
			sources[file] = parse(t, p.Dir, file, 0)
		}
		wrappers := wrappersOf(slices.Collect(maps.Values(sources)))
		for _, file := range p.GoFiles {
			ast.Inspect(sources[file], func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.CallExpr:
					if i := reasonArgument(n, wrappers); i >= 0 && i < len(n.Args) {
						add(n.Args[i])
					}
				case *ast.ValueSpec:
					for i, name := range n.Names {
						if strings.HasPrefix(strings.ToLower(name.Name), "reason") && i < len(n.Values) {
							add(n.Values[i])
						}
					}
				case *ast.KeyValueExpr:
					if key, ok := n.Key.(*ast.Ident); ok && strings.EqualFold(key.Name, "reason") {
						add(n.Value)
					}
				}
				return true
			})
		}
	}
	return found
}

// wrappersOf finds the functions of a package that make faults of a reason they are given: which argument it is.
func wrappersOf(files []*ast.File) map[string]int {
	found := make(map[string]int)
	for _, file := range files {
		for _, d := range file.Decls {
			f, ok := d.(*ast.FuncDecl)
			if !ok || f.Recv != nil {
				continue
			}
			i := 0
			for _, field := range f.Type.Params.List {
				for _, name := range field.Names {
					if name.Name == "reason" {
						found[f.Name.Name] = i
					}
					i++
				}
			}
		}
	}
	return found
}

// reasonArgument is which argument of a call is a reason; -1 if none is.
func reasonArgument(call *ast.CallExpr, wrappers map[string]int) int {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		if i, ok := wrappers[f.Name]; ok {
			return i
		}
	case *ast.SelectorExpr:
		switch {
		case !named(f.X, "fault"):
		case f.Sel.Name == "New":
			return 1
		case f.Sel.Name == "Wrap":
			return 2
		}
	}
	return -1
}

// withoutStatus is the command line client, with everything below it: its own failures never become a status.
const withoutStatus = module + "/internal/cli"

// TestEveryReasonIsDocumented compares the reasons in the code with the tables of docs/errors.md, both ways.
func TestEveryReasonIsDocumented(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "errors.md"))
	if err != nil {
		t.Fatal(err)
	}
	documented := make(map[string]bool)
	code := regexp.MustCompile("`([^`]+)`")
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "|") {
			continue
		}
		for _, m := range code.FindAllStringSubmatch(line, -1) {
			if reasonWord.MatchString(m[1]) {
				documented[m[1]] = true
			}
		}
	}
	found := reasons(t)
	for _, word := range slices.Sorted(maps.Keys(found)) {
		if !documented[word] {
			t.Errorf("docs/errors.md does not list %s, which %s answers with: say what it means and what to do next",
				word, strings.Join(found[word], " and "))
		}
	}
	for _, word := range slices.Sorted(maps.Keys(documented)) {
		if found[word] == nil {
			t.Errorf("docs/errors.md lists %s, which nothing answers with", word)
		}
	}
}
