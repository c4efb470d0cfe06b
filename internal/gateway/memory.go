package gateway

import (
	"context"
	"log/slog"
	"runtime/debug"
	runtimemetrics "runtime/metrics"
	"time"
)

// tendInterval is how often memory is looked after.
const tendInterval = time.Second

const (
	// trimSessions is by how many the sessions must have changed before memory is given back.
	trimSessions = 100
	// startLooks is after how many intervals what only the start needed is given back.
	startLooks = 3
	// usualPercent is the growth of the heap between two collections at rest, the runtime's own default.
	usualPercent = 100
	// spareHeap is what the heap may grow by between two collections under load. A gateway that serves small calls has a
	// small heap, which the default would collect dozens of times a second, at a quarter of the cost of a call.
	spareHeap = 24 << 20
	// busyCollections in one interval are load, calmIntervals without any are rest.
	busyCollections = 3
	calmIntervals   = 10
)

// tend looks after the process's memory until ctx ends: it collects less often under load, and gives memory back when a
// wave of supervisors has come or gone, because connecting needs several times what a session holds afterwards, which
// the runtime would keep for minutes. So does the start. At rest everything is as the runtime does by itself.
func tend(ctx context.Context, sessions func() int, log *slog.Logger) {
	k := keeper{set: debug.SetGCPercent, percent: usualPercent, free: func() {
		debug.FreeOSMemory()
		if err := forgetProgram(); err != nil {
			log.Debug("give memory back", "error", err)
		}
	}}
	samples := []runtimemetrics.Sample{{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/gc/heap/live:bytes"}}
	ticker := time.NewTicker(tendInterval)
	defer ticker.Stop()
	defer k.use(usualPercent)
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		runtimemetrics.Read(samples)
		k.look(sessions(), samples[0].Value.Uint64(), samples[1].Value.Uint64())
	}
}

// keeper decides from one look to the next.
type keeper struct {
	set  func(percent int) int
	free func()

	percent  int
	looks    int
	calm     int
	cycles   uint64
	sessions int
	// trimmed is the number of sessions when memory was last given back.
	trimmed int
}

// look takes the number of sessions, the collections so far, and the bytes that the last of them left.
func (k *keeper) look(sessions int, cycles, live uint64) {
	steady := sessions == k.sessions
	ran := cycles - k.cycles
	switch {
	case ran == 0:
		k.calm++
	case ran >= busyCollections && steady:
		k.calm = 0
		k.use(max(usualPercent, int(spareHeap*100/max(live, spareHeap/8))))
	default:
		k.calm = 0
	}
	if k.calm >= calmIntervals {
		k.use(usualPercent)
	}
	k.looks++
	if k.looks == startLooks || steady && max(sessions-k.trimmed, k.trimmed-sessions) >= trimSessions {
		k.free()
		k.trimmed = sessions
	}
	k.sessions, k.cycles = sessions, cycles
}

// use changes the percentage if it differs enough to be worth a pause of all threads.
func (k *keeper) use(percent int) {
	if percent != usualPercent && percent > k.percent*3/4 && percent < k.percent*5/4 {
		return
	}
	if percent != k.percent {
		k.percent = percent
		k.set(percent)
	}
}
