// Package login owns how a user or a machine signs in: discovery of an OpenID provider, the authorization code
// flow with PKCE in a browser, the device flow, client credentials, tokens in files that others renew, and the renewal of
// stored tokens under a lock that all processes share. It decides nothing about which gateway a token is for and prints only what a person must see
// while the browser is open.
package login

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

// DefaultClientID is the public client that OpenShell realms define for command lines.
const DefaultClientID = "openshell-cli"

// SecretEnv names the variable whose presence selects client credentials instead of a browser.
const SecretEnv = "OPENSHELL_OIDC_CLIENT_SECRET"

// maxDocument bounds a discovery document, in bytes.
const maxDocument = 1 << 20

// Reasons of the errors of this package.
const (
	ReasonDiscovery      = "OIDC_DISCOVERY_FAILED"
	ReasonIssuer         = "OIDC_ISSUER_MISMATCH"
	ReasonInsecureIssuer = "OIDC_ISSUER_INSECURE"
	ReasonRefused        = "OIDC_LOGIN_REFUSED"
	ReasonTimeout        = "OIDC_LOGIN_TIMEOUT"
	ReasonListen         = "OIDC_CALLBACK_PORT"
	ReasonExpired        = "SESSION_EXPIRED"
	ReasonProvider       = "OIDC_PROVIDER_UNAVAILABLE"
)

// Config is what a registration says about signing in.
type Config struct {
	Issuer   string
	ClientID string
	// Audience is asked for as parameter "audience"; empty sends none.
	Audience string
	// Scopes are separated by spaces.
	Scopes string
}

// Endpoints are the provider's, from its discovery document.
type Endpoints struct {
	Authorization string
	Token         string
	// Device is empty for a provider that does not let people sign in on another device.
	Device string
}

// Discover reads the provider's discovery document. The issuer in it must be the one asked for, and an issuer
// reached by https must not lead to endpoints without it.
func Discover(ctx context.Context, client *http.Client, issuer string) (Endpoints, error) {
	fail := func(cause error, format string, args ...any) error {
		return fault.Wrap(cause, fault.Unavailable, ReasonDiscovery, format, args...).
			WithNext("check the issuer and that it is reachable from here")
	}
	base := strings.TrimRight(issuer, "/")
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/.well-known/openid-configuration", http.NoBody)
	if err != nil {
		return Endpoints{}, fail(err, "the OIDC issuer %q is not a URL", issuer)
	}
	resp, err := client.Do(req)
	if err != nil {
		return Endpoints{}, fail(err, "the OIDC issuer %s cannot be reached: %v", issuer, plain(err))
	}
	defer resp.Body.Close()
	var doc struct {
		Issuer        string `json:"issuer"`
		Authorization string `json:"authorization_endpoint"`
		Token         string `json:"token_endpoint"`
		Device        string `json:"device_authorization_endpoint"`
	}
	if resp.StatusCode != http.StatusOK {
		return Endpoints{}, fail(nil, "the OIDC issuer %s answered its discovery with status %d", issuer, resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxDocument)).Decode(&doc); err != nil {
		return Endpoints{}, fail(err, "the OIDC issuer %s answered its discovery with something else than JSON", issuer)
	}
	if strings.TrimRight(doc.Issuer, "/") != base {
		return Endpoints{}, fault.New(fault.FailedPrecondition, ReasonIssuer,
			"OIDC discovery issuer mismatch: asked %s, answered %q", issuer, doc.Issuer).
			WithNext("register the gateway with the issuer as the provider writes it")
	}
	secure := strings.HasPrefix(base, "https://")
	endpoints := []string{doc.Authorization, doc.Token}
	if doc.Device != "" {
		endpoints = append(endpoints, doc.Device)
	}
	for _, endpoint := range endpoints {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || (u.Scheme != "https" && (secure || u.Scheme != "http")) {
			return Endpoints{}, fault.New(fault.FailedPrecondition, ReasonInsecureIssuer,
				"the OIDC issuer %s names an endpoint that is missing or not https", issuer).
				WithNext("mend the provider's discovery document")
		}
	}
	return Endpoints{Authorization: doc.Authorization, Token: doc.Token, Device: doc.Device}, nil
}

// plain takes the method and URL off the errors of net/http.
func plain(err error) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		return u.Err
	}
	return err
}

