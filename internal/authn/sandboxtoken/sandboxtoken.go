// Package sandboxtoken mints and verifies the tokens that bind a supervisor to one sandbox: JWTs signed with the
// gateway's own Ed25519 keys. It owns those keys on disk. It must not know whether a sandbox still exists; the
// services look that up.
package sandboxtoken

import (
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"sallyport.dev/sallyport/internal/authn/tokencache"
	"sallyport.dev/sallyport/internal/fault"
)

// DefaultTTL is the life of a token; supervisors renew theirs at four fifths of it.
const DefaultTTL = 24 * time.Hour

// leeway is how far the clocks of gateways that share keys may differ.
const leeway = 60 * time.Second

// Forms that the newer 0.0.x generation of the protocol fixed.
const (
	issuerPrefix  = "openshell-gateway:"
	subjectPrefix = "spiffe://openshell/sandbox/"
	typExtension  = "openshell-ext+jwt"
)

// Bounds of what a peer can send or make us keep.
const (
	maxToken   = 4 << 10
	maxID      = 128
	cacheSize  = 20_000
	maxSeconds = 253_402_300_799 // the end of the year 9999
)

// Stable reasons of refusals.
const (
	ReasonInvalid   = "SANDBOX_TOKEN_INVALID"
	ReasonExpired   = "SANDBOX_TOKEN_EXPIRED"
	ReasonExtension = "EXTENSION_TOKEN"
)

// Issuer mints and verifies. It is safe for concurrent use.
type Issuer struct {
	issuer   string
	ttl      time.Duration
	now      func() time.Time
	signer   key
	verifier map[string]ed25519.PublicKey
	keySet   []byte
	cache    *tokencache.Cache[string]
}

// Open reads the signing keys in dir, of which the last in the order of file names signs and all verify, and
// creates a first key where there is none. The directory and its keys must be closed to other users. An empty dir
// keeps one key in memory: tokens then end with the process. A ttl of 0 mints tokens that never expire; a nil now
// is time.Now.
func Open(dir, gatewayID string, ttl time.Duration, now func() time.Time) (*Issuer, error) {
	if gatewayID == "" {
		return nil, fmt.Errorf("open sandbox token keys: the gateway has no id")
	}
	if ttl < 0 {
		return nil, fmt.Errorf("open sandbox token keys: negative life of tokens %s", ttl)
	}
	if now == nil {
		now = time.Now
	}
	keys, err := loadKeys(dir)
	if err != nil {
		return nil, fmt.Errorf("open sandbox token keys: %w", err)
	}
	i := &Issuer{
		issuer:   issuerPrefix + gatewayID,
		ttl:      ttl,
		now:      now,
		signer:   keys[len(keys)-1],
		verifier: map[string]ed25519.PublicKey{},
		cache:    tokencache.New[string](cacheSize),
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, k := range keys {
		if _, ok := i.verifier[k.id]; ok {
			continue
		}
		i.verifier[k.id] = k.public()
		set.Keys = append(set.Keys, jose.JSONWebKey{
			Key: k.public(), KeyID: k.id, Algorithm: string(jose.EdDSA), Use: "sig",
		})
	}
	if i.keySet, err = json.Marshal(set); err != nil {
		return nil, fmt.Errorf("open sandbox token keys: encode key set: %w", err)
	}
	return i, nil
}

// header is the protected header as it is minted.
type header struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	Type      string `json:"typ,omitempty"`
}

// claims are all claims of a token. Pointers tell absent from zero.
type claims struct {
	Issuer    string `json:"iss"`
	Audience  string `json:"aud"`
	Subject   string `json:"sub"`
	SandboxID string `json:"sandbox_id"`
	IssuedAt  int64  `json:"iat"`
	Expires   *int64 `json:"exp"`
}

