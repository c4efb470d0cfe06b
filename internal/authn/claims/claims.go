package claims

// Texts returns the strings of a claim that is one string or a list of them. Empty strings and elements of other types
// count for nothing.
func Texts(claim any) []string {
	switch c := claim.(type) {
	case string:
		if c != "" {
			return []string{c}
		}
	case []any:
		var found []string
		for _, element := range c {
			if s, ok := element.(string); ok && s != "" {
				found = append(found, s)
			}
		}
		return found
	}
	return nil
}

// Holds tells whether a claim is the value, or a list that has it. The values "true" and "false" stand for the JSON
// booleans too.
func Holds(claim any, value string) bool {
	switch c := claim.(type) {
	case string:
		return c == value
	case bool:
		return (c && value == "true") || (!c && value == "false")
	case []any:
		for _, element := range c {
			if s, ok := element.(string); ok && s == value {
				return true
			}
		}
	}
	return false
}

// Claims with which providers say that another claim did not fit: distributed claims of OpenID Connect Core 1.0,
// section 5.6.2, as Entra ID writes them for people in more groups than a token holds, and the flag that it writes in
// their place in tokens of the implicit flow.
const (
	claimNames = "_claim_names"
	hasGroups  = "hasgroups"
	groups     = "groups"
)

// Overflown tells that a claim is not in the token because it was too long for it: the provider says where else it
// could be asked for.
func Overflown(claims map[string]any, p Path) bool {
	if _, ok := p.Find(claims); ok {
		return false
	}
	if elsewhere, ok := claims[claimNames].(map[string]any); ok {
		for name := range elsewhere {
			if p.begins(name) {
				return true
			}
		}
	}
	return p.begins(groups) && Holds(claims[hasGroups], "true")
}

// node is a claim on the way to those that Keep was asked for.
type node struct {
	whole any
	below map[string]*node
}

// Keep returns claims with nothing but what the paths lead to, nested as it was. The values are shared with the claims
// given, the objects on the way to them are not.
func Keep(claims map[string]any, paths []Path) map[string]any {
	root := &node{}
	for _, p := range paths {
		names, value, ok := p.trail(claims)
		if !ok {
			continue
		}
		at := root
		for _, name := range names {
			if at.below == nil {
				at.below = map[string]*node{}
			}
			if at.below[name] == nil {
				at.below[name] = &node{}
			}
			at = at.below[name]
		}
		at.whole = value
	}
	return root.claims()
}

func (n *node) claims() map[string]any {
	kept := make(map[string]any, len(n.below))
	for name, below := range n.below {
		if below.whole != nil {
			kept[name] = below.whole
			continue
		}
		kept[name] = below.claims()
	}
	return kept
}

// Size estimates the bytes of memory that a claim holds.
func Size(claim any) int {
	const header = 16 // of an interface or a string
	switch c := claim.(type) {
	case string:
		return header + len(c)
	case []any:
		n := 2 * header
		for _, element := range c {
			n += header + Size(element)
		}
		return n
	case map[string]any:
		n := 4 * header
		for name, value := range c {
			n += 2*header + len(name) + Size(value)
		}
		return n
	default:
		return header
	}
}
