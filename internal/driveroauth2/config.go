package driveroauth2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Limits of the configuration file.
const (
	maxConfigBytes = 1 << 20
	maxCredentials = 1000
	maxNameBytes   = 253
	maxScopes      = 100
)

// Ways in which a client proves itself to the token endpoint (RFC 6749 section 2.3.1).
const (
	// ClientAuthBody sends client_id and client_secret in the form body; the default.
	ClientAuthBody = "body"
	// ClientAuthBasic sends them in an HTTP Basic header.
	ClientAuthBasic = "basic"
)

// Credential is one entry of the configuration file.
type Credential struct {
	Name          string
	ClientID      string
	SecretRef     string
	TokenEndpoint string
	Scopes        []string
	// Audience is sent as the `audience` parameter where a provider wants one; empty sends none.
	Audience string
	// ClientAuth is ClientAuthBody or ClientAuthBasic.
	ClientAuth string
}

func (c Credential) equal(o Credential) bool {
	return c.Name == o.Name && c.ClientID == o.ClientID && c.SecretRef == o.SecretRef &&
		c.TokenEndpoint == o.TokenEndpoint && slices.Equal(c.Scopes, o.Scopes) &&
		c.Audience == o.Audience && c.ClientAuth == o.ClientAuth
}

// Problem is one mistake in the configuration file.
type Problem struct {
	File string
	// Line counts from 1; 0 means the file as a whole.
	Line int
	// Key is the dotted path of the value, for example `credentials.github.scopes`; may be empty.
	Key string
	// What is wrong and what to do about it.
	What, Remedy string
}

// Error reads "file:line: key: what; remedy".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.What)
	if p.Remedy != "" {
		b.WriteString("; " + p.Remedy)
	}
	return b.String()
}

// LoadConfig reads and checks the file at path. The error joins every Problem found, not only the first.
// Plain http token endpoints off this machine are refused unless allowHTTP.
func LoadConfig(path string, allowHTTP bool) (map[string]Credential, error) {
	raw, err := readConfig(path)
	if err != nil {
		return nil, err
	}
	return ParseConfig(path, raw, allowHTTP)
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, Problem{
			File: path, What: "cannot be read: " + reasonOf(err),
			Remedy: "create it or name another file with --config",
		}
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return nil, Problem{File: path, What: "cannot be read: " + reasonOf(err)}
	}
	if len(raw) > maxConfigBytes {
		return nil, Problem{File: path, What: "is larger than 1 MiB", Remedy: "remove what does not belong in it"}
	}
	return raw, nil
}

// ParseConfig is LoadConfig for bytes already read; file only names them in problems.
func ParseConfig(file string, raw []byte, allowHTTP bool) (map[string]Credential, error) {
	p := &parser{file: file, allowHTTP: allowHTTP}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil {
		return nil, Problem{File: file, What: "is no valid YAML: " + strings.TrimPrefix(err.Error(), "yaml: ")}
	}
	if len(doc.Content) == 0 {
		return nil, Problem{File: file, What: "is empty", Remedy: "add at least one entry under `credentials`"}
	}
	out := map[string]Credential{}
	// An empty map that is written down is meant, as by a chart before its first credential.
	said := false
	p.mapping(doc.Content[0], "", func(key string, k, v *yaml.Node) {
		if key != "credentials" {
			p.add(k.Line, key, "unknown key", "the only top-level key is `credentials`")
			return
		}
		said = v.Kind == yaml.MappingNode
		p.mapping(v, key, func(name string, k, v *yaml.Node) {
			if c, ok := p.credential(name, k, v); ok {
				out[name] = c
			}
		})
		if len(v.Content)/2 > maxCredentials {
			p.add(v.Line, key, fmt.Sprintf("has more than %d entries", maxCredentials), "split it over several drivers")
		}
	})
	if len(p.problems) == 0 && !said {
		p.add(0, "credentials", "is missing", "add at least one credential, or write `credentials: {}` for none")
	}
	if len(p.problems) > 0 {
		return nil, errors.Join(p.problems...)
	}
	return out, nil
}

type parser struct {
	file      string
	allowHTTP bool
	problems  []error
}

func (p *parser) add(line int, key, what, remedy string) {
	p.problems = append(p.problems, Problem{File: p.file, Line: line, Key: key, What: what, Remedy: remedy})
}

