package cli_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/internal/idptest"
)

// gateway is a gateway with behaviour enough for the command line: it keeps sandboxes and providers, judges
// tokens by asking the provider, and acts out what the name of a sandbox or command says.
type gateway struct {
	openshellpb.UnimplementedOpenShellServer
	sallyportpb.UnimplementedGatewayServer

	idp *idptest.Provider

	workspaces fakeWorkspaces
	services   fakeServices

	mu        sync.Mutex
	config    fakeConfig
	sandboxes map[string]*openshellpb.Sandbox
	providers map[string]*datamodelpb.Provider
	watches   map[string]int
	hangs     map[string]chan struct{}
	// sshSessions counts those that were not given back.
	sshSessions int
	// bearers are the authorization headers seen, also on calls that need none.
	bearers []string
	revoked revocations
}

// served is where a gateway listens and what vouches for it.
type served struct {
	plain, secure  string
	ca, cert, key  []byte
	mutualRequired string
}

func startGateway(t testing.TB, idp *idptest.Provider) (*gateway, served) {
	t.Helper()
	g := &gateway{
		idp: idp, sandboxes: map[string]*openshellpb.Sandbox{}, providers: map[string]*datamodelpb.Provider{},
		watches: map[string]int{}, hangs: map[string]chan struct{}{},
	}
	rpc := grpc.NewServer(grpc.MaxRecvMsgSize(8<<20), grpc.ChainUnaryInterceptor(g.unary), grpc.ChainStreamInterceptor(g.stream))
	openshellpb.RegisterOpenShellServer(rpc, g)
	sallyportpb.RegisterGatewayServer(rpc, g)
	t.Cleanup(rpc.Stop)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc"):
			rpc.ServeHTTP(w, r)
		case r.URL.Path == "/auth/oidc-config" && idp != nil:
			if err := json.NewEncoder(w).Encode(map[string]string{"issuer": idp.Issuer(), "audience": "gw"}); err != nil {
				t.Error(err)
			}
		case r.URL.Path == "/auth/service-link":
			g.services.link(w, r)
		default:
			http.NotFound(w, r)
		}
	})
	pki := newPKI(t)
	plain := httptest.NewUnstartedServer(handler)
	plain.Config.Protocols = new(http.Protocols)
	plain.Config.Protocols.SetHTTP1(true)
	plain.Config.Protocols.SetUnencryptedHTTP2(true)
	plain.Start()
	t.Cleanup(plain.Close)
	secure := startTLS(t, handler, &tls.Config{Certificates: []tls.Certificate{pki.server}})
	mutual := startTLS(t, handler, &tls.Config{
		Certificates: []tls.Certificate{pki.server}, ClientCAs: pki.pool, ClientAuth: tls.RequireAndVerifyClientCert,
	})
	return g, served{plain: plain.URL, secure: secure, mutualRequired: mutual, ca: pki.ca, cert: pki.clientCert, key: pki.clientKey}
}

func startTLS(t testing.TB, h http.Handler, cfg *tls.Config) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2, s.TLS = true, cfg
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// pki is an authority with a certificate for a server on this machine and one for a client.
type pki struct {
	ca, clientCert, clientKey []byte
	pool                      *x509.CertPool
	server                    tls.Certificate
}

func newPKI(t testing.TB) pki {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	caDER, err := x509.CreateCertificate(rand.Reader, template, template, &caKey.PublicKey, caKey)
	must(err)
	ca, err := x509.ParseCertificate(caDER)
	must(err)
	issue := func(serial int64, usage x509.ExtKeyUsage) (certPEM, keyPEM []byte) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		must(err)
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "leaf"}, NotAfter: time.Now().Add(time.Hour),
			ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
		}, ca, &key.PublicKey, caKey)
		must(err)
		keyDER, err := x509.MarshalPKCS8PrivateKey(key)
		must(err)
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
			pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	}
	out := pki{ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER}), pool: x509.NewCertPool()}
	out.pool.AddCert(ca)
	serverCert, serverKey := issue(2, x509.ExtKeyUsageServerAuth)
	out.server, err = tls.X509KeyPair(serverCert, serverKey)
	must(err)
	out.clientCert, out.clientKey = issue(3, x509.ExtKeyUsageClientAuth)
	return out
}

// refusal is an error as our gateway words them.
func refusal(code codes.Code, message, reason, next string) error {
	st, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{
		Reason: reason, Domain: "sallyport.dev", Metadata: map[string]string{"next": next},
	})
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return st.Err()
}

