// Package limits holds the bounds and forms that every service puts on what a caller sends, and the one wording
// of their refusal, which clients match on. It knows strings and maps, and nothing of the objects they belong to.
//
// All lengths are bytes. Every error is a *fault.Error of kind InvalidArgument.
package limits

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"sallyport.dev/sallyport/internal/fault"
)

// The bounds shared by both generations.
const (
	MaxName       = 253
	MaxMapKey     = 256
	MaxMapValue   = 8192
	MaxProviders  = 32
	MaxLogLevel   = 32
	MaxLabels     = 128
	MaxLabelKey   = 253
	MaxLabelPart  = 63
	MaxPolicySize = 262_144

	MaxEnvironmentEntries = 128
	MaxEnvironmentBytes   = 256 << 10

	MaxTemplateString     = 1024
	MaxTemplateMapEntries = 128
	MaxTemplateStruct     = 65_536
)

// Reasons of the errors of this package.
const (
	ReasonTooLong       = "FIELD_TOO_LONG"
	ReasonTooMany       = "TOO_MANY_ENTRIES"
	ReasonTooLarge      = "FIELD_TOO_LARGE"
	ReasonRequired      = "FIELD_REQUIRED"
	ReasonInvalidName   = "INVALID_NAME"
	ReasonInvalidLabel  = "INVALID_LABEL"
	ReasonInvalidEnvKey = "INVALID_ENVIRONMENT_NAME"
	ReasonInvalidEnvVal = "INVALID_ENVIRONMENT_VALUE"
)

// Length refuses a value longer than most.
func Length(field, value string, most int) error {
	if len(value) > most {
		return fault.New(fault.InvalidArgument, ReasonTooLong, "%s exceeds maximum length (%d > %d)",
			field, len(value), most).WithNext("shorten %s to at most %d bytes", field, most)
	}
	return nil
}

// Entries refuses more entries than most.
func Entries(field string, n, most int) error {
	if n > most {
		return fault.New(fault.InvalidArgument, ReasonTooMany, "%s exceeds maximum entries (%d > %d)",
			field, n, most).WithNext("send at most %d entries in %s", most, field)
	}
	return nil
}

// Size refuses an encoded field of n bytes that is larger than most.
func Size(field string, n, most int) error {
	if n > most {
		return fault.New(fault.InvalidArgument, ReasonTooLarge, "%s serialized size exceeds maximum (%d > %d)",
			field, n, most).WithNext("send at most %d encoded bytes in %s", most, field)
	}
	return nil
}

// Required refuses an empty value with "<field> is required".
func Required(field, value string) error {
	if value == "" {
		return fault.New(fault.InvalidArgument, ReasonRequired, "%s is required", field).WithNext("set %s", field)
	}
	return nil
}

// Name checks the name of a stored object: at most 253 bytes of printable UTF-8. Names have no alphabet in the
// older generation; what would break a terminal, a log line or a lookup is refused all the same. Empty passes.
func Name(field, name string) error {
	if err := Length(field, name, MaxName); err != nil {
		return err
	}
	if name != strings.TrimSpace(name) {
		return fault.New(fault.InvalidArgument, ReasonInvalidName, "%s must not begin or end with a space", field).
			WithNext("trim %s", field)
	}
	if !printable(name) {
		return fault.New(fault.InvalidArgument, ReasonInvalidName, "%s must be printable text", field).
			WithNext("use letters, digits, '-', '_' and '.' in %s", field)
	}
	return nil
}

// DNSLabel checks a name that becomes part of a host name or of a platform's object name: at most most bytes of
// a-z, 0-9 and inner single '-'. Empty passes.
func DNSLabel(field, name string, most int) error {
	if err := Length(field, name, most); err != nil {
		return err
	}
	var bad string
	switch {
	case !onlyDNS(name):
		bad = "must contain only lowercase alphanumeric characters or hyphens"
	case strings.HasPrefix(name, "-") || strings.HasSuffix(name, "-"):
		bad = "must not start or end with a hyphen"
	case strings.Contains(name, "--"):
		bad = "must not contain consecutive hyphens"
	default:
		return nil
	}
	return fault.New(fault.InvalidArgument, ReasonInvalidName, "%s %s", field, bad).
		WithNext("use a name such as 'calm-otter'")
}

