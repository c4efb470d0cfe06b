package config

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// mask stands for a secret that is set.
const mask = "****"

// Value is one setting as it is in force. It never holds a secret.
type Value struct {
	// Key is the file's key below "openshell.", or the flag's name where the file has none. An issuer of the list is
	// gateway.oidc.issuers.NAME.
	Key string `json:"key"`
	// Flag and Variable are empty where there is none.
	Flag     string `json:"flag,omitempty"`
	Variable string `json:"variable,omitempty"`
	// Value is a string, an int64, a bool, a []string, or for an issuer a map or a list of maps.
	Value any `json:"value"`
	// Layer is one of the Layer constants; Origin names the flag, the variable, file:line, or the reason.
	Layer  string `json:"layer"`
	Origin string `json:"origin"`
	// Reloadable settings take effect when the file changes, the others when the gateway starts.
	Reloadable bool `json:"reloadable"`
}

// inForce is a value with what must stay inside.
type inForce struct {
	Value
	// raw is compared, never shown; secret values are shown as mask.
	raw string
	// field is the key inside its table of the file, table that table; both empty where the file has no such key.
	table, field string
	// issuer counts from 1 for the keys of listed issuers.
	issuer int
	// place is a problem without cause, for what is found wrong later.
	place Problem
}

// Values are the settings in force, in the order of the documents, secrets masked. Settings without effect are left
// out.
func (c *Config) Values() []Value {
	out := make([]Value, len(c.entries))
	for i, e := range c.entries {
		out[i] = e.Value
	}
	return out
}

// entriesOf collects what is in force.
func entriesOf(v *values, c *Config) []inForce {
	var out []inForce
	for _, s := range settings {
		if s.unused {
			continue
		}
		e := inForce{raw: v.text(s.name), place: *v.place(s.name), Value: Value{Key: s.name, Variable: s.env, Value: shownValue(s, v.text(s.name)), Layer: LayerDefault, Origin: LayerDefault, Reloadable: s.live}}
		if s.hasFlag() {
			e.Flag = "--" + s.name
		}
		if o := v.origin[s.name]; o.layer != "" {
			e.Layer, e.Origin = o.layer, o.text
		}
		if s.file != "" {
			e.Key = s.file
			e.table, e.field = cutLast(s.file)
		}
		out = append(out, e)
	}
	listed := len(c.Issuers) - len(v.issuers)
	for n, i := range c.Issuers {
		at, table := 0, "gateway.oidc"
		if n >= listed {
			at, table = n-listed+1, "gateway.oidc.issuers"
		}
		out = append(out, v.issuerEntries(i, at, table)...)
	}
	return out
}

// issuerEntries are the keys of an issuer that no setting has.
func (v *values) issuerEntries(i Issuer, listed int, table string) []inForce {
	m := oidcEntry(v, listed)
	var out []inForce
	for _, f := range issuerFields {
		value, ok := i.field(f.key)
		if _, written := m[f.key]; !ok && !written || listed == 0 && (f.alone || !written) {
			continue
		}
		e := inForce{table: table, field: f.key, issuer: listed, Value: Value{Key: table + "." + f.key, Value: value, Layer: LayerDefault, Origin: LayerDefault, Reloadable: true}}
		path := joined("openshell."+table, f.key)
		if listed > 0 {
			e.Key = joined(table, i.Name) + "." + f.key
			path = joined(indexed(issuersPath, listed-1), f.key)
		}
		if _, written := m[f.key]; written {
			line, _ := v.tree.position(path)
			e.Layer, e.Origin = LayerFile, fmt.Sprintf("%s:%d", v.tree.path, line)
		}
		e.raw, e.place = literal(value), Problem{Key: path}
		if v.tree != nil {
			e.place = *v.tree.problem(path, "", "")
		}
		out = append(out, e)
	}
	return out
}

func oidcEntry(v *values, listed int) map[string]any {
	if listed == 0 {
		return v.oidcTable()
	}
	m, _ := v.issuers[listed-1].(map[string]any)
	return m
}

// field is the value that the file would have; ok is false when it is empty. The tenant's claim, which is not the
// issuer's own, is among the required ones: that is what is in force.
func (i Issuer) field(key string) (value any, ok bool) {
	some := func(s string) (any, bool) { return s, s != "" }
	words := func(w []string) (any, bool) { return w, len(w) > 0 }
	switch key {
	case "name":
		return some(i.Name)
	case "issuer":
		return some(i.Issuer)
	case "audiences":
		return words(i.Audiences)
	case "algorithms":
		return words(i.Algorithms)
	case "discovery_url":
		return some(i.DiscoveryURL)
	case "ca_path":
		return some(i.CAPath)
	case "jwks_ttl_secs":
		return int64(i.KeysTTL.Seconds()), true
	case "roles_claim":
		return some(i.RolesClaim)
	case "scopes_claim":
		return some(i.ScopesClaim)
	case "username_claim":
		return some(i.UsernameClaim)
	case "required":
		list := make([]map[string]any, len(i.Required))
		for n, r := range i.Required {
			list[n] = map[string]any{"claim": r.Claim, "values": r.Values}
		}
		return list, len(list) > 0
	case "role_map":
		return i.RoleMap, len(i.RoleMap) > 0
	case "strict_roles":
		return i.StrictRoles, true
	case "default_roles":
		return words(i.DefaultRoles)
	case "tenant":
		return some(i.Tenant)
	case "allow_missing_audience":
		return i.AllowMissingAudience, true
	case "accept_id_tokens":
		return i.AcceptIDTokens, true
	case "optional":
		return i.Optional, true
	}
	return nil, false
}

