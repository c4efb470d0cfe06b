package audit

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of a record in bytes, so that no peer decides how long a line becomes.
const (
	maxActor   = 512
	maxTarget  = 512
	maxAction  = 256
	maxText    = 128
	maxDetails = 16
	maxKey     = 64
	maxDetail  = 256
	// maxLine is more than the longest line that these bounds allow when every byte is escaped.
	maxLine = 32 << 10
)

// clean brings a record into the form that is kept: valid text without control characters, bounded, with a time.
func clean(r *Record, now time.Time) {
	if year := r.Time.Year(); r.Time.IsZero() || year < 1970 || year > 9999 {
		r.Time = now
	}
	r.Time = r.Time.UTC().Round(0)
	r.Actor, r.Target, r.Action = text(r.Actor, maxActor), text(r.Target, maxTarget), text(r.Action, maxAction)
	r.ActorKind, r.Tenant, r.Verdict = text(r.ActorKind, maxText), text(r.Tenant, maxText), text(r.Verdict, maxText)
	r.Reason, r.RequestID, r.Remote = text(r.Reason, maxText), text(r.RequestID, maxText), text(r.Remote, maxText)
	if len(r.Details) == 0 {
		r.Details = nil
		return
	}
	details := make(map[string]string, min(len(r.Details), maxDetails))
	var room [maxDetails]string
	for _, k := range sortedKeys(room[:0], r.Details) {
		if len(details) == maxDetails {
			break
		}
		details[text(k, maxKey)] = text(r.Details[k], maxDetail)
	}
	r.Details = details
}

// text returns s without control characters and of at most limit bytes. What is longer ends with a digest of the whole,
// so that two long names stay two names.
func text(s string, limit int) string {
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		s = strings.Map(func(r rune) rune {
			if unicode.IsControl(r) {
				return -1
			}
			return r
		}, strings.ToValidUTF8(s, "\uFFFD"))
	}
	if len(s) <= limit {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	cut := limit - len("…") - 16
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…" + hex.EncodeToString(sum[:8])
}
