package authn

import "sallyport.dev/sallyport/internal/principal"

// knownUsers is the optional ability of UserTokens to recognise a token that it verified before, without verifying it
// again or asking anybody. Without it no user is known.
type knownUsers interface {
	Known(token string) (*principal.Principal, bool)
}

// remembered decides about a user whose address has spent what it may cost to verify credentials; token is empty where
// none came. A token that was verified before costs nothing more, nor does a client certificate, which was verified when
// the connection began, so that whoever shares the address with an attacker goes on. Everything else is refused unseen,
// the shared secret too, which the attacker may be guessing.
func (c *Chain) remembered(r *Request, token string) (*principal.Principal, error) {
	if users, ok := c.users.(knownUsers); ok && token != "" {
		if p, known := users.Known(token); known {
			return p, nil
		}
	}
	if len(r.Authorization) == 0 && len(r.SandboxSecret) == 0 && c.certificates != nil && r.PeerCertificate != nil {
		return c.certificates.user(r.PeerCertificate)
	}
	return nil, errUnknownToken()
}
