// Package transport owns the way to a gateway: what of an endpoint's URL counts, which certificates are trusted
// and shown, where a bearer token may travel, and how a failed call keeps the id it is found by in the gateway's
// log. It reads no files and no environment, and knows neither commands nor how a token is obtained.
package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"sallyport.dev/sallyport/internal/fault"
)

const (
	// ConnectTimeout bounds the set-up of one connection, TLS included.
	ConnectTimeout = 10 * time.Second
	// keepaliveTime is how long a connection may be silent, also without a call, before it is probed.
	keepaliveTime    = 10 * time.Second
	keepaliveTimeout = 20 * time.Second
	// httpTimeout bounds one whole HTTP exchange.
	httpTimeout = 15 * time.Second
	// maxMessage is the largest message taken from a gateway, in bytes.
	maxMessage = 16 << 20
)

// Reasons of the errors of this package.
const (
	ReasonInvalidEndpoint = "INVALID_ENDPOINT"
	ReasonInvalidTLS      = "INVALID_TLS_MATERIAL"
	ReasonCleartextToken  = "CLEARTEXT_TOKEN"
)

// Endpoint is where a gateway listens.
type Endpoint struct {
	// Secure is true for https.
	Secure bool
	// Host is a name or an address, without brackets.
	Host string
	Port string
}

// ParseEndpoint reads a gateway's URL. Without a scheme it is https. Path, query and user are refused rather
// than dropped, because a gateway is a whole origin.
func ParseEndpoint(raw string) (Endpoint, error) {
	if !strings.Contains(raw, "://") {
		raw = "https://" + raw
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return Endpoint{}, invalidEndpoint(raw, "it is not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return Endpoint{}, invalidEndpoint(raw, "its scheme is neither https nor http")
	case u.Hostname() == "":
		return Endpoint{}, invalidEndpoint(raw, "it has no host")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil:
		return Endpoint{}, invalidEndpoint(raw, "it has more than a host and a port")
	}
	e := Endpoint{Secure: u.Scheme == "https", Host: u.Hostname(), Port: u.Port()}
	if e.Port == "" {
		e.Port = map[bool]string{true: "443", false: "80"}[e.Secure]
	}
	return e, nil
}

func invalidEndpoint(raw, why string) error {
	return fault.New(fault.InvalidArgument, ReasonInvalidEndpoint, "invalid gateway endpoint %q: %s", raw, why).
		WithNext("give it as https://HOST[:PORT]")
}

// String is the URL without path or trailing slash; the scheme's own port is left out.
func (e Endpoint) String() string {
	scheme, usual := "http", "80"
	if e.Secure {
		scheme, usual = "https", "443"
	}
	if e.Port != usual {
		return scheme + "://" + net.JoinHostPort(e.Host, e.Port)
	}
	if strings.Contains(e.Host, ":") {
		return scheme + "://[" + e.Host + "]"
	}
	return scheme + "://" + e.Host
}

// Address is host and port as a dialer takes them.
func (e Endpoint) Address() string { return net.JoinHostPort(e.Host, e.Port) }

// Loopback tells whether the endpoint's host is written as one of this machine.
func (e Endpoint) Loopback() bool {
	host := strings.ToLower(strings.TrimSuffix(e.Host, "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

// Target is a gateway and how to trust it.
type Target struct {
	Endpoint Endpoint
	// Insecure skips the check of the gateway's certificate; the client's certificate is then not shown.
	Insecure bool
	// CA, in PEM, vouches for the gateway; empty means the system's roots.
	CA []byte
	// Cert and Key, in PEM, are shown only together and only with a CA of the gateway's own.
	Cert, Key []byte
	// Edge is the token of an authenticating proxy in front of the gateway, empty without one. Calls then go through the
	// gateway's WebSocket tunnel, and carry the token where such proxies look for it.
	Edge string
}

// TLS is the configuration for the target; it is also right for the gateway's HTTP pages.
func (t Target) TLS() (*tls.Config, error) {
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.Endpoint.Host}
	if t.Insecure {
		// Asked for by --gateway-insecure, which warns.
		cfg.InsecureSkipVerify = true
		return cfg, nil
	}
	if len(t.CA) == 0 {
		return cfg, nil
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(t.CA) {
		return nil, fault.New(fault.InvalidArgument, ReasonInvalidTLS, "the gateway's ca.crt holds no certificate").
			WithNext("replace mtls/ca.crt of the gateway's directory")
	}
	if len(t.Cert) > 0 && len(t.Key) > 0 {
		pair, err := tls.X509KeyPair(t.Cert, t.Key)
		if err != nil {
			return nil, fault.Wrap(err, fault.InvalidArgument, ReasonInvalidTLS,
				"the gateway's tls.crt and tls.key are not a pair").WithNext("replace both in the gateway's mtls directory")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// TokenSource hands out the bearer token for the next call, renewed where needed.
type TokenSource interface {
	Token(ctx context.Context) (string, error)
}

// Dial prepares a connection; it is made with the first call. tokens may be nil. With tokens, a target without
// TLS must be on this machine, or the error has kind FailedPrecondition.
func Dial(ctx context.Context, t Target, tokens TokenSource) (*grpc.ClientConn, error) {
	name := "dns:///" + t.Endpoint.Address()
	opts := []grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: ConnectTimeout}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage)),
		grpc.WithChainUnaryInterceptor(unaryCall(tokens)),
		grpc.WithChainStreamInterceptor(streamCall(tokens)),
	}
	switch {
	case t.Edge != "":
		if !t.Endpoint.Secure {
			if err := onThisMachine(ctx, t.Endpoint); err != nil {
				return nil, err
			}
		}
		dial, err := tunnelDialer(t)
		if err != nil {
			return nil, err
		}
		// TLS, where the endpoint has it, is around the tunnel.
		name = "passthrough:///" + t.Endpoint.Address()
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithContextDialer(dial),
			grpc.WithPerRPCCredentials(bearer{tokens: tokens, edge: t.Edge}))
	case t.Endpoint.Secure:
		cfg, err := t.TLS()
		if err != nil {
			return nil, err
		}
		opts = append(opts, grpc.WithTransportCredentials(credentials.NewTLS(cfg)))
	default:
		opts = append(opts, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	if tokens != nil && t.Edge == "" {
		opts = append(opts, grpc.WithPerRPCCredentials(bearer{tokens: tokens, secure: t.Endpoint.Secure}))
	}
	if tokens != nil && !t.Endpoint.Secure && t.Edge == "" {
		if err := onThisMachine(ctx, t.Endpoint); err != nil {
			return nil, err
		}
		// The name was looked up above; the dialer checks the address that is really used.
		name = "passthrough:///" + t.Endpoint.Address()
		opts = append(opts, grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return dialLoopback(ctx, "tcp", addr)
		}))
	}
	conn, err := grpc.NewClient(name, opts...)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, ReasonInvalidEndpoint,
			"cannot connect to %s", t.Endpoint).WithNext("check the gateway's endpoint")
	}
	return conn, nil
}

