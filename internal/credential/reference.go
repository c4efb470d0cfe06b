// Package credential names driver credentials and turns the names into values.
//
// A provider's credential value is either a literal secret or a reference:
//
//	driver://credentials/NAME
//
// where NAME is 1 to 128 of A-Z, a-z, 0-9, '.', '_' and '-'. A reference is stored as it is and resolved through the
// credentials driver each time a sandbox asks for its environment. So that neither can be mistaken for the other, a
// literal that begins with "driver://", in whatever case and behind whatever space, cannot be stored: a value of
// that kind is a well-formed reference or is refused.
//
// The Resolver keeps resolved values in memory only. It knows drivers and names, and nothing of providers,
// sandboxes or who asks.
package credential

import (
	"strings"

	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	scheme = "driver://"
	prefix = scheme + "credentials/"
)

// Reference names a credential of the credentials driver.
type Reference struct{ Name string }

// String is the notation of the reference.
func (r Reference) String() string { return prefix + r.Name }

// Parse tells a reference from a literal. A literal gives false; a value that begins like a reference and is none
// gives an InvalidArgument error that does not repeat it, since it may be a secret after all.
func Parse(value string) (ref Reference, is bool, err error) {
	trimmed := strings.TrimSpace(value)
	if len(trimmed) < len(scheme) || !strings.EqualFold(trimmed[:len(scheme)], scheme) {
		return Reference{}, false, nil
	}
	name, ok := strings.CutPrefix(value, prefix)
	if !ok || !credentials.ValidName(name) {
		return Reference{}, false, fault.New(fault.InvalidArgument, "CREDENTIAL_REFERENCE_INVALID",
			"value begins with %s and is not a valid reference to a driver credential", scheme).
			WithNext("write %sNAME, NAME being 1 to %d letters, digits, '.', '_' or '-'; a literal secret cannot begin with %s",
				prefix, credentials.MaxName, scheme)
	}
	return Reference{Name: name}, true, nil
}
