package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"sallyport.dev/sallyport/internal/authn/claims"
)

type kind uint8

const (
	text kind = iota
	number
	boolean
	// list holds words that are separated by commas on the command line.
	list
	// choice is one of setting.choices, in any case.
	choice
	// address is ip:port.
	address
)

// topic groups settings in the help and in the documents.
type topic uint8

const (
	topicListen topic = iota
	topicTLS
	topicPeople
	topicRules
	topicOpen
	topicSandbox
	topicKubernetes
	topicStore
	topicEdge
	topicServices
	topicLimits
	topicAudit
	topicTracing
	topicUnused
)

var topics = map[topic]string{
	topicListen: "Listening", topicTLS: "TLS", topicPeople: "People's tokens (OIDC)", topicRules: "Who may do what",
	topicOpen: "Without a provider", topicSandbox: "Sandbox identity", topicKubernetes: "Kubernetes pods",
	topicStore: "Store and drivers", topicEdge: "Browsers and edge proxies", topicServices: "Services of sandboxes", topicLimits: "Limits", topicAudit: "Audit", topicTracing: "Traces",
	topicUnused: "Accepted, no effect",
}

// setting is one value: its flag, its variable, its place in the file, and what it is good for.
type setting struct {
	// name is the flag's. A setting without a variable has no flag either.
	name string
	env  string
	// file is the key below "openshell.", that of the newer reference generation where it has one.
	file   string
	topic  topic
	kind   kind
	preset string
	// shown stands for the preset in the documents where that is made of other settings.
	shown string
	// usage is for the help; more goes on in the documents.
	usage, more string
	// least and most bound a number; both 0 means any that is not negative.
	least, most int64
	choices     []string
	// form refuses values that the kind does not; it returns cause and remedy.
	form func(string) (cause, remedy string)
	// secret values are never printed.
	secret bool
	// live settings take effect when the file changes; the others when the gateway starts.
	live bool
	// noFlag settings are a variable only.
	noFlag bool
	// unused settings of a reference generation are accepted and reported.
	unused bool
}

// settings lists every flag of both 0.0.x generations and our own, in the order of the help.
var settings = slices.Concat(listenSettings, tlsSettings, peopleSettings, ruleSettings, openSettings, sandboxSettings,
	kubernetesSettings, storeSettings, credentialKeySettings, edgeSettings, serviceSettings, limitSettings, auditSettings, tracingSettings, unusedSettings)

// byName finds a row; the tests see to it that there is one for each name the code asks for.
func byName(name string) setting {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.name == name })
	if i < 0 {
		return setting{name: name}
	}
	return settings[i]
}

func (s setting) hasFlag() bool { return s.env != "" && !s.noFlag }

// label is what a problem calls a setting that nobody has set.
func (s setting) label() string {
	switch {
	case s.hasFlag():
		return "--" + s.name
	case s.env != "":
		return s.env
	default:
		return "openshell." + s.file
	}
}

// check refuses values of the wrong form; booleans are exactly true or false, as in the reference.
func (s setting) check(value string) (cause, remedy string) {
	switch s.kind {
	case boolean:
		if value != "true" && value != "false" {
			return fmt.Sprintf("must be true or false, got %q", value), "write true or false"
		}
	case number:
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			return fmt.Sprintf("must be a number, got %q", value), "write digits only"
		}
		least, most := s.bounds()
		if n < least || n > most {
			return fmt.Sprintf("must be between %d and %d, got %d", least, most, n), "write a number in that range"
		}
	case choice:
		if !slices.Contains(s.choices, strings.ToLower(value)) {
			return fmt.Sprintf("must be one of %s, got %q", strings.Join(s.choices, ", "), value), "write one of these"
		}
	case address:
		if _, err := netip.ParseAddrPort(value); err != nil {
			return fmt.Sprintf("must be ip:port, got %q", value), "write an IP address and a port, such as 127.0.0.1:8081"
		}
	case list:
		return s.checkList(splitList(value))
	case text:
		if s.form != nil && value != "" {
			return s.form(value)
		}
	}
	return "", ""
}

