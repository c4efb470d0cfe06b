// Package devidp is the identity provider of `sallyport dev` and of tests: an OpenID provider with well-known
// users and passwords that listens on this machine only. It owns the realm, its signing key and the refresh
// tokens it gave out; it knows nothing of the gateway. Protocol work is done by the go-oidc library; this package
// is the only one that touches it, so that another can take its place.
package devidp

import (
	"context"
	"errors"
	"fmt"
	"html/template"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"
	"github.com/luikyv/go-oidc/pkg/provider"
)

// Endpoints below the issuer's path, where scripts written for Keycloak look for them.
const (
	authorizePath = "/protocol/openid-connect/auth"
	tokenPath     = "/protocol/openid-connect/token"
	userinfoPath  = "/protocol/openid-connect/userinfo"
	jwksPath      = "/protocol/openid-connect/certs"
	revokePath    = "/protocol/openid-connect/revoke"
)

const (
	// tokenSecs is the life of access tokens, as in the reference's realm.
	tokenSecs = 300
	// refreshSecs is the life of refresh tokens: ten hours, the longest session of the reference's realm.
	refreshSecs = 36000
	// maxBodyBytes bounds what a caller may post.
	maxBodyBytes = 64 << 10
)

// Config is what a Provider needs.
type Config struct {
	// Issuer is http(s)://HOST:PORT/realms/openshell with a loopback host; tokens carry it verbatim.
	Issuer string
	// StateDir keeps the signing key, the demo client's secret and refresh tokens; made with mode 0700.
	StateDir string
	Logger   *slog.Logger
}

// Provider is the identity provider as an http.Handler.
type Provider struct {
	issuer     *url.URL
	path       string
	realm      *realm
	demoSecret string
	provider   *provider.Provider
	pages      *template.Template
	logger     *slog.Logger
	handler    http.Handler
}

// New opens the state directory, making what is missing in it.
func New(conf Config) (*Provider, error) {
	u, err := url.Parse(conf.Issuer)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Path != "/realms/"+Realm || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("issuer %q is not of the form http://127.0.0.1:PORT/realms/%s", conf.Issuer, Realm)
	}
	if !isLoopback(u.Hostname()) {
		return nil, fmt.Errorf("issuer %q is not on this machine: the development identity provider has well-known passwords", conf.Issuer)
	}
	if err := os.MkdirAll(conf.StateDir, 0o700); err != nil {
		return nil, fmt.Errorf("create identity provider state: %w", err)
	}
	keys, err := loadKeys(conf.StateDir)
	if err != nil {
		return nil, err
	}
	secret, err := loadSecret(conf.StateDir)
	if err != nil {
		return nil, err
	}
	st, err := openStore(conf.StateDir)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		issuer: u, path: u.Path, realm: newRealm(secret), demoSecret: secret, pages: parsePages(), logger: conf.Logger,
	}
	p.provider, err = provider.New(conf.Issuer, st, func(context.Context) (goidc.JSONWebKeySet, error) { return keys, nil }, p.options(st)...)
	if err != nil {
		return nil, fmt.Errorf("set up identity provider: %w", err)
	}
	p.handler = http.StripPrefix(p.path, p.provider.Handler())
	return p, nil
}

