package pause_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/pause"
)

func TestFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		for _, tc := range []struct {
			wait, want time.Duration
			whole      bool
		}{
			{-time.Second, 0, true},
			{30 * time.Second, 30 * time.Second, true},
			{time.Hour, 30 * time.Second, false},
		} {
			began := time.Now()
			if whole := pause.For(ctx, tc.wait); whole != tc.whole || time.Since(began) != tc.want {
				t.Errorf("for %s: %t after %s, want %t after %s", tc.wait, whole, time.Since(began), tc.whole, tc.want)
			}
		}
	})
}
