package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"

	"sallyport.dev/sallyport/internal/gateway/config"
)

const docs = "../../../docs"

// TestDocumentsAreCurrent fails when the table of settings and what is generated from it differ.
func TestDocumentsAreCurrent(t *testing.T) {
	t.Parallel()
	schema, err := os.ReadFile(filepath.Join(docs, "gateway.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(schema, config.Schema()) {
		t.Error("docs/gateway.schema.json is old; run go generate ./internal/gateway/config")
	}
	page, err := os.ReadFile(filepath.Join(docs, "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	want, err := config.Reference(page)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(page, want) {
		t.Error("docs/configuration.md is old; run go generate ./internal/gateway/config")
	}
	if _, err := config.Reference([]byte("<!-- generated: nothing -->\n<!-- end -->\n")); err == nil {
		t.Error("an unknown part is accepted")
	}
	if _, err := config.Reference([]byte("<!-- generated: issuer -->\n")); err == nil {
		t.Error("a part without end is accepted")
	}
}

// TestExamplesAreValid reads every example of the documents, and checks it against the schema.
func TestExamplesAreValid(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join(docs, "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(page), "```toml\n")[1:]
	if len(examples) < 5 {
		t.Fatalf("only %d examples", len(examples))
	}
	for n, example := range examples {
		example, _, _ = strings.Cut(example, "```")
		file := filepath.Join(t.TempDir(), "gateway.toml")
		write(t, file, example)
		if _, err := parse(t, map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, with("--config", file)...); err != nil {
			t.Errorf("example %d: %v", n, err)
		}
		for _, p := range validate(t, example) {
			t.Errorf("example %d: the schema refuses it: %s", n, p)
		}
	}
	for _, p := range validate(t, whole) {
		t.Errorf("the schema refuses the whole file: %s", p)
	}
}

// TestSchemaRefuses checks that parser and schema refuse the same.
func TestSchemaRefuses(t *testing.T) {
	t.Parallel()
	const issuer = "[[openshell.gateway.oidc.issuers]]\nname = 'ci'\nissuer = 'https://ci.test'\n"
	for name, text := range map[string]string{
		"unknown table":        "[gateway]\nlog_level = 'info'\n",
		"unknown key":          "[openshell.gateway]\ncolour = 1\n",
		"unknown key deep":     "[openshell.gateway.tls]\ncert = 'x'\n",
		"unknown issuer key":   issuer + "audiences = ['a']\ncolour = 1\n",
		"issuer lacks a key":   issuer,
		"too large":            "[openshell.gateway.oidc]\njwks_ttl_secs = 604801\n",
		"too small":            "[openshell.gateway.limits]\nmax_streams = 0\n",
		"wrong kind":           "[openshell.gateway]\ndisable_tls = 'true'\n",
		"wrong word":           "[openshell.gateway]\nauthorization_mode = 'rbac'\n",
		"wrong algorithm":      issuer + "audiences = ['a']\nalgorithms = ['HS256']\n",
		"newer version":        "[openshell]\nversion = 2\n",
		"database":             "[openshell.gateway]\ndatabase_url = 'x'\n",
		"socket of wrong kind": "[openshell.drivers.x]\nsocket_path = 1\n",
	} {
		file := filepath.Join(t.TempDir(), "gateway.toml")
		write(t, file, text)
		if _, err := parse(t, nil, with("--config", file)...); err == nil {
			t.Errorf("%s: the parser accepts it", name)
		}
		if len(validate(t, text)) == 0 {
			t.Errorf("%s: the schema accepts it", name)
		}
	}
}

func validate(t *testing.T, text string) []string {
	t.Helper()
	var schema, value map[string]any
	if err := json.Unmarshal(config.Schema(), &schema); err != nil {
		t.Fatal(err)
	}
	if err := toml.Unmarshal([]byte(text), &value); err != nil {
		t.Fatal(err)
	}
	raw, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	var plain any
	if err := json.Unmarshal(raw, &plain); err != nil {
		t.Fatal(err)
	}
	return check(t, "", schema, plain)
}

// check is as much of JSON schema as ours uses. It fails on a keyword that it does not know, so that nothing is
// passed over.
func check(t *testing.T, at string, schema map[string]any, value any) (problems []string) {
	t.Helper()
	fail := func(format string, args ...any) {
		problems = append(problems, at+": "+fmt.Sprintf(format, args...))
	}
	object, _ := value.(map[string]any)
	list, _ := value.([]any)
	for keyword, rule := range schema {
		switch keyword {
		case "$schema", "$id", "title", "description", "default":
		case "type":
			allowed, several := rule.([]any)
			if !several {
				allowed = []any{rule}
			}
			if !slices.Contains(allowed, any(kindOf(value))) {
				fail("is %s, not %v", kindOf(value), rule)
			}
		case "properties":
			for key, inner := range object {
				if s, ok := rule.(map[string]any)[key].(map[string]any); ok {
					problems = append(problems, check(t, at+"/"+key, s, inner)...)
				}
			}
		case "additionalProperties":
			known, _ := schema["properties"].(map[string]any)
			for key, inner := range object {
				if _, ok := known[key]; ok {
					continue
				}
				if s, ok := rule.(map[string]any); ok {
					problems = append(problems, check(t, at+"/"+key, s, inner)...)
				} else if rule == false {
					fail("unknown key %s", key)
				}
			}
		case "required":
			for _, key := range rule.([]any) {
				if _, ok := object[key.(string)]; !ok && object != nil {
					fail("lacks %s", key)
				}
			}
		case "items":
			for n, inner := range list {
				problems = append(problems, check(t, fmt.Sprintf("%s/%d", at, n), rule.(map[string]any), inner)...)
			}
		case "enum":
			if !slices.Contains(rule.([]any), value) {
				fail("%v is not one of %v", value, rule)
			}
		case "minimum", "maximum":
			if n, ok := value.(float64); ok && (keyword == "minimum" && n < rule.(float64) || keyword == "maximum" && n > rule.(float64)) {
				fail("%v is past the %s %v", n, keyword, rule)
			}
		case "minLength":
			if s, ok := value.(string); ok && float64(len(s)) < rule.(float64) {
				fail("too short")
			}
		case "maxItems":
			if float64(len(list)) > rule.(float64) {
				fail("too many")
			}
		case "maxProperties":
			if float64(len(object)) > rule.(float64) {
				fail("too many")
			}
		default:
			t.Errorf("%s: this test does not know the keyword %s", at, keyword)
		}
	}
	return problems
}

func kindOf(value any) string {
	switch x := value.(type) {
	case string:
		return "string"
	case bool:
		return "boolean"
	case []any:
		return "array"
	case map[string]any:
		return "object"
	case float64:
		if x == math.Trunc(x) {
			return "integer"
		}
	}
	return "number"
}
