package sandbox

import (
	"context"
	"sync"

	"sallyport.dev/sallyport/internal/principal"
)

// holds are the callers who are at work in sandboxes, so that their work ends with their right to it.
type holds struct {
	mu  sync.Mutex
	all map[*hold]struct{}
}

type hold struct {
	p                *principal.Principal
	workspace, owner string
	end              context.CancelCauseFunc
}

func (h *holds) add(one *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.all == nil {
		h.all = map[*hold]struct{}{}
	}
	h.all[one] = struct{}{}
}

func (h *holds) remove(one *hold) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, one)
}

// those returns the holds that a test picks.
func (h *holds) those(pick func(*hold) bool) []*hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []*hold
	for one := range h.all {
		if pick(one) {
			out = append(out, one)
		}
	}
	return out
}

// Hold is Lookup for work that lasts: until release is called, end is called with the reason once the caller may no
// longer know of the sandbox. A nil end does nothing. On failure there is nothing to release.
func (s *Service) Hold(ctx context.Context, id string, end context.CancelCauseFunc) (sb *Sandbox, release func(), err error) {
	if sb, err = s.Lookup(ctx, id); err != nil {
		return nil, nil, err
	}
	if end == nil {
		return sb, func() {}, nil
	}
	one := &hold{p: principal.From(ctx), workspace: sb.Object.Workspace, owner: sb.Object.Owner, end: end}
	s.holds.add(one)
	// The right may have gone between the look and the hold, and then nobody would tell.
	if !s.permits(one.p, one.workspace, one.owner) {
		s.holds.remove(one)
		return nil, nil, NotFound()
	}
	return sb, func() { s.holds.remove(one) }, nil
}

// Recheck ends the work of callers who may no longer know of their sandboxes, and wakes all watchers, who notice by
// themselves. It is called when a membership or the rules have changed.
func (s *Service) Recheck() {
	for _, one := range s.holds.those(func(h *hold) bool { return !s.permits(h.p, h.workspace, h.owner) }) {
		one.end(NotFound())
	}
	s.notify.pokeAll()
}
