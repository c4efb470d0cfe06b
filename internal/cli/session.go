package cli

import (
	"context"
	"strings"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

// env is a variable's value, empty when it is blank or unset.
func (a *app) env(key string) string {
	v, _ := a.opts.Env(key)
	return strings.TrimSpace(v)
}

// boolOf reads the value of a boolean variable; empty means false.
func boolOf(key, value string) (bool, error) {
	switch strings.ToLower(value) {
	case "true", "1", "yes":
		return true, nil
	case "", "false", "0", "no":
		return false, nil
	default:
		return false, usagef("invalid value %q of %s: use true or false", value, key)
	}
}

// gatewayRef is the gateway that a command turns to.
type gatewayRef struct {
	// name is empty for an endpoint that nothing is registered for.
	name     string
	endpoint transport.Endpoint
	meta     profile.Metadata
	// registered tells that meta is filled.
	registered bool
	// bound tells that the endpoint is the registered one: only then credentials of the registration are used.
	bound bool
}

// label is the name, or the URL for want of one.
func (r gatewayRef) label() string {
	if r.name != "" {
		return r.name
	}
	return r.endpoint.String()
}

// chosenName is the gateway's name from the flag, else from the environment.
func (a *app) chosenName() string {
	if a.flags.gateway != "" {
		return a.flags.gateway
	}
	return a.env("OPENSHELL_GATEWAY")
}

// activeName is the chosen name or else the one selected on disk; empty when there is none.
func (a *app) activeName() (string, error) {
	if name := a.chosenName(); name != "" || a.rootErr != nil {
		return name, a.rootErr
	}
	return a.root.Active()
}

// resolve finds the gateway: an endpoint wins over a name, a flag over the environment, both over the selected
// gateway.
func (a *app) resolve() (gatewayRef, error) {
	if a.flags.endpoint != "" {
		return a.resolveEndpoint(a.flags.endpoint)
	}
	name, err := a.activeName()
	if err != nil {
		return gatewayRef{}, err
	}
	if name == "" {
		return gatewayRef{}, failure("register one with `sallyport gateway add URL`, or choose one with "+
			"`sallyport gateway select NAME`", "No active gateway.")
	}
	return a.resolveName(name)
}

func (a *app) resolveName(name string) (gatewayRef, error) {
	if a.rootErr != nil {
		return gatewayRef{}, a.rootErr
	}
	m, err := a.root.Load(name)
	if err != nil {
		return gatewayRef{}, err
	}
	e, err := transport.ParseEndpoint(m.Endpoint)
	if err != nil {
		return gatewayRef{}, err
	}
	return gatewayRef{name: name, endpoint: e, meta: m, registered: true, bound: true}, nil
}

func (a *app) resolveEndpoint(endpoint string) (gatewayRef, error) {
	e, err := transport.ParseEndpoint(endpoint)
	if err != nil {
		return gatewayRef{}, err
	}
	ref := gatewayRef{name: a.chosenName(), endpoint: e}
	if ref.name != "" {
		if err := profile.CheckName(ref.name); err != nil {
			return gatewayRef{}, err
		}
	}
	if a.rootErr != nil {
		return ref, nil //nolint:nilerr // Without a place for state nothing is registered, and an endpoint is enough.
	}
	if ref.name == "" {
		m, found, err := a.root.ByEndpoint(e.String())
		if err != nil || !found {
			return ref, err
		}
		ref.name, ref.meta, ref.registered, ref.bound = m.Name, m, true, true
		return ref, nil
	}
	m, err := a.root.Load(ref.name)
	if fault.Is(err, fault.NotFound) {
		return ref, nil
	}
	if err != nil {
		return gatewayRef{}, err
	}
	ref.meta, ref.registered, ref.bound = m, true, profile.SameEndpoint(m.Endpoint, e.String())
	return ref, nil
}

// target is how to trust the gateway.
func (a *app) target(ref gatewayRef) (transport.Target, error) {
	t := transport.Target{Endpoint: ref.endpoint, Insecure: a.flags.insecure}
	if ref.bound && ref.meta.Auth() == profile.AuthEdge && a.rootErr == nil {
		var err error
		if t.Edge, err = a.root.LoadEdgeToken(ref.name); err != nil {
			return t, err
		}
	}
	if ref.name == "" || a.rootErr != nil || !ref.endpoint.Secure {
		return t, nil //nolint:nilerr // As in resolveEndpoint.
	}
	m, err := a.root.LoadMTLS(ref.name)
	if err != nil {
		return t, err
	}
	t.CA = m.CA
	if ref.bound || !ref.registered {
		t.Cert, t.Key = m.Cert, m.Key
	}
	if ref.registered && ref.meta.Auth() == profile.AuthMTLS && !t.Insecure &&
		(len(m.CA) == 0 || len(m.Cert) == 0 || len(m.Key) == 0) {
		return t, failure("put ca.crt, tls.crt and tls.key into the mtls directory of the gateway",
			"mTLS certificates for gateway '%s' were not found", ref.name)
	}
	return t, nil
}

// tokens is the source of bearer tokens, nil for a gateway without. The second result ends its use.
func (a *app) tokens(ref gatewayRef) (transport.TokenSource, func(), error) {
	none := func() {}
	switch {
	case a.flags.tokenFile != "":
		// Who names a file means it for this very gateway.
		return a.tokenFile(), none, nil
	case !ref.registered:
		return nil, none, nil
	case ref.meta.Auth() == profile.AuthEdge && ref.bound:
		token, err := a.root.LoadEdgeToken(ref.name)
		if err != nil {
			return nil, none, err
		}
		// Gateways that trust the proxy's issuer take the token for the user's.
		return login.EdgeSource{Gateway: ref.name, EdgeToken: token}, none, nil
	case ref.meta.Auth() != profile.AuthOIDC && ref.meta.Auth() != profile.AuthEdge:
		return nil, none, nil
	case !ref.bound:
		a.out.Note("warning: the credentials of gateway '%s' are for %s and are not sent to %s",
			ref.name, ref.meta.Endpoint, ref.endpoint)
		return nil, none, nil
	case ref.meta.OIDCIssuer == "":
		return nil, none, failure("register it again with `--oidc-issuer`",
			"gateway '%s' has OIDC auth but no issuer URL in metadata", ref.name)
	}
	secret, mint := a.opts.Env(login.SecretEnv)
	client := transport.HTTPClient(nil)
	source := login.NewSource(login.SourceOptions{
		Root: a.root, Metadata: ref.meta, Secret: secret, Mint: mint, Client: client,
	})
	return source, client.CloseIdleConnections, nil
}

// tokenFile is the source of the token that was named. Standard input can be read once only.
func (a *app) tokenFile() *login.File {
	if a.fileTokens == nil {
		a.fileTokens = &login.File{Path: a.flags.tokenFile, In: a.opts.Stdio.In}
	}
	return a.fileTokens
}

// session is a connection to the chosen gateway.
type session struct {
	ref   gatewayRef
	conn  *grpc.ClientConn
	shell openshellpb.OpenShellClient
	// tokens is nil without a bearer token.
	tokens transport.TokenSource
	end    func()
}

// close gives the connection back.
func (s *session) close() {
	s.conn.Close()
	s.end()
}

// connect prepares a connection to the chosen gateway with its credentials.
func (a *app) connect(ctx context.Context) (*session, error) {
	ref, err := a.resolve()
	if err != nil {
		return nil, err
	}
	return a.dial(ctx, ref, true)
}

// dial connects to ref, with its token or without.
func (a *app) dial(ctx context.Context, ref gatewayRef, withToken bool) (*session, error) {
	a.ref = ref
	t, err := a.target(ref)
	if err != nil {
		return nil, err
	}
	var tokens transport.TokenSource
	end := func() {}
	if withToken {
		if tokens, end, err = a.tokens(ref); err != nil {
			return nil, err
		}
	}
	if t.Insecure && withToken && ref.endpoint.Secure {
		a.out.Note("warning: the certificate of %s is not verified", ref.endpoint)
	}
	conn, err := transport.Dial(ctx, t, tokens)
	if err != nil {
		end()
		return nil, err
	}
	return &session{ref: ref, conn: conn, shell: openshellpb.NewOpenShellClient(conn), tokens: tokens, end: end}, nil
}

// withSession runs a command against the chosen gateway.
func (a *app) withSession(ctx context.Context, do func(*session) error) error {
	s, err := a.connect(ctx)
	if err != nil {
		return err
	}
	defer s.close()
	return do(s)
}
