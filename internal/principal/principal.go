// Package principal says who is calling. The door establishes one Principal a request; services read it from
// the context and never look at a transport header. It knows nothing of tokens, TLS or gRPC.
package principal

import (
	"context"
	"time"
)

// Kind tells the three sorts of caller apart.
type Kind uint8

const (
	// Anonymous callers presented nothing; only unauthenticated methods answer them.
	Anonymous Kind = iota
	// User is a person or a machine account that signed in with an identity provider or a client certificate.
	User
	// Sandbox is the supervisor of exactly one sandbox.
	Sandbox
)

// String returns the kind's name in logs and metric labels: "anonymous", "user" or "sandbox".
func (k Kind) String() string {
	switch k {
	case User:
		return "user"
	case Sandbox:
		return "sandbox"
	default:
		return "anonymous"
	}
}

// Providers of a user's identity, as GetCurrentUser reports them.
const (
	ProviderOIDC     = "oidc"
	ProviderMTLS     = "mtls"
	ProviderLocalDev = "local_dev"
)

// Sources of a sandbox's identity.
const (
	// SourceToken is a gateway-minted token bound to one sandbox.
	SourceToken = "sandbox_token"
	// SourceSharedSecret is the one secret of the mvp generation; it names no sandbox, so the binding comes
	// from the request and SandboxID stays empty. Served only behind an explicit flag.
	SourceSharedSecret = "shared_secret"
	// SourceServiceAccount is the service account token of a sandbox's pod, which Kubernetes vouched for. It opens
	// IssueSandboxToken and nothing else.
	SourceServiceAccount = "k8s_service_account"
	// SourceExpiredToken is a gateway-minted token that has expired. It opens RefreshSandboxToken and nothing else, so
	// that sandboxes get back in after the gateway was away for longer than their token lived.
	SourceExpiredToken = "expired_sandbox_token"
)

// Principal is one authenticated caller. It is immutable once it is in a context and may be shared by requests.
type Principal struct {
	Kind Kind

	// Subject is the user's stable id at its issuer (OIDC `sub`, certificate CN).
	Subject string
	// DisplayName is for people only (`preferred_username`); never compared.
	DisplayName string
	// Issuer is the identity provider that vouched for Subject; the pair is unique, Subject alone is not.
	Issuer string
	// Provider is one of the Provider constants.
	Provider string
	// Tenant is the audience or tenant claim under which the caller was admitted.
	Tenant string
	// Roles are the names the rules know, after the issuer's role mapping.
	Roles  []string
	Scopes []string
	// Unscoped callers are not held to scopes: their issuer is configured without any.
	Unscoped bool
	// SessionID is the sign-in session at the issuer (`sid`), empty where tokens name none. Revocations use it.
	SessionID string
	// Issued is when the credential was issued (`iat`); zero where it does not say.
	Issued time.Time

	// SandboxID is the one sandbox a Sandbox principal may act for.
	SandboxID string
	// Source is one of the Source constants, for Sandbox principals.
	Source string

	// Expires is when the credential ends; zero means never.
	Expires time.Time
}

// Actor names the caller for audit records: "issuer|subject" for users, "sandbox/<id>" for sandboxes.
func (p *Principal) Actor() string {
	switch {
	case p == nil || p.Kind == Anonymous:
		return "anonymous"
	case p.Kind == Sandbox:
		return "sandbox/" + p.SandboxID
	default:
		return p.Issuer + "|" + p.Subject
	}
}

var anonymous = &Principal{}

type key struct{}

// With returns a context that carries p.
func With(ctx context.Context, p *Principal) context.Context {
	return context.WithValue(ctx, key{}, p)
}

// From returns the caller the door established, or an anonymous one where there was no door, so that a
// service that forgets the door fails closed.
func From(ctx context.Context) *Principal {
	if p, ok := ctx.Value(key{}).(*Principal); ok && p != nil {
		return p
	}
	return anonymous
}
