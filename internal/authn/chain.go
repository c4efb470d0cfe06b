package authn

import (
	"context"
	"errors"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// SandboxTokens verifies the tokens that the gateway itself minted for sandboxes.
type SandboxTokens interface {
	// Recognizes tells by the token's header alone whether Verify is to decide about it.
	Recognizes(token string) bool
	// Verify returns the sandbox the token is bound to and when it ends (zero: never).
	Verify(token string) (sandboxID string, expires time.Time, err error)
}

// UserTokens verifies the access tokens of identity providers.
type UserTokens interface {
	Verify(ctx context.Context, token string) (*principal.Principal, error)
}

// Config says which credentials are accepted. The zero value accepts none.
type Config struct {
	// SandboxTokens verifies sandbox tokens; nil accepts none.
	SandboxTokens SandboxTokens
	// AcceptSharedSecret serves supervisors of the mvp generation, which know only one secret for all sandboxes
	// and present nothing at all on their session and relay streams. Whoever reaches the port then counts as a
	// supervisor there, so it needs another protection, such as the network.
	AcceptSharedSecret bool
	// SharedSecret is that secret. It must not be empty when AcceptSharedSecret is set.
	SharedSecret string
	// Users verifies access tokens; nil accepts none.
	Users UserTokens
	// Certificates accepts client certificates as users; nil accepts none.
	Certificates *Certificates
	// Development lets in everybody who presents nothing; nil, as it should be, nobody.
	Development *Development
}

// Certificates says how client certificates become users.
type Certificates struct {
	// DefaultRoles are the roles of a certificate that names no organizational unit.
	DefaultRoles []string
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
// token, shared secret, access token, client certificate, development user.
type Chain struct {
	tokens       *sandboxTokens
	secret       *sharedSecret
	users        UserTokens
	certificates *Certificates
	development  *principal.Principal
}

// New returns the chain for the configuration. It refuses an empty shared secret.
func New(c Config) (*Chain, error) {
	chain := &Chain{users: c.Users, certificates: c.Certificates}
	if c.SandboxTokens != nil {
		chain.tokens = &sandboxTokens{verifier: c.SandboxTokens, headers: map[string]bool{}}
	}
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
	if bearer && c.tokens != nil && c.tokens.recognizes(token) {
		return c.tokens.authenticate(token)
	}
	if c.secret != nil {
		if p, err := c.secret.Authenticate(ctx, r); p != nil || err != nil {
			return p, err
		}
	}
	switch {
	case bearer && c.users != nil:
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

// sandboxTokens remembers which token headers are the gateway's own: all tokens of one signing key share one
// header, so that telling them apart costs one look-up instead of decoding JSON on every call.
type sandboxTokens struct {
	verifier SandboxTokens
	mu       sync.RWMutex
	headers  map[string]bool
}

// maxHeaders and maxHeader bound what peers can make the gateway remember, in entries and bytes.
const (
	maxHeaders = 256
	maxHeader  = 512
)

func (s *sandboxTokens) recognizes(token string) bool {
	end := 0
	for end < len(token) && token[end] != '.' {
		end++
	}
	if end > maxHeader || end == len(token) {
		return s.verifier.Recognizes(token)
	}
	s.mu.RLock()
	ours, known := s.headers[token[:end]]
	s.mu.RUnlock()
	if known {
		return ours
	}
	ours = s.verifier.Recognizes(token)
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.headers) >= maxHeaders {
		clear(s.headers)
	}
	// A copy, so that the entry does not keep a whole token alive.
	s.headers[string(append([]byte(nil), token[:end]...))] = ours
	return ours
}

func (s *sandboxTokens) authenticate(token string) (*principal.Principal, error) {
	id, expires, err := s.verifier.Verify(token)
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, fault.New(fault.Unauthenticated, ReasonTokenNotAccepted, "invalid token: it names no sandbox").
			WithNext("ask the gateway for a new sandbox token")
	}
	return &principal.Principal{
		Kind:      principal.Sandbox,
		SandboxID: id,
		Source:    principal.SourceToken,
		Expires:   expires,
	}, nil
}