func (s setting) checkList(words []string) (cause, remedy string) {
	if len(words) > maxList {
		return fmt.Sprintf("has %d entries, more than %d", len(words), maxList), "remove some"
	}
	for _, w := range words {
		if len(s.choices) > 0 && !slices.Contains(s.choices, w) {
			return fmt.Sprintf("%q is not one of %s", w, strings.Join(s.choices, ", ")), "write some of these"
		}
		if s.form != nil {
			if cause, remedy = s.form(w); cause != "" {
				return cause, remedy
			}
		}
	}
	return "", ""
}

// maxList bounds the entries of a list.
const maxList = 256

func (s setting) bounds() (least, most int64) {
	if s.least == 0 && s.most == 0 {
		return 0, 1<<31 - 1
	}
	return s.least, s.most
}

// splitList takes a list apart; empty words are dropped.
func splitList(value string) []string {
	words := []string{}
	for w := range strings.SplitSeq(value, ",") {
		if w = strings.TrimSpace(w); w != "" {
			words = append(words, w)
		}
	}
	return words
}

// webURL is a form: an absolute URL that can be fetched.
func webURL(value string) (cause, remedy string) {
	u, err := url.Parse(value)
	switch {
	case err != nil:
		return "not a URL", "write https://host[:port][/path]"
	case u.Scheme != "https" && u.Scheme != "http":
		return fmt.Sprintf("not an absolute http or https URL: %q", u.Redacted()), "write https://host[:port][/path]"
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return fmt.Sprintf("a URL with a host and without user or fragment is needed, got %q", u.Redacted()), "write https://host[:port][/path]"
	}
	return "", ""
}

// secureURL is a form: webURL with https.
func secureURL(value string) (cause, remedy string) {
	if cause, remedy = webURL(value); cause == "" && !strings.HasPrefix(value, "https://") {
		return "not an https URL", "write https://host[:port]"
	}
	return cause, remedy
}

// originURL is a form: what a browser calls the origin of a page.
func originURL(value string) (cause, remedy string) {
	u, err := url.Parse(value)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.Scheme+"://"+u.Host != value {
		return fmt.Sprintf("not an origin: %q", value), "write scheme://host[:port] without path or slash at the end"
	}
	return "", ""
}

// hostName is a form: a name or an IP address, with or without a port.
func hostName(value string) (cause, remedy string) {
	u, err := url.Parse("https://" + value)
	if err != nil || u.Host != value || u.Hostname() == "" || strings.ContainsAny(value, "*/@ ") {
		return fmt.Sprintf("not a host: %q", value), "write host or host:port; an IPv6 address in brackets"
	}
	return "", ""
}

// serverName is a form: a DNS name, or "*." and one.
func serverName(value string) (cause, remedy string) {
	name := strings.TrimPrefix(value, "*.")
	bad := len(name) > 253 || name == ""
	for label := range strings.SplitSeq(name, ".") {
		bad = bad || label == "" || len(label) > 63 || strings.Trim(strings.ToLower(label), dnsLetters) != ""
	}
	if bad {
		return fmt.Sprintf("not a DNS name: %q", value), "write a name such as gw.example.org or *.example.org, where the star stands for one label"
	}
	return "", ""
}

const dnsLetters = "abcdefghijklmnopqrstuvwxyz0123456789-_"

// ipAddress is a form.
func ipAddress(value string) (cause, remedy string) {
	if _, err := netip.ParseAddr(value); err != nil {
		return fmt.Sprintf("must be an IP address, got %q", value), "write an address such as 127.0.0.1, not a name"
	}
	return "", ""
}

// claimPath is a form: where a claim is in a token.
func claimPath(value string) (cause, remedy string) {
	if _, err := claims.ParsePath(value); err != nil {
		return err.Error(), `separate names by dots; put a name that holds dots into double quotes, as in "example.org/roles".list`
	}
	return "", ""
}

// roleName is a form.
func roleName(value string) (cause, remedy string) {
	if value == "" || len(value) > 256 || strings.ContainsFunc(value, unicode.IsControl) {
		return fmt.Sprintf("not a role: %q", value), "use a name of up to 256 bytes without control characters"
	}
	return "", ""
}
