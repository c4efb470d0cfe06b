package sandbox

import "sync"

// Subscription is told that a sandbox may have changed. It coalesces: the subscriber reads the current state.
type Subscription struct {
	n  *notifier
	id string
	c  chan struct{}
}

// C receives a value after each change, several changes may be one value.
func (s *Subscription) C() <-chan struct{} { return s.c }

// Close ends the subscription.
func (s *Subscription) Close() {
	s.n.mu.Lock()
	defer s.n.mu.Unlock()
	delete(s.n.subs[s.id], s)
	if len(s.n.subs[s.id]) == 0 {
		delete(s.n.subs, s.id)
	}
}

// Subscribe follows one sandbox.
func (s *Service) Subscribe(id string) *Subscription { return s.notify.subscribe(id) }

// notifier fans committed writes and session changes out to subscribers.
type notifier struct {
	mu   sync.RWMutex
	subs map[string]map[*Subscription]struct{}
}

func (n *notifier) subscribe(id string) *Subscription {
	sub := &Subscription{n: n, id: id, c: make(chan struct{}, 1)}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.subs[id] == nil {
		n.subs[id] = map[*Subscription]struct{}{}
	}
	n.subs[id][sub] = struct{}{}
	return sub
}

func (n *notifier) poke(id string) {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for sub := range n.subs[id] {
		sub.poke()
	}
}

func (n *notifier) pokeAll() {
	n.mu.RLock()
	defer n.mu.RUnlock()
	for _, subs := range n.subs {
		for sub := range subs {
			sub.poke()
		}
	}
}

func (s *Subscription) poke() {
	select {
	case s.c <- struct{}{}:
	default:
	}
}
