package chart_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.yaml.in/yaml/v3"
)

// valueCase is a value set to something else than its default, and what that does.
type valueCase struct {
	// Value is the dotted path, Set what it is set to, With further values.
	Value string
	Set   any
	With  node
	// Want are parts of lines that come with it, Lost of lines that are gone.
	Want, Lost []string
}

func valueCases(t *testing.T) []valueCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "values", "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []valueCase
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var some []valueCase
		if err := yaml.Unmarshal(raw, &some); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		cases = append(cases, some...)
	}
	return cases
}

// TestValues sets each value and looks at what it does.
func TestValues(t *testing.T) {
	t.Parallel()
	requireHelm(t)
	var bases sync.Map
	base := func(t *testing.T, with string) string {
		render, _ := bases.LoadOrStore(with, sync.OnceValues(func() (string, error) { return release{text: with}.render(t) }))
		out, err := render.(func() (string, error))()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	seen := newSettingsSeen(t)
	// Renders share the machine's few cores with whatever else runs.
	slots := make(chan struct{}, 4)
	cases := valueCases(t)
	t.Run("each", func(t *testing.T) {
		for _, c := range cases {
			t.Run(c.Value, func(t *testing.T) {
				t.Parallel()
				slots <- struct{}{}
				defer func() { <-slots }()
				c.check(t, base(t, string(encodeValue(t, c.With))), seen)
			})
		}
	})
	// Not where some of them alone were asked for.
	if seen.compared == len(cases) {
		seen.complete(t)
	}
}

// check renders the case and compares with the render of what it needs alone.
func (c valueCase) check(t *testing.T, before string, seen *settingsSeen) {
	t.Helper()
	after := release{text: string(encodeValue(t, c.values(t)))}.must(t)
	added, lost := differences(before, after), differences(after, before)
	if len(added) == 0 && len(lost) == 0 {
		t.Error("it changes nothing")
	}
	for _, want := range c.Want {
		if !anyContains(added, want) {
			t.Errorf("no new line has %q; new are\n%s", want, strings.Join(added, "\n"))
		}
	}
	for _, want := range c.Lost {
		if !anyContains(lost, want) {
			t.Errorf("no line with %q is gone; gone are\n%s", want, strings.Join(lost, "\n"))
		}
	}
	was, is := manifests(t, before), manifests(t, after)
	seen.compare(t, was, is)
	if !sameSettings(was, is) {
		settingsOf(t, is, t.TempDir()).check(t)
	}
}

// values are those of the case together.
func (c valueCase) values(t *testing.T) node {
	t.Helper()
	all := node{}
	if c.With != nil {
		if err := yaml.Unmarshal(encodeValue(t, c.With), &all); err != nil {
			t.Fatal(err)
		}
	}
	put(all, strings.Split(c.Value, "."), c.Set)
	return all
}

// put sets what lies at a path through maps, which it makes.
func put(values node, path []string, value any) {
	for _, step := range path[:len(path)-1] {
		next, ok := values[step].(node)
		if !ok {
			next = node{}
			values[step] = next
		}
		values = next
	}
	values[path[len(path)-1]] = value
}

// encodeValue writes a value as JSON, which is YAML too; nothing is an empty text.
func encodeValue(t *testing.T, value any) []byte {
	t.Helper()
	if m, ok := value.(node); ok && m == nil {
		return nil
	}
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// differences are the lines of b, without indentation, that a has not or has less often.
func differences(a, b string) (lines []string) {
	count := map[string]int{}
	for line := range strings.Lines(a) {
		count[strings.TrimSpace(line)]++
	}
	for line := range strings.Lines(b) {
		line = strings.TrimSpace(line)
		if count[line]--; count[line] < 0 {
			lines = append(lines, line)
		}
	}
	return lines
}

func anyContains(lines []string, part string) bool {
	return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, part) })
}

// TestEveryValueIsTested compares the cases, the schema and the defaults with each other.
func TestEveryValueIsTested(t *testing.T) {
	t.Parallel()
	var tested []string
	for _, c := range valueCases(t) {
		tested = append(tested, c.Value)
	}
	leaves := readSchema(t).leaves()
	raw, err := os.ReadFile(filepath.Join(chartDir, "values.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var defaults node
	if err := yaml.Unmarshal(raw, &defaults); err != nil {
		t.Fatal(err)
	}
	for _, leaf := range leaves {
		// More than one replica is refused, see TestRefusals.
		if leaf.path != "replicaCount" && !slices.Contains(tested, leaf.path) {
			t.Errorf("%s is in the schema and in no file of testdata/values", leaf.path)
		}
		if !has(defaults, strings.Split(leaf.path, ".")) && !leaf.optional {
			t.Errorf("%s is in the schema and not in values.yaml", leaf.path)
		}
	}
	for _, path := range tested {
		if !slices.ContainsFunc(leaves, func(l leaf) bool { return l.path == path }) {
			t.Errorf("%s is tested and not in the schema", path)
		}
	}
}

func has(values node, path []string) bool {
	for i, step := range path {
		value, ok := values[step]
		if !ok {
			return false
		}
		if i == len(path)-1 {
			return true
		}
		if values, ok = value.(node); !ok {
			return false
		}
	}
	return false
}
