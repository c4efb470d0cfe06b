package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// givenName stands for the file's path where its text was given.
const givenName = "new configuration"

// layerFile reads the configuration file; unknown keys are problems that name themselves. What it returns makes the
// rest pointless.
func (v *values) layerFile() *Problem {
	path := v.configPath()
	if path == "" && v.given == nil {
		return nil
	}
	read := func() (*tree, *Problem) { return readTree(path) }
	if v.given != nil {
		read = func() (*tree, *Problem) { return parseTree(givenName, v.given) }
	}
	t, problem := read()
	if problem != nil {
		return problem
	}
	v.tree = t
	for _, key := range sortedKeys(t.root) {
		if key != "openshell" {
			v.failAt(joined("", key), "unknown key", `everything is written below "openshell", as in [openshell.gateway]`)
		}
	}
	root, ok := t.root["openshell"].(map[string]any)
	if !ok {
		if t.root["openshell"] != nil {
			v.failAt("openshell", "must be a table", "write [openshell.gateway]")
		}
		return nil
	}
	if version, ok := root["version"]; ok {
		if n, isInt := version.(int64); !isInt || n > 1 || n < 0 {
			return t.problem("openshell.version", fmt.Sprintf("unsupported gateway config version %v", version), "write 1, which is what this version reads")
		}
		delete(root, "version")
	}
	v.table("openshell", root)
	return nil
}

// table reads the keys of a table that holds settings.
func (v *values) table(path string, m map[string]any) {
	for _, key := range sortedKeys(m) {
		v.fileKey(joined(path, key), key, m[key])
	}
}

func (v *values) fileKey(path, key string, value any) {
	name := strings.TrimPrefix(path, "openshell.")
	inner, isTable := value.(map[string]any)
	switch {
	case name == "gateway.bind_address":
		v.bindAddress(path, value)
	case v.setting(path, name, value):
	case name == "gateway.database_url":
		v.failAt(path, "database_url is not allowed in the gateway config file", "set OPENSHELL_DB_URL")
	case name == "gateway.oidc.issuers":
		v.issuerList(path, value)
	case isIssuerOnly(name):
		// Read by defaultIssuer.
	case name == "drivers" && isTable:
		v.drivers(path, inner)
	case isUnused(name):
		line, _ := v.tree.position(path)
		v.warn("%s:%d [%s] has no effect in this version; see docs/status.md", v.tree.path, line, path)
	case isTable && isPrefix(name):
		v.table(path, inner)
	default:
		v.unknown(path, key, strings.TrimSuffix(name, key))
	}
}

// setting reads a key of the table of settings; it says whether the key is one.
func (v *values) setting(path, name string, value any) bool {
	for _, s := range settings {
		if s.file != name {
			continue
		}
		text, expected, written := scalar(s.kind, value)
		if expected != "" {
			v.failed[s.name] = true
			v.failAt(path, "must be "+expected, written)
			return true
		}
		line, _ := v.tree.position(path)
		v.put(s.name, text, origin{layer: LayerFile, text: fmt.Sprintf("%s:%d", v.tree.path, line), path: path})
		return true
	}
	return false
}

func (v *values) bindAddress(path string, value any) {
	written, _ := value.(string)
	a, err := netip.ParseAddrPort(written)
	if err != nil {
		v.failAt(path, fmt.Sprintf("must be ip:port, got %q", fmt.Sprint(value)), `write an IP address and a port, such as "127.0.0.1:17670"`)
		return
	}
	line, _ := v.tree.position(path)
	o := origin{layer: LayerFile, text: fmt.Sprintf("%s:%d", v.tree.path, line), path: path}
	v.put("bind-address", a.Addr().String(), o)
	v.put("port", fmt.Sprint(a.Port()), o)
}

