// Package identity holds what the supervisor proves itself with: the sandbox's token, from the environment, a file
// or an exchange, kept fresh while the supervisor runs, and the shared secret of the older generation. It hands
// them to the gateway connection call by call and refuses to let either cross a network in the clear.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	// SecretHeader carries the shared secret of the older generation.
	SecretHeader = "x-sandbox-secret"
	// unknownLifetime is the refresh interval for a token that does not expire or cannot be read.
	unknownLifetime = 6 * time.Hour
	maxRefresh      = 12 * time.Hour
	minRefresh      = time.Second
	retryRefresh    = 10 * time.Second
	callTimeout     = 10 * time.Second
	// lookInterval is the time between two looks at the token's file.
	lookInterval = 30 * time.Second
	// renewPause keeps a gateway that refuses everything from making us read files and ask for tokens in a loop.
	renewPause   = 2 * time.Second
	maxTokenFile = 64 << 10
)

// Config names the sources, in order of precedence for the token.
type Config struct {
	Token string
	// TokenFile holds the token and may be replaced while we run. Where we may, we keep a renewed token there, so that
	// it survives us.
	TokenFile string
	// ServiceAccountFile holds a Kubernetes service-account token that is exchanged for ours.
	ServiceAccountFile string
	// Secret is the shared secret; empty for none.
	Secret string
	// Secure tells that the connection is TLS, or does not leave the machine.
	Secure bool
}

// Source hands out the credentials. It is the connection's credentials.PerRPCCredentials.
type Source struct {
	config Config
	log    *slog.Logger

	mu    sync.Mutex
	token string
	// fileToken is what the token's file held when we last read or wrote it.
	fileToken string
	renewed   time.Time
	changed   chan struct{}

	// refreshing is held while a token is asked for and kept.
	refreshing sync.Mutex
	// unkept tells that the log has the reason why tokens cannot be kept. It belongs to refreshing.
	unkept bool
}

var _ credentials.PerRPCCredentials = (*Source)(nil)

// ErrInsecure reports a credential that would cross a network in the clear.
var ErrInsecure = errors.New("refusing to send the sandbox's credential over plaintext http to another machine; " +
	"use an https endpoint")

// Open reads the first token. With a service-account file alone there is none until Renew has exchanged it.
func Open(c Config, log *slog.Logger) (*Source, error) {
	s := &Source{config: c, log: log, token: c.Token, changed: make(chan struct{}, 1)}
	if c.TokenFile != "" {
		var err error
		s.fileToken, err = readToken(c.TokenFile)
		switch {
		case s.token != "":
			// The file counts once it changes.
		case err == nil:
			s.token = s.fileToken
		case c.ServiceAccountFile == "":
			return nil, fmt.Errorf("read sandbox token: %w", err)
		default:
			log.Warn("sandbox token file cannot be read; using the service account", "error", err)
		}
	}
	if (s.token != "" || c.ServiceAccountFile != "" || c.Secret != "") && !c.Secure {
		return nil, ErrInsecure
	}
	return s, nil
}

// Has tells whether there is any credential, now or by exchange.
func (s *Source) Has() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token != "" || s.config.ServiceAccountFile != "" || s.config.Secret != ""
}

// GetRequestMetadata returns the headers of one call.
func (s *Source) GetRequestMetadata(ctx context.Context, _ ...string) (map[string]string, error) {
	if !s.config.Secure {
		return nil, nil
	}
	info, _ := credentials.RequestInfoFromContext(ctx)
	headers := make(map[string]string, 2)
	if info.Method == openshellpb.OpenShell_IssueSandboxToken_FullMethodName {
		token, err := readToken(s.config.ServiceAccountFile)
		if err != nil {
			return nil, status.Errorf(codes.Unauthenticated, "read service-account token: %v", err)
		}
		headers["authorization"] = "Bearer " + token
		return headers, nil
	}
	s.mu.Lock()
	token := s.token
	s.mu.Unlock()
	if token != "" {
		headers["authorization"] = "Bearer " + token
	}
	// The older generation neither needs nor checks the secret on the two calls of a session.
	if s.config.Secret != "" && info.Method != openshellpb.OpenShell_ConnectSupervisor_FullMethodName &&
		info.Method != openshellpb.OpenShell_RelayStream_FullMethodName {
		headers[SecretHeader] = s.config.Secret
	}
	return headers, nil
}

// RequireTransportSecurity leaves the decision to Open, which also allows plaintext on the same machine.
func (s *Source) RequireTransportSecurity() bool { return false }
