package oidc

import (
	"math"
	"strings"
	"time"
	"unicode"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const (
	maxSubject = 1024
	// maxTime is the end of the year 9999 in seconds; a later time is nonsense, often milliseconds.
	maxTime = 253_402_300_799
)

// standardScopes ask the provider for claims and say nothing about the gateway.
var standardScopes = map[string]bool{"openid": true, "profile": true, "email": true, "offline_access": true}

// issuedHere compares the issuer; a trailing slash makes no difference.
func (v *Verifier) issuedHere(claims map[string]any) bool {
	iss, ok := claims["iss"].(string)
	return ok && trimSlashes(iss) == v.issuer
}

// principalOf checks every claim but the issuer and builds the user.
func (v *Verifier) principalOf(claims map[string]any, now time.Time) (*principal.Principal, error) {
	expires, err := checkTimes(claims, now)
	if err != nil {
		return nil, err
	}
	if !v.meantForUs(claims) {
		return nil, invalid(ReasonAudience, "InvalidAudience").
			WithNext("ask the provider for a token with audience %q", v.audience)
	}
	if isIDToken(claims) {
		return nil, errKind()
	}
	subject, ok := claims["sub"].(string)
	if !ok || subject == "" || len(subject) > maxSubject || strings.ContainsFunc(subject, unicode.IsControl) {
		return nil, invalid(ReasonSubject, "missing sub").WithNext("have the provider name the user in \"sub\"")
	}
	display, _ := claims["preferred_username"].(string)
	if strings.ContainsFunc(display, unicode.IsControl) {
		display = ""
	}
	p := &principal.Principal{
		Kind:        principal.User,
		Subject:     subject,
		DisplayName: display,
		Issuer:      v.issuer,
		Provider:    principal.ProviderOIDC,
		Tenant:      v.audience,
		Roles:       rolesOf(lookup(claims, v.rolesClaim)),
		Expires:     expires,
	}
	if v.scopesClaim != "" {
		p.Scopes = scopesOf(lookup(claims, v.scopesClaim))
	}
	return p, nil
}

func checkTimes(claims map[string]any, now time.Time) (expires time.Time, err error) {
	expires, ok := timeOf(claims["exp"])
	if !ok {
		return time.Time{}, invalid(ReasonExpired, "missing exp").
			WithNext("have the provider issue tokens that expire, with \"exp\" in seconds")
	}
	if now.After(expires.Add(leeway)) {
		return time.Time{}, invalid(ReasonExpired, "ExpiredSignature").WithNext(nextSignIn)
	}
	if claim, present := claims["nbf"]; present {
		notBefore, ok := timeOf(claim)
		if !ok {
			return time.Time{}, invalid(ReasonNotYet, "invalid nbf").
				WithNext("have the provider write \"nbf\" in seconds")
		}
		if now.Add(leeway).Before(notBefore) {
			return time.Time{}, invalid(ReasonNotYet, "ImmatureSignature").
				WithNext("compare the clocks of the provider and the gateway")
		}
	}
	return expires, nil
}

// timeOf reads a numeric date. Fractions of a second are dropped.
func timeOf(claim any) (time.Time, bool) {
	seconds, ok := claim.(float64)
	if !ok || math.IsNaN(seconds) || seconds <= 0 || seconds > maxTime {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

func (v *Verifier) meantForUs(claims map[string]any) bool {
	claim, present := claims["aud"]
	if !present {
		return v.allowNoAud
	}
	switch aud := claim.(type) {
	case string:
		return aud == v.audience
	case []any:
		found := false
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return false
			}
			found = found || s == v.audience
		}
		return found
	default:
		return false
	}
}

// isIDToken tells tokens that prove a sign-in to a client from tokens that open a resource. Providers sign both
// with the same keys, often for the same audience.
func isIDToken(claims map[string]any) bool {
	if typ, ok := claims["typ"].(string); ok {
		switch strings.ToLower(typ) {
		case "id", "refresh", "offline", "logout":
			return true
		}
	}
	_, nonce := claims["nonce"]
	_, hash := claims["at_hash"]
	return nonce || hash
}

// lookup finds a claim by its dot path. Names may contain dots themselves, as URLs do: a longer name wins over a
// way through nested claims.
func lookup(claims map[string]any, path string) any {
	if value, ok := claims[path]; ok {
		return value
	}
	for end := len(path) - 1; end > 0; end-- {
		if path[end] != '.' {
			continue
		}
		if nested, ok := claims[path[:end]].(map[string]any); ok {
			if value := lookup(nested, path[end+1:]); value != nil {
				return value
			}
		}
	}
	return nil
}

// rolesOf accepts an array of strings or one string, which is one role.
func rolesOf(claim any) []string {
	switch c := claim.(type) {
	case string:
		if c != "" {
			return []string{c}
		}
	case []any:
		return stringsOf(c)
	}
	return nil
}

// scopesOf accepts a string of scopes with spaces between them or an array of strings.
func scopesOf(claim any) []string {
	var found []string
	switch c := claim.(type) {
	case string:
		found = strings.Fields(c)
	case []any:
		found = stringsOf(c)
	}
	var scopes []string
	for _, s := range found {
		if !standardScopes[s] {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func stringsOf(values []any) []string {
	var found []string
	for _, value := range values {
		if s, ok := value.(string); ok && s != "" {
			found = append(found, s)
		}
	}
	return found
}

func (v *Verifier) errIssuer() error {
	return invalid(ReasonIssuer, "InvalidIssuer").WithNext("sign in with the provider %s", v.issuer)
}

func errKind() error {
	return invalid(ReasonKind, "not an access token").
		WithNext("send the access token that the provider returned, not the ID token or another one")
}

func errUnknownKey() error {
	return invalid(ReasonUnknownKey, "unknown signing key").
		WithNext("%s; if that does not help, the provider signs with a key it does not publish", nextSignIn)
}

func (v *Verifier) errNoKeys() error {
	v.mu.Lock()
	cause := v.lastErr
	v.mu.Unlock()
	return fault.Wrap(cause, fault.Unavailable, ReasonKeysMissing,
		"OIDC key refresh failed: the gateway has no usable keys of the identity provider").
		WithNext("try again shortly; if it lasts, have the operator check that the gateway reaches the provider")
}
