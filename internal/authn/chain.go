package authn

import (
	"context"
	"errors"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// UserTokens verifies the access tokens of identity providers.
type UserTokens interface {
	Verify(ctx context.Context, token string) (*principal.Principal, error)
}

// none tells of a set of identity providers that it is empty, which it may be from one reload of the settings to the next.
type none interface{ Empty() bool }

// noProvider tells that no access token can be believed, since there is nobody to have issued it.
func (c *Chain) noProvider() bool {
	set, ok := c.users.(none)
	return c.users == nil || ok && set.Empty()
}

// Config says which credentials are accepted. The zero value accepts none.
type Config struct {
	// SandboxTokens verifies sandbox tokens; nil accepts none.
	SandboxTokens SandboxTokens
	// ServiceAccounts knows the pods of sandboxes, on IssueSandboxToken alone; nil knows none.
	ServiceAccounts ServiceAccounts
	// AcceptSharedSecret serves supervisors of the mvp generation, which know only one secret for all sandboxes
	// and present nothing at all on their session and relay streams. Whoever reaches the port then counts as a
	// supervisor there, so it needs another protection, such as the network.
	AcceptSharedSecret bool
	// SharedSecret is that secret. It must not be empty when AcceptSharedSecret is set.
	SharedSecret string
	// Users verifies access tokens; nil accepts none, and so does one whose method Empty() bool says so.
	Users UserTokens
	// Certificates accepts client certificates as users; nil accepts none.
	Certificates *Certificates
	// Development lets in everybody who presents nothing; nil, as it should be, nobody.
	Development *Development
}

// Development is the user that callers without any credential become. It is for one person's machine only.
type Development struct {
	// Roles and Scopes are what that user has.
	Roles  []string
	Scopes []string
}

// DevelopmentSubject is the subject of the development user, as the reference names it.
const DevelopmentSubject = "unauthenticated-local-dev"

// Chain asks one authenticator after the other; the first that knows the caller decides. The order is: sandbox
// token, service account token, shared secret, access token, client certificate, development user.
type Chain struct {
	tokens       SandboxTokens
	accounts     ServiceAccounts
	secret       *sharedSecret
	users        UserTokens
	certificates *Certificates
	development  *principal.Principal
}

// New returns the chain for the configuration. It refuses an empty shared secret.
func New(c Config) (*Chain, error) {
	chain := &Chain{users: c.Users, certificates: c.Certificates, tokens: c.SandboxTokens, accounts: c.ServiceAccounts}
	if c.AcceptSharedSecret {
		if c.SharedSecret == "" {
			return nil, errors.New("set up authentication: the shared sandbox secret is enabled but empty")
		}
		chain.secret = newSharedSecret(c.SharedSecret)
	}
	if c.Development != nil {
		chain.development = &principal.Principal{
			Kind:        principal.User,
			Subject:     DevelopmentSubject,
			DisplayName: DevelopmentSubject,
			Issuer:      principal.ProviderLocalDev,
			Provider:    principal.ProviderLocalDev,
			Roles:       c.Development.Roles,
			Scopes:      c.Development.Scopes,
		}
	}
	return chain, nil
}

// Authenticate returns the caller of the request, never nil without an error. A credential that is presented but
// cannot be believed refuses the call; nobody gets further as somebody else after that.
func (c *Chain) Authenticate(ctx context.Context, r *Request) (*principal.Principal, error) {
	token, bearer := Bearer(r.Authorization)
	if bearer && c.tokens != nil && c.tokens.Recognizes(token) {
		return c.sandbox(r, token)
	}
	if bearer && c.accounts != nil && r.Method == methodIssueSandboxToken {
		if p, err := c.serviceAccount(ctx, r, token); p != nil || err != nil {
			return p, err
		}
	}
	if r.KnownOnly {
		return c.remembered(r, token)
	}
	if c.secret != nil {
		if p, err := c.secret.Authenticate(ctx, r); p != nil || err != nil {
			return p, err
		}
	}
	switch {
	case bearer && !c.noProvider():
		return c.users.Verify(ctx, token)
	case bearer:
		return nil, fault.New(fault.Unauthenticated, ReasonTokenNotAccepted,
			"invalid token: this gateway has no identity provider").
			WithNext("call without a token, or set the gateway's OIDC issuer")
	case len(r.Authorization) > 0:
		return nil, c.errMissing(r)
	}
	if c.certificates != nil && r.PeerCertificate != nil {
		return c.certificates.user(r.PeerCertificate)
	}
	if c.development != nil {
		return c.development, nil
	}
	return nil, c.errMissing(r)
}
