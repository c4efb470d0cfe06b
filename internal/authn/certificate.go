package authn

import (
	"crypto/x509"
	"slices"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// user maps a verified certificate to a user: the common name is the subject, the organizational units are the
// roles. A certificate without a common name would share one identity with all others of its kind and is refused.
func (c *Certificates) user(cert *x509.Certificate) (*principal.Principal, error) {
	name := cert.Subject.CommonName
	if name == "" {
		return nil, fault.New(fault.Unauthenticated, ReasonClientCertificate,
			"invalid client certificate: it has no common name").
			WithNext("issue a certificate whose subject names its holder")
	}
	roles := cert.Subject.OrganizationalUnit
	if len(roles) == 0 {
		roles = c.DefaultRoles
	}
	return &principal.Principal{
		Kind:        principal.User,
		Subject:     name,
		DisplayName: name,
		Issuer:      cert.Issuer.String(),
		Provider:    principal.ProviderMTLS,
		Roles:       slices.Clone(roles),
		Expires:     cert.NotAfter,
	}, nil
}
