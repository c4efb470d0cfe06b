// Package chart_test holds the Helm chart to what its documents say: each value does what is written, a wrong one is refused
// with a reason, each documented scenario renders to the manifests in testdata, and the gateway itself finds nothing wrong
// with the settings that come of it. It knows the chart and the programs in bin, and no package's inside.
package chart_test

import (
	"errors"
	"flag"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"go.yaml.in/yaml/v3"
)

// update writes the golden files anew.
var update = flag.Bool("update", false, "write the golden files anew")

var (
	// top is the repository.
	top      = filepath.Join("..", "..")
	chartDir = filepath.Join(top, "deploy", "helm", "sallyport")
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a YAML value with its path through it.
type node = map[string]any

// manifests reads rendered objects.
func manifests(t *testing.T, text string) []node {
	t.Helper()
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var objects []node
	for {
		var object node
		err := decoder.Decode(&object)
		if errors.Is(err, io.EOF) {
			return objects
		}
		if err != nil {
			t.Fatalf("read the manifests: %v", err)
		}
		if object != nil {
			objects = append(objects, object)
		}
	}
}

// at returns what lies at a path through maps and lists, nil if nothing does. A list's element is named by its name.
func at(value any, path ...string) any {
	for _, step := range path {
		switch v := value.(type) {
		case node:
			value = v[step]
		case []any:
			value = nil
			for _, element := range v {
				if named, ok := element.(node); ok && named["name"] == step {
					value = named
				}
			}
		default:
			return nil
		}
	}
	return value
}

// text is at for a string, empty if there is none.
func text(value any, path ...string) string {
	s, _ := at(value, path...).(string)
	return s
}

// object returns the object of a kind and a name; nil if there is none.
func object(objects []node, kind, name string) node {
	for _, o := range objects {
		if o["kind"] == kind && text(o, "metadata", "name") == name {
			return o
		}
	}
	return nil
}

// kinds returns the objects of a kind.
func kinds(objects []node, kind string) (found []node) {
	for _, o := range objects {
		if o["kind"] == kind {
			found = append(found, o)
		}
	}
	return found
}
