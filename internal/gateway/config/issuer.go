package config

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// maxIssuers bounds the identity providers of one gateway.
const maxIssuers = 32

// fieldKind is the form of a key of an issuer.
type fieldKind uint8

const (
	fieldText fieldKind = iota
	fieldNumber
	fieldFlag
	fieldList
	// fieldClaims is a list of tables with claim and values.
	fieldClaims
	// fieldMap is a table of lists.
	fieldMap
)

// issuerField is a key of [[openshell.gateway.oidc.issuers]].
type issuerField struct {
	key   string
	kind  fieldKind
	usage string
	// like names the setting of the single-issuer form with the same rules and default; empty when there is none.
	like string
	// alone fields exist in the list only, because [openshell.gateway.oidc] says the same by a setting.
	alone bool
}

var issuerFields = []issuerField{
	{key: "name", alone: true, usage: "short name in logs, metrics and the audit; required"},
	{key: "issuer", alone: true, like: "oidc-issuer", usage: "what tokens say in `iss`, a URL; required"},
	{key: "audiences", kind: fieldList, usage: "audiences, of which a token must name one; required in the list"},
	{key: "algorithms", kind: fieldList, alone: true, like: "oidc-algorithms", usage: "signatures that tokens may have; default all that are built"},
	{key: "discovery_url", alone: true, like: "oidc-discovery-url", usage: "where to fetch the discovery document if not below the issuer"},
	{key: "ca_path", alone: true, like: "oidc-ca", usage: "PEM authorities of the provider's certificate; default the system's"},
	{key: "jwks_ttl_secs", kind: fieldNumber, alone: true, like: "oidc-jwks-ttl", usage: "seconds between refreshes of the keys"},
	{key: "roles_claim", alone: true, like: "oidc-roles-claim", usage: "path of the roles"},
	{key: "scopes_claim", alone: true, like: "oidc-scopes-claim", usage: "path of the scopes; empty = scopes are not checked"},
	{key: "username_claim", alone: true, like: "oidc-username-claim", usage: "path of the name that is shown"},
	{key: "required", kind: fieldClaims, usage: "claims that every token must have: tables of `claim`, a path, and `values`, of which the claim must be or hold one"},
	{key: "role_map", kind: fieldMap, usage: "for a role of the provider, the roles it stands for here"},
	{key: "strict_roles", kind: fieldFlag, usage: "drop roles that `role_map` does not name"},
	{key: "default_roles", kind: fieldList, usage: "roles of every user of this issuer"},
	{key: "tenant", usage: "tenant of this issuer's users; with `gateway.tenant` it must be that one"},
	{key: "allow_missing_audience", kind: fieldFlag, alone: true, like: "oidc-allow-missing-audience", usage: "INSECURE: accept tokens without audience"},
	{key: "accept_id_tokens", kind: fieldFlag, alone: true, like: "oidc-accept-id-tokens", usage: "accept tokens that look like ID tokens, as those of Dex do"},
	{key: "optional", kind: fieldFlag, usage: "readiness does not wait for this issuer"},
}

// isIssuerOnly says whether a key of [openshell.gateway.oidc] is one of the issuer that no setting has.
func isIssuerOnly(name string) bool {
	rest, ok := strings.CutPrefix(name, "gateway.oidc.")
	return ok && slices.ContainsFunc(issuerFields, func(f issuerField) bool { return !f.alone && f.key == rest })
}

// issuerName is a form: short and harmless in a metric label.
func issuerName(value string) (cause, remedy string) {
	if value == "" || len(value) > 63 || value == "unknown" || strings.Trim(strings.ToLower(value), dnsLetters+".") != "" {
		return fmt.Sprintf("not a name: %q", value), "use 1 to 63 letters, digits, dots, hyphens and underscores, and not \"unknown\""
	}
	return "", ""
}

// notEmpty is a form.
func notEmpty(value string) (cause, remedy string) {
	if value == "" {
		return "must not be empty", "write a value or leave it out"
	}
	return "", ""
}

// entry reads one table of an issuer.
type entry struct {
	v    *values
	path string
	m    map[string]any
}

// fields tells of keys that no issuer has.
func (e entry) fields() {
	known := make([]string, len(issuerFields))
	for i, f := range issuerFields {
		known[i] = f.key
	}
	for _, key := range sortedKeys(e.m) {
		if slices.Contains(known, key) {
			continue
		}
		remedy := "an issuer has " + strings.Join(known, ", ")
		if key == "audience" {
			remedy = `write audiences = ["..."]`
		} else if meant := closest(key, known); meant != "" {
			remedy = fmt.Sprintf("did you mean %q?", meant)
		}
		path := joined(e.path, key)
		e.v.failAt(path, "unknown key "+quoted(path), remedy)
	}
}

// scalar reads a value whose rules are those of the setting like.
func (e entry) scalar(key, like string) string {
	value, ok := e.m[key]
	s := byName(like)
	if !ok {
		return s.preset
	}
	path := joined(e.path, key)
	text, expected, remedy := scalar(s.kind, value)
	if expected != "" {
		e.v.failAt(path, "must be "+expected, remedy)
		return s.preset
	}
	if cause, remedy := s.check(text); cause != "" {
		e.v.failAt(path, cause, remedy)
		return s.preset
	}
	return text
}

