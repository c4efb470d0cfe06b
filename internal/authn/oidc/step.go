package oidc

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"sallyport.dev/sallyport/internal/fault"
)

// Outcome is what followed from one step.
type Outcome string

// The outcomes. A step that was ignored decided nothing.
const (
	Accepted Outcome = "accepted"
	Refused  Outcome = "refused"
	Ignored  Outcome = "ignored"
)

// Names of the steps, in the order in which a decision takes them. The first refusal is the last step.
const (
	StepIssuer       = "issuer"
	StepAlgorithm    = "algorithm"
	StepExpiry       = "expiry"
	StepNotBefore    = "not_before"
	StepAudience     = "audience"
	StepKind         = "kind"
	StepSubject      = "subject"
	StepRequired     = "required_claim"
	StepTenant       = "tenant"
	StepRoles        = "roles"
	StepRoleMap      = "role_map"
	StepDefaultRoles = "default_roles"
	StepScopes       = "scopes"
	StepUsername     = "username"
)

// Step is one step of a decision, for people.
type Step struct {
	// Name is one of the Step constants.
	Name string
	// Claim is the path that was looked at; empty where none was.
	Claim string
	// Found is what was found, shortened; never a token.
	Found   string
	Outcome Outcome
	// Detail says why, with the next step for a refusal.
	Detail string
}

// trace collects the steps of a decision. A nil one collects nothing and costs nothing, so that the decisions that are
// explained and those that count are made by the same code.
type trace struct{ steps []Step }

func (t *trace) add(outcome Outcome, name, claim string, found any, detail string) {
	if t == nil || (len(t.steps) >= maxSteps && outcome != Refused) {
		return
	}
	t.steps = append(t.steps, Step{Name: name, Claim: claim, Found: shorten(found), Outcome: outcome, Detail: detail})
}

// refuse notes the step that ends the decision and returns its error.
func (t *trace) refuse(name, claim string, found any, err *fault.Error) error {
	if t != nil {
		detail := err.Message
		if err.Next != "" {
			detail += "; " + err.Next
		}
		t.add(Refused, name, claim, found, detail)
	}
	return err
}

// Bounds of what a step shows.
const (
	maxShown    = 200
	maxElements = 20
	// maxSteps bounds the steps; only a claim of hundreds of roles makes more.
	maxSteps = 200
)

// shorten writes a claim for people, in at most maxShown bytes.
func shorten(claim any) string {
	var b strings.Builder
	show(&b, claim)
	s := b.String()
	if len(s) <= maxShown {
		return s
	}
	const more = "…"
	end := maxShown - len(more)
	for end > 0 && !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + more
}

func show(b *strings.Builder, claim any) {
	switch c := claim.(type) {
	case nil:
	case string:
		b.WriteString(showText(c))
	case []string:
		writeList(b, len(c), func(i int) { b.WriteString(showText(c[i])) })
	case []any:
		writeList(b, len(c), func(i int) {
			switch element := c[i].(type) {
			case nil:
				b.WriteString("null")
			case []any, map[string]any:
				b.WriteString("…")
			default:
				show(b, element)
			}
		})
	case map[string]any:
		fmt.Fprintf(b, "an object of %d claims", len(c))
	case float64:
		b.WriteString(strconv.FormatFloat(c, 'f', -1, 64))
	default:
		fmt.Fprint(b, c)
	}
}

func writeList(b *strings.Builder, n int, one func(int)) {
	b.WriteByte('[')
	for i := range min(n, maxElements) {
		if i > 0 {
			b.WriteString(", ")
		}
		one(i)
	}
	if n > maxElements {
		fmt.Fprintf(b, ", and %d more", n-maxElements)
	}
	b.WriteByte(']')
}

// showText hides what looks like a token: providers put tokens of other systems into claims.
func showText(s string) string {
	if looksLikeToken(s) {
		return "(a token)"
	}
	if strings.ContainsFunc(s, unicode.IsControl) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

// looksLikeToken finds JWTs and JWEs wherever they begin in the text: their header is a JSON object in base64.
func looksLikeToken(s string) bool {
	words := strings.FieldsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune(`,;="':`, r) })
	return slices.ContainsFunc(words, func(word string) bool {
		return strings.HasPrefix(word, "eyJ") && strings.Contains(word, ".")
	})
}
