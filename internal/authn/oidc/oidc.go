// Package oidc verifies the access tokens of one OpenID Connect issuer. It owns the issuer's keys: finding,
// refreshing and keeping them while the provider is away. It must not know what the roles and scopes it finds
// permit, nor how a token came in.
package oidc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/authn/tokencache"
	"sallyport.dev/sallyport/internal/principal"
)

// Defaults of a Config.
const (
	DefaultRolesClaim = "realm_access.roles"
	DefaultJWKSTTL    = time.Hour
)

const (
	// leeway is how far the clocks of provider and gateway may differ.
	leeway = 60 * time.Second
	// minMaxAge is how long keys serve at least after the provider was last heard.
	minMaxAge = 24 * time.Hour
	// cacheSize is the number of verified tokens that are remembered.
	cacheSize = 20_000
)

// Config describes an issuer.
type Config struct {
	// Issuer is the provider's name, an absolute URL; a trailing slash does not matter.
	Issuer string
	// Audience must be among the audiences of a token.
	Audience string
	// DiscoveryURL is where the discovery document is if not under Issuer, such as an address inside a cluster.
	DiscoveryURL string
	// RolesClaim is the dot path of the claim with the user's roles; empty means DefaultRolesClaim.
	RolesClaim string
	// ScopesClaim is the dot path of the claim with the token's scopes; empty means that scopes are not used.
	ScopesClaim string
	// JWKSTTL is how often keys are fetched anew, at most every ten seconds; 0 means DefaultJWKSTTL.
	JWKSTTL time.Duration
	// AllowMissingAudience accepts tokens without any "aud", which some realms issue. Every client of the
	// provider can then obtain a token for the gateway.
	AllowMissingAudience bool
	// HTTPClient reaches the provider; nil means a client with the system's trust store. Redirects to other
	// hosts and endless answers are refused whichever client is given.
	HTTPClient *http.Client
	// Logger is told when keys change and when the provider is away; nil discards.
	Logger *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Verifier verifies tokens. It is safe for concurrent use.
type Verifier struct {
	issuer       string
	discovery    string
	audience     string
	rolesClaim   string
	scopesClaim  string
	allowNoAud   bool
	ttl          time.Duration
	maxAge       time.Duration
	client       *http.Client
	log          *slog.Logger
	now          func() time.Time
	cache        *tokencache.Cache[*principal.Principal]
	keys         atomic.Pointer[keySet]
	mu           sync.Mutex // guards what follows
	inFlight     *fetch
	lastDemanded time.Time
	misses       map[string]time.Time
	jwksURI      string
	lastErr      error
}

// New returns a verifier that has no keys yet; Run fetches them. It refuses a configuration that could never
// accept a token, or would accept too many.
func New(c Config) (*Verifier, error) {
	v := &Verifier{
		issuer:      trimSlashes(c.Issuer),
		audience:    c.Audience,
		rolesClaim:  c.RolesClaim,
		scopesClaim: c.ScopesClaim,
		allowNoAud:  c.AllowMissingAudience,
		ttl:         c.JWKSTTL,
		log:         c.Logger,
		now:         c.Now,
		cache:       tokencache.New[*principal.Principal](cacheSize),
		misses:      map[string]time.Time{},
	}
	if err := checkURL(v.issuer); err != nil {
		return nil, fmt.Errorf("set up OIDC: issuer: %w", err)
	}
	v.discovery = c.DiscoveryURL
	if v.discovery == "" {
		v.discovery = v.issuer + "/.well-known/openid-configuration"
	}
	if err := checkURL(v.discovery); err != nil {
		return nil, fmt.Errorf("set up OIDC: discovery URL: %w", err)
	}
	if v.audience == "" {
		return nil, errors.New("set up OIDC: the audience is empty")
	}
	if v.ttl < 0 {
		return nil, fmt.Errorf("set up OIDC: negative life of keys %s", v.ttl)
	}
	if v.ttl == 0 {
		v.ttl = DefaultJWKSTTL
	}
	v.ttl = max(v.ttl, demandInterval)
	v.maxAge = max(minMaxAge, 2*v.ttl)
	if v.rolesClaim == "" {
		v.rolesClaim = DefaultRolesClaim
	}
	if v.now == nil {
		v.now = time.Now
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.client = newClient(c.HTTPClient)
	v.log = v.log.With("issuer", v.issuer)
	return v, nil
}

// Issuer returns the issuer's name without trailing slashes, as principals carry it.
func (v *Verifier) Issuer() string { return v.issuer }

// Ready tells why tokens cannot be verified right now: no keys yet, or keys too old to be trusted. It is nil while
// keys serve, also when the provider is away.
func (v *Verifier) Ready() error {
	set := v.keys.Load()
	if v.usable(set, v.now()) {
		return nil
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	cause := v.lastErr
	if cause == nil {
		cause = errors.New("not fetched yet")
	}
	if set == nil {
		return fmt.Errorf("no keys of %s: %w", v.issuer, cause)
	}
	return fmt.Errorf("keys of %s are older than %s: %w", v.issuer, v.maxAge, cause)
}

// Verify returns the user that an access token speaks for. The principal is shared by all calls with the token and
// must not be changed. Errors are faults: Unauthenticated for a token that is not to be believed, Unavailable when
// there are no keys to tell.
func (v *Verifier) Verify(ctx context.Context, token string) (*principal.Principal, error) {
	now := v.now()
	key := tokencache.KeyOf(token)
	if set := v.keys.Load(); v.usable(set, now) {
		if p, _, ok := v.cache.Get(key, set.generation, now); ok {
			return p, nil
		}
	}
	t, err := parse(token)
	if err != nil {
		return nil, err
	}
	// The issuer decides whose keys are tried. A token of somebody else must not make us fetch any.
	if !v.issuedHere(t.claims) {
		return nil, v.errIssuer()
	}
	set, candidates, err := v.keysFor(ctx, t, now)
	if err != nil {
		return nil, err
	}
	if err := t.verify(candidates); err != nil {
		return nil, err
	}
	p, err := v.principalOf(t.claims, now)
	if err != nil {
		return nil, err
	}
	v.cache.Put(key, set.generation, p, p.Expires)
	return p, nil
}

// keysFor returns the keys that may have signed the token, and asks the provider once if there is none.
func (v *Verifier) keysFor(ctx context.Context, t *token, now time.Time) (*keySet, []publicKey, error) {
	set := v.keys.Load()
	if v.usable(set, now) {
		if keys, known := set.keys[t.keyID]; known {
			return accepting(set, keys, t.algorithm)
		}
		// A token that would be refused anyway is not worth a question to the provider, and its holder is
		// helped more by that reason.
		if _, err := v.principalOf(t.claims, now); err != nil {
			return nil, nil, err
		}
	}
	if err := v.demand(ctx, t.keyID); err != nil {
		return nil, nil, err
	}
	set = v.keys.Load()
	if !v.usable(set, v.now()) {
		return nil, nil, v.errNoKeys()
	}
	keys, known := set.keys[t.keyID]
	if !known {
		return nil, nil, errUnknownKey()
	}
	return accepting(set, keys, t.algorithm)
}

// usable tells whether a key set may still be trusted.
func (v *Verifier) usable(set *keySet, now time.Time) bool {
	return set != nil && now.Sub(set.confirmed) <= v.maxAge
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
