package revocation

import (
	"context"
	"hash/maphash"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/principal"
)

// shards spread the callers over locks.
const shards = 64

// never is the deadline of a stream whose credential does not expire.
const never = math.MaxInt64

// streams are the open streams by caller. There is no timer a stream: sweep looks for those whose time is over, and
// passes by shards in which there can be none.
type streams struct {
	seed maphash.Seed
	// open counts streams, so that calls pay nothing while there are none.
	open   atomic.Int64
	shards [shards]shard
}

type shard struct {
	mu sync.Mutex
	// callers holds the streams by a hash of the caller; the rare callers with the same hash share a list.
	callers map[uint64]caller
	// soonest is not later than any deadline in the shard.
	soonest int64
}

type caller struct {
	first *stream
	// soonest is not later than any deadline in the list.
	soonest int64
}

// stream is one open stream. Its fields belong to the shard's lock.
type stream struct {
	owner     *streams
	principal *principal.Principal
	// end ends the stream; nil once that was done.
	end        context.CancelCauseFunc
	deadline   int64 // Unix nanoseconds
	next, prev *stream
	left       bool
}

func (s *streams) init() {
	s.seed = maphash.MakeSeed()
	for i := range s.shards {
		s.shards[i].callers = map[uint64]caller{}
		s.shards[i].soonest = never
	}
}

// nanos is a deadline for a time of expiry.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return never
	}
	return t.UnixNano()
}

// keyOf is a hash of who is calling, without the sign-in session.
func (s *streams) keyOf(p *principal.Principal) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	if p.Kind == principal.Sandbox {
		h.WriteString(p.SandboxID)
		return h.Sum64()
	}
	h.WriteString(p.Issuer)
	h.WriteByte(0)
	h.WriteString(p.Subject)
	return h.Sum64()
}

func (s *streams) shard(key uint64) *shard { return &s.shards[key%shards] }

// add registers a stream.
func (s *streams) add(p *principal.Principal, end context.CancelCauseFunc, deadline int64) *stream {
	st := &stream{owner: s, principal: p, end: end, deadline: deadline}
	// Before it is in the list: a call that sees no open stream looks for none.
	s.open.Add(1)
	key := s.keyOf(p)
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, ok := sh.callers[key]
	if !ok {
		c.soonest = never
	}
	st.next = c.first
	if c.first != nil {
		c.first.prev = st
	}
	sh.callers[key] = caller{first: st, soonest: min(c.soonest, deadline)}
	sh.soonest = min(sh.soonest, deadline)
	return st
}

// leave forgets the stream; the second time it does nothing.
func (st *stream) leave() {
	s := st.owner
	key := s.keyOf(st.principal)
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if st.left {
		return
	}
	st.left = true
	s.open.Add(-1)
	if st.next != nil {
		st.next.prev = st.prev
	}
	switch {
	case st.prev != nil:
		st.prev.next = st.next
	case st.next == nil:
		delete(sh.callers, key)
	default:
		c := sh.callers[key]
		c.first = st.next
		sh.callers[key] = c
	}
}

// renew moves the deadlines of a caller's streams to until where that is later.
func (s *streams) renew(p *principal.Principal, until int64) {
	if s.open.Load() == 0 {
		return
	}
	key := s.keyOf(p)
	sh := s.shard(key)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	c, ok := sh.callers[key]
	if !ok || until <= c.soonest {
		return
	}
	c.soonest = never
	for st := c.first; st != nil; st = st.next {
		if st.deadline < until && sameCaller(st.principal, p) {
			st.deadline = until
		}
		c.soonest = min(c.soonest, st.deadline)
	}
	sh.callers[key] = c
}

// sameCaller tells whether a credential of p speaks for a stream of q: the same sandbox, or the same user and, where
// both credentials name one, the same sign-in session.
func sameCaller(q, p *principal.Principal) bool {
	if q.Kind != p.Kind {
		return false
	}
	if p.Kind == principal.Sandbox {
		return q.SandboxID == p.SandboxID
	}
	return q.Issuer == p.Issuer && q.Subject == p.Subject &&
		(q.SessionID == "" || p.SessionID == "" || q.SessionID == p.SessionID)
}

// sweep ends the streams whose deadline has passed.
func (s *streams) sweep(now int64, cause error) {
	if s.open.Load() == 0 {
		return
	}
	var ends []context.CancelCauseFunc
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		if now >= sh.soonest {
			ends = sh.overdue(now, ends)
		}
		sh.mu.Unlock()
	}
	for _, end := range ends {
		end(cause)
	}
}

// overdue takes the ends of streams whose deadline has passed.
func (sh *shard) overdue(now int64, ends []context.CancelCauseFunc) []context.CancelCauseFunc {
	sh.soonest = never
	for key, c := range sh.callers {
		c.soonest = never
		for st := c.first; st != nil; st = st.next {
			if st.deadline <= now {
				st.deadline = never
				if st.end != nil {
					ends = append(ends, st.end)
					st.end = nil
				}
			}
			c.soonest = min(c.soonest, st.deadline)
		}
		sh.callers[key] = c
		sh.soonest = min(sh.soonest, c.soonest)
	}
	return ends
}

// endRefused ends the streams that refusal gives a reason for, and returns how many.
func (s *streams) endRefused(refusal func(*principal.Principal) error) int {
	if s.open.Load() == 0 {
		return 0
	}
	type ending struct {
		end   context.CancelCauseFunc
		cause error
	}
	var endings []ending
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for _, c := range sh.callers {
			for st := c.first; st != nil; st = st.next {
				if st.end == nil {
					continue
				}
				if cause := refusal(st.principal); cause != nil {
					endings = append(endings, ending{st.end, cause})
					st.end, st.deadline = nil, never
				}
			}
		}
		sh.mu.Unlock()
	}
	for _, e := range endings {
		e.end(e.cause)
	}
	return len(endings)
}
