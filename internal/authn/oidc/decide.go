package oidc

import (
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/sallyport/internal/authn/claims"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

const (
	maxSubject = 1024
	maxDisplay = 1024
	maxSession = 256
	// maxTime is the end of the year 9999 in seconds; a later time is nonsense, often milliseconds.
	maxTime = 253_402_300_799
)

// standardScopes ask the provider for claims and say nothing about the gateway.
var standardScopes = map[string]bool{"openid": true, "profile": true, "email": true, "offline_access": true}

// decide checks every claim but the issuer and builds the user. It is the one place where that is decided; a trace
// takes down how. A zero time checks no time.
func (p *policy) decide(c map[string]any, at time.Time, t *trace) (*principal.Principal, error) {
	expires, err := checkTimes(c, at, t)
	if err != nil {
		return nil, err
	}
	audience, err := p.checkAudience(c, t)
	if err != nil {
		return nil, err
	}
	if err := p.checkKind(c, t); err != nil {
		return nil, err
	}
	subject, ok := subjectOf(c)
	if !ok {
		return nil, t.refuse(StepSubject, "sub", c["sub"], invalid(ReasonSubject, "missing sub").
			WithNext("have the provider name the user in \"sub\"; Keycloak leaves it out of lightweight tokens and of those without the client scope \"basic\""))
	}
	t.add(Accepted, StepSubject, "sub", subject, "")
	if err := p.checkRequired(c, t); err != nil {
		return nil, err
	}
	user := &principal.Principal{
		Kind:     principal.User,
		Subject:  subject,
		Issuer:   p.issuer,
		Provider: principal.ProviderOIDC,
		Tenant:   p.tenantOf(audience, t),
		Expires:  expires,
	}
	if user.Roles, err = p.rolesOf(c, t); err != nil {
		return nil, err
	}
	user.Scopes = p.scopesOf(c, t)
	user.Unscoped = p.scopes.String() == ""
	user.DisplayName = p.displayOf(c, t)
	user.SessionID = textOf(c["sid"], maxSession)
	user.Issued, _ = timeOf(c["iat"])
	return user, nil
}

func subjectOf(c map[string]any) (string, bool) {
	subject := textOf(c["sub"], maxSubject)
	return subject, subject != ""
}

// textOf returns a string of bounded length without control characters; anything else is none.
func textOf(claim any, bound int) string {
	s, ok := claim.(string)
	if !ok || len(s) > bound || strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return s
}

func checkTimes(c map[string]any, at time.Time, t *trace) (expires time.Time, err error) {
	expires, ok := timeOf(c["exp"])
	switch {
	case !ok:
		return time.Time{}, t.refuse(StepExpiry, "exp", c["exp"], invalid(ReasonExpired, "missing exp").
			WithNext("have the provider issue tokens that expire, with \"exp\" in seconds"))
	case at.IsZero():
		t.add(Ignored, StepExpiry, "exp", c["exp"], "times are not checked here")
	case at.After(expires.Add(leeway)):
		return time.Time{}, t.refuse(StepExpiry, "exp", expires.UTC().Format(time.RFC3339),
			invalid(ReasonExpired, "ExpiredSignature").WithNext(nextSignIn))
	default:
		t.add(Accepted, StepExpiry, "exp", expires.UTC().Format(time.RFC3339), "")
	}
	claim, present := c["nbf"]
	if !present {
		return expires, nil
	}
	notBefore, ok := timeOf(claim)
	switch {
	case !ok:
		return time.Time{}, t.refuse(StepNotBefore, "nbf", claim, invalid(ReasonNotYet, "invalid nbf").
			WithNext("have the provider write \"nbf\" in seconds"))
	case at.IsZero():
		t.add(Ignored, StepNotBefore, "nbf", claim, "times are not checked here")
	case at.Add(leeway).Before(notBefore):
		return time.Time{}, t.refuse(StepNotBefore, "nbf", notBefore.UTC().Format(time.RFC3339),
			invalid(ReasonNotYet, "ImmatureSignature").WithNext("compare the clocks of the provider and the gateway"))
	default:
		t.add(Accepted, StepNotBefore, "nbf", notBefore.UTC().Format(time.RFC3339), "")
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

// checkAudience returns the first of the issuer's audiences that the token names. What else the token is meant for
// makes no difference; a list that has anything but strings is none.
func (p *policy) checkAudience(c map[string]any, t *trace) (string, error) {
	claim, present := c["aud"]
	if !present && p.allowNoAud {
		t.add(Ignored, StepAudience, "aud", nil, "the issuer may leave the audience out")
		return p.audiences[0], nil
	}
	if audience, ok := p.audienceOf(claim); ok {
		t.add(Accepted, StepAudience, "aud", claim, "it is meant for "+audience)
		return audience, nil
	}
	err := invalid(ReasonAudience, "InvalidAudience")
	if len(p.audiences) == 1 {
		err = err.WithNext("ask the provider for a token with audience %q", p.audiences[0])
	} else {
		err = err.WithNext("ask the provider for a token with one of the audiences %q", p.audiences)
	}
	return "", t.refuse(StepAudience, "aud", claim, err)
}

func (p *policy) audienceOf(claim any) (string, bool) {
	switch aud := claim.(type) {
	case string:
		return aud, slices.Contains(p.audiences, aud)
	case []any:
		for _, a := range aud {
			if _, ok := a.(string); !ok {
				return "", false
			}
		}
		for _, ours := range p.audiences {
			if claims.Holds(aud, ours) {
				return ours, true
			}
		}
	}
	return "", false
}

// idTokenClaims are in ID tokens and not in access tokens.
var idTokenClaims = []string{"nonce", "at_hash"}

// checkKind tells tokens that prove a sign-in to a client from tokens that open a resource. Providers sign both with
// the same keys, often for the same audience.
func (p *policy) checkKind(c map[string]any, t *trace) error {
	typ, _ := c["typ"].(string)
	switch strings.ToLower(typ) {
	case "refresh", "offline", "logout":
		return t.refuse(StepKind, "typ", typ, errKind())
	case "id":
		if !p.acceptIDTokens {
			return t.refuse(StepKind, "typ", typ, errKind())
		}
	}
	for _, name := range idTokenClaims {
		if _, present := c[name]; present && !p.acceptIDTokens {
			return t.refuse(StepKind, name, nil, errKind().
				WithNext("send the access token that the provider returned, not the ID token; if it is one, as with Dex, have the operator accept ID tokens of this issuer"))
		}
	}
	if p.acceptIDTokens {
		t.add(Accepted, StepKind, "typ", typ, "the issuer's ID tokens are accepted too")
	} else {
		t.add(Accepted, StepKind, "typ", typ, "it is an access token")
	}
	return nil
}

func (p *policy) checkRequired(c map[string]any, t *trace) error {
	for _, r := range p.required {
		found, ok := r.claim.Find(c)
		if !ok && claims.Overflown(c, r.claim) {
			return t.refuse(StepRequired, r.claim.String(), nil, errOverage(r.claim))
		}
		value, ok := r.holds(found)
		if !ok {
			return t.refuse(StepRequired, r.claim.String(), found,
				invalid(ReasonRequiredClaim, "its claim %s does not admit it to this gateway", r.claim).
					WithNext("sign in as a member of the tenant that this gateway serves, or have the operator look at the issuer's required claims"))
		}
		t.add(Accepted, StepRequired, r.claim.String(), found, "it has "+value)
	}
	return nil
}

func (r *required) holds(found any) (value string, ok bool) {
	for _, value := range r.values {
		if claims.Holds(found, value) {
			return value, true
		}
	}
	return "", false
}

func (p *policy) tenantOf(audience string, t *trace) string {
	if p.tenant != "" {
		t.add(Accepted, StepTenant, "", p.tenant, "it is the issuer's")
		return p.tenant
	}
	t.add(Accepted, StepTenant, "aud", audience, "the issuer names no tenant, so it is the audience")
	return audience
}

// rolesOf accepts an array of strings or one string, which is one role.
func (p *policy) rolesOf(c map[string]any, t *trace) ([]string, error) {
	claim, ok := p.roles.Find(c)
	if !ok && claims.Overflown(c, p.roles) {
		return nil, t.refuse(StepRoles, p.roles.String(), nil, errOverage(p.roles))
	}
	found := claims.Texts(claim)
	switch {
	case !ok:
		t.add(Ignored, StepRoles, p.roles.String(), nil, "the claim is absent")
	case len(found) == 0:
		t.add(Ignored, StepRoles, p.roles.String(), claim, "no role is in it")
	default:
		t.add(Accepted, StepRoles, p.roles.String(), claim, "")
	}
	var roles []string
	known := make(map[string]bool, len(found))
	add := func(role string) {
		if !known[role] {
			known[role] = true
			roles = append(roles, role)
		}
	}
	for _, value := range found {
		mapped, named := p.roleMap[value]
		switch {
		case named:
			t.add(Accepted, StepRoleMap, p.roles.String(), value, "it stands for "+shorten(mapped))
			for _, role := range mapped {
				add(role)
			}
		case p.strictRoles:
			t.add(Ignored, StepRoleMap, p.roles.String(), value, "the role map does not name it")
		default:
			add(value)
		}
	}
	if len(p.defaultRoles) > 0 {
		t.add(Accepted, StepDefaultRoles, "", p.defaultRoles, "everybody of the issuer has them")
	}
	for _, role := range p.defaultRoles {
		add(role)
	}
	return roles, nil
}

func (p *policy) scopesOf(c map[string]any, t *trace) []string {
	if p.scopes.String() == "" {
		t.add(Ignored, StepScopes, "", nil, "the issuer names no scopes claim, so that its users are not held to scopes")
		return nil
	}
	claim, _ := p.scopes.Find(c)
	scopes := scopesIn(claim)
	if len(scopes) == 0 {
		t.add(Ignored, StepScopes, p.scopes.String(), claim, "no scope of the gateway is in it")
	} else {
		t.add(Accepted, StepScopes, p.scopes.String(), claim, "")
	}
	return scopes
}

// scopesIn accepts a string of scopes with spaces between them or an array of strings.
func scopesIn(claim any) []string {
	found := claims.Texts(claim)
	if s, ok := claim.(string); ok {
		found = strings.Fields(s)
	}
	var scopes []string
	for _, s := range found {
		if !standardScopes[s] {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func (p *policy) displayOf(c map[string]any, t *trace) string {
	claim, _ := p.username.Find(c)
	display := textOf(claim, maxDisplay)
	if display == "" {
		t.add(Ignored, StepUsername, p.username.String(), claim, "the user has no name for people")
	} else {
		t.add(Accepted, StepUsername, p.username.String(), display, "")
	}
	return display
}

func errKind() *fault.Error {
	return invalid(ReasonKind, "not an access token").
		WithNext("send the access token that the provider returned, not the ID token or another one")
}

func errOverage(p claims.Path) *fault.Error {
	return invalid(ReasonOverage, "its claim %s was left out because it has too many values", p).
		WithNext("have the provider put app roles, or only the groups assigned to the gateway's application, into its tokens")
}

// checkAlgorithm returns nil for an algorithm that the issuer may sign with.
func (p *policy) checkAlgorithm(algorithm jose.SignatureAlgorithm) *fault.Error {
	if slices.Contains(p.algorithms, algorithm) {
		return nil
	}
	return invalid(ReasonAlgorithm, "InvalidAlgorithm").
		WithNext("have the provider sign with one of %v, or the operator accept %s for this issuer", p.algorithms, algorithm)
}
