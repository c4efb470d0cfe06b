// Package pause waits for a while, and no longer than a context.
package pause

import (
	"context"
	"time"
)

// For waits for d; it answers false when ctx ended first.
func For(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(max(d, 0))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
