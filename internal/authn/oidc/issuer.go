package oidc

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/go-jose/go-jose/v4"

	"sallyport.dev/sallyport/internal/authn/claims"
)

// Defaults of an Issuer.
const (
	DefaultRolesClaim    = "realm_access.roles"
	DefaultUsernameClaim = "preferred_username"
	DefaultKeysTTL       = time.Hour
)

// Bounds of a configuration. Names of issuers are labels of metrics, so that there must not be too many.
const (
	maxIssuers  = 64
	maxName     = 64
	maxList     = 256
	maxRoleName = 256
)

// Issuer describes one identity provider: how its keys are found and how its tokens become users. Claims are named by
// paths; claims.Path says how those are written.
type Issuer struct {
	// Name stands for the issuer in logs and metrics: up to 64 letters, digits, dots, dashes and underscores.
	Name string
	// URL is what tokens say in "iss", an absolute URL; a trailing slash does not matter.
	URL string
	// Audiences: a token must name one of them. There must be one.
	Audiences []string
	// Algorithms are the signature algorithms that are accepted, of RS256, RS384, RS512, PS256, PS384, PS512, ES256,
	// ES384, ES512 and EdDSA; empty means all of these.
	Algorithms []string
	// DiscoveryURL is where the discovery document is if not below URL, such as an address inside a cluster.
	DiscoveryURL string
	// CAFile is a PEM file of the only authorities that may vouch for the provider's servers; empty means the system's.
	CAFile string
	// KeysTTL is how often keys are fetched anew, at most every ten seconds; 0 means DefaultKeysTTL.
	KeysTTL time.Duration
	// RolesClaim lists the user's roles; empty means DefaultRolesClaim.
	RolesClaim string
	// ScopesClaim lists the token's scopes; empty means that scopes are not used.
	ScopesClaim string
	// UsernameClaim is the user's name for people; empty means DefaultUsernameClaim.
	UsernameClaim string
	// Required are claims that every token must have, all of them. Where one provider serves several tenants, this, and
	// not the audience, is what keeps them apart.
	Required []RequiredClaim
	// RoleMap turns values of the roles claim into roles of the gateway. Values that it does not name are roles
	// themselves, unless StrictRoles drops them.
	RoleMap     map[string][]string
	StrictRoles bool
	// DefaultRoles are given to everybody who is admitted.
	DefaultRoles []string
	// Tenant is the tenant of everybody who is admitted; empty means the audience that the token was admitted for.
	Tenant string
	// AllowMissingAudience accepts tokens without any "aud", which some realms issue. Every client of the provider can
	// then obtain a token for the gateway.
	AllowMissingAudience bool
	// AcceptIDTokens accepts tokens that look like ID tokens. Dex needs it: its access tokens have "at_hash" and the
	// client's "nonce", so that nothing tells them from ID tokens.
	AcceptIDTokens bool
	// Optional issuers do not hold up readiness.
	Optional bool
}

// RequiredClaim is a claim that must be one of the values, or a list that has one of them.
type RequiredClaim struct {
	Claim  string
	Values []string
}

// policy is an Issuer that was found to be sound, in the form that decisions need.
type policy struct {
	name           string
	issuer         string // without trailing slashes
	audiences      []string
	algorithms     []jose.SignatureAlgorithm
	roles          claims.Path
	scopes         claims.Path // of nothing: scopes are not used
	username       claims.Path
	required       []required
	roleMap        map[string][]string
	strictRoles    bool
	defaultRoles   []string
	tenant         string
	allowNoAud     bool
	acceptIDTokens bool
}

type required struct {
	claim  claims.Path
	values []string
}

