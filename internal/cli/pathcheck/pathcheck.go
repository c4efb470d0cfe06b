// Package pathcheck finds out what the path between this machine and a gateway lets through, and how long it lets a stream
// be silent. Load balancers and proxies on the way show in no other way than by what they cut. It asks only what a gateway
// answers to everybody, the standard health service and its pages, and knows nothing of credentials.
package pathcheck

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"strings"
	"sync"
	"time"
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	Passed  Status = "ok"
	Failed  Status = "failed"
	Skipped Status = "skipped"
)

// Names of the checks, in the order of a report; those of idle streams are "idle" and the time.
const (
	CheckConnect   = "connect"
	CheckTLS       = "tls"
	CheckHTTP      = "http"
	CheckHTTP2     = "http2"
	CheckStream    = "stream"
	CheckLarge     = "large-messages"
	CheckWebSocket = "websocket"
)

// Defaults of Options.
const (
	DefaultTimeout = 10 * time.Second
	DefaultLarge   = 3 << 20
)

// DefaultIdle covers the usual limits of half a minute, a minute and two.
func DefaultIdle() []time.Duration {
	return []time.Duration{35 * time.Second, 65 * time.Second, 125 * time.Second}
}

// Options say which path. Address is required.
type Options struct {
	// Address is the gateway's host and port.
	Address string
	// TLS is how to trust the gateway; nil is plaintext.
	TLS *tls.Config
	// Idle are the times for which a stream is held without a byte from here; nil is DefaultIdle.
	Idle []time.Duration
	// Timeout bounds every other step; 0 is DefaultTimeout.
	Timeout time.Duration
	// Large is the size of the large message in bytes; 0 is DefaultLarge.
	Large int
	// Dial replaces the dialer, for tests; nil is the system's.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Result is what one check found.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	// Detail says what was seen, or what went wrong.
	Detail string `json:"detail,omitempty"`
	// Seconds is how long it took, of an idle stream how long it lived.
	Seconds float64 `json:"seconds"`
	// Next says what to do about a failure.
	Next string `json:"next,omitempty"`
}

// Report is what all checks found.
type Report struct {
	Address string   `json:"address"`
	Results []Result `json:"checks"`
	// RoundTrip is the shortest time of a call and its answer, in seconds; 0 where none passed.
	RoundTrip float64 `json:"round_trip_seconds,omitempty"`
	// Survived is the longest silence that a stream survived, in seconds; 0 where none did.
	Survived float64 `json:"longest_idle_seconds,omitempty"`
}

// Failed tells whether any check failed.
func (r *Report) Failed() bool {
	return slices.ContainsFunc(r.Results, func(c Result) bool { return c.Status == Failed })
}

// checker is one run.
type checker struct {
	Options
	host string
}

// Run checks the path. It takes as long as the longest of the idle times. Where the connection itself fails, the other
// checks are skipped.
func Run(ctx context.Context, o Options) *Report {
	if o.Idle == nil {
		o.Idle = DefaultIdle()
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Large <= 0 {
		o.Large = DefaultLarge
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{KeepAlive: -1}).DialContext
	}
	c := &checker{Options: o, host: o.Address}
	if host, _, err := net.SplitHostPort(o.Address); err == nil {
		c.host = host
	}
	r := &Report{Address: o.Address}
	first := c.connect(ctx)
	r.Results = append(r.Results, first...)
	usable := !slices.ContainsFunc(first, func(c Result) bool { return c.Status == Failed })
	steps := []struct {
		name string
		run  func(context.Context) Result
	}{
		{CheckHTTP, c.plainHTTP},
		{CheckHTTP2, func(ctx context.Context) Result {
			result, trip := c.unary(ctx)
			r.RoundTrip = trip.Seconds()
			return result
		}},
		{CheckStream, c.stream},
		{CheckLarge, c.large},
		{CheckWebSocket, c.webSocket},
	}
	for _, s := range steps {
		if !usable {
			r.Results = append(r.Results, Result{Name: s.name, Status: Skipped})
			continue
		}
		r.Results = append(r.Results, timed(ctx, c.Timeout, s.name, s.run))
	}
	streams := usable && r.Results[len(r.Results)-3].Status == Passed
	r.Results = append(r.Results, c.idleAll(ctx, streams)...)
	for _, result := range r.Results {
		if strings.HasPrefix(result.Name, "idle ") && result.Status == Passed {
			r.Survived = max(r.Survived, result.Seconds)
		}
	}
	return r
}

// timed runs one check within its time.
func timed(ctx context.Context, limit time.Duration, name string, run func(context.Context) Result) Result {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	result := run(ctx)
	result.Name = name
	if result.Seconds == 0 {
		result.Seconds = time.Since(began).Seconds()
	}
	return result
}

// idleAll holds one stream for each time, all at once, each on a connection of its own.
func (c *checker) idleAll(ctx context.Context, streams bool) []Result {
	results := make([]Result, len(c.Idle))
	var all sync.WaitGroup
	for i, d := range c.Idle {
		name := "idle " + d.String()
		if !streams {
			results[i] = Result{Name: name, Status: Skipped}
			continue
		}
		all.Go(func() {
			results[i] = timed(ctx, d+2*c.Timeout, name, func(ctx context.Context) Result { return c.idle(ctx, d) })
		})
	}
	all.Wait()
	return results
}
