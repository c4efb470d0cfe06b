package oidc_test

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"sallyport.dev/sallyport/internal/authn/oidc"
	"sallyport.dev/sallyport/internal/principal"
)

// single describes the one issuer of an alone. Its fields mean what those of an oidc.Issuer mean.
type single struct {
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

// alone is a set of one issuer, for the tests of what one issuer does.
type alone struct {
	issuers *oidc.Issuers
	issuer  string
}

func newAlone(c single) (*alone, error) {
	issuers, err := oidc.NewIssuers([]oidc.Issuer{{
		Name: "default", URL: c.Issuer, Audiences: []string{c.Audience}, DiscoveryURL: c.DiscoveryURL,
		RolesClaim: c.RolesClaim, ScopesClaim: c.ScopesClaim, KeysTTL: c.JWKSTTL,
		AllowMissingAudience: c.AllowMissingAudience,
	}}, oidc.Options{HTTPClient: c.HTTPClient, Logger: c.Logger, Now: c.Now})
	if err != nil {
		return nil, err
	}
	return &alone{issuers: issuers, issuer: strings.TrimRight(c.Issuer, "/")}, nil
}

// Issuer returns the issuer's name without trailing slashes, as principals carry it.
func (v *alone) Issuer() string { return v.issuer }

// Ready tells why tokens cannot be verified right now; see Issuers.Ready.
func (v *alone) Ready() error { return v.issuers.Ready() }

// Run keeps the keys fresh until ctx ends; see Issuers.Run.
func (v *alone) Run(ctx context.Context) error { return v.issuers.Run(ctx) }

// Known returns the user of a token that is remembered; see Issuers.Known.
func (v *alone) Known(token string) (*principal.Principal, bool) { return v.issuers.Known(token) }

// Verify returns the user that a token speaks for; see Issuers.Verify.
func (v *alone) Verify(ctx context.Context, token string) (*principal.Principal, error) {
	return v.issuers.Verify(ctx, token)
}
