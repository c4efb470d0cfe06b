// Package claims reads the claims of a token by path. It knows how identity providers lay claims out (nested, under
// names with dots, as one string or a list, left out because they are too long) and must not know who signed them or
// what they permit.
package claims

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxPath bounds a path in bytes.
const maxPath = 512

// Path names one claim. The zero value names none.
//
// A path is written as the names of nested claims with dots between them: "realm_access.roles". Names may hold dots
// themselves, as URLs do. Such a path may be written as it is, and then a longer name wins over a way through nested
// claims: "https://x.test/roles", "kubernetes.io.namespace". Where that is not precise enough, a name is put in double
// quotes or its dots are escaped with a backslash: `"kubernetes.io".namespace`, `kubernetes\.io.namespace`. As soon as
// a path has a name in quotes or a backslash, every other dot in it separates. A quote or backslash that belongs to a
// name is escaped with a backslash.
type Path struct {
	text  string
	parts []string // set for a path that is to be taken exactly as written
}

// ParsePath reads a path as an operator writes it.
func ParsePath(text string) (Path, error) {
	switch {
	case text == "":
		return Path{}, errors.New("the claim path is empty")
	case len(text) > maxPath:
		return Path{}, fmt.Errorf("the claim path is longer than %d bytes", maxPath)
	case !utf8.ValidString(text) || strings.ContainsFunc(text, unicode.IsControl):
		return Path{}, errors.New("the claim path has a control character or broken UTF-8")
	}
	p := Path{text: text}
	if !strings.Contains(text, `\`) && !strings.HasPrefix(text, `"`) && !strings.Contains(text, `."`) {
		return p, nil
	}
	for rest := text; ; {
		part, after, err := nextPart(rest)
		if err != nil {
			return Path{}, fmt.Errorf("claim path %s: %w", text, err)
		}
		p.parts = append(p.parts, part)
		if after == "" {
			return p, nil
		}
		rest = after[1:]
	}
}

// nextPart reads one name. What is left is empty or begins with a dot.
func nextPart(text string) (part, rest string, err error) {
	quoted := strings.HasPrefix(text, `"`)
	var name strings.Builder
	i := 0
	if quoted {
		i = 1
	}
	for ; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\':
			if i++; i == len(text) || !strings.ContainsRune(`."\`, rune(text[i])) {
				return "", "", errors.New(`a backslash must be followed by a dot, a quote or a backslash`)
			}
			name.WriteByte(text[i])
		case quoted && c == '"':
			rest = text[i+1:]
			if rest != "" && rest[0] != '.' {
				return "", "", errors.New("a closing quote must be followed by a dot")
			}
			return named(name.String(), rest)
		case !quoted && c == '.':
			return named(name.String(), text[i:])
		default:
			name.WriteByte(c)
		}
	}
	if quoted {
		return "", "", errors.New("a quote is not closed")
	}
	return named(name.String(), "")
}

func named(name, rest string) (part, after string, err error) {
	if name == "" {
		return "", "", errors.New("a name is empty")
	}
	return name, rest, nil
}

// String returns the path as it was written.
func (p Path) String() string { return p.text }

// Find returns the claim. A claim that is null counts as absent.
func (p Path) Find(claims map[string]any) (value any, ok bool) {
	if p.parts != nil {
		return descend(claims, p.parts)
	}
	if p.text == "" {
		return nil, false
	}
	_, value, ok = search(claims, p.text)
	return value, ok
}

// trail returns the names that lead to the claim in these claims.
func (p Path) trail(claims map[string]any) (names []string, value any, ok bool) {
	if p.parts != nil {
		value, ok = descend(claims, p.parts)
		return p.parts, value, ok
	}
	if p.text == "" {
		return nil, nil, false
	}
	return search(claims, p.text)
}

func descend(claims map[string]any, parts []string) (any, bool) {
	for ; len(parts) > 1; parts = parts[1:] {
		nested, ok := claims[parts[0]].(map[string]any)
		if !ok {
			return nil, false
		}
		claims = nested
	}
	value := claims[parts[0]]
	return value, value != nil
}

// search tries the longest name first. The names that lead to one nested claim determine where in the path it is met,
// so that each is met once, however the path can be divided.
func search(claims map[string]any, path string) (names []string, value any, ok bool) {
	if value := claims[path]; value != nil {
		return []string{path}, value, true
	}
	for end := strings.LastIndexByte(path, '.'); end > 0; end = strings.LastIndexByte(path[:end], '.') {
		nested, isObject := claims[path[:end]].(map[string]any)
		if !isObject {
			continue
		}
		if names, value, ok := search(nested, path[end+1:]); ok {
			return append([]string{path[:end]}, names...), value, true
		}
	}
	return nil, nil, false
}

// begins tells whether the path leads to the top-level claim or below it.
func (p Path) begins(name string) bool {
	if p.parts != nil {
		return p.parts[0] == name
	}
	rest, ok := strings.CutPrefix(p.text, name)
	return ok && name != "" && (rest == "" || rest[0] == '.')
}
