package oidc

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// origin is what decides which keys a source finds. Sources of the same origin may share keys, others must not.
type origin struct {
	issuer    string
	discovery string
	// authorities are the contents of the CA file.
	authorities string
}

// source owns the keys of one issuer: finding, refreshing and keeping them while the provider is away. It decides about
// no claim.
type source struct {
	origin

	name     string
	ttl      time.Duration
	maxAge   time.Duration
	client   *http.Client
	log      *slog.Logger
	now      func() time.Time
	observer Observer
	// changed is called when other keys than before serve.
	changed func(*source)

	keys atomic.Pointer[keySet]

	mu           sync.Mutex // guards what follows
	inFlight     *fetch
	waiting      int
	lastDemanded time.Time
	misses       map[string]time.Time
	jwksURI      string
	lastErr      error
}

func newSource(c Issuer, from origin, o *Options, changed func(*source)) (*source, error) {
	s := &source{
		origin: from, name: c.Name, ttl: c.KeysTTL, now: o.Now, observer: o.Observer, changed: changed,
		log: o.Logger.With("issuer", from.issuer), misses: map[string]time.Time{},
	}
	if s.ttl == 0 {
		s.ttl = DefaultKeysTTL
	}
	s.ttl = max(s.ttl, demandInterval)
	s.maxAge = max(minMaxAge, 2*s.ttl)
	given := o.HTTPClient
	if from.authorities != "" {
		roots := x509.NewCertPool()
		if !roots.AppendCertsFromPEM([]byte(from.authorities)) {
			return nil, fmt.Errorf("CA file %s: it has no PEM certificate", c.CAFile)
		}
		transport := newTransport()
		transport.TLSClientConfig = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
		given = &http.Client{Transport: transport}
	}
	s.client = newClient(given)
	return s, nil
}

// adopt takes over what another source of the same origin knows.
func (s *source) adopt(old *source) {
	s.keys.Store(old.keys.Load())
	old.mu.Lock()
	defer old.mu.Unlock()
	s.jwksURI, s.lastErr = old.jwksURI, old.lastErr
}

// usable tells whether a key set may still be trusted.
func (s *source) usable(set *keySet, now time.Time) bool {
	return set != nil && now.Sub(set.confirmed) <= s.maxAge
}

// ready tells why tokens cannot be verified right now; nil while keys serve, also when the provider is away.
func (s *source) ready() error {
	set := s.keys.Load()
	if s.usable(set, s.now()) {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	cause := s.lastErr
	if cause == nil {
		cause = errors.New("not fetched yet")
	}
	if set == nil {
		return fmt.Errorf("no keys of %s: %w", s.issuer, cause)
	}
	return fmt.Errorf("keys of %s are older than %s: %w", s.issuer, s.maxAge, cause)
}

func (s *source) status() Status {
	st := Status{Name: s.name, Issuer: s.issuer, NotReady: s.ready()}
	if set := s.keys.Load(); set != nil {
		st.Confirmed = set.confirmed
		for _, keys := range set.keys {
			st.Keys += len(keys)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.LastFailure = s.lastErr
	return st
}
