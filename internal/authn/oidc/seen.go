package oidc

import (
	"container/list"
	"iter"
	"slices"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/authn/claims"
	"sallyport.dev/sallyport/internal/fault"
)

// Bounds of what is remembered of identities.
const (
	maxSeen      = 10_000
	maxSeenBytes = 64 << 20
)

// Seen is what was last seen of one identity: claims of a token with a good signature.
type Seen struct {
	Issuer, Subject string
	// Claims are the ones that the configuration looks at and those that name the identity. They must not be changed.
	Claims map[string]any
	// Algorithm is the one that the token was signed with.
	Algorithm string
	// At is when the token was verified; a token that is remembered is not verified again.
	At time.Time
	// Admitted tells that the token was accepted.
	Admitted bool

	kept *kept
	size int
}

// Missing returns the claims that the rules look at but that were not kept when the identity was seen, so that the rules
// cannot decide about it for sure. It is empty for the rules that were in force then.
func (r *Rules) Missing(seen *Seen) []string {
	p := r.issuers[seen.Issuer]
	if p == nil {
		return nil // They refuse it, whatever its claims are.
	}
	var missing []string
	for _, path := range p.paths() {
		if name := path.String(); name != "" && !seen.kept.names[name] && !slices.Contains(missing, name) {
			missing = append(missing, name)
		}
	}
	return missing
}

type identity struct{ issuer, subject string }

// sightings are the last of an identity, and the last at which it was admitted; often they are the same.
type sightings struct {
	identity

	last, admitted *Seen
}

func (s *sightings) size() int {
	n := s.last.size
	if s.admitted != nil && s.admitted != s.last {
		n += s.admitted.size
	}
	return n
}

// memory remembers the identities seen last, bounded in number and bytes.
type memory struct {
	mu      sync.Mutex
	entries map[identity]*list.Element
	recent  *list.List // of *sightings, the latest first
	bytes   int
	// keep is what the configuration in force keeps.
	keep *kept
}

func newMemory() *memory {
	return &memory{entries: map[identity]*list.Element{}, recent: list.New()}
}

// Seen returns what was last seen of an identity since the gateway started, whether it was admitted or not.
func (s *Issuers) Seen(issuer, subject string) (*Seen, bool) {
	m := s.seen
	m.mu.Lock()
	defer m.mu.Unlock()
	found, ok := m.entries[identity{trimSlashes(issuer), subject}]
	if !ok {
		return nil, false
	}
	return of(found).last, true
}

// EachSeen yields every identity that is remembered, the latest first: what was seen when it was last admitted, or last
// seen where it never was.
func (s *Issuers) EachSeen() iter.Seq[*Seen] {
	m := s.seen
	m.mu.Lock()
	all := make([]*Seen, 0, m.recent.Len())
	for element := m.recent.Front(); element != nil; element = element.Next() {
		entry := of(element)
		if entry.admitted != nil {
			all = append(all, entry.admitted)
		} else {
			all = append(all, entry.last)
		}
	}
	m.mu.Unlock()
	return slices.Values(all)
}

func of(element *list.Element) *sightings {
	entry, _ := element.Value.(*sightings) // Nothing else is put in.
	return entry
}

// note remembers the claims of a token whose signature is good. Tokens that say nothing about the identity's access, such
// as an ID token or one that expired, leave what is remembered as it is.
func (m *memory) note(rules *Rules, t *token, at time.Time, refusal error) {
	c := t.claims
	subject, ok := subjectOf(c)
	if !ok {
		return
	}
	if refusal != nil {
		switch fault.From(refusal).Reason {
		case ReasonExpired, ReasonNotYet, ReasonKind:
			return
		}
	}
	seen := &Seen{
		Issuer: issuerOf(c), Subject: subject, Claims: rules.keep.of(c), Algorithm: string(t.algorithm), At: at,
		Admitted: refusal == nil, kept: rules.keep,
	}
	seen.size = claims.Size(seen.Claims)
	m.put(seen)
}

func (m *memory) put(seen *Seen) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seen.kept != m.keep { // The configuration changed meanwhile.
		seen = seen.restrict(seen.kept.both(m.keep))
	}
	key := identity{seen.Issuer, seen.Subject}
	element, ok := m.entries[key]
	if ok {
		m.recent.MoveToFront(element)
		m.bytes -= of(element).size()
	} else {
		element = m.recent.PushFront(&sightings{identity: key})
		m.entries[key] = element
	}
	entry := of(element)
	entry.last = seen
	if seen.Admitted {
		entry.admitted = seen
	}
	m.bytes += entry.size()
	for m.recent.Len() > maxSeen || (m.bytes > maxSeenBytes && m.recent.Len() > 1) {
		oldest := m.recent.Back()
		gone := of(oldest)
		m.recent.Remove(oldest)
		delete(m.entries, gone.identity)
		m.bytes -= gone.size()
	}
}

// restrict drops claims that a new configuration no longer looks at.
func (m *memory) restrict(next *kept) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep = next
	common := map[*kept]*kept{}
	restrict := func(seen *Seen) *Seen {
		if common[seen.kept] == nil {
			common[seen.kept] = seen.kept.both(next)
		}
		return seen.restrict(common[seen.kept])
	}
	m.bytes = 0
	for element := m.recent.Front(); element != nil; element = element.Next() {
		entry := of(element)
		last, admitted := entry.last, entry.admitted
		entry.last = restrict(last)
		switch admitted {
		case nil:
		case last:
			entry.admitted = entry.last
		default:
			entry.admitted = restrict(admitted)
		}
		m.bytes += entry.size()
	}
}

// restrict returns what was seen with no more than a part of the claims that it keeps.
func (s *Seen) restrict(part *kept) *Seen {
	if len(part.paths) == len(s.kept.paths) {
		return s
	}
	less := *s
	less.Claims, less.kept = part.of(s.Claims), part
	less.size = claims.Size(less.Claims)
	return &less
}