// bearer puts the token on each call.
type bearer struct {
	// tokens may be nil beside edge.
	tokens TokenSource
	secure bool
	// edge is the token of a proxy, for headers of its own.
	edge string
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (b bearer) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	headers := map[string]string{}
	if b.edge != "" {
		headers = edgeHeaders(b.edge)
	}
	if b.tokens == nil {
		return headers, nil
	}
	token, err := b.tokens.Token(ctx)
	if err != nil {
		return nil, err
	}
	headers["authorization"] = "Bearer " + token
	return headers, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials.
func (b bearer) RequireTransportSecurity() bool { return b.secure }

var _ credentials.PerRPCCredentials = bearer{}

// onThisMachine refuses a host of which any address is elsewhere.
func onThisMachine(ctx context.Context, e Endpoint) error {
	refused := fault.New(fault.FailedPrecondition, ReasonCleartextToken,
		"refusing to send a token over an unencrypted connection to %s", e.Host).
		WithNext("use an https endpoint; http with a token is only for gateways on this machine")
	if e.Loopback() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", e.Host)
	if err != nil {
		refused.Cause = err
		return refused
	}
	for _, a := range addrs {
		if !a.Unmap().IsLoopback() {
			return refused
		}
	}
	return nil
}

var errNotLoopback = errors.New("unencrypted connections are only made to this machine")

// dialLoopback connects to addresses of this machine only, whatever a name resolves to.
func dialLoopback(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: ConnectTimeout, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil || !ap.Addr().Unmap().IsLoopback() {
			return errNotLoopback
		}
		return nil
	}}
	return d.DialContext(ctx, network, addr)
}

// HTTPClient speaks to a gateway's pages or to an identity provider: https as cfg says (nil means the system's
// roots), http only to this machine. It has a timeout and follows no redirect, since what it sends and learns
// are secrets and the places to send secrets to. Close its idle connections when done.
func HTTPClient(cfg *tls.Config) *http.Client {
	dialer := &net.Dialer{Timeout: ConnectTimeout}
	return &http.Client{
		Timeout: httpTimeout,
		Transport: &schemes{
			https: &http.Transport{
				Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSClientConfig: cfg,
				TLSHandshakeTimeout: ConnectTimeout, ForceAttemptHTTP2: true,
			},
			http: &http.Transport{DialContext: dialLoopback},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// schemes keeps the two schemes on transports of their own.
type schemes struct{ https, http *http.Transport }

// RoundTrip implements http.RoundTripper.
func (s *schemes) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme == "http" {
		return s.http.RoundTrip(r)
	}
	return s.https.RoundTrip(r)
}

// CloseIdleConnections is found by http.Client.CloseIdleConnections.
func (s *schemes) CloseIdleConnections() {
	s.https.CloseIdleConnections()
	s.http.CloseIdleConnections()
}