func (e entry) text(key string, form func(string) (cause, remedy string)) string {
	value, ok := e.m[key]
	if !ok {
		return ""
	}
	text, isText := value.(string)
	if !isText {
		e.v.failAt(joined(e.path, key), "must be a string", "write it in quotes")
		return ""
	}
	if cause, remedy := form(text); cause != "" {
		e.v.failAt(joined(e.path, key), cause, remedy)
		return ""
	}
	return text
}

func (e entry) flag(key string) bool {
	value, ok := e.m[key]
	flag, isFlag := value.(bool)
	if ok && !isFlag {
		e.v.failAt(joined(e.path, key), "must be true or false", "write true or false without quotes")
	}
	return flag
}

func (e entry) words(key string, form func(string) (cause, remedy string)) []string {
	value, ok := e.m[key]
	if !ok {
		return nil
	}
	return e.checkWords(joined(e.path, key), value, form)
}

func (e entry) checkWords(path string, value any, form func(string) (cause, remedy string)) []string {
	words, ok := wordList(value)
	switch {
	case !ok:
		e.v.failAt(path, "must be a list of strings", `write ["one", "two"]`)
		return nil
	case len(words) > maxList:
		e.v.failAt(path, fmt.Sprintf("has %d entries, more than %d", len(words), maxList), "remove some")
		return nil
	}
	for i, w := range words {
		if cause, remedy := form(w); cause != "" {
			e.v.failAt(indexed(path, i), cause, remedy)
		}
	}
	return words
}

func (e entry) claims(key string) []RequiredClaim {
	value, ok := e.m[key]
	if !ok {
		return nil
	}
	path := joined(e.path, key)
	list, ok := value.([]any)
	if !ok || len(list) > maxList {
		e.v.failAt(path, "must be a list of tables", `write { claim = "groups", values = ["engineering"] }`)
		return nil
	}
	var out []RequiredClaim
	for i, element := range list {
		at := indexed(path, i)
		m, _ := element.(map[string]any)
		inner := entry{v: e.v, path: at, m: m}
		claim, values := inner.text("claim", claimPath), inner.words("values", notEmpty)
		if claim == "" || len(values) == 0 || len(m) != 2 {
			e.v.failAt(at, "must have claim and values, and nothing else", `write { claim = "groups", values = ["engineering"] }`)
			continue
		}
		out = append(out, RequiredClaim{Claim: claim, Values: values})
	}
	return out
}

func (e entry) roleMap(key string) map[string][]string {
	value, ok := e.m[key]
	if !ok {
		return nil
	}
	path := joined(e.path, key)
	m, ok := value.(map[string]any)
	if !ok || len(m) > maxList {
		e.v.failAt(path, fmt.Sprintf("must be a table of at most %d lists of roles", maxList), `write { "external role" = ["openshell-user"] }`)
		return nil
	}
	out := map[string][]string{}
	for _, external := range sortedKeys(m) {
		at := joined(path, external)
		out[external] = e.checkWords(at, m[external], roleName)
		if external == "" || len(out[external]) == 0 {
			e.v.failAt(at, "needs the name of a role and at least one role that it stands for", `write "external role" = ["openshell-user"]`)
		}
	}
	return out
}

// common reads what the list and the single-issuer form have alike.
func (e entry) common(i *Issuer) {
	i.Required = e.claims("required")
	i.RoleMap = e.roleMap("role_map")
	i.StrictRoles = e.flag("strict_roles")
	i.DefaultRoles = e.words("default_roles", roleName)
	i.Tenant = e.text("tenant", notEmpty)
	i.Optional = e.flag("optional")
	if i.StrictRoles && len(i.RoleMap) == 0 && len(i.DefaultRoles) == 0 {
		e.v.failAt(joined(e.path, "strict_roles"), "drops every role, as role_map names none", "add role_map or default_roles")
	}
}

// issuers reads all identity providers.
func (c *Config) issuers(v *values) {
	if i, ok := v.defaultIssuer(); ok {
		c.Issuers = append(c.Issuers, i)
	}
	for n, element := range v.issuers {
		m, _ := element.(map[string]any)
		c.Issuers = append(c.Issuers, v.listedIssuer(entry{v: v, path: indexed(issuersPath, n), m: m}))
	}
	c.uniqueIssuers(v)
	if len(c.Issuers) > 0 {
		for _, i := range c.Issuers {
			if i.AllowMissingAudience {
				v.warn("issuer %s: tokens made for other services of the issuer are accepted if they name no audience", i.Name)
			}
			if strings.HasPrefix(i.Issuer, "http://") && !loopbackURL(i.Issuer) {
				v.warn("issuer %s: its keys are fetched without TLS; whoever is on the way can sign tokens", i.Name)
			}
		}
	}
}

const (
	oidcPath    = "openshell.gateway.oidc"
	issuersPath = oidcPath + ".issuers"
)

