package login

import (
	"context"
	"net/http"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/fault"
)

// renewTimeout bounds waiting for the lock and renewing together.
const renewTimeout = 45 * time.Second

// Source hands out the bearer token of one gateway and renews what is stored. It is safe for concurrent use.
type Source struct {
	root   profile.Root
	meta   profile.Metadata
	secret string
	mint   bool
	client *http.Client
	now    func() time.Time

	mu    sync.Mutex
	token profile.Token
}

// SourceOptions are the parts of a Source.
type SourceOptions struct {
	Root profile.Root
	// Metadata is the gateway's registration.
	Metadata profile.Metadata
	// Secret is the client secret; Mint tells that there is one, be it empty: a token can then be obtained
	// anew without a person.
	Secret string
	Mint   bool
	// Client reaches the identity provider.
	Client *http.Client
	// Now is the clock; nil means the real one.
	Now func() time.Time
}

// NewSource returns a Source; nothing is read until the first Token.
func NewSource(o SourceOptions) *Source {
	if o.Now == nil {
		o.Now = time.Now
	}
	return &Source{root: o.Root, meta: o.Metadata, secret: o.Secret, mint: o.Mint, client: o.Client, now: o.Now}
}

// ConfigOf is the sign-in part of a registration.
func ConfigOf(m profile.Metadata) Config {
	clientID := m.OIDCClientID
	if clientID == "" {
		clientID = DefaultClientID
	}
	return Config{Issuer: m.OIDCIssuer, ClientID: clientID, Audience: m.OIDCAudience, Scopes: m.OIDCScopes}
}

// Token returns an access token that is valid for a while yet. Kind Unauthenticated when a person has to sign
// in again. An expired token is never returned.
func (s *Source) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token.AccessToken != "" && !stale(s.token, s.now()) {
		return s.token.AccessToken, nil
	}
	stored, err := s.root.LoadToken(s.meta)
	if err == nil && !stale(stored, s.now()) {
		s.token = stored
		return stored.AccessToken, nil
	}
	if err != nil && !s.mint {
		return "", err
	}
	fresh, err := s.renew(ctx)
	if err != nil {
		// The margin before the expiry is there for an unreachable provider.
		if stored.AccessToken != "" && s.now().Before(stored.Expiry) {
			s.token = stored
			return stored.AccessToken, nil
		}
		return "", err
	}
	s.token = fresh
	return fresh.AccessToken, nil
}

// RenewAt returns when the token that was last handed out is due to be replaced by the next Token; zero if it never is,
// or if none was handed out.
func (s *Source) RenewAt() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token.Expiry.IsZero() {
		return time.Time{}
	}
	return s.token.Expiry.Add(-renewBefore)
}

// renew takes the lock of all processes, looks whether another one was faster, and otherwise obtains and
// stores a new token.
func (s *Source) renew(ctx context.Context) (profile.Token, error) {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	unlock, err := s.root.Lock(ctx, s.meta.Name)
	if err != nil {
		return profile.Token{}, err
	}
	defer unlock()
	stored, loadErr := s.root.LoadToken(s.meta)
	if loadErr == nil && !stale(stored, s.now()) {
		return stored, nil
	}
	fresh, err := s.obtain(ctx, stored)
	if fault.Is(err, fault.Unauthenticated) {
		// A client that knows no lock may have used the refresh token up and stored its successor.
		if again, err := s.root.LoadToken(s.meta); err == nil && again != stored && !stale(again, s.now()) {
			return again, nil
		}
	}
	if err != nil {
		return profile.Token{}, err
	}
	return fresh, s.root.SaveToken(s.meta.Name, fresh)
}

// obtain prefers the refresh token, which keeps the user, over the secret of a machine.
func (s *Source) obtain(ctx context.Context, stored profile.Token) (profile.Token, error) {
	cfg := ConfigOf(s.meta)
	if stored.RefreshToken == "" {
		if s.mint {
			return ClientCredentials(ctx, s.client, cfg, s.secret)
		}
		return profile.Token{}, s.expired(nil)
	}
	// The refresh token belongs to whom it was issued by, also when the registration has since changed.
	cfg.Issuer, cfg.ClientID = stored.Issuer, stored.ClientID
	fresh, err := refresh(ctx, s.client, cfg, stored.RefreshToken)
	if fault.Is(err, fault.Unauthenticated) {
		if s.mint {
			return ClientCredentials(ctx, s.client, ConfigOf(s.meta), s.secret)
		}
		return profile.Token{}, s.expired(err)
	}
	return fresh, err
}

func (s *Source) expired(cause error) error {
	return fault.Wrap(cause, fault.Unauthenticated, ReasonExpired,
		"the session with gateway '%s' has expired", s.meta.Name).
		WithNext("run `sallyport gateway login %s`", s.meta.Name)
}