// Mint returns a token for the sandbox and when it ends (zero: never).
func (i *Issuer) Mint(sandboxID string) (token string, expires time.Time, err error) {
	if !validID(sandboxID) {
		return "", time.Time{}, fmt.Errorf("mint sandbox token: %q is no sandbox id", sandboxID)
	}
	now := i.now()
	var exp int64
	if i.ttl > 0 {
		expires = time.Unix(now.Add(i.ttl).Unix(), 0)
		exp = expires.Unix()
	}
	head, err := json.Marshal(header{Algorithm: string(jose.EdDSA), KeyID: i.signer.id, Type: "JWT"})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("mint sandbox token: %w", err)
	}
	body, err := json.Marshal(claims{
		Issuer: i.issuer, Audience: i.issuer, Subject: subjectPrefix + sandboxID, SandboxID: sandboxID,
		IssuedAt: now.Unix(), Expires: &exp,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("mint sandbox token: %w", err)
	}
	signed := base64.RawURLEncoding.EncodeToString(head) + "." + base64.RawURLEncoding.EncodeToString(body)
	signature := ed25519.Sign(i.signer.private, []byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), expires, nil
}

// Recognizes tells whether Verify is to decide about the token: its header names one of this issuer's keys, or
// marks it as a token for extension services, which never opens the gateway.
func (i *Issuer) Recognizes(token string) bool {
	h, ok := parseHeader(token)
	if !ok {
		return false
	}
	return isExtension(h) || (h.Algorithm == string(jose.EdDSA) && i.verifier[h.KeyID] != nil)
}

// Verify returns the one sandbox that a token is for and when it ends (zero: never). Errors are of kind
// Unauthenticated.
func (i *Issuer) Verify(token string) (sandboxID string, expires time.Time, err error) {
	now := i.now()
	key := tokencache.KeyOf(token)
	if id, expires, ok := i.cache.Get(key, 0, now); ok {
		return id, expires, nil
	}
	h, ok := parseHeader(token)
	if !ok {
		return "", time.Time{}, invalid("malformed")
	}
	if isExtension(h) {
		return "", time.Time{}, fault.New(fault.Unauthenticated, ReasonExtension,
			"extension tokens cannot authenticate to the gateway").
			WithNext("present the sandbox token; this one is for the extension service it names")
	}
	public := i.verifier[h.KeyID]
	if public == nil {
		return "", time.Time{}, invalid("unknown signing key")
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return "", time.Time{}, invalid("malformed")
	}
	payload, err := signed.Verify(public)
	if err != nil {
		return "", time.Time{}, invalid("InvalidSignature")
	}
	id, expires, err := i.check(payload, now)
	if err != nil {
		return "", time.Time{}, err
	}
	i.cache.Put(key, 0, id, expires)
	return id, expires, nil
}

func (i *Issuer) check(payload []byte, now time.Time) (string, time.Time, error) {
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return "", time.Time{}, invalid("malformed claims")
	}
	switch {
	case c.Issuer != i.issuer:
		return "", time.Time{}, invalid("InvalidIssuer")
	case c.Audience != i.issuer:
		return "", time.Time{}, invalid("InvalidAudience")
	case c.Expires == nil || *c.Expires < 0 || *c.Expires > maxSeconds:
		return "", time.Time{}, invalid("no valid exp")
	case !validID(c.SandboxID) || c.Subject != subjectPrefix+c.SandboxID:
		return "", time.Time{}, invalid("InvalidSubject")
	case *c.Expires == 0:
		return c.SandboxID, time.Time{}, nil
	}
	expires := time.Unix(*c.Expires, 0)
	if now.After(expires.Add(leeway)) {
		return "", time.Time{}, fault.New(fault.Unauthenticated, ReasonExpired, "invalid token: ExpiredSignature").
			WithNext("restart the sandbox; its supervisor did not renew the token in time")
	}
	return c.SandboxID, expires, nil
}

// KeySet returns the public keys as a JWKS document. The caller must not change it.
func (i *Issuer) KeySet() []byte { return i.keySet }

// Name returns the issuer's name, which is also the audience: "openshell-gateway:" and the gateway's id.
func (i *Issuer) Name() string { return i.issuer }

func invalid(what string) error {
	return fault.New(fault.Unauthenticated, ReasonInvalid, "invalid token: %s", what).
		WithNext("use the sandbox token that this gateway handed to the sandbox")
}

func isExtension(h header) bool { return strings.EqualFold(h.Type, typExtension) }

func parseHeader(token string) (header, bool) {
	var h header
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return h, false
	}
	encoded, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return h, false
	}
	return h, true
}

// validID accepts what can stand in a SPIFFE path segment.
func validID(id string) bool {
	if id == "" || len(id) > maxID || id == "." || id == ".." {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}
