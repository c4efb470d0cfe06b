package config

import "fmt"

func (c *Config) limits(v *values) {
	rate := func(perSecond, burst string) Rate {
		r := Rate{PerSecond: float64(v.number(perSecond)), Burst: int(v.number(burst))}
		if r.PerSecond == 0 {
			return Rate{}
		}
		return r
	}
	c.Limits = Limits{
		Connections: int(v.number("max-connections")), ConnectionsPerAddress: int(v.number("max-connections-per-address")),
		LimitLoopback:   v.flag("limit-loopback"),
		Streams:         int(v.number("max-streams")),
		Principal:       rate("principal-requests-per-second", "principal-burst"),
		Tenant:          rate("tenant-requests-per-second", "tenant-burst"),
		Anonymous:       rate("anonymous-requests-per-second", "anonymous-burst"),
		FailedPerMinute: int(v.number("failed-attempts-per-minute")),
	}
	c.referenceRate(v)
}

// referenceRate is the limit of the newer generation, which has rules of its own: both numbers above 0 switch it on,
// a 0 in either switches it off, one alone above 0 is an error.
func (c *Config) referenceRate(v *values) {
	const requests, window = "grpc-rate-limit-requests", "grpc-rate-limit-window-seconds"
	r, w := v.number(requests), v.number(window)
	zero := (v.set(requests) && r == 0) || (v.set(window) && w == 0)
	switch {
	case zero || (r == 0 && w == 0):
		return
	case w == 0:
		v.fail(requests, "--grpc-rate-limit-requests needs --grpc-rate-limit-window-seconds", "set both, or one of them to 0")
		return
	case r == 0:
		v.fail(window, "--grpc-rate-limit-window-seconds needs --grpc-rate-limit-requests", "set both, or one of them to 0")
		return
	case v.set("principal-requests-per-second") || v.set("principal-burst"):
		v.fail(requests, "it limits the calls of a caller, as --principal-requests-per-second does", "remove one of them")
		return
	}
	c.Limits.Principal = Rate{PerSecond: float64(r) / float64(w), Burst: int(r)}
	v.derive("principal-requests-per-second", fmt.Sprintf("%.3g", c.Limits.Principal.PerSecond), "from "+v.said(requests))
	v.derive("principal-burst", fmt.Sprint(r), "from "+v.said(requests))
}