// mapping visits the pairs of a mapping node; repeated keys, aliases and other node kinds are problems.
func (p *parser) mapping(n *yaml.Node, path string, visit func(key string, k, v *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		p.add(n.Line, path, "must be a mapping of keys to values", "")
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		at := k.Value
		if path != "" {
			at = path + "." + k.Value
		}
		switch {
		case k.Kind != yaml.ScalarNode || k.Tag == "!!merge":
			p.add(k.Line, path, "has a key that is no plain word", "write every key out")
		case v.Kind == yaml.AliasNode:
			p.add(v.Line, at, "YAML aliases are not supported", "write the value out")
		case seen[k.Value]:
			p.add(k.Line, at, "is given twice", "remove one of the two")
		default:
			seen[k.Value] = true
			visit(k.Value, k, v)
		}
	}
}

func (p *parser) credential(name string, at, n *yaml.Node) (Credential, bool) {
	before := len(p.problems)
	path := "credentials." + name
	if name == "" || len(name) > maxNameBytes || strings.ContainsFunc(name, func(r rune) bool { return r < 0x21 || r == 0x7f }) {
		p.add(at.Line, path, "name must be 1 to 253 bytes without spaces or control characters", "rename the credential")
	}
	c := Credential{Name: name, ClientAuth: ClientAuthBody}
	lines := map[string]int{}
	p.mapping(n, path, func(key string, k, v *yaml.Node) {
		lines[key] = v.Line
		at := path + "." + key
		switch key {
		case "client_id":
			c.ClientID = p.text(v, at)
		case "client_secret_ref":
			c.SecretRef = p.text(v, at)
		case "token_endpoint":
			c.TokenEndpoint = p.text(v, at)
		case "audience":
			c.Audience = p.text(v, at)
		case "client_auth":
			c.ClientAuth = p.text(v, at)
		case "scopes":
			c.Scopes = p.scopes(v, at)
		default:
			p.add(k.Line, at, "unknown key", "known keys: client_id, client_secret_ref, token_endpoint, scopes, audience, client_auth")
		}
	})
	if len(p.problems) > before {
		return c, false
	}
	for _, want := range []struct{ key, value string }{
		{"client_id", c.ClientID}, {"client_secret_ref", c.SecretRef}, {"token_endpoint", c.TokenEndpoint},
	} {
		if want.value == "" {
			p.add(at.Line, path+"."+want.key, "is required", "add it")
		}
	}
	if c.SecretRef != "" && !filepath.IsLocal(c.SecretRef) {
		p.add(lines["client_secret_ref"], path+".client_secret_ref", "leads outside the secrets directory",
			"name a file inside --secrets-dir")
	}
	if c.TokenEndpoint != "" {
		if what, remedy := checkEndpoint(c.TokenEndpoint, p.allowHTTP); what != "" {
			p.add(lines["token_endpoint"], path+".token_endpoint", what, remedy)
		}
	}
	if c.ClientAuth != ClientAuthBody && c.ClientAuth != ClientAuthBasic {
		p.add(lines["client_auth"], path+".client_auth", "must be `body` or `basic`", "remove it for the default, `body`")
	}
	return c, len(p.problems) == before
}

func (p *parser) text(v *yaml.Node, at string) string {
	if v.Kind != yaml.ScalarNode || v.Tag == "!!null" {
		p.add(v.Line, at, "must be text", "put the value in quotes")
		return ""
	}
	return v.Value
}

func (p *parser) scopes(v *yaml.Node, at string) []string {
	if v.Kind == yaml.ScalarNode && v.Tag == "!!null" {
		return nil
	}
	if v.Kind != yaml.SequenceNode {
		p.add(v.Line, at, "must be a list", "write it as [a, b]")
		return nil
	}
	if len(v.Content) > maxScopes {
		p.add(v.Line, at, fmt.Sprintf("has more than %d scopes", maxScopes), "")
		return nil
	}
	var out []string
	for _, n := range v.Content {
		s := p.text(n, at)
		if s == "" || strings.ContainsAny(s, " \t\r\n\"\\") {
			p.add(n.Line, at, fmt.Sprintf("%q is no scope", s), "give one scope an entry")
			continue
		}
		out = append(out, s)
	}
	return out
}

// checkEndpoint tells what is wrong with a token endpoint. The client secret travels in the request, so plain
// http is for this machine only unless the operator asks for it.
func checkEndpoint(raw string, allowHTTP bool) (what, remedy string) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http"):
		return "is no absolute https URL", "write it as https://HOST/PATH"
	case u.User != nil || u.Fragment != "":
		return "must not carry a user or a fragment", "use client_id and client_secret_ref"
	case u.Scheme == "http" && !allowHTTP && !isLoopback(u.Hostname()):
		return "would send the client secret over plain http", "use https, or start the driver with --allow-http"
	}
	return "", ""
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// reasonOf strips the path from a file error: the caller names the file already.
func reasonOf(err error) string {
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		return pe.Err.Error()
	}
	return err.Error()
}
