package audit

import (
	"strconv"
	"sync"
	"time"
)

// Bounds of denials, so that a flood of them fills neither memory nor disk.
const (
	// floodInterval is the least time between two records of one denial.
	floodInterval = time.Minute
	// floodKeys bounds the denials that are told apart.
	floodKeys = 4096
	// Records of denials are rationed beyond that: callers that are not known get less than those that can be held to
	// account. The first number is how many may come at once, the second how many a second after that.
	anonymousBurst, anonymousRate = 256, 1
	knownBurst, knownRate         = 1024, 2
)

// denial is what makes two denials the same.
type denial struct{ actor, action, reason, remote string }

// repeats counts what was left out of the log.
type repeats struct {
	// recorded is when the denial was last put into the log.
	recorded time.Time
	count    uint64
	since    time.Time
	// sample is the last denial left out.
	sample Record
}

// ration is a token bucket.
type ration struct {
	left        float64
	at          time.Time
	burst, rate float64
}

func (q *ration) take(now time.Time) bool {
	if q.at.IsZero() {
		q.left = q.burst
	} else if d := now.Sub(q.at); d > 0 {
		q.left = min(q.burst, q.left+d.Seconds()*q.rate)
	}
	q.at = now
	if q.left < 1 {
		return false
	}
	q.left--
	return true
}

// flood decides which denials get a record of their own.
type flood struct {
	mu        sync.Mutex
	seen      map[denial]*repeats
	anonymous ration
	known     ration
	// rest are the denials that could not be told apart any more, by whether the caller was known.
	rest map[bool]*repeats
}

func newFlood() *flood {
	return &flood{
		seen: map[denial]*repeats{}, rest: map[bool]*repeats{},
		anonymous: ration{burst: anonymousBurst, rate: anonymousRate}, known: ration{burst: knownBurst, rate: knownRate},
	}
}

// admit tells whether r gets a record now; if not, it is counted.
func (f *flood) admit(r *Record, now time.Time) bool {
	key := denial{r.Actor, r.Action, r.Reason, r.Remote}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.seen[key]; s != nil {
		s.add(r, now)
		return false
	}
	known := r.ActorKind != "anonymous"
	if len(f.seen) >= floodKeys || !f.ration(known).take(now) {
		s := f.rest[known]
		if s == nil {
			s = &repeats{recorded: now}
			f.rest[known] = s
		}
		s.add(r, now)
		return false
	}
	f.seen[key] = &repeats{recorded: now}
	return true
}

func (f *flood) ration(known bool) *ration {
	if known {
		return &f.known
	}
	return &f.anonymous
}

func (s *repeats) add(r *Record, now time.Time) {
	if s.count == 0 {
		s.since = now
	}
	s.count++
	s.sample = *r
}

// due appends the records of what was left out for an interval, or of everything, and forgets what has stopped.
func (f *flood) due(out []Record, now time.Time, everything bool) []Record {
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, s := range f.seen {
		if !everything && now.Sub(s.recorded) < floodInterval {
			continue
		}
		if s.count == 0 {
			delete(f.seen, key)
			continue
		}
		out = append(out, s.record(now))
	}
	for known, s := range f.rest {
		if !everything && now.Sub(s.recorded) < floodInterval {
			continue
		}
		if s.count == 0 {
			delete(f.rest, known)
			continue
		}
		s.sample.Actor, s.sample.Action, s.sample.Reason, s.sample.Remote = Various, Various, Various, Various
		s.sample.Tenant, s.sample.Target, s.sample.RequestID, s.sample.Details = "", "", "", nil
		if known {
			s.sample.ActorKind = Various
		}
		out = append(out, s.record(now))
	}
	return out
}

// record is the record of what s counted, which starts again.
func (s *repeats) record(now time.Time) Record {
	r := s.sample
	details := map[string]string{
		DetailRepeated: strconv.FormatUint(s.count, 10), DetailSince: s.since.UTC().Format(time.RFC3339),
	}
	for k, v := range r.Details {
		if len(details) < maxDetails {
			details[k] = v
		}
	}
	r.Details, r.Time = details, now.UTC().Round(0)
	s.recorded, s.count, s.sample = now, 0, Record{}
	return r
}
