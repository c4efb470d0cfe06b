package devidp

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/luikyv/go-oidc/pkg/goidc"
)

// Bounds of what the provider remembers; the oldest goes first.
const (
	maxSessions = 1000
	maxGrants   = 1000
	maxTokens   = 10000
)

var (
	_ goidc.GrantManager        = (*store)(nil)
	_ goidc.AuthManager         = (*store)(nil)
	_ goidc.RefreshTokenManager = (*store)(nil)
)

// store keeps login sessions, grants and tokens. Grants with a refresh token are on disk too, so that a person
// stays signed in over a restart. Values are copied in and out: the library changes what it is given.
type store struct {
	dir string

	mu       sync.Mutex
	sessions map[string]goidc.AuthnSession
	grants   map[string]goidc.Grant
	tokens   map[string]goidc.Token
	refresh  map[string]string
	codes    map[string]string
}

func openStore(dir string) (*store, error) {
	s := &store{
		dir: dir, sessions: map[string]goidc.AuthnSession{}, grants: map[string]goidc.Grant{},
		tokens: map[string]goidc.Token{}, refresh: map[string]string{}, codes: map[string]string{},
	}
	grants, err := readGrants(dir)
	if err != nil {
		return nil, err
	}
	for _, g := range grants {
		s.grants[g.ID] = *g
		s.refresh[g.RefreshToken] = g.ID
	}
	return s, nil
}

func (s *store) SaveSession(_ context.Context, as *goidc.AuthnSession) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	evict(s.sessions, as.ID, maxSessions, func(v goidc.AuthnSession) int { return v.CreatedAt })
	if as.Status != goidc.StatusPending {
		delete(s.sessions, as.ID)
		return nil
	}
	c := *as
	c.Store = maps.Clone(as.Store)
	s.sessions[as.ID] = c
	return nil
}

func (s *store) Session(_ context.Context, id string) (*goidc.AuthnSession, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	as, ok := s.sessions[id]
	if !ok {
		return nil, goidc.ErrNotFound
	}
	as.Store = maps.Clone(as.Store)
	return &as, nil
}

func (s *store) SaveGrant(_ context.Context, g *goidc.Grant) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, ok := s.grants[g.ID]; ok {
		s.forgetLocked(old)
	}
	if gone, ok := evict(s.grants, g.ID, maxGrants, func(v goidc.Grant) int { return v.CreatedAt }); ok {
		s.forgetLocked(gone)
	}
	s.grants[g.ID] = *g
	if g.AuthCode != "" {
		s.codes[g.AuthCode] = g.ID
	}
	if g.RefreshToken == "" {
		return nil
	}
	s.refresh[g.RefreshToken] = g.ID
	return s.persistLocked()
}

func (s *store) forgetLocked(g goidc.Grant) {
	delete(s.refresh, g.RefreshToken)
	delete(s.codes, g.AuthCode)
}

func (s *store) persistLocked() error {
	now := int(time.Now().Unix())
	kept := make([]goidc.Grant, 0, len(s.refresh))
	for _, id := range s.refresh {
		if g := s.grants[id]; g.RevokedAt == 0 && (g.RefreshTokenExpiresAt == 0 || g.RefreshTokenExpiresAt > now) {
			// A code dies with the process; only the refresh token outlives it.
			g.AuthCode = ""
			kept = append(kept, g)
		}
	}
	slices.SortFunc(kept, func(a, b goidc.Grant) int { return cmp.Compare(a.ID, b.ID) })
	raw, err := json.Marshal(kept)
	if err != nil {
		return fmt.Errorf("encode grants: %w", err)
	}
	return writeFile(filepath.Join(s.dir, grantsFile), raw)
}

func (s *store) Grant(_ context.Context, id string) (*goidc.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grantLocked(id)
}

func (s *store) grantLocked(id string) (*goidc.Grant, error) {
	g, ok := s.grants[id]
	if !ok {
		return nil, goidc.ErrNotFound
	}
	return &g, nil
}

func (s *store) GrantByAuthCode(_ context.Context, code string) (*goidc.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grantLocked(s.codes[code])
}

func (s *store) GrantByRefreshToken(_ context.Context, token string) (*goidc.Grant, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grantLocked(s.refresh[token])
}

func (s *store) SaveToken(_ context.Context, t *goidc.Token) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	evict(s.tokens, t.ID, maxTokens, func(v goidc.Token) int { return v.CreatedAt })
	s.tokens[t.ID] = *t
	return nil
}

func (s *store) Token(_ context.Context, id string) (*goidc.Token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[id]
	if !ok {
		return nil, goidc.ErrNotFound
	}
	return &t, nil
}

// evict makes room for id in a full map by removing the oldest value.
func evict[T any](m map[string]T, id string, limit int, created func(T) int) (gone T, ok bool) {
	if _, present := m[id]; present || len(m) < limit {
		return gone, false
	}
	var oldest string
	for k, v := range m {
		if oldest == "" || created(v) < created(m[oldest]) {
			oldest = k
		}
	}
	gone = m[oldest]
	delete(m, oldest)
	return gone, true
}