// drivers reads the sockets out of the drivers' tables, whose other keys are for the drivers.
func (v *values) drivers(path string, m map[string]any) {
	for _, name := range sortedKeys(m) {
		at := joined(path, name)
		driver, ok := m[name].(map[string]any)
		if !ok {
			v.failAt(at, "must be a table", fmt.Sprintf("write [%s]", at))
			continue
		}
		for _, key := range sortedKeys(driver) {
			at := joined(at, key)
			if name == "kubernetes" && podKeys[key] != "" {
				// See referencePods.
				continue
			}
			if key != "socket_path" {
				line, _ := v.tree.position(at)
				v.warn("%s:%d [%s] has no effect: drivers read their own settings", v.tree.path, line, at)
				continue
			}
			socket, ok := driver[key].(string)
			if !ok || socket == "" {
				v.failAt(at, "must be the path of a Unix socket", `write socket_path = "/run/driver.sock"`)
				continue
			}
			v.sockets[name] = socket
		}
	}
}

func (v *values) issuerList(path string, value any) {
	list, ok := value.([]any)
	for _, e := range list {
		_, isTable := e.(map[string]any)
		ok = ok && isTable
	}
	if !ok {
		v.failAt(path, "must be a list of tables", "write [[openshell.gateway.oidc.issuers]] before each")
		return
	}
	if len(list) > maxIssuers {
		v.failAt(path, fmt.Sprintf("%d issuers are more than %d", len(list), maxIssuers), "remove some")
		return
	}
	v.issuers = list
}

// unknown tells of a key that nobody knows, with the one that was probably meant.
func (v *values) unknown(path, key, parent string) {
	var known []string
	for _, k := range fileKeys() {
		if rest, ok := strings.CutPrefix(k, parent); ok {
			first, _, _ := strings.Cut(rest, ".")
			known = append(known, first)
		}
	}
	remedy := "remove it; `sallyport-gateway config schema` has every key"
	if meant := closest(key, known); meant != "" {
		remedy = fmt.Sprintf("did you mean %q?", meant)
	}
	v.failAt(path, "unknown key "+quoted(path), remedy)
}

// fileKeys are all keys of the file, below "openshell.".
func fileKeys() []string {
	keys := append([]string{"version", "gateway.oidc.issuers", "drivers"}, unusedKeys...)
	for _, s := range settings {
		if s.file != "" {
			keys = append(keys, s.file)
		}
	}
	for _, f := range issuerFields {
		if !f.alone {
			keys = append(keys, "gateway.oidc."+f.key)
		}
	}
	return keys
}

// isPrefix says whether a table of this name holds settings.
func isPrefix(name string) bool {
	for _, k := range fileKeys() {
		if strings.HasPrefix(k, name+".") {
			return true
		}
	}
	return false
}

func isUnused(name string) bool {
	return slices.Contains(unusedKeys, name)
}

// scalar turns a value of the file into the text that a flag would have. expected is not empty when it is of another
// kind, and remedy then says how it is written.
func scalar(k kind, value any) (text, expected, remedy string) {
	switch k {
	case number:
		if n, ok := value.(int64); ok {
			return fmt.Sprint(n), "", ""
		}
		return "", "a whole number", "write digits without quotes"
	case boolean:
		if b, ok := value.(bool); ok {
			return fmt.Sprint(b), "", ""
		}
		return "", "true or false", "write true or false without quotes"
	case list:
		if s, ok := value.(string); ok {
			return s, "", ""
		}
		words, ok := wordList(value)
		if ok && !slices.ContainsFunc(words, func(w string) bool { return w == "" || strings.Contains(w, ",") }) {
			return strings.Join(words, ","), "", ""
		}
		return "", "a list of strings that are not empty and have no commas", `write ["one", "two"]`
	default:
		if s, ok := value.(string); ok {
			return s, "", ""
		}
		return "", "a string", "write it in quotes"
	}
}

func wordList(value any) ([]string, bool) {
	elements, ok := value.([]any)
	words := make([]string, len(elements))
	for i, e := range elements {
		word, isText := e.(string)
		words[i], ok = word, ok && isText
	}
	return words, ok
}
