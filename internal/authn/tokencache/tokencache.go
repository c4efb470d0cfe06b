// Package tokencache remembers which tokens were verified, so that a signature is checked once a token and not
// once a call. It holds hashes, never tokens, and it must not know what a token says: what it hands back was put
// in by the verifier that owns it.
package tokencache

import (
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// shards spread the entries over locks, so that calls on many connections do not meet on one.
const shards = 32

// probes bounds the work of making room: so many entries are looked at, and the one that ends first goes.
const probes = 8

// Key is the SHA-256 of a token. Only who holds the very token can name its entry.
type Key [sha256.Size]byte

// KeyOf returns the key of a token.
func KeyOf(token string) Key {
	// The copy stays on the stack for tokens of usual length.
	var buf [2048]byte
	return sha256.Sum256(append(buf[:0], token...))
}

// Cache is a bounded map from verified tokens to what the verifier learned from them. It is safe for concurrent
// use.
type Cache[V any] struct {
	perShard int
	shards   [shards]shard[V]
}

type shard[V any] struct {
	mu      sync.RWMutex
	entries map[Key]entry[V]
}

type entry[V any] struct {
	value V
	// expires is when the token ends; zero means never.
	expires time.Time
	// generation names the key set the token was verified with.
	generation uint64
}

// New returns a cache for at most capacity entries, rounded up to a multiple of the number of shards.
func New[V any](capacity int) *Cache[V] {
	c := &Cache[V]{perShard: max(1, (capacity+shards-1)/shards)}
	for i := range c.shards {
		c.shards[i].entries = map[Key]entry[V]{}
	}
	return c
}

// Get returns what was put in under the key. An entry that has expired, or that was verified with another
// generation of the verifier's keys, is not there.
func (c *Cache[V]) Get(key Key, generation uint64, now time.Time) (value V, expires time.Time, ok bool) {
	s := c.shard(key)
	s.mu.RLock()
	e, ok := s.entries[key]
	s.mu.RUnlock()
	if !ok || e.generation != generation || (!e.expires.IsZero() && !now.Before(e.expires)) {
		var none V
		return none, time.Time{}, false
	}
	return e.value, e.expires, true
}

// Put remembers a value until expires (zero: for as long as there is room).
func (c *Cache[V]) Put(key Key, generation uint64, value V, expires time.Time) {
	s := c.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.entries[key]; !ok && len(s.entries) >= c.perShard {
		s.makeRoom()
	}
	s.entries[key] = entry[V]{value: value, expires: expires, generation: generation}
}

// Clear forgets everything.
func (c *Cache[V]) Clear() {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		clear(s.entries)
		s.mu.Unlock()
	}
}

// DeleteFunc forgets the entries of whose values drop says so.
func (c *Cache[V]) DeleteFunc(drop func(V) bool) {
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.Lock()
		for key, e := range s.entries {
			if drop(e.value) {
				delete(s.entries, key)
			}
		}
		s.mu.Unlock()
	}
}

// Len returns the number of entries, expired ones that nobody asked for included.
func (c *Cache[V]) Len() int {
	n := 0
	for i := range c.shards {
		s := &c.shards[i]
		s.mu.RLock()
		n += len(s.entries)
		s.mu.RUnlock()
	}
	return n
}

func (c *Cache[V]) shard(key Key) *shard[V] {
	return &c.shards[binary.LittleEndian.Uint32(key[:])%shards]
}

// makeRoom drops, of a few entries that map iteration picks at random, the one that ends first.
func (s *shard[V]) makeRoom() {
	var victim Key
	var soonest time.Time
	looked := 0
	for key, e := range s.entries {
		sooner := !e.expires.IsZero() && (soonest.IsZero() || e.expires.Before(soonest))
		if looked == 0 || sooner {
			victim, soonest = key, e.expires
		}
		if looked++; looked == probes {
			break
		}
	}
	delete(s.entries, victim)
}
