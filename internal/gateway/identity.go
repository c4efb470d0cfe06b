package gateway

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/api/v00"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/authn/serviceaccount"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/execchannel"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/ratelimit"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/workspace"
)

// identity is everything that decides who is calling and whether that caller may.
type identity struct {
	tokens   *sandboxtoken.Issuer
	issuers  *oidc.Issuers
	accounts *serviceaccount.Authenticator
	// known recognises callers wherever they come in; the door asks it through what holds callback addresses apart.
	known   authn.Authenticator
	revoked *revocation.Registry
	limiter *ratelimit.Limiter
	rules   *authz.Current
	// workspaces know who is a member of what.
	workspaces *workspace.Service
}

// Rates of classes that have no setting of their own: what no honest peer needs, and far below what the gateway can
// answer, for each address or sandbox alone.
const (
	probesPerSecond, probesBurst   = 200, 400
	sandboxPerSecond, sandboxBurst = 8000, 16000
)

func ratesOf(c *config.Config) ratelimit.Config {
	l := c.Limits
	rate := func(r config.Rate) ratelimit.Rate { return ratelimit.Rate{PerSecond: r.PerSecond, Burst: r.Burst} }
	rates := ratelimit.Config{
		Anonymous: rate(l.Anonymous), Principal: rate(l.Principal), Tenant: rate(l.Tenant),
		Failed: ratelimit.Window(l.FailedPerMinute, time.Minute),
	}
	if l.Anonymous.PerSecond > 0 {
		rates.Probe = ratelimit.Rate{PerSecond: probesPerSecond, Burst: probesBurst}
		rates.Sandbox = ratelimit.Rate{PerSecond: sandboxPerSecond, Burst: sandboxBurst}
	}
	if c.Auth.AllowUnauthenticated {
		// There nobody has a credential, on a machine that one person has.
		rates.Anonymous = ratelimit.Rate{}
	}
	return rates
}

func issuersOf(c *config.Config) []oidc.Issuer {
	out := make([]oidc.Issuer, len(c.Issuers))
	for i, from := range c.Issuers {
		out[i] = oidc.Issuer{
			Name: from.Name, URL: from.Issuer, Audiences: from.Audiences, Algorithms: from.Algorithms,
			DiscoveryURL: from.DiscoveryURL, CAFile: from.CAPath, KeysTTL: from.KeysTTL, RolesClaim: from.RolesClaim,
			ScopesClaim: from.ScopesClaim, UsernameClaim: from.UsernameClaim, RoleMap: from.RoleMap,
			StrictRoles: from.StrictRoles, DefaultRoles: from.DefaultRoles, Tenant: from.Tenant,
			AllowMissingAudience: from.AllowMissingAudience, AcceptIDTokens: from.AcceptIDTokens, Optional: from.Optional,
		}
		for _, r := range from.Required {
			out[i].Required = append(out[i].Required, oidc.RequiredClaim{Claim: r.Claim, Values: r.Values})
		}
	}
	return out
}

func policyOf(c *config.Config) authz.Policy {
	p := authz.Policy{
		Scheme: authz.Scheme(c.Authorization.Mode), AdminRole: c.Authorization.AdminRole, UserRole: c.Authorization.UserRole,
		PrivateSandboxes: c.Authorization.PrivateSandboxes,
	}
	for _, i := range c.Issuers {
		p.ScopesEnabled = p.ScopesEnabled || i.ScopesClaim != ""
	}
	return p
}

// openTokens opens the keys of sandbox tokens.
func (g *Gateway) openTokens() (err error) {
	s := g.cfg.Sandbox
	g.identity.tokens, err = sandboxtoken.New(sandboxtoken.Options{
		Dir: s.KeyDir, SigningKey: s.SigningKey, PublicKey: s.PublicKey, KeyID: s.KeyID, GatewayID: s.GatewayID,
		TTL: s.TTL, Recovery: s.Recovery, Logger: g.log,
	})
	if err != nil {
		return fmt.Errorf("open the sandbox keys: %w", err)
	}
	return nil
}

// readRules reads the rule of every method that is served.
func (g *Gateway) readRules() error {
	table, err := authz.NewTable(append(v00.Descriptors(), publicServices()...)...)
	if err != nil {
		return fmt.Errorf("build the rule table: %w", err)
	}
	g.metrics.know(table.Methods())
	g.identity.rules = &authz.Current{}
	authorizer, err := authz.New(table, policyOf(g.cfg))
	if err != nil {
		return fmt.Errorf("set up authorization: %w", err)
	}
	g.identity.rules.Store(authorizer)
	return nil
}

// authorizer is the one for a configuration, with this gateway's workspaces.
func (g *Gateway) authorizer(c *config.Config) (*authz.Authorizer, error) {
	authorizer, err := authz.New(g.identity.rules.Table(), policyOf(c))
	if err != nil {
		return nil, fmt.Errorf("set up authorization: %w", err)
	}
	return authorizer.WithMembers(g.identity.workspaces), nil
}