// StringMap checks the number of entries, and each key and value, in the order of the keys.
func StringMap(field string, m map[string]string, maxEntries, maxKey, maxValue int) error {
	if err := Entries(field, len(m), maxEntries); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if err := Length(field+" key", k, maxKey); err != nil {
			return err
		}
		if err := Length(field+" value", m[k], maxValue); err != nil {
			return err
		}
	}
	return nil
}

// Labels checks labels by Kubernetes' rules with ASCII letters only.
func Labels(field string, labels map[string]string) error {
	if err := Entries(field, len(labels), MaxLabels); err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		if err := LabelKey(field, k); err != nil {
			return err
		}
		if err := LabelValue(field, labels[k]); err != nil {
			return err
		}
	}
	return nil
}

// LabelKey checks one label key: an optional DNS subdomain and '/', then a name of 1 to 63 bytes.
func LabelKey(field, key string) error {
	if err := Length(field+" key", key, MaxLabelKey); err != nil {
		return err
	}
	prefix, name, prefixed := strings.Cut(key, "/")
	if !prefixed {
		prefix, name = "", key
	}
	switch {
	case name == "":
		return labelFault(field, "key must not have an empty name")
	case len(name) > MaxLabelPart:
		return Length(field+" key name", name, MaxLabelPart)
	case !labelText(name):
		return labelFault(field, "key name must be letters, digits, '-', '_' or '.', with a letter or digit at both ends")
	case prefixed && !dnsSubdomain(prefix):
		return labelFault(field, "key prefix must be a lowercase DNS subdomain")
	}
	return nil
}

// LabelValue checks one label value: empty, or 1 to 63 bytes of the name's alphabet.
func LabelValue(field, value string) error {
	if err := Length(field+" value", value, MaxLabelPart); err != nil {
		return err
	}
	if value != "" && !labelText(value) {
		return labelFault(field, "value must be letters, digits, '-', '_' or '.', with a letter or digit at both ends")
	}
	return nil
}

// ValidEnvName tells whether name is a portable environment variable name: a letter or '_', then letters, digits
// and '_', at most 256 bytes.
func ValidEnvName(name string) bool {
	if name == "" || len(name) > MaxMapKey {
		return false
	}
	for i := range len(name) {
		c := name[i]
		if !asciiLetter(c) && c != '_' && (i == 0 || !asciiDigit(c)) {
			return false
		}
	}
	return true
}

// EnvName is ValidEnvName as an error that names the field and the variable.
func EnvName(field, name string) error {
	if err := Length(field+" key", name, MaxMapKey); err != nil {
		return err
	}
	if !ValidEnvName(name) {
		return fault.New(fault.InvalidArgument, ReasonInvalidEnvKey,
			"%s key %q is not a valid environment variable name", field, name).
			WithNext("use letters, digits and '_', beginning with a letter or '_'")
	}
	return nil
}

// Environment checks a sandbox environment: entries, sizes, names, characters of values and the total. Which
// names are reserved is the caller's affair.
func Environment(field string, env map[string]string) error {
	if err := StringMap(field, env, MaxEnvironmentEntries, MaxMapKey, MaxMapValue); err != nil {
		return err
	}
	total := 0
	for _, k := range slices.Sorted(maps.Keys(env)) {
		if err := EnvName(field, k); err != nil {
			return err
		}
		if strings.ContainsAny(env[k], "\x00\r\n") || !utf8.ValidString(env[k]) {
			return fault.New(fault.InvalidArgument, ReasonInvalidEnvVal,
				"%s value of %q must be one line of text without NUL", field, k).
				WithNext("encode the value, for example with base64")
		}
		total += len(k) + len(env[k])
	}
	return Size(field, total, MaxEnvironmentBytes)
}

func labelFault(field, text string) error {
	return fault.New(fault.InvalidArgument, ReasonInvalidLabel, "%s %s", field, text).
		WithNext("follow the syntax of Kubernetes labels")
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func labelText(s string) bool {
	for i := range len(s) {
		c := s[i]
		edge := i == 0 || i == len(s)-1
		if !asciiLetter(c) && !asciiDigit(c) && (edge || c != '-' && c != '_' && c != '.') {
			return false
		}
	}
	return s != ""
}

func dnsSubdomain(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for part := range strings.SplitSeq(s, ".") {
		if part == "" || len(part) > MaxLabelPart || !onlyDNS(part) || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
	}
	return true
}

func onlyDNS(s string) bool {
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z') && !asciiDigit(c) && c != '-' {
			return false
		}
	}
	return true
}

func asciiLetter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func asciiDigit(c byte) bool  { return c >= '0' && c <= '9' }
