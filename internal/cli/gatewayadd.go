package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	// localName is the name of a gateway on this machine that was given none.
	localName = "openshell"
	// issuerAuto asks the gateway for its issuer, as no --oidc-issuer does too.
	issuerAuto = "auto"
	// oidcConfigPath is where a gateway tells its issuer and audience.
	oidcConfigPath = "/auth/oidc-config"
	// maxConfigReply bounds the answer, in bytes.
	maxConfigReply = 64 << 10
)

type addFlags struct {
	name, remote, ca                   string
	local, edge                        bool
	issuer, clientID, audience, scopes string
	login                              loginFlags
}

func (a *app) gatewayAddCommand() *cobra.Command {
	var f addFlags
	c := &cobra.Command{
		Use: "add ENDPOINT", Short: "Register a gateway, sign in to it and make it the active one",
		Long: "Register a gateway, sign in to it and make it the active one. A gateway that tells its identity\n" +
			"provider needs no --oidc-issuer. Nothing is stored unless everything worked.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			for _, dependent := range []string{"oidc-client-id", "oidc-audience", "oidc-scopes"} {
				if c.Flags().Changed(dependent) && f.issuer == "" {
					return usagef("--%s needs --oidc-issuer (a URL, or \"auto\" to ask the gateway)", dependent)
				}
			}
			return a.addGateway(c.Context(), args[0], f)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.name, "name", "", "name to register it under (default: \"openshell\" on this machine, else the host)")
	fl.BoolVar(&f.local, "local", false, "the gateway runs on this machine")
	fl.BoolVar(&f.edge, "edge", false, "the gateway is behind a proxy that signs people in, as Cloudflare Access does")
	fl.StringVar(&f.remote, "remote", "", "SSH destination of the machine that the gateway runs on")
	fl.StringVar(&f.ca, "ca", "", "PEM file with the certificates that vouch for the gateway")
	fl.StringVar(&f.issuer, "oidc-issuer", "", "URL of the identity provider, or \"auto\" to ask the gateway")
	fl.StringVar(&f.clientID, "oidc-client-id", login.DefaultClientID, "client to sign in as")
	fl.StringVar(&f.audience, "oidc-audience", "", "audience to ask the identity provider for")
	fl.StringVar(&f.scopes, "oidc-scopes", "", "scopes to ask for, separated by spaces")
	f.login.register(c)
	c.MarkFlagsMutuallyExclusive("local", "remote")
	c.MarkFlagsMutuallyExclusive("oidc-issuer", "remote")
	c.MarkFlagsMutuallyExclusive("edge", "oidc-issuer")
	c.MarkFlagsMutuallyExclusive("edge", "remote")
	c.MarkFlagsMutuallyExclusive("edge", "local")
	return c
}

// addGateway first finds out and signs in, then stores: a failure leaves everything as it was.
func (a *app) addGateway(ctx context.Context, raw string, f addFlags) error {
	if a.rootErr != nil {
		return a.rootErr
	}
	if strings.HasPrefix(raw, "ssh://") {
		return usagef("an ssh:// endpoint is not supported: forward the gateway's port and add that")
	}
	e, err := transport.ParseEndpoint(raw)
	if err != nil {
		return err
	}
	m := profile.Metadata{Name: gatewayName(f.name, e), Endpoint: e.String(), RemoteHost: f.remote, IsRemote: !f.local}
	if err := a.checkFree(m.Name); err != nil {
		return err
	}
	tls, err := a.root.LoadMTLS(m.Name)
	if err != nil {
		return err
	}
	var ca []byte
	if f.ca != "" {
		if ca, err = readSmall(f.ca); err != nil {
			return err
		}
		tls.CA = ca
	}
	t := transport.Target{Endpoint: e, Insecure: a.flags.insecure, CA: tls.CA, Cert: tls.Cert, Key: tls.Key}
	var edge string
	if f.edge {
		m.AuthMode = profile.AuthEdge
		edge, err = a.signInAtEdge(ctx, e)
	} else {
		err = a.chooseAuth(ctx, &m, t, f)
	}
	if err != nil {
		return err
	}
	var token profile.Token
	if m.AuthMode == profile.AuthOIDC && a.flags.tokenFile == "" {
		if token, err = a.signIn(ctx, login.ConfigOf(m), a.root.PromptRequired(m.Name), f.login); err != nil {
			return err
		}
	}
	if err := a.storeGateway(m, ca, token, edge); err != nil {
		return err
	}
	return a.announce(m, token)
}