func (p *Provider) options(st *store) []provider.Option {
	scopes := make([]goidc.Scope, 0, len(standardScopes)+len(productScopes))
	for _, s := range append(standardScopes[:len(standardScopes):len(standardScopes)], productScopes...) {
		scopes = append(scopes, goidc.NewScope(s))
	}
	clients := make([]*goidc.Client, len(p.realm.clients))
	for i := range p.realm.clients {
		clients[i] = &p.realm.clients[i].Client
	}
	return []provider.Option{
		provider.WithAuthorizeEndpoint(authorizePath),
		provider.WithTokenEndpoint(tokenPath),
		provider.WithUserInfoEndpoint(userinfoPath),
		provider.WithJWKSEndpoint(jwksPath),
		provider.WithTokenRevocationEndpoint(revokePath),
		provider.WithScopes(scopes...),
		provider.WithStaticClients(clients[0], clients[1:]...),
		provider.WithTokenAuthnMethods(goidc.AuthnMethodSecretPost, goidc.AuthnMethodSecretBasic, goidc.AuthnMethodNone),
		provider.WithAuthCodeGrant(st, goidc.ResponseTypeCode),
		provider.WithPKCERequired(goidc.CodeChallengeMethodSHA256),
		provider.WithRefreshTokenGrant(st),
		provider.WithRefreshTokenLifetime(refreshSecs),
		provider.WithClientCredentialsGrant(),
		provider.WithTokenRevocation(func(context.Context, *goidc.Client) bool { return true }),
		provider.WithIssuerResponseParameter(),
		provider.WithTokenOptions(func(context.Context, *goidc.Grant, *goidc.Client) goidc.TokenOptions {
			return goidc.NewJWTTokenOptions(goidc.RS256, tokenSecs)
		}),
		provider.WithTokenClaims(func(_ context.Context, t *goidc.Token, _ *goidc.Grant) map[string]any {
			return p.realm.tokenClaims(t)
		}),
		provider.WithIDTokenClaims(func(_ context.Context, g *goidc.Grant) map[string]any { return p.realm.identityClaims(g) }),
		provider.WithUserInfoClaims(func(_ context.Context, g *goidc.Grant) map[string]any { return p.realm.identityClaims(g) }),
		// No client signs in with a JWT, so there is no identifier that could be replayed.
		provider.WithConsumeJTIFunc(func(context.Context, string) error { return errors.New("client assertions are not in use") }),
		provider.WithPolicies(p.policy()),
		provider.WithRenderErrorFunc(p.renderError),
		provider.WithHandleErrorFunc(func(_ context.Context, err error) { p.logger.Debug("request refused", "error", err) }),
	}
}

// Issuer is the URL tokens carry.
func (p *Provider) Issuer() string { return p.issuer.String() }

// TokenEndpoint is where clients obtain tokens.
func (p *Provider) TokenEndpoint() string { return p.Issuer() + tokenPath }

// DemoSecret is the secret of DemoClient.
func (p *Provider) DemoSecret() string { return p.demoSecret }

// ServeHTTP answers requests for the issuer's own host only, so that no web page reaches the provider under a
// name of its choosing.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Host != p.issuer.Host {
		http.Error(w, "this provider answers at "+p.issuer.Host+" only", http.StatusMisdirectedRequest)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBodyBytes)
	switch r.URL.Path {
	case p.path + authorizePath:
		if q := r.URL.Query(); q.Has("redirect_uri") {
			q.Set("redirect_uri", loopbackName(q.Get("redirect_uri")))
			r.URL.RawQuery = q.Encode()
		}
	case p.path + tokenPath:
		if r.Method == http.MethodPost {
			if err := r.ParseForm(); err != nil {
				refuse(w, http.StatusBadRequest, "invalid_request", "form cannot be read")
				return
			}
			if r.PostFormValue("grant_type") == "password" {
				p.servePassword(w, r)
				return
			}
			if uri := r.PostForm.Get("redirect_uri"); uri != "" {
				r.PostForm.Set("redirect_uri", loopbackName(uri))
				r.Form.Set("redirect_uri", loopbackName(uri))
			}
		}
	}
	p.handler.ServeHTTP(w, r)
}

// loopbackName turns http://localhost:PORT into its address. The library takes any port of a loopback address
// but not of the name; both lead to the same listener.
func loopbackName(uri string) string {
	if rest, ok := strings.CutPrefix(uri, "http://localhost"); ok && (rest == "" || rest[0] == ':' || rest[0] == '/') {
		return "http://127.0.0.1" + rest
	}
	return uri
}

// Serve answers on lis, which has to be a loopback address, until ctx ends.
func (p *Provider) Serve(ctx context.Context, lis net.Listener) error {
	if a, ok := lis.Addr().(*net.TCPAddr); !ok || !a.IP.IsLoopback() {
		return errors.Join(fmt.Errorf("%s is no loopback address: the development identity provider has well-known passwords", lis.Addr()), lis.Close())
	}
	srv := &http.Server{
		Handler: p, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second,
		IdleTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(p.logger.Handler(), slog.LevelDebug),
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	select {
	case err := <-done:
		return fmt.Errorf("serve identity provider: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	err := srv.Shutdown(stop)
	if errors.Is(err, context.DeadlineExceeded) {
		err = srv.Close()
	}
	if serveErr := <-done; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, serveErr)
	}
	return err
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}
