package servicehost

import (
	"cmp"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/service"
)

// Bounds of what is remembered. A user who has as many as may be loses the oldest.
const (
	maxSessions        = 16_384
	maxSessionsPerUser = 64
	maxLinks           = 4096
	maxLinksPerUser    = 16
)

// secretBytes is the entropy of a secret, secretText its length as text.
const secretBytes = 32

var secretText = base64.RawURLEncoding.EncodedLen(secretBytes)

// ReasonTooMany is given when no more can be remembered.
const ReasonTooMany = "TOO_MANY_SERVICE_SESSIONS"

// ticket lets one user in to one service of one sandbox: as a link, once and soon, or as a browser's session. It is not
// changed once it is issued.
type ticket struct {
	// id names it in records. It opens nothing.
	id         string
	name       service.Name
	endpointID string
	// user is who it was issued to, without the end of the credential: a ticket has its own. known is the same with an end
	// long ago, so that what is asked for with it does not renew what the user's real credential holds open.
	user, known *principal.Principal
	created     time.Time
	expires     time.Time

	hash [sha256.Size]byte
}

// holder is the user as tickets have it.
func holder(p *principal.Principal) (user, known *principal.Principal) {
	u, k := *p, *p
	u.Expires, k.Expires = time.Time{}, time.Unix(1, 0)
	return &u, &k
}

// tickets remembers tickets by the hashes of their secrets, so that memory holds none. It is safe for concurrent use.
type tickets struct {
	ttl          time.Duration
	most, peruse int
	now          func() time.Time
	random       io.Reader

	mu     sync.Mutex
	byHash map[[sha256.Size]byte]*ticket
	byUser map[string][]*ticket // oldest first
}

func newTickets(ttl time.Duration, most, perUser int, now func() time.Time, random io.Reader) *tickets {
	if random == nil {
		random = rand.Reader
	}
	return &tickets{
		ttl: ttl, most: most, peruse: perUser, now: now, random: random,
		byHash: map[[sha256.Size]byte]*ticket{}, byUser: map[string][]*ticket{},
	}
}

// issue remembers a ticket and returns its secret, and the user's oldest ticket if that had to go for it.
func (s *tickets) issue(user *principal.Principal, e *service.Endpoint) (made *ticket, secret string, gone *ticket, err error) {
	raw := make([]byte, secretBytes)
	if _, err := io.ReadFull(s.random, raw); err != nil {
		return nil, "", nil, fmt.Errorf("make a secret: %w", err)
	}
	secret = base64.RawURLEncoding.EncodeToString(raw)
	now := s.now()
	made = &ticket{
		id: uuid.NewString(), name: e.Name, endpointID: e.ID, created: now, expires: now.Add(s.ttl), hash: sha256.Sum256([]byte(secret)),
	}
	made.user, made.known = holder(user)
	s.mu.Lock()
	defer s.mu.Unlock()
	mine := s.byUser[user.Actor()]
	switch {
	case len(mine) >= s.peruse:
		gone = mine[0]
		s.drop(gone)
	case len(s.byHash) >= s.most:
		return nil, "", nil, fault.New(fault.ResourceExhausted, ReasonTooMany, "too many browsers are signed in to services").
			WithNext("try again when some have been signed out; they end by themselves")
	}
	s.byHash[made.hash] = made
	s.byUser[user.Actor()] = append(s.byUser[user.Actor()], made)
	return made, secret, gone, nil
}

// find returns the ticket of a secret, nil for one that is unknown or has expired. What is compared are hashes, whose
// prefixes tell nothing of a secret to who measures time.
func (s *tickets) find(secret string) *ticket {
	if len(secret) != secretText {
		return nil
	}
	hash := sha256.Sum256([]byte(secret))
	s.mu.Lock()
	t := s.byHash[hash]
	s.mu.Unlock()
	if t == nil || !s.now().Before(t.expires) {
		return nil
	}
	return t
}

// take is find for a ticket that is good for once.
func (s *tickets) take(secret string) *ticket {
	t := s.find(secret)
	if t == nil || !s.remove(t) {
		return nil
	}
	return t
}

// remove forgets a ticket; false if another did so before.
func (s *tickets) remove(t *ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byHash[t.hash] != t {
		return false
	}
	s.drop(t)
	return true
}

// holds tells whether a ticket is good still.
func (s *tickets) holds(t *ticket) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.byHash[t.hash] == t && s.now().Before(t.expires)
}

// drop forgets a ticket. The caller holds mu.
func (s *tickets) drop(t *ticket) {
	delete(s.byHash, t.hash)
	actor := t.user.Actor()
	left := slices.DeleteFunc(s.byUser[actor], func(other *ticket) bool { return other == t })
	if len(left) == 0 {
		delete(s.byUser, actor)
		return
	}
	s.byUser[actor] = left
}

func (s *tickets) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byHash)
}

// endedTicket is a ticket that was forgotten, and why.
type endedTicket struct {
	*ticket
	why error
}

var errTicketExpired = fault.New(fault.Unauthenticated, "SERVICE_SESSION_EXPIRED", "the sign-in has expired").
	WithNext("run `sallyport service open` again")

// sweep forgets the tickets that have expired or that over gives a reason for, oldest first.
func (s *tickets) sweep(over func(*ticket) error) []endedTicket {
	s.mu.Lock()
	all := make([]*ticket, 0, len(s.byHash))
	for _, t := range s.byHash {
		all = append(all, t)
	}
	s.mu.Unlock()
	var ended []endedTicket
	now := s.now()
	for _, t := range all {
		var why error = errTicketExpired
		if now.Before(t.expires) {
			why = over(t)
		}
		if why != nil && s.remove(t) {
			ended = append(ended, endedTicket{t, why})
		}
	}
	slices.SortFunc(ended, func(a, b endedTicket) int { return cmp.Or(a.created.Compare(b.created), cmp.Compare(a.id, b.id)) })
	return ended
}
