package authn

import (
	"crypto/x509"
	"encoding/asn1"
	"slices"
	"strings"
	"time"
	"unicode"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Certificates says how client certificates become users. Only certificates that TLS verified against the client CA
// come here, see Request.PeerCertificate.
type Certificates struct {
	// Roles are the role names that a certificate may give its holder by its organizational units. Other units are
	// names of departments and give nothing, so nobody becomes an administrator by accident.
	Roles []string
	// DefaultRoles are given to every certificate, beside those it names itself.
	DefaultRoles []string
	// RequireClientAuth refuses a certificate that does not say it is for client authentication. TLS refuses those that
	// say they are for something else, and lets those pass that say nothing, such as the ones that the reference's
	// tools make, for servers and clients alike.
	RequireClientAuth bool
	// SandboxUnits are organizational units that mark the certificate of a sandbox, beside "openshell-sandbox" and
	// "sallyport-sandbox"; letter case does not count.
	SandboxUnits []string
	// SharedNames are common names that stand for nobody, such as "openshell-client" where the reference's one client
	// certificate is mounted into sandboxes too.
	SharedNames []string
	// Now is the clock; nil means the real one. A connection may outlive the certificate it began with.
	Now func() time.Time
}

// maxSubject bounds a common name in bytes. X.520 allows 64 characters.
const maxSubject = 256

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

// user maps a certificate to a user: the common name is the subject, the organizational units that name roles are the
// roles. A certificate without a common name would share one identity with all others of its kind and is refused.
func (c *Certificates) user(cert *x509.Certificate) (*principal.Principal, error) {
	if c.ofSandbox(cert) {
		return nil, certificateError("it belongs to a sandbox", "present the sandbox's token")
	}
	name := cert.Subject.CommonName
	switch {
	case name == "":
		return nil, certificateError("it has no common name", "issue a certificate whose subject names its holder")
	case !oneName(cert) || !printable(name):
		return nil, certificateError("its common name is not one plain name", "issue a certificate whose subject names its holder once")
	case slices.Contains(c.SharedNames, name):
		return nil, certificateError("its name is shared by many", "sign in, or use a certificate of your own")
	case c.RequireClientAuth && !forClients(cert):
		return nil, certificateError("it is not issued for client authentication",
			"issue a certificate with the extended key usage clientAuth")
	}
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	if !cert.NotAfter.IsZero() && now().After(cert.NotAfter) {
		return nil, certificateError("it has expired", "connect again with a new certificate")
	}
	return &principal.Principal{
		Kind:        principal.User,
		Subject:     name,
		DisplayName: name,
		Issuer:      cert.Issuer.String(),
		Provider:    principal.ProviderMTLS,
		Roles:       c.roles(cert),
		Issued:      cert.NotBefore,
		Expires:     cert.NotAfter,
	}, nil
}

func certificateError(why, next string) error {
	return fault.New(fault.Unauthenticated, ReasonClientCertificate, "invalid client certificate: %s", why).WithNext("%s", next)
}

// roles returns the roles of a certificate, each once; nil for none.
func (c *Certificates) roles(cert *x509.Certificate) []string {
	var out []string
	add := func(role string) {
		if !slices.Contains(out, role) {
			out = append(out, role)
		}
	}
	for _, unit := range cert.Subject.OrganizationalUnit {
		if slices.Contains(c.Roles, unit) {
			add(unit)
		}
	}
	for _, role := range c.DefaultRoles {
		add(role)
	}
	return out
}

// ofSandbox tells whether a certificate names a sandbox as its holder: by a SPIFFE id with a path below "/sandbox/",
// as sandbox tokens have it, or by its organizational unit.
func (c *Certificates) ofSandbox(cert *x509.Certificate) bool {
	for _, uri := range cert.URIs {
		if strings.EqualFold(uri.Scheme, "spiffe") && strings.HasPrefix(strings.ToLower(uri.Path), "/sandbox/") {
			return true
		}
	}
	for _, unit := range cert.Subject.OrganizationalUnit {
		unit = strings.TrimSpace(unit)
		same := func(mark string) bool { return strings.EqualFold(unit, mark) }
		if same("openshell-sandbox") || same("sallyport-sandbox") || slices.ContainsFunc(c.SandboxUnits, same) {
			return true
		}
	}
	return false
}

// oneName refuses a subject with several common names, of which different readers would take different ones.
func oneName(cert *x509.Certificate) bool {
	n := 0
	for _, attribute := range cert.Subject.Names {
		if attribute.Type.Equal(oidCommonName) {
			n++
		}
	}
	return n <= 1
}

func printable(name string) bool {
	return len(name) <= maxSubject && !strings.ContainsFunc(name, func(r rune) bool { return r == unicode.ReplacementChar || !unicode.IsPrint(r) }) &&
		strings.TrimSpace(name) == name
}

func forClients(cert *x509.Certificate) bool {
	return slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageAny)
}
