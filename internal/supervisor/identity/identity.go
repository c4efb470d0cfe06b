// Package identity holds what the supervisor proves itself with: the sandbox's token, from the environment, a file
// or an exchange, kept fresh while the supervisor runs, and the shared secret of the older generation. It hands
// them to the gateway connection call by call and refuses to let either cross a network in the clear.
package identity

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
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
	// renewPause keeps a gateway that refuses everything from making us read files and ask for tokens in a loop.
	renewPause   = 2 * time.Second
	maxTokenFile = 64 << 10
)

// Config names the sources, in order of precedence for the token.
type Config struct {
	Token string
	// TokenFile holds the token and may be replaced while we run.
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

	mu      sync.Mutex
	token   string
	renewed time.Time
	changed chan struct{}
}

var _ credentials.PerRPCCredentials = (*Source)(nil)

// ErrInsecure reports a credential that would cross a network in the clear.
var ErrInsecure = errors.New("refusing to send the sandbox's credential over plaintext http to another machine; " +
	"use an https endpoint")

// Open reads the first token. With a service-account file alone there is none until Renew has exchanged it.
func Open(c Config, log *slog.Logger) (*Source, error) {
	s := &Source{config: c, log: log, token: c.Token, changed: make(chan struct{}, 1)}
	if s.token == "" && c.TokenFile != "" {
		token, err := readToken(c.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("read sandbox token: %w", err)
		}
		s.token = token
	}
	if (s.token != "" || c.ServiceAccountFile != "" || c.Secret != "") && !c.Secure {
		return nil, ErrInsecure
	}
	return s, nil
}

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	buf := make([]byte, maxTokenFile+1)
	n := 0
	for n < len(buf) {
		k, err := f.Read(buf[n:])
		n += k
		if err != nil {
			break
		}
	}
	token := strings.TrimSpace(string(buf[:n]))
	if n > maxTokenFile || token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", fmt.Errorf("%s does not hold one token", path)
	}
	return token, nil
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

// Bootstrap exchanges the service-account token if that is the only source.
func (s *Source) Bootstrap(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	s.mu.Lock()
	needed := s.token == "" && s.config.ServiceAccountFile != ""
	s.mu.Unlock()
	if !needed {
		return nil
	}
	return s.exchange(ctx, gateway)
}

func (s *Source) exchange(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := gateway.IssueSandboxToken(ctx, &openshellpb.IssueSandboxTokenRequest{})
	if err != nil {
		return fmt.Errorf("exchange service-account token: %w", err)
	}
	if r.GetToken() == "" {
		return errors.New("exchange service-account token: the gateway returned none")
	}
	s.set(r.GetToken())
	return nil
}

func (s *Source) set(token string) {
	s.mu.Lock()
	s.token = token
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Renew looks for a better token after the gateway refused ours: a file that was replaced, or a new exchange. It
// does nothing if it ran a moment ago.
func (s *Source) Renew(ctx context.Context, gateway openshellpb.OpenShellClient) {
	s.mu.Lock()
	if time.Since(s.renewed) < renewPause {
		s.mu.Unlock()
		return
	}
	s.renewed = time.Now()
	old := s.token
	s.mu.Unlock()
	switch {
	case s.config.Token != "":
		// From the environment, which does not change.
	case s.config.TokenFile != "":
		token, err := readToken(s.config.TokenFile)
		if err != nil {
			s.log.Warn("sandbox token file cannot be read again", "error", err)
		} else if token != old {
			s.set(token)
			s.log.Info("sandbox token read again from its file")
		}
	case s.config.ServiceAccountFile != "":
		if err := s.exchange(ctx, gateway); err != nil {
			s.log.Warn("no new sandbox token", "error", err)
		}
	}
}

// Run keeps the token fresh until ctx ends.
func (s *Source) Run(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	timer := time.NewTimer(s.next())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			timer.Reset(s.next())
		case <-timer.C:
			timer.Reset(s.refresh(ctx, gateway))
		}
	}
}

// refresh returns when to do it again.
func (s *Source) refresh(ctx context.Context, gateway openshellpb.OpenShellClient) time.Duration {
	s.mu.Lock()
	has := s.token != ""
	s.mu.Unlock()
	if !has {
		return retryRefresh + s.skip(ctx, gateway)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := gateway.RefreshSandboxToken(call, &openshellpb.RefreshSandboxTokenRequest{})
	switch status.Code(err) {
	case codes.OK:
		if r.GetToken() != "" {
			s.mu.Lock()
			s.token = r.GetToken()
			s.mu.Unlock()
		}
		return s.next()
	case codes.Unimplemented:
		s.log.Info("gateway does not refresh sandbox tokens")
		return unknownLifetime
	case codes.Unauthenticated:
		s.Renew(ctx, gateway)
	}
	if ctx.Err() == nil {
		s.log.Warn("sandbox token not refreshed", "error", err, "retry_in", retryRefresh)
	}
	return retryRefresh
}

// skip makes the exchange that Bootstrap could not, and returns how much longer there is nothing else to do.
func (s *Source) skip(ctx context.Context, gateway openshellpb.OpenShellClient) time.Duration {
	if s.config.ServiceAccountFile == "" {
		return unknownLifetime
	}
	if err := s.exchange(ctx, gateway); err != nil {
		s.log.Warn("no sandbox token", "error", err, "retry_in", retryRefresh)
	}
	return 0
}

// next returns when the token is due: at four fifths of its remaining life and up to a tenth of that later, so
// that many supervisors started together do not come together.
func (s *Source) next() time.Duration {
	s.mu.Lock()
	token := s.token
	s.mu.Unlock()
	if token == "" {
		return retryRefresh
	}
	due := unknownLifetime
	if expires, ok := expiry(token); ok {
		due = min(max(time.Until(expires)*4/5, minRefresh), maxRefresh)
	}
	return due + rand.N(due/10+1) //nolint:gosec // Jitter is no secret.
}
