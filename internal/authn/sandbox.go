package authn

import (
	"context"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// SandboxTokens verifies the tokens that the gateway itself minted for sandboxes.
type SandboxTokens interface {
	// Recognizes tells by the token's header alone whether Verify is to decide about it.
	Recognizes(token string) bool
	// Verify returns the sandbox that the token is bound to. A refreshing call may also present a token that expired
	// not long ago; its principal has principal.SourceExpiredToken.
	Verify(token string, refreshing bool) (*principal.Principal, error)
	// Known is Verify for tokens that were verified before and are remembered, at the cost of a look-up. False means
	// that the token is not known, not that it is bad.
	Known(token string, refreshing bool) (*principal.Principal, bool)
}

// ServiceAccounts finds out for which sandbox a pod's service account token speaks.
type ServiceAccounts interface {
	// Authenticate returns nil and nil for a token that is no service account token or that Kubernetes does not know.
	Authenticate(ctx context.Context, token string) (*principal.Principal, error)
}

// Methods that credentials of their own open.
const (
	methodIssueSandboxToken   = "/openshell.v1.OpenShell/IssueSandboxToken"
	methodRefreshSandboxToken = "/openshell.v1.OpenShell/RefreshSandboxToken"
)

// sandbox decides about a token that names one of the gateway's own keys.
func (c *Chain) sandbox(r *Request, token string) (*principal.Principal, error) {
	refreshing := r.Method == methodRefreshSandboxToken
	if r.KnownOnly {
		p, ok := c.tokens.Known(token, refreshing)
		if !ok {
			return nil, errUnknownToken()
		}
		return p, nil
	}
	p, err := c.tokens.Verify(token, refreshing)
	if err != nil {
		return nil, err
	}
	if p.Kind != principal.Sandbox || p.SandboxID == "" {
		return nil, fault.New(fault.Unauthenticated, ReasonTokenNotAccepted, "invalid token: it names no sandbox").
			WithNext("ask the gateway for a new sandbox token")
	}
	return p, nil
}

// serviceAccount decides about a token on the one method that service accounts open. It returns nil and nil for a
// token that is none.
func (c *Chain) serviceAccount(ctx context.Context, r *Request, token string) (*principal.Principal, error) {
	if r.KnownOnly {
		return nil, errUnknownToken()
	}
	p, err := c.accounts.Authenticate(ctx, token)
	if p == nil || err != nil {
		return nil, err
	}
	if p.Kind != principal.Sandbox || p.SandboxID == "" || p.Source != principal.SourceServiceAccount {
		return nil, fault.New(fault.Unauthenticated, ReasonTokenNotAccepted, "invalid token: it names no sandbox").
			WithNext("check that the pod belongs to a sandbox of this gateway")
	}
	return p, nil
}

// errUnknownToken refuses a token whose verification an address has to wait for.
func errUnknownToken() error {
	return fault.New(fault.ResourceExhausted, ReasonTooManyAttempts, "too many credentials of this address were refused").
		WithNext("wait a minute before the next attempt")
}