// defaultIssuer is the one of the single-issuer settings.
func (v *values) defaultIssuer() (Issuer, bool) {
	e := entry{v: v, path: oidcPath, m: v.oidcTable()}
	if v.set("oidc-issuer") && v.text("oidc-issuer") == "" {
		v.fail("oidc-issuer", "--oidc-issuer must not be empty", "leave it out to run without OIDC")
	}
	if v.text("oidc-issuer") == "" {
		for _, f := range issuerFields {
			if _, ok := e.m[f.key]; ok && !f.alone {
				v.failAt(joined(oidcPath, f.key), "belongs to the issuer of "+oidcPath+", which has none", "set issuer beside it or move it into [[openshell.gateway.oidc.issuers]]")
			}
		}
		return Issuer{}, false
	}
	i := Issuer{
		Name: DefaultIssuer, Issuer: v.text("oidc-issuer"), Algorithms: v.list("oidc-algorithms"), DiscoveryURL: v.text("oidc-discovery-url"),
		CAPath: v.text("oidc-ca"), KeysTTL: time.Duration(v.number("oidc-jwks-ttl")) * time.Second, RolesClaim: v.text("oidc-roles-claim"),
		ScopesClaim: v.text("oidc-scopes-claim"), UsernameClaim: v.text("oidc-username-claim"), AllowMissingAudience: v.flag("oidc-allow-missing-audience"),
		AcceptIDTokens: v.flag("oidc-accept-id-tokens"),
	}
	e.common(&i)
	audiences := e.words("audiences", notEmpty)
	if layer := v.origin["oidc-audience"].layer; layer == LayerFlag || layer == LayerVariable {
		audiences = nil
	}
	if a := v.text("oidc-audience"); a != "" && (v.set("oidc-audience") || len(audiences) == 0) && !slices.Contains(audiences, a) {
		audiences = append([]string{a}, audiences...)
	} else if len(audiences) > 0 {
		v.derive("oidc-audience", "", "audiences are given")
	}
	if len(audiences) == 0 {
		v.fail("oidc-audience", "must not be empty", "name the audience that the provider writes into tokens for this gateway")
	}
	i.Audiences = audiences
	return i, true
}

// oidcTable is [openshell.gateway.oidc], nil when there is none.
func (v *values) oidcTable() map[string]any {
	if v.tree == nil {
		return nil
	}
	root, _ := v.tree.root["openshell"].(map[string]any)
	gateway, _ := root["gateway"].(map[string]any)
	table, _ := gateway["oidc"].(map[string]any)
	return table
}

func (v *values) listedIssuer(e entry) Issuer {
	e.fields()
	i := Issuer{
		Name: e.text("name", issuerName), Issuer: e.scalar("issuer", "oidc-issuer"), Audiences: e.words("audiences", notEmpty),
		Algorithms: splitList(e.scalar("algorithms", "oidc-algorithms")), DiscoveryURL: e.scalar("discovery_url", "oidc-discovery-url"),
		CAPath: e.scalar("ca_path", "oidc-ca"), RolesClaim: e.scalar("roles_claim", "oidc-roles-claim"),
		ScopesClaim: e.scalar("scopes_claim", "oidc-scopes-claim"), UsernameClaim: e.scalar("username_claim", "oidc-username-claim"),
		AllowMissingAudience: e.flag("allow_missing_audience"), AcceptIDTokens: e.flag("accept_id_tokens"),
	}
	if seconds, err := time.ParseDuration(e.scalar("jwks_ttl_secs", "oidc-jwks-ttl") + "s"); err == nil {
		i.KeysTTL = seconds
	}
	e.common(&i)
	for _, key := range []string{"name", "issuer", "audiences"} {
		if _, ok := e.m[key]; !ok {
			e.v.failAt(e.path, "an issuer needs "+key, "add it")
		}
	}
	if written, ok := e.m["issuer"].(string); ok && written == "" {
		e.v.failAt(joined(e.path, "issuer"), "must not be empty", "write the URL that tokens carry in iss")
	}
	if _, ok := e.m["audiences"]; ok && len(i.Audiences) == 0 {
		e.v.failAt(joined(e.path, "audiences"), "must not be empty", "name the audience that the provider writes into tokens for this gateway")
	}
	return i
}

// uniqueIssuers refuses two of a name or of an issuer, of which one would never be asked.
func (c *Config) uniqueIssuers(v *values) {
	first := len(c.Issuers) - len(v.issuers)
	for n := first; n < len(c.Issuers); n++ {
		at := indexed(issuersPath, n-first)
		for _, other := range c.Issuers[:n] {
			if c.Issuers[n].Name != "" && c.Issuers[n].Name == other.Name {
				v.failAt(joined(at, "name"), fmt.Sprintf("two issuers are named %q", other.Name), "name each differently; \"default\" is the one of "+oidcPath)
			}
			if i := strings.TrimRight(c.Issuers[n].Issuer, "/"); i != "" && i == strings.TrimRight(other.Issuer, "/") {
				v.failAt(joined(at, "issuer"), fmt.Sprintf("two entries have the issuer %q", i), "merge them: one entry may have several audiences")
			}
		}
	}
}