func shownValue(s setting, raw string) any {
	switch {
	case s.secret && raw != "":
		return mask
	case s.name == "db-url":
		return withoutPassword(raw)
	case s.kind == list:
		return splitList(raw)
	case raw == "":
		return raw
	case s.kind == boolean:
		return raw == "true"
	case s.kind == number:
		return json.Number(raw)
	}
	return raw
}

// JSON is an object with file, settings (Values) and warnings.
func (c *Config) JSON() ([]byte, error) {
	warnings := append([]string{}, c.Warnings...)
	return json.MarshalIndent(map[string]any{"file": c.File, "settings": c.Values(), "warnings": warnings}, "", "  ")
}

// TOML is a configuration file that says what is in force, each line with where it came from. What follows from other
// settings, and what the file cannot say, is in comments.
func (c *Config) TOML() string {
	var b strings.Builder
	b.WriteString("# In force, with where each value came from.\n")
	for _, w := range c.Warnings {
		b.WriteString("# warning: " + plain(w) + "\n")
	}
	b.WriteString("\n")
	for _, e := range c.entries {
		if e.table == "" {
			fmt.Fprintf(&b, "# %s = %s  # %s\n", e.called(), literal(e.Value.Value), plain(e.Origin))
		}
	}
	for _, table := range c.tables() {
		fmt.Fprintf(&b, "\n[openshell.%s]\n", table)
		for _, e := range c.entries {
			if e.table == table && e.issuer == 0 {
				b.WriteString(c.line(e))
			}
		}
	}
	last := 0
	for _, e := range c.entries {
		if e.issuer == 0 {
			continue
		}
		if e.issuer != last {
			b.WriteString("\n[[openshell.gateway.oidc.issuers]]\n")
			last = e.issuer
		}
		b.WriteString(c.line(e))
	}
	return b.String()
}

// tables are the tables of the file in alphabetical order, which puts a table before those in it.
func (c *Config) tables() []string {
	var out []string
	for _, e := range c.entries {
		if e.table != "" && e.issuer == 0 && !slices.Contains(out, e.table) {
			out = append(out, e.table)
		}
	}
	slices.Sort(out)
	return out
}

func (c *Config) line(e inForce) string {
	value, origin := literal(e.Value.Value), e.Origin
	if e.Key == "gateway.bind_address" {
		value = quoted(c.Listen.Address.String())
		for _, port := range c.entries {
			if port.Key == "port" && port.Origin != origin {
				origin += ", port " + port.Origin
			}
		}
	}
	comment := ""
	if e.Layer == LayerDerived || (e.Layer == LayerDefault && e.raw == "") {
		comment = "# "
	}
	return fmt.Sprintf("%s%s = %s  # %s\n", comment, e.field, value, plain(origin))
}

// called is the flag, or the variable where there is only that.
func (e inForce) called() string {
	if e.Flag != "" {
		return e.Flag
	}
	return e.Variable
}

// literal writes a value as TOML.
func literal(value any) string {
	switch x := value.(type) {
	case string:
		return quoted(x)
	case []string:
		words := make([]string, len(x))
		for i, w := range x {
			words[i] = quoted(w)
		}
		return "[" + strings.Join(words, ", ") + "]"
	case map[string][]string:
		pairs := make([]string, 0, len(x))
		for _, k := range sortedKeys(x) {
			pairs = append(pairs, joined("", k)+" = "+literal(x[k]))
		}
		return "{ " + strings.Join(pairs, ", ") + " }"
	case map[string]any:
		pairs := make([]string, 0, len(x))
		for _, k := range sortedKeys(x) {
			pairs = append(pairs, joined("", k)+" = "+literal(x[k]))
		}
		return "{ " + strings.Join(pairs, ", ") + " }"
	case []map[string]any:
		tables := make([]string, len(x))
		for i, t := range x {
			tables[i] = literal(t)
		}
		return "[" + strings.Join(tables, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}

// plain keeps a comment on its line.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}

func cutLast(key string) (table, field string) {
	i := strings.LastIndexByte(key, '.')
	return key[:max(i, 0)], key[i+1:]
}
