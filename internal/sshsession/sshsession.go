// Package sshsession owns SSH sessions: tokens with which their user reaches one sandbox's SSH server, or a port in it,
// through the gateway. It says who may have one, what it opens, how long, and how many connections at a time, and it
// ends open connections when any of that is no longer so. It moves no bytes and must know no transport and no message.
//
// A token is told to its user once. The store has its SHA-256 alone, so that neither a database nor a backup of one
// opens anything.
package sshsession

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

// Kind is the kind of stored sessions.
const Kind store.Kind = "ssh_session"

// Limits of sessions and their connections; those of connections follow the reference gateways.
const (
	// DefaultTTL is how long a session lives unless Config says otherwise.
	DefaultTTL = 24 * time.Hour
	// DefaultMaxPerUser is how many sessions one user may have for one sandbox.
	DefaultMaxPerUser = 64
	// MaxPerToken bounds the open connections of one session, MaxPerSandbox those of all sessions of one sandbox.
	MaxPerToken   = 3
	MaxPerSandbox = 20
	// MaxToken is the length, in bytes, beyond which nothing is looked at as a token.
	MaxToken = 4096
)

// Stable reasons of this package's errors.
const (
	// ReasonTokenUnknown is given for a token that no session has.
	ReasonTokenUnknown = "SSH_TOKEN_UNKNOWN"
	// ReasonTokenInvalid is given for a token of another sandbox or another user.
	ReasonTokenInvalid = "SSH_TOKEN_INVALID"
	ReasonTokenExpired = "SSH_TOKEN_EXPIRED"
	// ReasonTokenRevoked is the cause with which connections of a revoked session end.
	ReasonTokenRevoked = "SSH_TOKEN_REVOKED"
	// ReasonNotFound is given to those who would revoke the session of another user.
	ReasonNotFound = "SSH_SESSION_NOT_FOUND"
	// ReasonTokenLimit and ReasonSandboxLimit are given when MaxPerToken and MaxPerSandbox are reached.
	ReasonTokenLimit   = "SSH_TOKEN_CONNECTIONS"
	ReasonSandboxLimit = "SSH_SANDBOX_CONNECTIONS"
	// ReasonTooMany is given to a user all of whose many sessions for a sandbox are in use.
	ReasonTooMany = "TOO_MANY_SSH_SESSIONS"
	// ReasonUsersOnly is given to callers who are no users.
	ReasonUsersOnly = "USERS_ONLY"
	// ReasonUnreadable is given for a stored session that cannot be read.
	ReasonUnreadable = "SSH_SESSION_UNREADABLE"
)

// Session is one stored session.
type Session struct {
	// ID names the session in records and logs. It opens nothing, and the token cannot be told from it.
	ID        string
	SandboxID string
	// Workspace is that of the sandbox.
	Workspace string
	Created   time.Time
	// Expires is when the session ends; zero means never.
	Expires time.Time
	// User is who the session belongs to, with what was known of it when it was made.
	User principal.Principal

	hash [sha256.Size]byte
}

// over tells whether the session has ended.
func (s *Session) over(now time.Time) bool { return !s.Expires.IsZero() && !now.Before(s.Expires) }

// owned tells whether the session is the caller's.
func (s *Session) owned(p *principal.Principal) bool {
	return p.Kind == principal.User && p.Issuer == s.User.Issuer && p.Subject == s.User.Subject
}

// record is the stored form; times are Unix milliseconds.
type record struct {
	Hash      string `json:"hash"`
	SandboxID string `json:"sandbox_id"`
	ExpiresMS int64  `json:"expires_ms,omitempty"`

	Issuer    string   `json:"issuer"`
	Subject   string   `json:"subject"`
	Provider  string   `json:"provider,omitempty"`
	Tenant    string   `json:"tenant,omitempty"`
	Roles     []string `json:"roles,omitempty"`
	Scopes    []string `json:"scopes,omitempty"`
	SessionID string   `json:"session_id,omitempty"`
	IssuedMS  int64    `json:"issued_ms,omitempty"`
}

func (s *Session) encode() ([]byte, error) {
	raw, err := json.Marshal(record{
		Hash: hex.EncodeToString(s.hash[:]), SandboxID: s.SandboxID, ExpiresMS: millis(s.Expires),
		Issuer: s.User.Issuer, Subject: s.User.Subject, Provider: s.User.Provider, Tenant: s.User.Tenant,
		Roles: s.User.Roles, Scopes: s.User.Scopes, SessionID: s.User.SessionID, IssuedMS: millis(s.User.Issued),
	})
	if err != nil {
		return nil, fmt.Errorf("encode SSH session: %w", err)
	}
	return raw, nil
}

type memoKey struct{}

// decode reads a stored session, once for each. The result is shared.
func decode(o *store.Object) (*Session, error) {
	v, err := o.Memo(memoKey{}, func() (any, error) {
		var r record
		if err := json.Unmarshal(o.Payload, &r); err != nil {
			return nil, err
		}
		s := &Session{
			ID: o.ID, SandboxID: r.SandboxID, Workspace: o.Workspace, Created: o.CreatedAt, Expires: moment(r.ExpiresMS),
			User: principal.Principal{
				Kind: principal.User, Issuer: r.Issuer, Subject: r.Subject, Provider: r.Provider, Tenant: r.Tenant,
				Roles: r.Roles, Scopes: r.Scopes, SessionID: r.SessionID, Issued: moment(r.IssuedMS),
			},
		}
		if n, err := hex.Decode(s.hash[:], []byte(r.Hash)); err != nil || n != len(s.hash) {
			return nil, fmt.Errorf("hash of %d bytes: %w", n, err)
		}
		return s, nil
	})
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, ReasonUnreadable, "stored SSH session %s cannot be read", o.ID).
			WithNext("create another")
	}
	return v.(*Session), nil //nolint:forcetypeassert // Only the function above makes values under this key.
}

func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func moment(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// hashOf is what is kept of a token.
func hashOf(token string) [sha256.Size]byte { return sha256.Sum256([]byte(token)) }

// idOf is the id of the session whose token has this hash: a part of the hash of the hash, so that an id, which is in
// records and logs, says nothing of what a lookup compares.
func idOf(hash [sha256.Size]byte) string {
	sum := sha256.Sum256(hash[:])
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x80 // version 8 of RFC 9562: of our own making
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}

// find returns the session of a token.
func (s *Service) find(token string) (*Session, error) {
	if len(token) > MaxToken {
		return nil, errUnknown
	}
	hash := hashOf(token)
	o, err := s.store.Get(Kind, idOf(hash))
	if err != nil {
		return nil, storeFault(err)
	}
	found, err := decode(o)
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare(found.hash[:], hash[:]) != 1 {
		return nil, errUnknown
	}
	return found, nil
}
