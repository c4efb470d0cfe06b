package sandbox

import (
	"context"
	"sync"
)

// turns let one call of the driver at a time stop or start a sandbox.
type turns struct {
	mu   sync.Mutex
	held map[string]*turn
}

type turn struct {
	// free holds a value while nobody has the turn.
	free chan struct{}
	// users are who has it and who waits for it.
	users int
}

// take waits for a sandbox's turn; release gives it on.
func (t *turns) take(ctx context.Context, id string) (release func(), err error) {
	t.mu.Lock()
	one := t.held[id]
	if one == nil {
		one = &turn{free: make(chan struct{}, 1)}
		one.free <- struct{}{}
		if t.held == nil {
			t.held = map[string]*turn{}
		}
		t.held[id] = one
	}
	one.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.users--; one.users == 0 {
			delete(t.held, id)
		}
	}
	select {
	case <-one.free:
		return func() {
			one.free <- struct{}{}
			leave()
		}, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}

// busy tells whether somebody has a sandbox's turn or waits for it.
func (t *turns) busy(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.held[id] != nil
}
