package gateway

import (
	"errors"

	"sallyport.dev/sallyport/internal/access"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// Apply puts the settings of next that may change while the gateway runs in force, all or none of them, and records
// what changed. Those that need a restart stay as they are.
func (g *Gateway) Apply(old, next *config.Config) error {
	authorizer, err := g.authorizer(next)
	if err != nil {
		return err
	}
	if err := g.identity.limiter.Reconfigure(ratesOf(next)); err != nil {
		return err
	}
	err = g.identity.issuers.Replace(issuersOf(next))
	if err == nil {
		if err = g.reloadTLS(old.TLS, next.TLS); err != nil {
			err = errors.Join(err, g.identity.issuers.Replace(issuersOf(old)))
		}
	}
	if err != nil {
		return errors.Join(err, g.identity.limiter.Reconfigure(ratesOf(old)))
	}
	g.identity.rules.Store(authorizer)
	g.inForce.Store(next)
	g.sandboxes.Recheck()
	g.metrics.poke()
	if err := g.identity.tokens.Reload(); err != nil {
		g.log.Error("reading the sandbox keys again failed; the old ones serve on", "error", err)
	}
	for _, c := range config.Diff(old, next) {
		effect := "now"
		if !c.Reloadable {
			effect = "restart"
		}
		g.note(audit.ActionConfigReload, c.Key, map[string]string{"old": c.Old, "new": c.New, "effect": effect})
	}
	return nil
}

// explainer explains who may do what, by the rules in force and by those of another configuration.
func (g *Gateway) explainer() *access.Service {
	c := access.Config{
		Identities: g.identity.issuers, Mode: func() string { return string(g.identity.rules.Load().Policy().Scheme) },
		Memberships: g.identity.rules.Memberships(),
		Authorizer:  func() access.Authorizer { return g.identity.rules.Load() },
	}
	if g.opts.ParseText != nil {
		c.Candidate = func(file []byte) (*access.Candidate, error) {
			next, err := g.opts.ParseText(file)
			if err != nil {
				return nil, err
			}
			rules, err := oidc.NewRules(issuersOf(next))
			if err != nil {
				return nil, err
			}
			authorizer, err := g.authorizer(next)
			if err != nil {
				return nil, err
			}
			return &access.Candidate{Rules: rules, Authorizer: authorizer}, nil
		}
	}
	return access.New(c)
}

// Reloaded counts a change of the configuration that was put in force, with nil, or refused, with the reason.
func (g *Gateway) Reloaded(err error) { g.metrics.reloaded(err) }
