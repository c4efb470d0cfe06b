// Package gatewaytest is a gateway for the supervisor's tests: a real gRPC server on a real socket that answers the
// calls a supervisor makes, lets a test open relays, and can be told to misbehave.
package gatewaytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
)

// Gateway is the fake. Its exported fields are read under its lock: change them through Set.
type Gateway struct {
	openshellpb.UnimplementedOpenShellServer

	// Token is what callers must present, if not empty.
	Token string
	// Expired is a token that opens RefreshSandboxToken only; everything else refuses it with the reason.
	Expired string
	// Heartbeat is what sessions are told, in seconds.
	Heartbeat uint32
	// Mute stops the gateway's own heartbeats, Reject refuses sessions with this reason.
	Mute   bool
	Reject string
	// Fail answers a method, by its short name, with an error.
	Fail map[string]error
	// Config and Environment are the answers to the two settings calls.
	Config      *sandboxpb.GetSandboxConfigResponse
	Environment *openshellpb.GetSandboxProviderEnvironmentResponse
	// NextToken is what a refresh or an exchange returns.
	NextToken string

	tls      *tls.Config
	caFile   string
	address  string
	sessions chan *Session

	mu     sync.Mutex
	server *grpc.Server
	calls  map[string]int
	seen   map[string]metadata.MD
	logs   []*openshellpb.SandboxLogLine
	status []*openshellpb.ReportPolicyStatusRequest
	exits  []*openshellpb.ReportMainProcessExitRequest
	opened int
	claims map[string]chan claim
}

// New starts a gateway that speaks TLS if secure.
func New(tb testing.TB, secure bool) *Gateway {
	tb.Helper()
	g := &Gateway{
		Heartbeat: 15, sessions: make(chan *Session, 64), calls: map[string]int{}, seen: map[string]metadata.MD{},
		Config:      &sandboxpb.GetSandboxConfigResponse{},
		Environment: &openshellpb.GetSandboxProviderEnvironmentResponse{},
		Fail:        map[string]error{},
		claims:      map[string]chan claim{},
	}
	if secure {
		g.certificate(tb)
	}
	g.Start(tb)
	tb.Cleanup(g.Stop)
	return g
}

// Start starts the server, at the address of an earlier start if there was one.
func (g *Gateway) Start(tb testing.TB) {
	tb.Helper()
	address := g.address
	if address == "" {
		address = "127.0.0.1:0"
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		tb.Fatalf("listen: %v", err)
	}
	g.address = l.Addr().String()
	options := []grpc.ServerOption{
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.InitialWindowSize(1 << 20), grpc.InitialConnWindowSize(16 << 20), grpc.MaxConcurrentStreams(512),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			if err := g.enter(ctx, info.FullMethod); err != nil {
				return nil, err
			}
			return next(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			if err := g.enter(s.Context(), info.FullMethod); err != nil {
				return err
			}
			return next(srv, s)
		}),
	}
	if g.tls != nil {
		options = append(options, grpc.Creds(credentials.NewTLS(g.tls)))
	}
	server := grpc.NewServer(options...)
	openshellpb.RegisterOpenShellServer(server, g)
	g.mu.Lock()
	g.server = server
	g.mu.Unlock()
	// Serve returns when the server is stopped.
	go func() { _ = server.Serve(l) }()
}

// Stop ends the server as a crash would: connections break, nothing is said.
func (g *Gateway) Stop() {
	g.mu.Lock()
	server := g.server
	g.mu.Unlock()
	server.Stop()
}

// Endpoint is the address for OPENSHELL_ENDPOINT, CAFile the file for OPENSHELL_TLS_CA.
func (g *Gateway) Endpoint() string {
	if g.tls != nil {
		return "https://" + g.address
	}
	return "http://" + g.address
}

// CAFile is empty for a plaintext gateway.
func (g *Gateway) CAFile() string { return g.caFile }

// Set changes the gateway's behaviour.
func (g *Gateway) Set(change func(g *Gateway)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
}

// Calls returns how often a method was called, Metadata what came with its last call.
func (g *Gateway) Calls(method string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.calls[method]
}

// Metadata returns the headers of the method's last call.
func (g *Gateway) Metadata(method string) metadata.MD {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.seen[method].Copy()
}

// Logs returns the log lines received so far.
func (g *Gateway) Logs() []*openshellpb.SandboxLogLine {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*openshellpb.SandboxLogLine{}, g.logs...)
}

