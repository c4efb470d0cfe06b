// Package sandboxtoken mints and verifies the tokens that bind a supervisor to one sandbox: JWTs signed with the
// gateway's own Ed25519 keys. It owns those keys, on disk and while they change, and publishes their public halves.
// It must not know whether a sandbox still exists; the services look that up.
package sandboxtoken

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/json"

	"sallyport.dev/sallyport/internal/authn/tokencache"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// DefaultTTL is the life of a token; supervisors renew theirs at four fifths of it. DefaultRecovery is how long after
// its end a token can still be exchanged for a new one.
const (
	DefaultTTL      = 24 * time.Hour
	DefaultRecovery = 30 * 24 * time.Hour
)

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

// Stable reasons of refusals. Supervisors act on ReasonExpired.
const (
	ReasonInvalid   = "SANDBOX_TOKEN_INVALID"
	ReasonExpired   = "SANDBOX_TOKEN_EXPIRED"
	ReasonExtension = "EXTENSION_TOKEN"
)

// Options say where the keys are and what tokens are like.
type Options struct {
	// Dir holds one key in each file *.pem. All verify; the last in the order of file names signs. It and its files
	// must be closed to other users. A first key is made where there is none. Empty keeps one key in memory, so that
	// tokens end with the process, unless SigningKey is given.
	Dir string
	// SigningKey is the file of a key that signs instead of the last one of Dir: an Ed25519 key, PKCS#8 in PEM.
	// PublicKey is the file of its public half, which must fit, and KeyID the file of the id that tokens name it by;
	// both are optional. The newer 0.0.x generation keeps its one key in such three files.
	SigningKey, PublicKey, KeyID string
	// GatewayID is part of the issuer's name. It must not be empty.
	GatewayID string
	// TTL is the life of tokens; 0 mints tokens that never expire.
	TTL time.Duration
	// Recovery is how long after its end a token still opens RefreshSandboxToken; 0 means not at all.
	Recovery time.Duration
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger is told of changes of the keys; nil discards.
	Logger *slog.Logger
}

// Issuer mints and verifies. It is safe for concurrent use.
type Issuer struct {
	o      Options
	issuer string
	cache  *tokencache.Cache[*principal.Principal]
	ring   atomic.Pointer[ring]
	// changing is held while the keys on disk are read or changed.
	changing sync.Mutex
	// looked is when an unknown key id last made us look for new keys, in Unix nanoseconds.
	looked atomic.Int64
}

// Open is New for keys in a directory and tokens that open nothing once they have expired.
func Open(dir, gatewayID string, ttl time.Duration, now func() time.Time) (*Issuer, error) {
	return New(Options{Dir: dir, GatewayID: gatewayID, TTL: ttl, Now: now})
}

// New reads the keys, and creates a first one where there is none.
func New(o Options) (*Issuer, error) {
	switch {
	case o.GatewayID == "":
		return nil, errors.New("open sandbox token keys: the gateway has no id")
	case o.TTL < 0:
		return nil, fmt.Errorf("open sandbox token keys: negative life of tokens %s", o.TTL)
	case o.Recovery < 0:
		return nil, fmt.Errorf("open sandbox token keys: negative time of recovery %s", o.Recovery)
	case o.SigningKey == "" && (o.PublicKey != "" || o.KeyID != ""):
		return nil, errors.New("open sandbox token keys: a public key or a key id is of no use without the signing key's file")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	keys, err := firstKeys(o)
	if err != nil {
		return nil, fmt.Errorf("open sandbox token keys: %w", err)
	}
	i := &Issuer{o: o, issuer: issuerPrefix + o.GatewayID, cache: tokencache.New[*principal.Principal](cacheSize)}
	r, err := newRing(keys, 0)
	if err != nil {
		return nil, fmt.Errorf("open sandbox token keys: %w", err)
	}
	i.ring.Store(r)
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
	r, now := i.ring.Load(), i.o.Now()
	var exp int64
	if i.o.TTL > 0 {
		expires = time.Unix(now.Add(i.o.TTL).Unix(), 0)
		exp = expires.Unix()
	}
	body, err := json.Marshal(claims{
		Issuer: i.issuer, Audience: i.issuer, Subject: subjectPrefix + sandboxID, SandboxID: sandboxID,
		IssuedAt: now.Unix(), Expires: &exp,
	})
	if err != nil {
		return "", time.Time{}, fmt.Errorf("mint sandbox token: %w", err)
	}
	signed := r.header + "." + base64.RawURLEncoding.EncodeToString(body)
	signature := ed25519.Sign(r.signer().private, []byte(signed))
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature), expires, nil
}

// Recognizes tells whether Verify is to decide about the token: its header names one of this issuer's keys, or
// marks it as a token for extension services, which never opens the gateway.
func (i *Issuer) Recognizes(token string) bool {
	head, _, ok := strings.Cut(token, ".")
	if !ok || len(token) > maxToken {
		return false
	}
	ours, h := i.ring.Load().recognizes(head)
	if !ours && h.Algorithm == string(jose.EdDSA) && looksLikeOurs(h.KeyID) && i.lookAgain() {
		ours, _ = i.ring.Load().recognizes(head)
	}
	return ours
}

