package ratelimit

import (
	"errors"
	"math"
	"time"
)

// Rate is how much one bucket admits. The zero Rate admits everything.
type Rate struct {
	// PerSecond calls are admitted on average; it may be a fraction. 0 means no limit.
	PerSecond float64
	// Burst is how many calls may come at once after a quiet time; below 1 counts as 1.
	Burst int
}

// Window is the rate of the reference gateway's pair of flags, --grpc-rate-limit-requests and
// --grpc-rate-limit-window-seconds: requests in a window, all at once if the caller likes. There it is one bucket for
// everybody, here one for each. 0 for either means no limit.
func Window(requests int, window time.Duration) Rate {
	if requests <= 0 || window <= 0 {
		return Rate{}
	}
	return Rate{PerSecond: float64(requests) / window.Seconds(), Burst: requests}
}

// maxSpan is the longest time that a bucket may take to fill.
const maxSpan = 366 * 24 * time.Hour

// limit is a Rate in the form that is calculated with: a bucket is the time at which it will be full again. Taking
// from it puts that time off by interval; it is empty when that time is span away.
type limit struct {
	// interval is the time in which one call's worth flows in, in nanoseconds; 0 means no limit.
	interval int64
	// span is the time in which an empty bucket fills.
	span int64
}

func (r Rate) limit() (limit, error) {
	if r.PerSecond == 0 {
		return limit{}, nil
	}
	if !(r.PerSecond > 0) || math.IsInf(r.PerSecond, 0) {
		return limit{}, errors.New("calls a second must be 0 or more")
	}
	// Rounded up, so that never more is admitted than asked for.
	interval := math.Max(1, math.Ceil(float64(time.Second)/r.PerSecond))
	burst := max(1, r.Burst)
	if interval*float64(burst) > float64(maxSpan) {
		return limit{}, errors.New("a bucket must fill within a year")
	}
	return limit{interval: int64(interval), span: int64(interval) * int64(burst)}, nil
}

// next returns what a bucket becomes when one call is taken from it, or how long it is until one can be.
func (l limit) next(full, now int64) (after, wait int64) {
	// A call that still counted with a slower rate than today's may have left the bucket emptier than empty.
	after = min(max(full, now), now+l.span) + l.interval
	return after, max(0, after-now-l.span)
}