// authenticate accepts tokens of the provider, everybody if there is none; Health is open.
func (g *gateway) authenticate(ctx context.Context, method string) error {
	md, _ := metadata.FromIncomingContext(ctx)
	header := strings.Join(md.Get("authorization"), ",")
	g.mu.Lock()
	if header != "" {
		g.bearers = append(g.bearers, header)
	}
	g.mu.Unlock()
	if g.idp == nil || strings.HasSuffix(method, "/Health") {
		return nil
	}
	if g.idp.Subject(strings.TrimPrefix(header, "Bearer ")) == "" {
		return status.Error(codes.Unauthenticated, "invalid or missing token")
	}
	return nil
}

func (g *gateway) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if err := g.authenticate(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return next(ctx, req)
}

func (g *gateway) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if err := g.authenticate(ss.Context(), info.FullMethod); err != nil {
		return err
	}
	return next(srv, ss)
}

func (g *gateway) sawBearer() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.bearers) > 0
}

func (g *gateway) Health(context.Context, *openshellpb.HealthRequest) (*openshellpb.HealthResponse, error) {
	return &openshellpb.HealthResponse{Status: openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY, Version: "9.9.9"}, nil
}

func (g *gateway) GetCurrentUser(ctx context.Context, _ *openshellpb.GetCurrentUserRequest) (*openshellpb.GetCurrentUserResponse, error) {
	if g.idp == nil {
		return &openshellpb.GetCurrentUserResponse{Subject: "anonymous"}, nil
	}
	md, _ := metadata.FromIncomingContext(ctx)
	who := g.idp.Subject(strings.TrimPrefix(strings.Join(md.Get("authorization"), ""), "Bearer "))
	return &openshellpb.GetCurrentUserResponse{
		Subject: who, DisplayName: "Some\x1b[31mone", Roles: []string{"openshell-user"}, Scopes: []string{"sandbox:read"},
		IdentityProvider: "oidc",
	}, nil
}

func (g *gateway) GetGatewayInfo(context.Context, *openshellpb.GetGatewayInfoRequest) (*openshellpb.GetGatewayInfoResponse, error) {
	return nil, refusal(codes.PermissionDenied, "gateway info requires admin privileges", "ROLE_MISSING",
		"ask for the role openshell-admin")
}

func (g *gateway) ListCredentials(context.Context, *sallyportpb.ListCredentialsRequest) (*sallyportpb.ListCredentialsResponse, error) {
	return &sallyportpb.ListCredentialsResponse{Credentials: []*sallyportpb.DriverCredential{
		{Name: "crm", Scopes: []string{"read", "write"}}, {Name: "mail"},
	}}, nil
}

func (g *gateway) CreateProvider(_ context.Context, r *openshellpb.CreateProviderRequest) (*openshellpb.ProviderResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := r.GetProvider()
	name := p.GetMetadata().GetName()
	if g.providers[name] != nil {
		return nil, status.Error(codes.AlreadyExists, "provider '"+name+"' already exists")
	}
	p.Metadata.Id, p.Metadata.ResourceVersion = "p-"+name, 1
	g.providers[name] = p
	return &openshellpb.ProviderResponse{Provider: p}, nil
}

func (g *gateway) GetProvider(_ context.Context, r *openshellpb.GetProviderRequest) (*openshellpb.ProviderResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if p := g.providers[r.GetName()]; p != nil {
		return &openshellpb.ProviderResponse{Provider: p}, nil
	}
	return nil, refusal(codes.NotFound, "provider '"+r.GetName()+"' not found", "PROVIDER_NOT_FOUND", "see the list of providers")
}

func (g *gateway) UpdateProvider(ctx context.Context, r *openshellpb.UpdateProviderRequest) (*openshellpb.ProviderResponse, error) {
	resp, err := g.GetProvider(ctx, &openshellpb.GetProviderRequest{Name: r.GetProvider().GetMetadata().GetName()})
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for k, v := range r.GetProvider().GetCredentials() {
		resp.Provider.Credentials[k] = v
	}
	return resp, nil
}

func (g *gateway) ListProviders(context.Context, *openshellpb.ListProvidersRequest) (*openshellpb.ListProvidersResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := &openshellpb.ListProvidersResponse{}
	for _, p := range g.providers {
		out.Providers = append(out.Providers, p)
	}
	slices.SortFunc(out.Providers, func(a, b *datamodelpb.Provider) int {
		return strings.Compare(a.GetMetadata().GetName(), b.GetMetadata().GetName())
	})
	return out, nil
}

func (g *gateway) DeleteProvider(_ context.Context, r *openshellpb.DeleteProviderRequest) (*openshellpb.DeleteProviderResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	_, there := g.providers[r.GetName()]
	delete(g.providers, r.GetName())
	return &openshellpb.DeleteProviderResponse{Deleted: there}, nil
}
