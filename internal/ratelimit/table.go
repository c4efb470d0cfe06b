package ratelimit

import (
	"hash/maphash"
	"net"
	"net/netip"
	"sync"
)

const (
	// shards spread the buckets of a class over locks.
	shards = 32
	// looks bounds the work of making room for a newcomer.
	looks = 8
)

// table holds the buckets of one class, by a hash of the caller that nobody outside can predict. Two callers with the
// same hash share a bucket, which among 64 bits nobody will see.
//
// Room is made only by forgetting buckets that are full again, which changes nothing for anybody: who floods the table
// with other callers does not get his own bucket back sooner. When none is full, newcomers of a shard share one.
type table struct {
	seed     maphash.Seed
	perShard int
	shards   [shards]shard
}

type shard struct {
	mu sync.Mutex
	// full tells when each bucket is full again; a caller that is not there has a full one.
	full map[uint64]int64
	// rest is the bucket of the newcomers for whom there is no room.
	rest int64
	_    [40]byte // keeps locks off each other's cache lines
}

func newTable(tracked int) *table {
	return &table{seed: maphash.MakeSeed(), perShard: (tracked + shards - 1) / shards}
}

// take takes one call from a bucket and returns 0, or how long it is until there is one, in nanoseconds.
func (t *table) take(key uint64, l limit, clock func() int64) (wait int64) {
	s := &t.shards[key%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	// Read under the lock: a caller that was held up would come with a time before that of those who overtook it.
	now := clock()
	full, known := s.full[key]
	if !known && len(s.full) >= t.perShard && !s.makeRoom(now) {
		after, wait := l.next(s.rest, now)
		if wait == 0 {
			s.rest = after
		}
		return wait
	}
	after, wait := l.next(full, now)
	if wait > 0 {
		return wait
	}
	if s.full == nil {
		s.full = map[uint64]int64{}
	}
	s.full[key] = after
	return 0
}

// spent tells whether take would refuse, and changes nothing.
func (t *table) spent(key uint64, l limit, clock func() int64) bool {
	s := &t.shards[key%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	now := clock()
	full, known := s.full[key]
	if !known && len(s.full) >= t.perShard && !s.makeRoom(now) {
		full = s.rest
	}
	_, wait := l.next(full, now)
	return wait > 0
}

// makeRoom forgets a bucket that is full again, if it is among the few that map iteration picks at random.
func (s *shard) makeRoom(now int64) bool {
	looked := 0
	for key, full := range s.full {
		if full <= now {
			delete(s.full, key)
			return true
		}
		if looked++; looked == looks {
			break
		}
	}
	return false
}

// clamp empties no bucket further than one of the given size can be: what was spent at a slower rate would otherwise
// take as long as before to flow back.
func (t *table) clamp(l limit, now int64) {
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		for key, full := range s.full {
			s.full[key] = min(full, now+l.span)
		}
		s.rest = min(s.rest, now+l.span)
		s.mu.Unlock()
	}
}

func (t *table) len() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.Lock()
		n += len(s.full)
		s.mu.Unlock()
	}
	return n
}

func (t *table) ofName(a, b string) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	h.WriteString(a)
	// Issuers hold no NUL byte: "ab","c" and "a","bc" are two callers.
	h.WriteByte(0)
	h.WriteString(b)
	return h.Sum64()
}

// ofAddress is the key of the network that a peer calls from: all of an IPv4 address, the first half of an IPv6
// address, since one host usually has the other half to itself. Peers without an IP address are one.
func (t *table) ofAddress(remote net.Addr) uint64 {
	var buf [1 + 8]byte
	network := buf[:1]
	ip := ipOf(remote)
	switch ip = ip.Unmap(); {
	case ip.Is4():
		four := ip.As4()
		network[0] = 4
		network = append(network, four[:]...)
	case ip.Is6():
		sixteen := ip.As16()
		network[0] = 6
		network = append(network, sixteen[:8]...)
	}
	return maphash.Bytes(t.seed, network)
}

// ipOf is the zero address for peers without one.
func ipOf(remote net.Addr) netip.Addr {
	switch a := remote.(type) {
	case nil, *net.UnixAddr:
		return netip.Addr{}
	case *net.TCPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip
	case *net.IPAddr:
		ip, _ := netip.AddrFromSlice(a.IP)
		return ip
	}
	// Of another make, for example that of a connection that was handed on.
	ap, err := netip.ParseAddrPort(remote.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr()
}