// ClientCredentials signs a machine in. The secret travels in the body; scopes are sent as configured, without
// "openid", which is about users.
func ClientCredentials(ctx context.Context, client *http.Client, cfg Config, secret string) (profile.Token, error) {
	ends, err := Discover(ctx, client, cfg.Issuer)
	if err != nil {
		return profile.Token{}, err
	}
	cc := clientcredentials.Config{
		ClientID: cfg.ClientID, ClientSecret: secret, TokenURL: ends.Token,
		Scopes: strings.Fields(cfg.Scopes), AuthStyle: oauth2.AuthStyleInParams,
	}
	if cfg.Audience != "" {
		cc.EndpointParams = url.Values{"audience": {cfg.Audience}}
	}
	tok, err := cc.Token(context.WithValue(ctx, oauth2.HTTPClient, client))
	if err != nil {
		return profile.Token{}, tokenError(err, "sign in as client "+cfg.ClientID).
			WithNext("check the client id and " + SecretEnv)
	}
	return bundle(cfg, tok), nil
}

// refresh trades a refresh token for a new pair; a provider that does not rotate leaves the old one valid.
func refresh(ctx context.Context, client *http.Client, cfg Config, refreshToken string) (profile.Token, error) {
	ends, err := Discover(ctx, client, cfg.Issuer)
	if err != nil {
		return profile.Token{}, err
	}
	oc := oauthConfig(cfg, ends, "")
	source := oc.TokenSource(context.WithValue(ctx, oauth2.HTTPClient, client), &oauth2.Token{RefreshToken: refreshToken})
	tok, err := source.Token()
	if err != nil {
		return profile.Token{}, tokenError(err, "renew the session")
	}
	return bundle(cfg, tok), nil
}

func oauthConfig(cfg Config, ends Endpoints, redirect string) *oauth2.Config {
	return &oauth2.Config{
		ClientID: cfg.ClientID, RedirectURL: redirect, Scopes: userScopes(cfg.Scopes),
		Endpoint: oauth2.Endpoint{AuthURL: ends.Authorization, TokenURL: ends.Token, AuthStyle: oauth2.AuthStyleInParams},
	}
}

// userScopes are the configured ones, each once, behind "openid".
func userScopes(configured string) []string {
	scopes := []string{"openid"}
	for _, s := range strings.Fields(configured) {
		if !slices.Contains(scopes, s) {
			scopes = append(scopes, s)
		}
	}
	return scopes
}

func bundle(cfg Config, tok *oauth2.Token) profile.Token {
	return profile.Token{
		AccessToken: tok.AccessToken, RefreshToken: tok.RefreshToken, Expiry: tok.Expiry,
		Issuer: cfg.Issuer, ClientID: cfg.ClientID,
	}
}

// tokenError words a refusal of the token endpoint: a refusal by the provider has kind Unauthenticated,
// everything else Unavailable.
func tokenError(err error, action string) *fault.Error {
	refused, ok := errors.AsType[*oauth2.RetrieveError](err)
	if !ok {
		return fault.Wrap(err, fault.Unavailable, ReasonProvider, "the identity provider did not %s: %v", action, plain(err)).
			WithNext("try again; if it stays so, check that the issuer is reachable from here")
	}
	if refused.ErrorCode == "" {
		code := 0
		if refused.Response != nil {
			code = refused.Response.StatusCode
		}
		return fault.Wrap(err, fault.Unavailable, ReasonProvider,
			"the identity provider did not %s: token exchange failed with status %d", action, code).
			WithNext("try again; if it stays so, look into the provider's log")
	}
	return fault.Wrap(err, fault.Unauthenticated, ReasonRefused, "the identity provider refused to %s: %s",
		action, describe(refused.ErrorCode, refused.ErrorDescription)).WithNext("sign in again")
}

func describe(code, description string) string {
	if description == "" {
		return code
	}
	return fmt.Sprintf("%s (%s)", description, code)
}

// DisplayName is the user's name as the token's claims put it, or empty. It is unverified and for display only.
func DisplayName(accessToken string) string {
	parts := strings.Split(accessToken, ".")
	if len(parts) != 3 {
		return ""
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var claims struct {
		PreferredUsername string `json:"preferred_username"`
	}
	if json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.PreferredUsername
}

// renewBefore is how long before its expiry a token is renewed.
const renewBefore = 30 * time.Second

// stale tells whether a token should be renewed at the given time.
func stale(t profile.Token, now time.Time) bool {
	return !t.Expiry.IsZero() && !now.Add(renewBefore).Before(t.Expiry)
}