// openWorkspaces reads the workspaces and their members, who count from then on.
func (g *Gateway) openWorkspaces(ctx context.Context) (err error) {
	id := &g.identity
	id.workspaces, err = workspace.Open(ctx, workspace.Options{
		Store: g.store, Access: id.rules, Contents: []store.Kind{sandbox.Kind, provider.Kind}, Logger: g.log,
		Left:     func() { g.sandboxes.Recheck() },
		Platform: func(ctx context.Context, name string) error { return g.compute.DeleteWorkspace(ctx, name) },
		Issuers: func() workspace.Issuers {
			known := workspace.Issuers{Others: g.cfg.MTLS.Enabled}
			if g.cfg.Auth.AllowUnauthenticated {
				known.Known = append(known.Known, principal.ProviderLocalDev)
			}
			for _, s := range id.issuers.Status() {
				known.Known = append(known.Known, s.Issuer)
			}
			return known
		},
	})
	if err != nil {
		return fmt.Errorf("open the workspaces: %w", err)
	}
	authorizer, err := g.authorizer(g.cfg)
	if err != nil {
		return err
	}
	id.rules.Store(authorizer)
	return nil
}

// identify builds what the door asks.
func (g *Gateway) identify() (err error) {
	id := &g.identity
	if id.revoked, err = revocation.Open(revocation.Options{
		Store: g.store, Expired: door.ErrCredentialExpired, Logger: g.log,
	}); err != nil {
		return fmt.Errorf("open the revocations: %w", err)
	}
	var probes []string
	for _, m := range id.rules.Table().Methods() {
		if rule, _ := id.rules.Table().Rule(m); rule.Mode == authz.Unauthenticated {
			probes = append(probes, m)
		}
	}
	if id.limiter, err = ratelimit.New(ratesOf(g.cfg), ratelimit.Options{Probes: probes, Refused: g.metrics.limited}); err != nil {
		return fmt.Errorf("set up limits: %w", err)
	}
	if id.issuers, err = oidc.NewIssuers(issuersOf(g.cfg), oidc.Options{Logger: g.log, Observer: g.metrics}); err != nil {
		return fmt.Errorf("set up OIDC: %w", err)
	}
	k := g.cfg.Kubernetes
	if !k.Enabled {
		return nil
	}
	if id.accounts, err = serviceaccount.New(serviceaccount.Config{
		APIURL: k.APIURL, CAPath: k.CAPath, TokenPath: k.TokenPath, Audience: k.Audience, ServiceAccount: k.ServiceAccount,
		Namespaces: k.Namespaces, NamespacePrefix: k.NamespacePrefix, Logger: g.log,
	}); err != nil {
		return fmt.Errorf("set up the check of Kubernetes service accounts: %w", err)
	}
	return nil
}

// door builds the one entrance.
func (g *Gateway) door() (*door.Door, error) {
	id, cfg := &g.identity, g.cfg
	chain := authn.Config{
		SandboxTokens: id.tokens, AcceptSharedSecret: cfg.Auth.SharedSecret != "", SharedSecret: cfg.Auth.SharedSecret,
	}
	chain.Users = id.issuers
	if id.accounts != nil {
		chain.ServiceAccounts = id.accounts
	}
	if cfg.MTLS.Enabled {
		chain.Certificates = &authn.Certificates{
			Roles:        rolesOf(cfg.Authorization),
			DefaultRoles: cfg.MTLS.DefaultRoles, SharedNames: sharedNames,
		}
	}
	if cfg.Auth.AllowUnauthenticated {
		chain.Development = &authn.Development{
			Roles:  rolesOf(cfg.Authorization),
			Scopes: []string{authz.ScopeAll},
		}
	}
	known, err := authn.New(chain)
	if err != nil {
		return nil, fmt.Errorf("set up authentication: %w", err)
	}
	authenticator := countedAuthenticator{next: known, m: g.metrics}
	id.known = authenticator
	return door.New(door.Config{
		Authenticator: g.callback.Authenticator(authenticator), Authorizer: id.rules, Observer: g.metrics, Logger: g.log,
		Pass: []string{execchannel.MetadataKey, ":authority"}, Limiter: id.limiter, Sessions: id.revoked, Audit: g.recorder,
		Describe: v00.Describe, Peer: listener.Peer,
	})
}

// rolesOf are the role names that count; none do where everybody who signs in may do everything.
func rolesOf(a config.Authorization) []string {
	return slices.DeleteFunc([]string{a.AdminRole, a.UserRole}, func(name string) bool { return name == "" })
}

// sharedNames stand for nobody: the reference's tools make one client certificate for all, and mount it into sandboxes.
var sharedNames = []string{"openshell-client"}

// wellKnown mounts the documents by which others verify what this gateway signs.
func (g *Gateway) wellKnown(mux *http.ServeMux) {
	handler := g.identity.tokens.Handler()
	mux.Handle("GET "+sandboxtoken.KeySetPath, handler)
	mux.Handle("GET "+sandboxtoken.DiscoveryPath, handler)
}

// ready names the issuers without which nobody can sign in right now. Their names are no secret: clients ask for them.
func (id *identity) ready() error {
	err := id.issuers.Ready()
	if err == nil {
		return nil
	}
	var missing []string
	for _, s := range id.issuers.Status() {
		if s.NotReady != nil && !s.Optional {
			missing = append(missing, fmt.Sprintf("%s (%s)", s.Name, s.Issuer))
		}
	}
	return fault.Wrap(err, fault.Unavailable, oidc.ReasonKeysMissing, "no usable keys of %s", strings.Join(missing, ", "))
}

// run starts the loops that keep keys and revocations fresh.
func (id *identity) run(start func(func(context.Context) error)) {
	start(id.issuers.Run)
	start(id.revoked.Run)
	start(id.tokens.Run)
}

func (id *identity) close() {
	if id.accounts != nil {
		id.accounts.Close()
	}
}
