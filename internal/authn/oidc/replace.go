package oidc

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"sync"
)

// maxCAFile bounds a CA file in bytes.
const maxCAFile = 1 << 20

// Replace puts another configuration in force, or leaves everything as it is and says why it cannot. Calls under way end
// by the one they began with. An issuer keeps its keys unless its URL, its discovery URL or its authorities change; the
// CA files are read anew. Whenever anything changes, every remembered token is verified again.
func (s *Issuers) Replace(issuers []Issuer) error {
	rules, err := NewRules(issuers)
	if err != nil {
		return err
	}
	s.replacing.Lock()
	defer s.replacing.Unlock()
	last := s.state.Load()
	next := &state{rules: rules, issuers: make(map[string]*issuer, len(issuers))}
	same := last != nil && len(last.issuers) == len(issuers)
	for n, p := range rules.order {
		config := issuers[n]
		i := &issuer{policy: p, optional: config.Optional}
		from, err := config.origin()
		if err != nil {
			return fmt.Errorf("set up OIDC issuer %s: %w", p.name, err)
		}
		var old *issuer
		if last != nil {
			old = last.issuers[p.issuer]
		}
		if i.keys, err = s.sourceFor(config, from, old); err != nil {
			return fmt.Errorf("set up OIDC issuer %s: %w", p.name, err)
		}
		next.issuers[p.issuer] = i
		same = same && old != nil && old.keys == i.keys && old.optional == i.optional &&
			reflect.DeepEqual(old.policy, p) && last.rules.order[n].issuer == p.issuer
	}
	if same {
		return nil
	}
	if last != nil {
		next.epoch = last.epoch + 1
	}
	s.state.Store(next)
	s.cache.Clear()
	s.seen.restrict(rules.keep)
	select {
	case s.poked <- struct{}{}:
	default: // Run has not seen the last change yet and will see both.
	}
	return nil
}

// sourceFor returns the source of an issuer's keys: the old one where nothing about fetching changes, and otherwise a
// new one, which takes over the keys if they would come from the same place.
func (s *Issuers) sourceFor(c Issuer, from origin, old *issuer) (*source, error) {
	next, err := newSource(c, from, &s.options, s.forget)
	if err != nil {
		return nil, err
	}
	if old != nil && old.keys.origin == from && old.keys.ttl == next.ttl && old.keys.name == next.name {
		return old.keys, nil
	}
	if old != nil && old.keys.origin == from {
		next.adopt(old.keys)
	}
	return next, nil
}

// forget drops the tokens that were verified with keys of a source that no longer serve. They would not be believed
// anyway; this makes room.
func (s *Issuers) forget(keys *source) {
	set := keys.keys.Load()
	s.cache.DeleteFunc(func(v verified) bool { return v.keys == keys && v.generation != set.generation })
}

func (c *Issuer) origin() (origin, error) {
	from := origin{issuer: trimSlashes(c.URL), discovery: c.discovery()}
	if c.CAFile == "" {
		return from, nil
	}
	info, err := os.Stat(c.CAFile)
	if err != nil {
		return from, fmt.Errorf("CA file: %w", err)
	}
	if info.Size() > maxCAFile {
		return from, fmt.Errorf("CA file %s: more than %d bytes", c.CAFile, maxCAFile)
	}
	data, err := os.ReadFile(c.CAFile)
	if err != nil {
		return from, fmt.Errorf("CA file: %w", err)
	}
	if len(data) == 0 {
		return from, fmt.Errorf("CA file %s: it is empty", c.CAFile)
	}
	from.authorities = string(data)
	return from, nil
}

// Run keeps the keys of all issuers fresh until ctx ends; then it returns nil. It starts without the providers and waits
// for them, and follows every Replace.
func (s *Issuers) Run(ctx context.Context) error {
	running := map[*source]chan struct{}{}
	var loops sync.WaitGroup
	defer loops.Wait()
	for {
		current := map[*source]bool{}
		for _, i := range s.state.Load().issuers {
			current[i.keys] = true
			if running[i.keys] != nil {
				continue
			}
			retired := make(chan struct{})
			running[i.keys] = retired
			loops.Go(func() { i.keys.run(ctx, retired) })
		}
		for keys, retired := range running {
			if !current[keys] {
				close(retired)
				delete(running, keys)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.poked:
		}
	}
}