func gatewayName(name string, e transport.Endpoint) string {
	switch {
	case name != "":
		return name
	case e.Loopback():
		return localName
	default:
		return e.Host
	}
}

// checkFree refuses a name under which the user has a registration; the machine's may be shadowed.
func (a *app) checkFree(name string) error {
	if err := profile.CheckName(name); err != nil {
		return err
	}
	m, err := a.root.Load(name)
	if fault.Is(err, fault.NotFound) || (err == nil && m.Source == profile.SourceSystem) {
		return nil
	}
	return failure(fmt.Sprintf("remove it with `sallyport gateway remove %s`, or choose another name with --name", name),
		"Gateway '%s' already exists", name)
}

// chooseAuth fills in how to authenticate.
func (a *app) chooseAuth(ctx context.Context, m *profile.Metadata, t transport.Target, f addFlags) error {
	m.OIDCClientID, m.OIDCAudience, m.OIDCScopes, m.OIDCCallbackPort = f.clientID, f.audience, f.scopes, f.login.port
	if f.issuer != "" && f.issuer != issuerAuto {
		m.AuthMode, m.OIDCIssuer = profile.AuthOIDC, f.issuer
		return nil
	}
	found, err := askIssuer(ctx, t)
	switch {
	case err == nil && found.Issuer != "":
		m.AuthMode, m.OIDCIssuer = profile.AuthOIDC, found.Issuer
		if m.OIDCAudience == "" {
			m.OIDCAudience = found.Audience
		}
		return nil
	case f.issuer == issuerAuto && err != nil:
		return err
	case f.issuer == issuerAuto:
		return failure("give the issuer's URL with --oidc-issuer", "the gateway at %s names no identity provider", m.Endpoint)
	}
	m.OIDCClientID, m.OIDCCallbackPort = "", 0
	return a.chooseWithoutIssuer(ctx, m, t, f, err)
}

// chooseWithoutIssuer is for a gateway that names no identity provider; asked is why it could not be asked.
func (a *app) chooseWithoutIssuer(ctx context.Context, m *profile.Metadata, t transport.Target, f addFlags, asked error) error {
	trio := len(t.CA) > 0 && len(t.Cert) > 0 && len(t.Key) > 0
	switch {
	case !t.Endpoint.Secure:
		m.AuthMode, m.IsRemote = profile.AuthPlaintext, !f.local && !t.Endpoint.Loopback()
		if err := a.probe(ctx, t); err != nil {
			a.out.Note("warning: Gateway is not reachable at %s: %v", m.Endpoint, err)
		}
		return nil
	case trio:
		m.AuthMode = profile.AuthMTLS
		return a.probe(ctx, t)
	case f.local || f.remote != "":
		return failure("put ca.crt, tls.crt and tls.key into the mtls directory of the gateway",
			"mTLS certificates for gateway '%s' were not found", m.Name)
	case asked != nil:
		return asked
	default:
		m.AuthMode = profile.AuthNone
		return a.probe(ctx, t)
	}
}

// probe makes one call that needs no credentials.
func (a *app) probe(ctx context.Context, t transport.Target) error {
	a.ref = gatewayRef{endpoint: t.Endpoint}
	conn, err := transport.Dial(ctx, t, nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, transport.ConnectTimeout)
	defer cancel()
	_, err = openshellpb.NewOpenShellClient(conn).Health(ctx, &openshellpb.HealthRequest{})
	return err
}

// oidcConfig is what a gateway tells about its identity provider.
type oidcConfig struct {
	Issuer   string `json:"issuer"`
	Audience string `json:"audience"`
}

