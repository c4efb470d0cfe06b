package servicehost

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/fault"
)

// Reasons of limits.
const (
	// ReasonServiceLimit and ReasonCallerLimit are given when MaxPerService and MaxPerCaller are reached.
	ReasonServiceLimit = "SERVICE_CONNECTIONS"
	ReasonCallerLimit  = "SERVICE_CALLER_CONNECTIONS"
)

// active is one request that is being served.
type active struct {
	service, caller string
	// still tells why it must end; nil if it need not.
	still func() error
	end   context.CancelCauseFunc
}

// actives are the requests that are being served, counted by service and caller.
type actives struct {
	perService, perCaller int

	mu       sync.Mutex
	open     map[*active]struct{}
	services map[string]int
	callers  map[string]int
}

func (o *actives) init(perService, perCaller int) {
	o.perService, o.perCaller = perService, perCaller
	o.open, o.services, o.callers = map[*active]struct{}{}, map[string]int{}, map[string]int{}
}

func (o *actives) add(a *active) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.callers[a.caller] >= o.perCaller:
		return fault.New(fault.ResourceExhausted, ReasonCallerLimit, "too many requests to services at a time by this caller").
			WithNext("end some of the %d first", o.perCaller)
	case o.services[a.service] >= o.perService:
		return fault.New(fault.ResourceExhausted, ReasonServiceLimit, "too many requests to this service at a time").
			WithNext("try again when some of the %d have ended", o.perService)
	}
	o.open[a] = struct{}{}
	o.services[a.service]++
	o.callers[a.caller]++
	return nil
}

func (o *actives) remove(a *active) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.open, a)
	less(o.services, a.service)
	less(o.callers, a.caller)
}

func less(counts map[string]int, key string) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

func (o *actives) all() []*active {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Keys(o.open))
}

func (o *actives) len() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.open)
}

const (
	// visitEvery is how often the use of one service by one caller is recorded who does not sign in to it.
	visitEvery = time.Hour
	maxVisits  = 8192
)

// visits remembers whose use of which service was recorded lately, so that a page with a hundred pictures is one record.
type visits struct {
	now func() time.Time

	mu   sync.Mutex
	last map[visit]time.Time
}

type visit struct{ caller, service string }

func (v *visits) init(now func() time.Time) { v.now, v.last = now, map[visit]time.Time{} }

// first tells whether a visit has to be recorded.
func (v *visits) first(caller, service string) bool {
	now := v.now()
	key := visit{caller, service}
	v.mu.Lock()
	defer v.mu.Unlock()
	if at, ok := v.last[key]; ok && now.Sub(at) < visitEvery {
		return false
	}
	if len(v.last) >= maxVisits {
		maps.DeleteFunc(v.last, func(_ visit, at time.Time) bool { return now.Sub(at) >= visitEvery })
	}
	if len(v.last) >= maxVisits {
		clear(v.last) // Too much is recorded rather than too little.
	}
	v.last[key] = now
	return true
}
