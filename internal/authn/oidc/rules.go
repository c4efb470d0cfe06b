package oidc

import (
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/sallyport/internal/authn/claims"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// Rules are what a configuration says about claims, without any key: they decide who would be admitted as whom if the
// claims were signed. Verify decides by the same rules.
type Rules struct {
	order   []*policy
	issuers map[string]*policy
	keep    *kept
}

// NewRules reads the rules of a configuration. It reads no file and asks nobody.
func NewRules(issuers []Issuer) (*Rules, error) {
	if len(issuers) > maxIssuers {
		return nil, fmt.Errorf("set up OIDC: more than %d issuers", maxIssuers)
	}
	r := &Rules{issuers: map[string]*policy{}}
	names := map[string]bool{}
	var errs []error
	for i, config := range issuers {
		p, err := newPolicy(config)
		switch {
		case err != nil:
			errs = append(errs, fmt.Errorf("set up OIDC issuer %d (%s): %w", i+1, config.Name, err))
		case names[config.Name]:
			errs = append(errs, fmt.Errorf("set up OIDC: two issuers are named %s", config.Name))
		case r.issuers[p.issuer] != nil:
			errs = append(errs, fmt.Errorf("set up OIDC: %s and %s are the same issuer %s", r.issuers[p.issuer].name, p.name, p.issuer))
		default:
			names[p.name], r.issuers[p.issuer] = true, p
			r.order = append(r.order, p)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	r.keep = newKept(r.order)
	return r, nil
}

// Evaluate decides about claims as Verify does about the claims of a token with a good signature, and says how. The
// steps come with a refusal too. A zero time checks no time, for claims that were seen a while ago.
func (r *Rules) Evaluate(c map[string]any, at time.Time) (*principal.Principal, []Step, error) {
	return r.evaluate(c, "", at)
}

// EvaluateSeen is Evaluate for an identity that was seen, with the algorithm that its token was signed with.
func (r *Rules) EvaluateSeen(seen *Seen, at time.Time) (*principal.Principal, []Step, error) {
	return r.evaluate(seen.Claims, jose.SignatureAlgorithm(seen.Algorithm), at)
}

func (r *Rules) evaluate(c map[string]any, algorithm jose.SignatureAlgorithm, at time.Time) (*principal.Principal, []Step, error) {
	t := &trace{}
	p := r.issuers[issuerOf(c)]
	if p == nil {
		err := t.refuse(StepIssuer, "iss", c["iss"], r.errIssuer())
		return nil, t.steps, err
	}
	t.add(Accepted, StepIssuer, "iss", c["iss"], "it is the issuer "+p.name)
	if algorithm != "" {
		if err := p.checkAlgorithm(algorithm); err != nil {
			return nil, t.steps, t.refuse(StepAlgorithm, "", string(algorithm), err)
		}
		t.add(Accepted, StepAlgorithm, "", string(algorithm), "")
	}
	user, err := p.decide(c, at, t)
	return user, t.steps, err
}

// Evaluate decides about claims by the rules of one issuer; see Rules.Evaluate.
func Evaluate(issuer Issuer, c map[string]any, at time.Time) (*principal.Principal, []Step, error) {
	r, err := NewRules([]Issuer{issuer})
	if err != nil {
		return nil, nil, err
	}
	return r.Evaluate(c, at)
}

// Rules returns the rules in force.
func (s *Issuers) Rules() *Rules { return s.state.Load().rules }

// issuerOf returns who issued the token; a trailing slash makes no difference. None is empty.
func issuerOf(c map[string]any) string {
	iss, _ := c["iss"].(string)
	return trimSlashes(iss)
}

func (r *Rules) errIssuer() *fault.Error {
	err := invalid(ReasonIssuer, "InvalidIssuer")
	switch len(r.order) {
	case 0:
		return err.WithNext("call without a token, or set the gateway's OIDC issuer")
	case 1:
		return err.WithNext("sign in with the provider %s", r.order[0].issuer)
	default:
		return err.WithNext("sign in with a provider that the gateway is configured with")
	}
}

// kept says which claims are remembered of an identity: those that the rules look at and those that name it.
type kept struct {
	paths []claims.Path
	names map[string]bool
}

// always are the claims that are remembered whatever the rules look at.
var always = []string{
	"iss", "sub", "aud", "azp", "sid", "iat", "exp", "nbf", "preferred_username", "typ", "nonce", "at_hash",
	"_claim_names", "hasgroups",
}

func newKept(policies []*policy) *kept {
	k := &kept{names: map[string]bool{}}
	for _, name := range always {
		path, err := claims.ParsePath(name)
		if err == nil {
			k.add(path)
		}
	}
	for _, p := range policies {
		for _, path := range p.paths() {
			k.add(path)
		}
	}
	return k
}

func (k *kept) add(path claims.Path) {
	if name := path.String(); name != "" && !k.names[name] {
		k.names[name] = true
		k.paths = append(k.paths, path)
	}
}

// of returns what is kept of claims. Decisions about it are the same as about all of them.
func (k *kept) of(c map[string]any) map[string]any {
	some := claims.Keep(c, k.paths)
	for _, name := range always {
		if value, present := c[name]; present && value == nil {
			some[name] = nil
		}
	}
	for _, name := range idTokenClaims {
		if some[name] != nil {
			some[name] = true // That it is there decides, not what it is.
		}
	}
	return some
}

// both returns what two configurations both keep.
func (k *kept) both(other *kept) *kept {
	common := &kept{names: map[string]bool{}}
	for _, path := range k.paths {
		if other.names[path.String()] {
			common.add(path)
		}
	}
	return common
}

// paths are the claims that the policy looks at beside the standard ones.
func (p *policy) paths() []claims.Path {
	paths := []claims.Path{p.roles, p.scopes, p.username}
	for _, r := range p.required {
		paths = append(paths, r.claim)
	}
	return paths
}
