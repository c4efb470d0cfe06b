package oidctest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"maps"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Claims returns the claims of an ordinary access token for alice, valid for five minutes; the given ones replace
// or, being nil, remove them.
func (i *Issuer) Claims(change map[string]any) map[string]any {
	i.mu.Lock()
	now := i.now()
	i.mu.Unlock()
	claims := map[string]any{
		"iss":                i.URL,
		"aud":                Audience,
		"sub":                "alice-id",
		"preferred_username": "alice",
		"typ":                "Bearer",
		"iat":                now.Unix(),
		"exp":                now.Add(5 * time.Minute).Unix(),
	}
	maps.Copy(claims, change)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

// Mint returns a token with Claims(change), signed with the newest key.
func (i *Issuer) Mint(change map[string]any) string {
	i.tb.Helper()
	keys := i.Keys()
	return i.MintWith(keys[len(keys)-1], nil, change)
}

// Roles is the claim in which Keycloak lists realm roles.
func Roles(roles ...string) map[string]any {
	return map[string]any{"roles": roles}
}

// MintWith signs Claims(change) with the key. The header fields replace or, being nil, remove the usual ones;
// "alg" is always the key's.
func (i *Issuer) MintWith(key Key, header, change map[string]any) string {
	i.tb.Helper()
	return i.sign(key, header, i.Claims(change))
}

func (i *Issuer) sign(key Key, header, claims map[string]any) string {
	i.tb.Helper()
	options := (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", key.ID)
	for name, value := range header {
		if value == nil {
			delete(options.ExtraHeaders, jose.HeaderKey(name))
			continue
		}
		options = options.WithHeader(jose.HeaderKey(name), value)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: key.Algorithm, Key: key.Private}, options)
	if err != nil {
		i.tb.Fatalf("sign token: %v", err)
	}
	signed, err := signer.Sign(i.encode(claims))
	if err != nil {
		i.tb.Fatalf("sign token: %v", err)
	}
	token, err := signed.CompactSerialize()
	if err != nil {
		i.tb.Fatalf("sign token: %v", err)
	}
	return token
}

// Unsigned returns a token with any header and no signature.
func (i *Issuer) Unsigned(header, change map[string]any) string {
	i.tb.Helper()
	return segment(i.encode(header)) + "." + segment(i.encode(i.Claims(change))) + "."
}

// HMAC returns an HS256 token under the key's id, made with any secret.
func (i *Issuer) HMAC(kid string, secret []byte, change map[string]any) string {
	i.tb.Helper()
	signed := segment(i.encode(map[string]any{"alg": "HS256", "kid": kid, "typ": "JWT"})) + "." +
		segment(i.encode(i.Claims(change)))
	mac := hmac.New(sha256.New, secret)
	mac.Write([]byte(signed))
	return signed + "." + segment(mac.Sum(nil))
}

func segment(data []byte) string { return base64.RawURLEncoding.EncodeToString(data) }

func (i *Issuer) encode(v any) []byte {
	i.tb.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		i.tb.Fatalf("encode: %v", err)
	}
	return data
}
