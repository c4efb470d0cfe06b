package chart_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// schema is as much of a JSON schema as is needed here.
type schema struct {
	Ref         string             `json:"$ref"`
	Type        any                `json:"type"`
	Enum        []any              `json:"enum"`
	AnyOf       []*schema          `json:"anyOf"`
	Properties  map[string]*schema `json:"properties"`
	Additional  any                `json:"additionalProperties"`
	Items       *schema            `json:"items"`
	Definitions map[string]*schema `json:"definitions"`
	Required    []string           `json:"required"`
	root        *schema
}

func readSchema(t *testing.T) *schema {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(chartDir, "values.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	s := &schema{}
	if err := json.Unmarshal(raw, s); err != nil {
		t.Fatal(err)
	}
	s.root = s
	return s
}

// resolve follows a reference.
func (s *schema) resolve(root *schema) *schema {
	if s.Ref == "" {
		s.root = root
		return s
	}
	return root.Definitions[strings.TrimPrefix(s.Ref, "#/definitions/")].resolve(root)
}

// leaf is a value that is set as a whole.
type leaf struct {
	path string
	// optional ones need not be among the defaults.
	optional bool
	schema   *schema
}

// whole are objects that are values of their own, in the form that Kubernetes gives them.
var whole = []string{"resources"}

// leaves are all values.
func (s *schema) leaves() (found []leaf) {
	s.each("", func(path string, s *schema) {
		optional := strings.HasPrefix(path, "affinity.") || strings.HasPrefix(path, "dnsConfig.")
		found = append(found, leaf{path: path, optional: optional, schema: s})
	}, nil)
	return found
}

// each calls value for each value and table for each object with keys of its own, in the order of names.
func (s *schema) each(path string, value, table func(path string, s *schema)) {
	names := make([]string, 0, len(s.Properties))
	for name := range s.Properties {
		names = append(names, name)
	}
	slices.Sort(names)
	if table != nil {
		table(path, s)
	}
	for _, name := range names {
		next := strings.TrimPrefix(path+"."+name, ".")
		child := s.Properties[name].resolve(s.root)
		if len(child.Properties) > 0 && !slices.Contains(whole, name) {
			child.each(next, value, table)
			continue
		}
		value(next, child)
	}
}

// admits tells whether a value of a JSON type is one of the schema's types.
func (s *schema) admits(kind string) bool {
	switch types := s.Type.(type) {
	case string:
		return types == kind
	case []any:
		return slices.Contains(types, any(kind))
	}
	return false
}

// wrong returns a value of the wrong type, nil if Helm would drop each one before the schema sees it: it keeps the
// default of a map in place of anything else.
func (s *schema) wrong() any {
	switch {
	case s.admits("object"):
		if inner, ok := s.Additional.(map[string]any); ok && inner["type"] == "string" {
			return node{"x": 1}
		}
		return nil
	case s.admits("array"), s.admits("boolean"), s.admits("integer") && !s.admits("string"):
		return "nonsense"
	case len(s.Enum) > 0:
		return "nonsense"
	case s.admits("string"):
		return []any{1}
	}
	return []any{1}
}

// TestWrongTypes sets each value to something of another type and expects to be told of every one.
func TestWrongTypes(t *testing.T) {
	t.Parallel()
	values, asked := node{}, []string(nil)
	for _, leaf := range readSchema(t).leaves() {
		if wrong := leaf.schema.wrong(); wrong != nil {
			put(values, strings.Split(leaf.path, "."), wrong)
			asked = append(asked, leaf.path)
		}
	}
	_, err := release{text: string(encodeValue(t, values))}.render(t)
	if err == nil {
		t.Fatal("rendered")
	}
	for _, path := range asked {
		where := "/" + strings.ReplaceAll(path, ".", "/")
		if !strings.Contains(err.Error(), fmt.Sprintf("at '%s':", where)) && !strings.Contains(err.Error(), fmt.Sprintf("at '%s/x':", where)) {
			t.Errorf("a wrong value of %s is not told", path)
		}
	}
}

// TestUnknownKeys adds a key that nobody knows to each table, and to the elements of lists, and expects to be told of
// every one.
func TestUnknownKeys(t *testing.T) {
	t.Parallel()
	values, asked := node{"nonsense": 1}, []string{"''"}
	s := readSchema(t)
	s.each("", func(path string, s *schema) {
		if s.Items == nil {
			return
		}
		if element := s.Items.resolve(s.root); len(element.Properties) > 0 {
			put(values, strings.Split(path, "."), []any{node{"nonsense": 1}})
			asked = append(asked, fmt.Sprintf("'/%s/0'", strings.ReplaceAll(path, ".", "/")))
		}
	}, func(path string, _ *schema) {
		if path != "" {
			put(values, strings.Split(path+".nonsense", "."), 1)
			asked = append(asked, fmt.Sprintf("'/%s'", strings.ReplaceAll(path, ".", "/")))
		}
	})
	_, err := release{text: string(encodeValue(t, values))}.render(t)
	if err == nil {
		t.Fatal("rendered")
	}
	for _, where := range asked {
		if !strings.Contains(err.Error(), "at "+where+": additional properties 'nonsense' not allowed") {
			t.Errorf("an unknown key at %s is not told", where)
		}
	}
	if t.Failed() {
		t.Log(err)
	}
}

// TestSchemaIsClosed finds objects that take any key without being in the form of Kubernetes or of the gateway.
func TestSchemaIsClosed(t *testing.T) {
	t.Parallel()
	open := []string{
		"gateway.config", "podSecurityContext", "securityContext", "extraVolumes", "extraObjects", "topologySpreadConstraints",
		"affinity.nodeAffinity", "affinity.podAffinity", "affinity.podAntiAffinity", "serviceMonitor.relabelings", "serviceMonitor.metricRelabelings",
	}
	readSchema(t).each("", func(path string, s *schema) {
		if s.Items != nil {
			s = s.Items.resolve(s.root)
		}
		if s.admits("object") && s.Additional == nil && !slices.Contains(open, path) {
			t.Errorf("%s takes any key", path)
		}
	}, func(path string, s *schema) {
		if s.Additional != false {
			t.Errorf("the table %q takes any key", path)
		}
	})
}

// TestLint has Helm lint the chart, as it is and with each scenario.
func TestLint(t *testing.T) {
	t.Parallel()
	args := []string{"lint", "--strict", chartDir}
	if out, err := helm(t, args...); err != nil || strings.Contains(out, "WARNING") {
		t.Errorf("%v\n%s", err, out)
	}
	for _, file := range scenarios(t) {
		if out, err := helm(t, append(args, "--values", file)...); err != nil || strings.Contains(out, "WARNING") {
			t.Errorf("%s: %v\n%s", file, err, out)
		}
	}
}
