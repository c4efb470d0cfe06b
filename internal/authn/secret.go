package authn

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Methods on which supervisors of the mvp generation present no credential whatever.
const (
	methodConnectSupervisor = "/openshell.v1.OpenShell/ConnectSupervisor"
	methodRelayStream       = "/openshell.v1.OpenShell/RelayStream"
)

// sharedSecret knows supervisors by the one secret that the mvp generation gives to all of them. It names no
// sandbox, so that its principal has no sandbox id and the services bind the call otherwise.
type sharedSecret struct {
	digest    [sha256.Size]byte
	principal *principal.Principal
}

func newSharedSecret(secret string) *sharedSecret {
	return &sharedSecret{
		digest:    sha256.Sum256([]byte(secret)),
		principal: &principal.Principal{Kind: principal.Sandbox, Source: principal.SourceSharedSecret},
	}
}

// Authenticate decides alone about methods that only sandboxes call, unless a bearer token asks for somebody else
// on a stream that needs no secret. On a method that users call too, a wrong secret is passed over, as older
// gateways do.
func (s *sharedSecret) Authenticate(_ context.Context, r *Request) (*principal.Principal, error) {
	switch {
	case !r.AdmitsSandbox:
		return nil, nil
	case s.matches(r.SandboxSecret):
		return s.principal, nil
	case !r.SandboxOnly:
		return nil, nil
	case len(r.SandboxSecret) > 0:
		return nil, fault.New(fault.Unauthenticated, ReasonSandboxSecretInvalid, "invalid sandbox secret").
			WithNext("start the sandbox again with the secret this gateway is configured with")
	case r.Method == methodConnectSupervisor || r.Method == methodRelayStream:
		if len(r.Authorization) > 0 {
			return nil, nil
		}
		return s.principal, nil
	default:
		return nil, fault.New(fault.Unauthenticated, ReasonSandboxSecretMissing,
			"sandbox secret required for this method").
			WithNext("only a sandbox's supervisor calls this method, with its sandbox token or the shared secret")
	}
}

// matches compares in constant time. Comparing digests hides the secret's length too.
func (s *sharedSecret) matches(values []string) bool {
	if len(values) != 1 || values[0] == "" {
		return false
	}
	digest := sha256.Sum256([]byte(values[0]))
	return subtle.ConstantTimeCompare(digest[:], s.digest[:]) == 1
}
