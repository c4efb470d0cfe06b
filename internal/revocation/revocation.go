// Package revocation knows who is refused although the credential is good, and which streams are open on whose behalf.
// Revocations are stored, so that they outlive the gateway and reach its replicas; open streams are in memory. A stream
// ends when its caller is revoked, and when its credential expires and the caller has not shown a later one since. The
// package knows principals and the store; it must not know a method, a message or how a credential is verified.
package revocation

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

// Kind is the kind of stored revocations.
const Kind store.Kind = "revocation"

// Max is how many revocations there can be.
const Max = 10_000

// Bounds of a revocation's texts, in bytes.
const (
	MaxIdentity = 1024
	MaxReason   = 1000
)

// Stable reasons of this package's errors.
const (
	// ReasonRevoked is given to the caller whose identity or session is revoked.
	ReasonRevoked = "CREDENTIAL_REVOKED"
	// ReasonInvalid is given for a revocation that names nobody, several at once, or says something senseless.
	ReasonInvalid = "REVOCATION_INVALID"
	// ReasonSelf is given to administrators who would lock themselves out.
	ReasonSelf     = "REVOCATION_OF_SELF"
	ReasonNotFound = "REVOCATION_NOT_FOUND"
	ReasonTooMany  = "TOO_MANY_REVOCATIONS"
	// ReasonPageToken is given for a page token that no list has handed out.
	ReasonPageToken = "PAGE_TOKEN"
	// ReasonUnreadable is given for a stored revocation that cannot be read.
	ReasonUnreadable = "REVOCATION_UNREADABLE"
)

// Revocation refuses one identity: a user (Issuer and Subject), a sandbox (SandboxID), or a sign-in session of a user
// (Issuer and SessionID). Exactly one of the three is set.
type Revocation struct {
	ID        string
	Issuer    string
	Subject   string
	SandboxID string
	SessionID string
	// Reason is for people.
	Reason string
	// Expires is when the revocation ends; zero means never.
	Expires time.Time
	// IssuedBefore refuses only credentials that were issued before Created, so that signing in again helps. A
	// credential that does not tell when it was issued is refused.
	IssuedBefore bool
	// Created is when the identity was last revoked, CreatedBy by whom, as principal.Actor names it.
	Created   time.Time
	CreatedBy string
}

// record is the stored form; times are Unix milliseconds.
type record struct {
	Issuer       string `json:"issuer,omitempty"`
	Subject      string `json:"subject,omitempty"`
	SandboxID    string `json:"sandbox_id,omitempty"`
	SessionID    string `json:"session_id,omitempty"`
	Reason       string `json:"reason,omitempty"`
	ExpiresMS    int64  `json:"expires_ms,omitempty"`
	IssuedBefore bool   `json:"issued_before,omitempty"`
	CreatedMS    int64  `json:"created_ms"`
	CreatedBy    string `json:"created_by,omitempty"`
}

func (r Revocation) encode() ([]byte, error) {
	rec := record{
		Issuer: r.Issuer, Subject: r.Subject, SandboxID: r.SandboxID, SessionID: r.SessionID, Reason: r.Reason,
		IssuedBefore: r.IssuedBefore, CreatedMS: r.Created.UnixMilli(), CreatedBy: r.CreatedBy,
	}
	if !r.Expires.IsZero() {
		rec.ExpiresMS = r.Expires.UnixMilli()
	}
	raw, err := json.Marshal(rec)
	if err != nil {
		return nil, fmt.Errorf("encode revocation: %w", err)
	}
	return raw, nil
}

type memoKey struct{}

// decode reads a stored revocation, once for each version of it.
func decode(o *store.Object) (Revocation, error) {
	v, err := o.Memo(memoKey{}, func() (any, error) {
		var rec record
		if err := json.Unmarshal(o.Payload, &rec); err != nil {
			return nil, err
		}
		r := Revocation{
			ID: o.ID, Issuer: rec.Issuer, Subject: rec.Subject, SandboxID: rec.SandboxID, SessionID: rec.SessionID,
			Reason: rec.Reason, IssuedBefore: rec.IssuedBefore, Created: time.UnixMilli(rec.CreatedMS), CreatedBy: rec.CreatedBy,
		}
		if rec.ExpiresMS != 0 {
			r.Expires = time.UnixMilli(rec.ExpiresMS)
		}
		if _, err := r.target(); err != nil {
			return nil, err
		}
		return r, nil
	})
	if err != nil {
		return Revocation{}, fault.Wrap(err, fault.Internal, ReasonUnreadable, "stored revocation %s cannot be read", o.ID).
			WithNext("restore the database from a backup")
	}
	return v.(Revocation), nil //nolint:forcetypeassert // Only the function above makes values under this key.
}

// over tells whether the revocation has ended.
func (r Revocation) over(now time.Time) bool { return !r.Expires.IsZero() && !now.Before(r.Expires) }

// sort is what a target names.
type sort byte

const (
	ofUser    sort = 'u'
	ofSandbox sort = 's'
	ofSession sort = 'i'
)

// target is whom a revocation is about. There is one revocation for each.
type target struct {
	sort   sort
	issuer string
	name   string
}

// target returns whom r is about. It fails unless r names exactly one.
func (r Revocation) target() (target, error) {
	set := 0
	t := target{issuer: r.Issuer}
	for _, of := range []struct {
		sort sort
		name string
	}{{ofUser, r.Subject}, {ofSandbox, r.SandboxID}, {ofSession, r.SessionID}} {
		if of.name != "" {
			t.sort, t.name = of.sort, of.name
			set++
		}
	}
	switch {
	case set != 1:
		return target{}, invalid("a revocation names exactly one of a subject, a sandbox_id and a session_id; this one names %d", set)
	case t.sort == ofSandbox && t.issuer != "":
		return target{}, invalid("a sandbox has no issuer")
	case t.sort != ofSandbox && t.issuer == "":
		return target{}, invalid("a subject or session_id means nothing without its issuer")
	}
	return t, nil
}

// key is the target's name in the store.
func (t target) key() string {
	sum := sha256.Sum256([]byte(t.issuer + "\x00" + t.name))
	return string(t.sort) + "-" + hex.EncodeToString(sum[:])
}

// covers tells whether the target is the caller.
func (t target) covers(p *principal.Principal) bool {
	switch t.sort {
	case ofUser:
		return p.Kind == principal.User && p.Issuer == t.issuer && p.Subject == t.name
	case ofSession:
		return p.Kind == principal.User && p.Issuer == t.issuer && p.SessionID == t.name
	default:
		return p.Kind == principal.Sandbox && p.SandboxID == t.name
	}
}

func (r Revocation) validate(now time.Time) error {
	for _, f := range []struct {
		name, value string
		most        int
	}{
		{"issuer", r.Issuer, MaxIdentity},
		{"subject", r.Subject, MaxIdentity},
		{"sandbox_id", r.SandboxID, MaxIdentity},
		{"session_id", r.SessionID, MaxIdentity},
		{"reason", r.Reason, MaxReason},
	} {
		if len(f.value) > f.most {
			return invalid("%s is longer than %d bytes", f.name, f.most)
		}
		if !utf8.ValidString(f.value) || strings.ContainsRune(f.value, 0) {
			return invalid("%s is not text", f.name)
		}
	}
	if r.over(now) {
		return invalid("expires_at_ms is in the past")
	}
	_, err := r.target()
	return err
}

func invalid(format string, args ...any) error {
	return fault.New(fault.InvalidArgument, ReasonInvalid, format, args...).
		WithNext("set issuer and subject, or sandbox_id, or issuer and session_id")
}