// newPolicy refuses a configuration that could never accept a token, or would accept too many.
func newPolicy(c Issuer) (*policy, error) {
	p := &policy{
		name: c.Name, issuer: trimSlashes(c.URL), audiences: slices.Clone(c.Audiences),
		roleMap: map[string][]string{}, strictRoles: c.StrictRoles, defaultRoles: slices.Clone(c.DefaultRoles),
		tenant: c.Tenant, allowNoAud: c.AllowMissingAudience, acceptIDTokens: c.AcceptIDTokens,
	}
	for value, roles := range c.RoleMap {
		p.roleMap[value] = slices.Clone(roles)
	}
	var err error
	if p.algorithms, err = parseAlgorithms(c.Algorithms); err != nil {
		return nil, err
	}
	errs := []error{checkName(c.Name), c.checkAddresses(), c.checkAudiences(), p.checkRoles()}
	set := func(what, path, preset string, into *claims.Path) {
		if path == "" {
			path = preset
		}
		if path == "" {
			return
		}
		parsed, err := claims.ParsePath(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", what, err))
		}
		*into = parsed
	}
	set("roles claim", c.RolesClaim, DefaultRolesClaim, &p.roles)
	set("scopes claim", c.ScopesClaim, "", &p.scopes)
	set("username claim", c.UsernameClaim, DefaultUsernameClaim, &p.username)
	for _, r := range c.Required {
		next := required{values: slices.Clone(r.Values)}
		if r.Claim == "" || len(r.Values) == 0 || slices.Contains(r.Values, "") {
			errs = append(errs, errors.New("a required claim needs a claim and values that are not empty"))
			continue
		}
		set("required claim", r.Claim, "", &next.claim)
		p.required = append(p.required, next)
	}
	if len(c.Audiences) > maxList || len(c.Required) > maxList || len(c.RoleMap) > 16*maxList || len(c.DefaultRoles) > maxList {
		errs = append(errs, errors.New("a list is too long"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return p, nil
}

func checkName(name string) error {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r)
	}
	if name == "" || len(name) > maxName || strings.ContainsFunc(name, func(r rune) bool { return !plain(r) }) {
		return fmt.Errorf("name: %q is not up to %d letters, digits, dots, dashes and underscores", name, maxName)
	}
	if name == UnknownIssuer {
		return fmt.Errorf("name: %q stands for tokens of no issuer", name)
	}
	return nil
}

func (c *Issuer) checkAddresses() error {
	if err := checkURL(trimSlashes(c.URL)); err != nil {
		return fmt.Errorf("issuer: %w", err)
	}
	if err := checkURL(c.discovery()); err != nil {
		return fmt.Errorf("discovery URL: %w", err)
	}
	if c.KeysTTL < 0 {
		return fmt.Errorf("negative life of keys %s", c.KeysTTL)
	}
	return nil
}

func (c *Issuer) checkAudiences() error {
	if len(c.Audiences) == 0 || slices.Contains(c.Audiences, "") {
		return errors.New("the audience is empty")
	}
	return nil
}

// discovery returns where the discovery document is.
func (c *Issuer) discovery() string {
	if c.DiscoveryURL != "" {
		return c.DiscoveryURL
	}
	return trimSlashes(c.URL) + "/.well-known/openid-configuration"
}

func (p *policy) checkRoles() error {
	all := slices.Clone(p.defaultRoles)
	for value, roles := range p.roleMap {
		if value == "" || len(roles) == 0 {
			return errors.New("role map: a value and at least one role are needed")
		}
		all = append(all, roles...)
	}
	for _, role := range all {
		if role == "" || len(role) > maxRoleName || strings.ContainsFunc(role, unicode.IsControl) {
			return fmt.Errorf("role %q: a name of up to %d bytes without control characters is needed", role, maxRoleName)
		}
	}
	return nil
}

// parseAlgorithms refuses everything that a published key cannot vouch for: none, and HS with its shared secret.
func parseAlgorithms(names []string) ([]jose.SignatureAlgorithm, error) {
	if len(names) == 0 {
		return algorithms, nil
	}
	var chosen []jose.SignatureAlgorithm
	for _, name := range names {
		algorithm := jose.SignatureAlgorithm(name)
		if !slices.Contains(algorithms, algorithm) {
			return nil, fmt.Errorf("algorithm %q is not accepted; it must be one of %v", name, algorithms)
		}
		chosen = append(chosen, algorithm)
	}
	return chosen, nil
}

func trimSlashes(s string) string { return strings.TrimRight(s, "/") }

func checkURL(s string) error {
	u, err := url.Parse(s)
	switch {
	case err != nil:
		return errors.New("not a URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("not an absolute http or https URL")
	case u.Host == "" || u.User != nil || u.Fragment != "":
		return errors.New("a URL with a host and without user or fragment is needed")
	}
	return nil
}
