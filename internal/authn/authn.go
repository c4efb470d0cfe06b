// Package authn establishes who is calling: it turns what a request carries (a bearer token, the shared secret of
// older supervisors, a client certificate) into one principal, or says why it cannot. It must not know what a
// caller may do (authz), nor how a request arrived (door).
package authn

import (
	"context"
	"crypto/x509"
	"strings"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Request is everything a call says about its caller.
type Request struct {
	// Method is the full method, "/package.Service/Method".
	Method string
	// Authorization holds the values of the header "authorization" as they came.
	Authorization []string
	// SandboxSecret holds the values of the header "x-sandbox-secret" as they came.
	SandboxSecret []string
	// PeerCertificate is the caller's TLS certificate, verified against the client CA; nil without one.
	PeerCertificate *x509.Certificate
	// Remote is the peer's address, for logs.
	Remote string

	// AdmitsSandbox tells that the method may be called by sandboxes, SandboxOnly that by nobody else.
	AdmitsSandbox bool
	SandboxOnly   bool

	// KnownOnly believes only credentials that were verified before and are remembered: the caller's address has
	// spent what it may cost to verify new ones. Others are refused with ReasonTooManyAttempts.
	KnownOnly bool
}

// Authenticator recognises one kind of credential. It returns nil and nil for a request without its kind, and an
// error for a request that carries its kind but is not to be believed; an error ends the chain.
type Authenticator interface {
	Authenticate(ctx context.Context, r *Request) (*principal.Principal, error)
}

// Stable reasons of refusals that this package gives.
const (
	ReasonMissingAuthorization = "MISSING_AUTHORIZATION"
	ReasonTokenNotAccepted     = "TOKEN_NOT_ACCEPTED"
	ReasonSandboxSecretMissing = "SANDBOX_SECRET_REQUIRED"
	ReasonSandboxSecretInvalid = "SANDBOX_SECRET_INVALID"
	ReasonClientCertificate    = "CLIENT_CERTIFICATE_INVALID"
	ReasonTooManyAttempts      = "TOO_MANY_ATTEMPTS"
)

// maxToken bounds a bearer token in bytes. The longest tokens of identity providers, those that list groups, stay
// well below it.
const maxToken = 16 << 10

// Bearer returns the token of exactly one well-formed authorization header: the scheme "Bearer" in any case, one
// space, and a token of the characters RFC 6750 allows. Everything else is no bearer token.
func Bearer(values []string) (token string, ok bool) {
	const scheme = "Bearer "
	if len(values) != 1 {
		return "", false
	}
	value := values[0]
	if len(value) <= len(scheme) || len(value) > len(scheme)+maxToken || !strings.EqualFold(value[:len(scheme)], scheme) {
		return "", false
	}
	token = value[len(scheme):]
	for i := range len(token) {
		if !tokenByte[token[i]] {
			return "", false
		}
	}
	return token, true
}

// tokenByte marks the characters of RFC 6750's b64token.
var tokenByte = func() (allowed [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=") {
		allowed[c] = true
	}
	return allowed
}()

// errMissing is the refusal of a call without a usable credential. Clients match its first words.
func (c *Chain) errMissing(r *Request) error {
	err := fault.New(fault.Unauthenticated, ReasonMissingAuthorization, "missing authorization header")
	switch {
	case len(r.SandboxSecret) > 0 && c.secret == nil:
		return err.WithNext("this gateway does not accept the shared sandbox secret; " +
			"use a supervisor that presents its sandbox token, or start the gateway with the shared secret enabled")
	case len(r.Authorization) > 1:
		return err.WithNext("send exactly one authorization header")
	case len(r.Authorization) == 1:
		return err.WithNext("the header must read \"Bearer\", one space and the token")
	case c.users == nil && c.certificates != nil:
		return err.WithNext("present a client certificate that the gateway's client CA signed")
	default:
		return err.WithNext("sign in with `sallyport gateway login`")
	}
}
