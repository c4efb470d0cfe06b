package identity

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// reasonExpired is what our own gateway says of a token that is authentic and too old. It still renews such a token.
const reasonExpired = "SANDBOX_TOKEN_EXPIRED"

// Bootstrap gets a token that is good before the first call: by exchange, if the service account is the only source,
// or by renewing one that expired while nobody ran.
func (s *Source) Bootstrap(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	token := s.current()
	if token == "" {
		if s.config.ServiceAccountFile == "" {
			return nil
		}
		return s.exchange(ctx, gateway)
	}
	if !over(token) || s.reread() {
		return nil
	}
	if s.config.ServiceAccountFile != "" {
		return s.exchange(ctx, gateway)
	}
	return s.refreshOnce(ctx, gateway)
}

// Renew looks for a better token after the gateway refused ours because of cause: a file that was replaced, a new
// exchange, or, for a token that has expired, its renewal. It does nothing if it ran a moment ago.
func (s *Source) Renew(ctx context.Context, gateway openshellpb.OpenShellClient, cause error) {
	s.mu.Lock()
	if time.Since(s.renewed) < renewPause {
		s.mu.Unlock()
		return
	}
	s.renewed = time.Now()
	token := s.token
	s.mu.Unlock()
	if s.another(ctx, gateway) || token == "" {
		return
	}
	// By our own clock too, which may be wrong: a gateway of another kind does not tell.
	if !expired(cause) && !over(token) {
		return
	}
	if err := s.refreshOnce(ctx, gateway); err != nil {
		s.log.Warn("expired sandbox token not renewed", "error", err)
		return
	}
	s.log.Info("expired sandbox token renewed")
}

// Run keeps the token fresh until ctx ends.
func (s *Source) Run(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	timer := time.NewTimer(s.next())
	defer timer.Stop()
	look := time.NewTicker(lookInterval)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.changed:
			timer.Reset(s.next())
		case <-look.C:
			s.reread()
		case <-timer.C:
			timer.Reset(s.refresh(ctx, gateway))
		}
	}
}

// refresh returns when to do it again.
func (s *Source) refresh(ctx context.Context, gateway openshellpb.OpenShellClient) time.Duration {
	if s.current() == "" {
		if s.config.ServiceAccountFile == "" {
			return unknownLifetime
		}
		if err := s.exchange(ctx, gateway); err != nil {
			s.log.Warn("no sandbox token", "error", err, "retry_in", retryRefresh)
			return jitter(retryRefresh)
		}
		return s.next()
	}
	err := s.refreshOnce(ctx, gateway)
	switch status.Code(err) {
	case codes.OK:
		return s.next()
	case codes.Unimplemented:
		s.log.Info("gateway does not refresh sandbox tokens")
		return unknownLifetime
	case codes.Unauthenticated:
		if s.another(ctx, gateway) {
			return s.next()
		}
	}
	if ctx.Err() == nil {
		s.log.Warn("sandbox token not refreshed", "error", err, "retry_in", retryRefresh)
	}
	return jitter(retryRefresh)
}

// another takes the token of another source: a file that has changed, or an exchange.
func (s *Source) another(ctx context.Context, gateway openshellpb.OpenShellClient) bool {
	if s.reread() {
		return true
	}
	if s.config.ServiceAccountFile == "" {
		return false
	}
	if err := s.exchange(ctx, gateway); err != nil {
		s.log.Warn("no new sandbox token", "error", err)
		return false
	}
	return true
}

// reread takes the token of a file that has changed since we read or wrote it, and tells whether it did.
func (s *Source) reread() bool {
	if s.config.TokenFile == "" {
		return false
	}
	// Our own writing must not be taken for news.
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	token, err := readToken(s.config.TokenFile)
	if err != nil {
		s.log.Debug("sandbox token file cannot be read again", "error", err)
		return false
	}
	s.mu.Lock()
	same := token == s.fileToken
	s.fileToken = token
	news := !same && token != s.token
	s.mu.Unlock()
	if !news {
		return false
	}
	s.set(token)
	s.log.Info("sandbox token read again from its file")
	return true
}

func (s *Source) exchange(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
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

// refreshOnce exchanges the token for the next one and keeps that.
func (s *Source) refreshOnce(ctx context.Context, gateway openshellpb.OpenShellClient) error {
	s.refreshing.Lock()
	defer s.refreshing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	r, err := gateway.RefreshSandboxToken(ctx, &openshellpb.RefreshSandboxTokenRequest{})
	if err != nil {
		return fmt.Errorf("refresh sandbox token: %w", err)
	}
	if r.GetToken() != "" {
		s.keep(r.GetToken())
		s.set(r.GetToken())
	}
	return nil
}

// keep puts a token where the next supervisor of this sandbox finds it, if there is such a place.
func (s *Source) keep(token string) {
	if s.config.TokenFile == "" {
		return
	}
	if err := writeToken(s.config.TokenFile, token); err != nil {
		if !s.unkept {
			s.log.Info("renewed sandbox tokens cannot be kept in their file; they end with this supervisor", "error", err)
		}
		s.unkept = true
		return
	}
	s.mu.Lock()
	s.fileToken = token
	s.mu.Unlock()
}

func (s *Source) current() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.token
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

// next returns when the token is due: at four fifths of its remaining life and up to a tenth of that later, so
// that many supervisors started together do not come together.
func (s *Source) next() time.Duration {
	token := s.current()
	if token == "" {
		return jitter(retryRefresh)
	}
	due := unknownLifetime
	if expires, ok := expiry(token); ok {
		due = min(max(time.Until(expires)*4/5, minRefresh), maxRefresh)
	}
	return jitter(due)
}

func jitter(d time.Duration) time.Duration {
	return d + rand.N(d/10+1) //nolint:gosec // Jitter is no secret.
}

// over tells by the token itself that its life has ended.
func over(token string) bool {
	expires, ok := expiry(token)
	return ok && !time.Now().Before(expires)
}

// expired tells whether the gateway refused a token because its life has ended.
func expired(err error) bool {
	st, ok := status.FromError(err)
	if !ok || st.Code() != codes.Unauthenticated {
		return false
	}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetReason() == reasonExpired {
			return true
		}
	}
	return false
}
