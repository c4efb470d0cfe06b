package oidc

import (
	"context"
	"log/slog"
	"net/http"
	"time"

	"sallyport.dev/sallyport/internal/principal"
)

// Config describes the one issuer of a Verifier. Its fields mean what those of an Issuer mean.
type Config struct {
	Issuer               string
	Audience             string
	DiscoveryURL         string
	RolesClaim           string
	ScopesClaim          string
	JWKSTTL              time.Duration
	AllowMissingAudience bool
	HTTPClient           *http.Client
	Logger               *slog.Logger
	Now                  func() time.Time
}

// Verifier is a set of one issuer.
type Verifier struct {
	issuers *Issuers
	issuer  string
}

// New returns a verifier of one issuer; see NewIssuers.
func New(c Config) (*Verifier, error) {
	issuers, err := NewIssuers([]Issuer{{
		Name: "default", URL: c.Issuer, Audiences: []string{c.Audience}, DiscoveryURL: c.DiscoveryURL,
		RolesClaim: c.RolesClaim, ScopesClaim: c.ScopesClaim, KeysTTL: c.JWKSTTL,
		AllowMissingAudience: c.AllowMissingAudience,
	}}, Options{HTTPClient: c.HTTPClient, Logger: c.Logger, Now: c.Now})
	if err != nil {
		return nil, err
	}
	return &Verifier{issuers: issuers, issuer: trimSlashes(c.Issuer)}, nil
}

// Issuer returns the issuer's name without trailing slashes, as principals carry it.
func (v *Verifier) Issuer() string { return v.issuer }

// Ready tells why tokens cannot be verified right now; see Issuers.Ready.
func (v *Verifier) Ready() error { return v.issuers.Ready() }

// Run keeps the keys fresh until ctx ends; see Issuers.Run.
func (v *Verifier) Run(ctx context.Context) error { return v.issuers.Run(ctx) }

// Known returns the user of a token that is remembered; see Issuers.Known.
func (v *Verifier) Known(token string) (*principal.Principal, bool) { return v.issuers.Known(token) }

// Verify returns the user that a token speaks for; see Issuers.Verify.
func (v *Verifier) Verify(ctx context.Context, token string) (*principal.Principal, error) {
	return v.issuers.Verify(ctx, token)
}
