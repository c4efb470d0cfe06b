package oidc

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"errors"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"sallyport.dev/sallyport/internal/fault"
)

// maxToken bounds a token in bytes, before anything is decoded.
const maxToken = 16 << 10

// algorithms are the ones a key set can vouch for: asymmetric, all of them.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512,
	jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512,
	jose.EdDSA,
}

// Stable reasons of refusals.
const (
	ReasonMalformed  = "TOKEN_MALFORMED"
	ReasonAlgorithm  = "TOKEN_ALGORITHM"
	ReasonNoKeyID    = "TOKEN_KEY_ID_MISSING"
	ReasonUnknownKey = "TOKEN_KEY_UNKNOWN"
	ReasonSignature  = "TOKEN_SIGNATURE"
	ReasonExpired    = "TOKEN_EXPIRED"
	ReasonNotYet     = "TOKEN_NOT_YET_VALID"
	ReasonIssuer     = "TOKEN_ISSUER"
	ReasonAudience   = "TOKEN_AUDIENCE"
	ReasonSubject    = "TOKEN_SUBJECT"
	ReasonKind       = "TOKEN_KIND"
	// ReasonRequiredClaim refuses who does not have a claim that the issuer's configuration asks for, such as a tenant.
	ReasonRequiredClaim = "TOKEN_CLAIM_REQUIRED"
	// ReasonOverage refuses who is in so many groups that the token says only where they could be asked for.
	ReasonOverage     = "TOKEN_GROUPS_OVERAGE"
	ReasonKeysMissing = "OIDC_KEYS_UNAVAILABLE"
)

// token is a decoded token whose signature is not verified yet.
type token struct {
	signed    *jose.JSONWebSignature
	keyID     string
	algorithm jose.SignatureAlgorithm
	claims    map[string]any
}

func invalid(reason, what string, args ...any) *fault.Error {
	return fault.New(fault.Unauthenticated, reason, "invalid token: "+what, args...)
}

const nextSignIn = "sign in again with `sallyport gateway login`"

func parse(raw string) (*token, error) {
	if len(raw) > maxToken {
		return nil, invalid(ReasonMalformed, "too long").
			WithNext("tokens of up to %d bytes are accepted; have the provider put less into them", maxToken)
	}
	signed, err := jose.ParseSignedCompact(raw, algorithms)
	if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
		return nil, invalid(ReasonAlgorithm, "InvalidAlgorithm").
			WithNext("have the provider sign with RS, PS or ES 256, 384 or 512, or with EdDSA")
	}
	if err != nil || len(signed.Signatures) != 1 {
		return nil, invalid(ReasonMalformed, "malformed").WithNext("send a JWT access token in compact form")
	}
	head := signed.Signatures[0].Protected
	if head.KeyID == "" {
		return nil, invalid(ReasonNoKeyID, "missing kid").
			WithNext("have the provider name the signing key in the token's header")
	}
	typ, ok := head.ExtraHeaders[jose.HeaderType].(string)
	if _, present := head.ExtraHeaders[jose.HeaderType]; present && !ok || !isAccessTokenType(typ) {
		return nil, errKind()
	}
	t := &token{signed: signed, keyID: head.KeyID, algorithm: jose.SignatureAlgorithm(head.Algorithm)}
	if err := json.Unmarshal(signed.UnsafePayloadWithoutVerification(), &t.claims); err != nil || t.claims == nil {
		return nil, invalid(ReasonMalformed, "malformed claims").WithNext("send a JWT access token in compact form")
	}
	return t, nil
}

// isAccessTokenType accepts the header types of access tokens; logout tokens, proofs of possession and the like
// carry others.
func isAccessTokenType(typ string) bool {
	typ = strings.TrimPrefix(strings.ToLower(typ), "application/")
	return typ == "" || typ == "jwt" || typ == "at+jwt"
}

// verify checks the signature with the keys of the token's key id.
func (t *token) verify(keys []publicKey) error {
	for _, key := range keys {
		if _, err := t.signed.Verify(key.public); err == nil {
			return nil
		}
	}
	return invalid(ReasonSignature, "InvalidSignature").WithNext(nextSignIn)
}

// publicKey is one key of the issuer and what it may be used for.
type publicKey struct {
	public     any
	algorithms []jose.SignatureAlgorithm
}

// accepting narrows the keys of one id to those that may be used with the algorithm.
func accepting(keys []publicKey, alg jose.SignatureAlgorithm) ([]publicKey, error) {
	accepted := make([]publicKey, 0, len(keys))
	for _, key := range keys {
		if slices.Contains(key.algorithms, alg) {
			accepted = append(accepted, key)
		}
	}
	if len(accepted) == 0 {
		return nil, invalid(ReasonAlgorithm, "InvalidAlgorithm").
			WithNext("the signing key is published for another algorithm; check the provider's keys")
	}
	return accepted, nil
}

// algorithmsFor returns what a key of this type, published for declared (empty: anything), may verify. None means
// that the key is of no use here.
func algorithmsFor(public any, declared string) []jose.SignatureAlgorithm {
	var able []jose.SignatureAlgorithm
	switch key := public.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() >= minRSABits {
			able = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512}
		}
	case *ecdsa.PublicKey:
		switch key.Curve.Params().BitSize {
		case 256:
			able = []jose.SignatureAlgorithm{jose.ES256}
		case 384:
			able = []jose.SignatureAlgorithm{jose.ES384}
		case 521:
			able = []jose.SignatureAlgorithm{jose.ES512}
		}
	case ed25519.PublicKey:
		able = []jose.SignatureAlgorithm{jose.EdDSA}
	}
	if declared == "" {
		return able
	}
	if alg := jose.SignatureAlgorithm(declared); slices.Contains(able, alg) {
		return []jose.SignatureAlgorithm{alg}
	}
	return nil
}

// minRSABits is the shortest RSA key that is still trusted.
const minRSABits = 2048
