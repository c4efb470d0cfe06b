package gateway

import (
	"slices"
	"testing"
)

// TestMemoryFollowsTheLoad walks the keeper through rest, load, rest and a wave of supervisors.
func TestMemoryFollowsTheLoad(t *testing.T) {
	t.Parallel()
	var percents []int
	freed := 0
	k := keeper{set: func(p int) int { percents = append(percents, p); return 0 }, free: func() { freed++ }, percent: usualPercent}
	cycles := uint64(0)
	step := func(sessions int, ran, live uint64) {
		cycles += ran
		k.look(sessions, cycles, live)
	}
	step(0, 1, 4<<20)
	if freed != 0 {
		t.Fatalf("during the start: freed %d times", freed)
	}
	if len(percents) != 0 {
		t.Fatalf("at rest: %v", percents)
	}
	step(0, 20, 6<<20)
	step(0, 6, 6<<20)
	step(0, 6, 13<<20/2)
	if !slices.Equal(percents, []int{400}) {
		t.Fatalf("under load: %v", percents)
	}
	if freed != 1 {
		t.Fatalf("after the start: freed %d times", freed)
	}
	step(0, 6, 100<<20)
	if !slices.Equal(percents, []int{400, usualPercent}) {
		t.Fatalf("with a large heap: %v", percents)
	}
	step(0, 6, 1)
	if last := percents[len(percents)-1]; last != 800 {
		t.Fatalf("with hardly any heap: %v", percents)
	}
	for range calmIntervals {
		step(0, 0, 6<<20)
	}
	if last := percents[len(percents)-1]; last != usualPercent {
		t.Fatalf("at rest again: %v", percents)
	}
	n := len(percents)
	for sessions := 50; sessions <= 1000; sessions += 50 {
		step(sessions, 10, 20<<20)
	}
	if freed != 1 || len(percents) != n {
		t.Fatalf("while supervisors come: freed %d times, %v", freed, percents[n:])
	}
	step(1000, 0, 24<<20)
	step(1000, 0, 24<<20)
	step(990, 0, 24<<20)
	step(990, 0, 24<<20)
	if freed != 2 {
		t.Errorf("when they have come: freed %d times", freed)
	}
}