// askIssuer asks the gateway which identity provider it trusts; an empty issuer means none. Over plain http only
// a gateway on this machine is asked: whoever answered in its place would choose where the user signs in.
func askIssuer(ctx context.Context, t transport.Target) (oidcConfig, error) {
	if !t.Endpoint.Secure && !t.Endpoint.Loopback() {
		return oidcConfig{}, nil
	}
	cfg, err := t.TLS()
	if err != nil {
		return oidcConfig{}, err
	}
	client := transport.HTTPClient(cfg)
	defer client.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, t.Endpoint.String()+oidcConfigPath, http.NoBody)
	if err != nil {
		return oidcConfig{}, fmt.Errorf("ask the gateway for its identity provider: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return oidcConfig{}, fault.Wrap(err, fault.Unavailable, "GATEWAY_UNREACHABLE",
			"the gateway at %s cannot be asked for its identity provider: %v", t.Endpoint, errors.Unwrap(err)).
			WithNext("check the endpoint; for a certificate of your own authority give --ca FILE; or give --oidc-issuer")
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return oidcConfig{}, nil
	}
	var found oidcConfig
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxConfigReply)).Decode(&found); err != nil {
		return oidcConfig{}, nil // Something else than a gateway of this kind answers there.
	}
	return found, nil
}

// storeGateway writes a new registration and takes back what it wrote if any part fails.
func (a *app) storeGateway(m profile.Metadata, ca []byte, token profile.Token, edge string) (err error) {
	before, err := a.root.LoadMTLS(m.Name)
	if err != nil {
		return err
	}
	saved := false
	defer func() {
		if err == nil {
			return
		}
		var undo error
		if saved {
			undo = a.root.Remove(m.Name)
		}
		if len(before.CA) > 0 {
			undo = errors.Join(undo, a.root.SaveCA(m.Name, before.CA))
		}
		if len(before.Cert) > 0 && len(before.Key) > 0 {
			undo = errors.Join(undo, a.root.SaveClient(m.Name, before.Cert, before.Key))
		}
		if undo != nil {
			err = errors.Join(err, fmt.Errorf("take back the registration: %w", undo))
		}
	}()
	if err := a.root.Save(m); err != nil {
		return err
	}
	saved = true
	if ca != nil {
		if err := a.root.SaveCA(m.Name, ca); err != nil {
			return err
		}
	}
	if token.AccessToken != "" {
		if err := a.root.SaveToken(m.Name, token); err != nil {
			return err
		}
	}
	if edge != "" {
		if err := a.root.SaveEdgeToken(m.Name, edge); err != nil {
			return err
		}
	}
	return a.root.SetActive(m.Name)
}

func (a *app) announce(m profile.Metadata, token profile.Token) error {
	a.out.Note("Gateway '%s' added and set as active", m.Name)
	a.out.Note("Endpoint: %s", m.Endpoint)
	a.out.Note("Type: %s", m.Type())
	a.out.Note("Auth: %s", m.Auth())
	switch _, machine := a.opts.Env(login.SecretEnv); {
	case m.AuthMode == profile.AuthEdge:
		a.out.Note("Authenticated successfully")
	case m.AuthMode != profile.AuthOIDC:
	case token.AccessToken == "":
		a.out.Note("Not signed in: give --token-file with each command, or run `sallyport gateway login %s`", m.Name)
	case machine:
		a.out.Note("Authenticated via client credentials")
	default:
		as := ""
		if user := login.DisplayName(token.AccessToken); user != "" {
			as = " as " + user
		}
		a.out.Note("Authenticated successfully%s", as)
	}
	if a.out.Structured() {
		m.Source = profile.SourceUser
		return a.out.Value(viewGateway(m, m.Name))
	}
	return nil
}

// readSmall reads a file of the user's choice that must not be large.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const most = 1 << 20
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) > most {
		return nil, failure("", "%s is larger than %d bytes", path, most)
	}
	return data, nil
}