// PolicyReports returns the policy reports received so far.
func (g *Gateway) PolicyReports() []*openshellpb.ReportPolicyStatusRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*openshellpb.ReportPolicyStatusRequest{}, g.status...)
}

// Exits returns the exit reports received so far.
func (g *Gateway) Exits() []*openshellpb.ReportMainProcessExitRequest {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]*openshellpb.ReportMainProcessExitRequest{}, g.exits...)
}

func (g *Gateway) enter(ctx context.Context, full string) error {
	method := filepath.Base(full)
	md, _ := metadata.FromIncomingContext(ctx)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls[method]++
	g.seen[method] = md
	if err := g.Fail[method]; err != nil {
		return err
	}
	if g.Token != "" && method != "IssueSandboxToken" {
		a := md.Get("authorization")
		switch {
		case len(a) == 1 && a[0] == "Bearer "+g.Token:
		case len(a) == 1 && g.Expired != "" && a[0] == "Bearer "+g.Expired:
			if method != "RefreshSandboxToken" {
				return expired()
			}
		default:
			return status.Error(codes.Unauthenticated, "bad token")
		}
	}
	return nil
}

func expired() error {
	st, err := status.New(codes.Unauthenticated, "invalid token: ExpiredSignature").
		WithDetails(&errdetails.ErrorInfo{Reason: "SANDBOX_TOKEN_EXPIRED", Domain: "sallyport.dev"})
	if err != nil {
		return err
	}
	return st.Err()
}

// GetSandboxConfig answers with Config.
func (g *Gateway) GetSandboxConfig(context.Context, *sandboxpb.GetSandboxConfigRequest) (*sandboxpb.GetSandboxConfigResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Config, nil
}

// GetSandboxProviderEnvironment answers with Environment.
func (g *Gateway) GetSandboxProviderEnvironment(context.Context, *openshellpb.GetSandboxProviderEnvironmentRequest) (*openshellpb.GetSandboxProviderEnvironmentResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.Environment, nil
}

// ReportPolicyStatus notes the report.
func (g *Gateway) ReportPolicyStatus(_ context.Context, r *openshellpb.ReportPolicyStatusRequest) (*openshellpb.ReportPolicyStatusResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.status = append(g.status, r)
	return &openshellpb.ReportPolicyStatusResponse{}, nil
}

// ReportMainProcessExit notes the report.
func (g *Gateway) ReportMainProcessExit(_ context.Context, r *openshellpb.ReportMainProcessExitRequest) (*openshellpb.ReportMainProcessExitResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.exits = append(g.exits, r)
	return &openshellpb.ReportMainProcessExitResponse{}, nil
}

// RefreshSandboxToken answers with NextToken, which is the only good one from then on.
func (g *Gateway) RefreshSandboxToken(context.Context, *openshellpb.RefreshSandboxTokenRequest) (*openshellpb.RefreshSandboxTokenResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.Token != "" {
		g.Token = g.NextToken
	}
	return &openshellpb.RefreshSandboxTokenResponse{Token: g.NextToken}, nil
}

// IssueSandboxToken answers with NextToken.
func (g *Gateway) IssueSandboxToken(context.Context, *openshellpb.IssueSandboxTokenRequest) (*openshellpb.IssueSandboxTokenResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return &openshellpb.IssueSandboxTokenResponse{Token: g.NextToken}, nil
}

// PushSandboxLogs collects lines.
func (g *Gateway) PushSandboxLogs(s grpc.ClientStreamingServer[openshellpb.PushSandboxLogsRequest, openshellpb.PushSandboxLogsResponse]) error {
	for {
		r, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return s.SendAndClose(&openshellpb.PushSandboxLogsResponse{})
		}
		if err != nil {
			return err
		}
		g.mu.Lock()
		g.logs = append(g.logs, r.GetLogs()...)
		g.mu.Unlock()
	}
}

// certificate makes a self-signed certificate for the loopback address.
func (g *Gateway) certificate(tb testing.TB) {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatalf("make key: %v", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gateway"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		tb.Fatalf("make certificate: %v", err)
	}
	g.caFile = filepath.Join(tb.TempDir(), "ca.crt")
	if err := os.WriteFile(g.caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		tb.Fatalf("write certificate: %v", err)
	}
	g.tls = &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
	}
}
