package gateway

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// trimInterval is how often the number of sessions is looked at.
	trimInterval = time.Second
	// trimSessions is by how many it must have changed before memory is given back.
	trimSessions = 100
)

// trim gives memory back to the system when a wave of supervisors has come or gone: connecting needs several times
// what a session holds afterwards, and the runtime would keep that for minutes. It waits for the wave to end.
func trim(ctx context.Context, sessions func() int) {
	ticker := time.NewTicker(trimInterval)
	defer ticker.Stop()
	last, trimmed := 0, 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now := sessions()
		if now == last && max(now-trimmed, trimmed-now) >= trimSessions {
			debug.FreeOSMemory()
			trimmed = now
		}
		last = now
	}
}
