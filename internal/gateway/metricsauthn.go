package gateway

import (
	"context"
	"errors"

	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// countedAuthenticator counts attempts to authenticate by who was believed, or why nobody was.
type countedAuthenticator struct {
	next authn.Authenticator
	m    *metrics
}

// Authenticate implements authn.Authenticator.
func (c countedAuthenticator) Authenticate(ctx context.Context, r *authn.Request) (*principal.Principal, error) {
	p, err := c.next.Authenticate(ctx, r)
	switch {
	case err != nil:
		c.m.attempted.of(c.m.attempts, presented(r), reasonLabel(err)).Inc()
	case p != nil:
		c.m.attempted.of(c.m.attempts, kindLabel(p), "accepted").Inc()
	}
	return p, err
}

// presented is what the request says its caller is known by.
func presented(r *authn.Request) string {
	switch {
	case len(r.Authorization) > 0:
		return "token"
	case len(r.SandboxSecret) > 0:
		return "secret"
	case r.PeerCertificate != nil:
		return "certificate"
	}
	return "none"
}

// kindLabel is how the caller was known; the constants of principal are the values.
func kindLabel(p *principal.Principal) string {
	if p.Kind == principal.Sandbox {
		return p.Source
	}
	return p.Provider
}

// reasonLabel is the stable reason of a refusal, which is written in the code and never made of what a caller sent.
func reasonLabel(err error) string {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Reason != "" {
		return f.Reason
	}
	return "other"
}