// Verify returns the one sandbox that a token is for. Where refreshing is set, a token that expired less than the
// time of recovery ago is good too; its principal has principal.SourceExpiredToken. Errors are of kind
// Unauthenticated. The caller must not change the principal.
func (i *Issuer) Verify(token string, refreshing bool) (*principal.Principal, error) {
	r, now := i.ring.Load(), i.o.Now()
	key := tokencache.KeyOf(token)
	p, _, ok := i.cache.Get(key, r.generation, now)
	if !ok {
		var err error
		if p, err = i.check(r, token); err != nil {
			return nil, err
		}
		// An expired token stays known, so that an address that may not cost more can still renew it.
		if last := i.last(p); last.IsZero() || now.Before(last) {
			i.cache.Put(key, r.generation, p, last)
		}
	}
	return i.judge(p, refreshing, now)
}

// Known is Verify for a token that was verified before and is remembered; it checks no signature.
func (i *Issuer) Known(token string, refreshing bool) (*principal.Principal, bool) {
	now := i.o.Now()
	p, _, ok := i.cache.Get(tokencache.KeyOf(token), i.ring.Load().generation, now)
	if !ok {
		return nil, false
	}
	p, err := i.judge(p, refreshing, now)
	return p, err == nil
}

// last is when a token stops being good for anything; zero means never.
func (i *Issuer) last(p *principal.Principal) time.Time {
	if p.Expires.IsZero() {
		return time.Time{}
	}
	return p.Expires.Add(max(leeway, i.o.Recovery))
}

// judge decides about an authentic token by the time.
func (i *Issuer) judge(p *principal.Principal, refreshing bool, now time.Time) (*principal.Principal, error) {
	if p.Expires.IsZero() || !now.After(p.Expires.Add(leeway)) {
		return p, nil
	}
	err := fault.New(fault.Unauthenticated, ReasonExpired, "invalid token: ExpiredSignature")
	if !now.Before(p.Expires.Add(i.o.Recovery)) {
		return nil, err.WithNext("restart the sandbox; its supervisor did not renew the token in time")
	}
	if !refreshing {
		return nil, err.WithNext("exchange this token for a new one with RefreshSandboxToken")
	}
	expired := *p
	expired.Source = principal.SourceExpiredToken
	return &expired, nil
}

// check verifies everything about a token but its time.
func (i *Issuer) check(r *ring, token string) (*principal.Principal, error) {
	h, ok := parseHeader(token)
	if !ok {
		return nil, invalid("malformed")
	}
	if isExtension(h) {
		return nil, fault.New(fault.Unauthenticated, ReasonExtension,
			"extension tokens cannot authenticate to the gateway").
			WithNext("present the sandbox token; this one is for the extension service it names")
	}
	public := r.verifier[h.KeyID]
	if public == nil {
		return nil, invalid("unknown signing key")
	}
	signed, err := jose.ParseSignedCompact(token, []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, invalid("malformed")
	}
	payload, err := signed.Verify(public)
	if err != nil {
		return nil, invalid("InvalidSignature")
	}
	var c claims
	if err := json.Unmarshal(payload, &c); err != nil {
		return nil, invalid("malformed claims")
	}
	switch {
	case c.Issuer != i.issuer:
		return nil, invalid("InvalidIssuer")
	case c.Audience != i.issuer:
		return nil, invalid("InvalidAudience")
	case c.Expires == nil || *c.Expires < 0 || *c.Expires > maxSeconds:
		return nil, invalid("no valid exp")
	case c.IssuedAt < 0 || c.IssuedAt > maxSeconds:
		return nil, invalid("no valid iat")
	case !validID(c.SandboxID) || c.Subject != subjectPrefix+c.SandboxID:
		return nil, invalid("InvalidSubject")
	}
	return &principal.Principal{
		Kind: principal.Sandbox, SandboxID: c.SandboxID, Source: principal.SourceToken,
		Issued: timeOf(c.IssuedAt), Expires: timeOf(*c.Expires),
	}, nil
}

// timeOf reads a claim in which 0, as an absent one, means none.
func timeOf(seconds int64) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0)
}

// Name returns the issuer's name, which is also the audience: "openshell-gateway:" and the gateway's id.
func (i *Issuer) Name() string { return i.issuer }

func invalid(what string) error {
	return fault.New(fault.Unauthenticated, ReasonInvalid, "invalid token: %s", what).
		WithNext("use the sandbox token that this gateway handed to the sandbox")
}

func isExtension(h header) bool { return strings.EqualFold(h.Type, typExtension) }

func parseHeader(token string) (header, bool) {
	if len(token) > maxToken || strings.Count(token, ".") != 2 {
		return header{}, false
	}
	encoded, _, _ := strings.Cut(token, ".")
	return decodeHeader(encoded)
}

func decodeHeader(encoded string) (header, bool) {
	var h header
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil || json.Unmarshal(raw, &h) != nil {
		return header{}, false
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
