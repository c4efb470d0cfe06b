// Package ratelimit bounds what one caller may take from all others: before authentication by the address that a call
// comes from, after it by who the caller is. Supervisors and methods that need no credential have buckets of their own,
// so that no user and no stranger can empty theirs. It knows addresses and principals; it must not know what a method
// does, and it keeps no secret, not even a hash of one.
//
// A bucket is one number (see limit), so that a gateway can afford one for each of many callers. The reference gateway
// has one bucket for everybody, in front of authentication; the same setting here means one for each caller.
package ratelimit

import (
	"net"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
)

// ReasonRateLimited is the reason of every refusal of this package; the kind is ResourceExhausted.
const ReasonRateLimited = "RATE_LIMITED"

// DefaultTracked is how many callers of each class are told apart unless Options say otherwise.
const DefaultTracked = 65_536

// Class is one sort of bucket. The set is closed, so that it can be a metric's label.
type Class uint8

// The classes.
const (
	// Anonymous calls have no credential and a method that needs one; a bucket an address.
	Anonymous Class = iota
	// Probe calls go to methods that need no credential, such as Health; a bucket an address.
	Probe
	// Failed attempts are credentials that were not believed; a bucket an address.
	Failed
	// Principal is an authenticated user; a bucket each.
	Principal
	// Tenant is all users of one tenant together.
	Tenant
	// Sandbox is a supervisor; a bucket a sandbox.
	Sandbox

	classes
)

// String returns the class's name in metric labels and messages.
func (c Class) String() string {
	return [...]string{"anonymous", "probe", "failed", "principal", "tenant", "sandbox", "unknown"}[min(c, classes)]
}

// Config holds a rate for each class; the zero Config limits nothing.
type Config struct {
	// Anonymous and Probe are calls, Failed refused credentials, of one address: an IPv4 address, or the 64 bits of an
	// IPv6 address that name its network. Peers on Unix sockets and in memory count as one address.
	Anonymous, Probe, Failed Rate
	// Principal and Sandbox are calls of one caller, Tenant those of all users of a tenant.
	Principal, Tenant, Sandbox Rate
}

func (c *Config) rates() [classes]Rate {
	return [classes]Rate{c.Anonymous, c.Probe, c.Failed, c.Principal, c.Tenant, c.Sandbox}
}

// Options are what a Limiter needs beside its rates.
type Options struct {
	// Probes are the full names of the methods that need no credential.
	Probes []string
	// Tracked bounds the callers of each class that have a bucket of their own; 0 means DefaultTracked. Those above
	// share buckets (see table).
	Tracked int
	// Refused is told of every refusal, and of every credential that is only looked at if it is known already (class
	// Failed); nil tells nobody. It is called on the path of calls and must be quick.
	Refused func(Class)
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// Limiter holds the buckets. It implements the door's Limiter and is safe for concurrent use.
type Limiter struct {
	probes  map[string]struct{}
	refused func(Class)
	now     func() int64
	limits  atomic.Pointer[[classes]limit]
	tables  [classes]*table
}

// New returns a limiter. The error says which rate makes no sense.
func New(c Config, o Options) (*Limiter, error) {
	l := &Limiter{probes: make(map[string]struct{}, len(o.Probes)), refused: o.Refused, now: clock(o.Now)}
	for _, method := range o.Probes {
		l.probes[method] = struct{}{}
	}
	if l.refused == nil {
		l.refused = func(Class) {}
	}
	tracked := o.Tracked
	if tracked <= 0 {
		tracked = DefaultTracked
	}
	for i := range l.tables {
		l.tables[i] = newTable(tracked)
	}
	if err := l.Reconfigure(c); err != nil {
		return nil, err
	}
	return l, nil
}

// clock counts nanoseconds from the moment it is made.
func clock(now func() time.Time) func() int64 {
	if now == nil {
		began := time.Now()
		return func() int64 { return int64(time.Since(began)) }
	}
	began := now()
	return func() int64 { return int64(now().Sub(began)) }
}

// Reconfigure replaces the rates from the next call on. What callers have already spent stays spent, up to the size of
// their new bucket. The error says which rate makes no sense; nothing has changed then.
func (l *Limiter) Reconfigure(c Config) error {
	var limits [classes]limit
	for class, rate := range c.rates() {
		var err error
		if limits[class], err = rate.limit(); err != nil {
			return fault.Wrap(err, fault.InvalidArgument, "RATE_INVALID", "the rate of class %s makes no sense: %v", Class(class), err).
				WithNext("give calls a second and a burst, or 0 for no limit")
		}
	}
	l.limits.Store(&limits)
	now := l.now()
	for class, limit := range limits {
		l.tables[class].clamp(limit, now)
	}
	return nil
}

// Attempt is asked before authentication. A call without a credential is charged to its address and refused when that
// has nothing left. A call with one is never refused, so that good callers behind the same address go on; knownOnly
// tells that too many credentials from there were wrong, and only those that are known already may be looked at.
func (l *Limiter) Attempt(remote net.Addr, method string, credential bool) (knownOnly bool, err error) {
	class, limits := Anonymous, l.limits.Load()
	switch _, probe := l.probes[method]; {
	case probe:
		// With or without a credential, which nobody would look at.
		class = Probe
	case credential && limits[Failed].interval == 0:
		return false, nil
	case credential:
		t := l.tables[Failed]
		if !t.spent(t.ofAddress(remote), limits[Failed], l.now) {
			return false, nil
		}
		l.refused(Failed)
		return true, nil
	}
	if limits[class].interval == 0 {
		return false, nil
	}
	t := l.tables[class]
	if wait := t.take(t.ofAddress(remote), limits[class], l.now); wait > 0 {
		return false, l.refuse(class, wait)
	}
	return false, nil
}

// Failed charges an address for a credential that was not believed.
func (l *Limiter) Failed(remote net.Addr) {
	limit := l.limits.Load()[Failed]
	if limit.interval == 0 {
		return
	}
	t := l.tables[Failed]
	t.take(t.ofAddress(remote), limit, l.now)
}

// Admit charges an authenticated caller, then its tenant. A call that the tenant's bucket refuses has still cost the
// caller. Supervisors that know only the shared secret of the older generation are not told apart by anything they
// say, and one bucket would let one of them stop all others: they are not limited here.
func (l *Limiter) Admit(p *principal.Principal, _ string) error {
	switch {
	case p.Kind == principal.User:
		if err := l.charge(Principal, p.Issuer, p.Subject); err != nil {
			return err
		}
		if p.Tenant == "" {
			return nil
		}
		return l.charge(Tenant, p.Tenant, "")
	case p.Kind == principal.Sandbox && p.SandboxID != "":
		return l.charge(Sandbox, p.SandboxID, "")
	default:
		return nil
	}
}

func (l *Limiter) charge(class Class, a, b string) error {
	limit := l.limits.Load()[class]
	if limit.interval == 0 {
		return nil
	}
	t := l.tables[class]
	if wait := t.take(t.ofName(a, b), limit, l.now); wait > 0 {
		return l.refuse(class, wait)
	}
	return nil
}

// Tracked returns how many callers of a class have a bucket of their own right now.
func (l *Limiter) Tracked(c Class) int { return l.tables[c].len() }

func (l *Limiter) refuse(class Class, wait int64) error {
	l.refused(class)
	var whose string
	switch class {
	case Principal:
		whose = "too many calls by this caller"
	case Tenant:
		whose = "too many calls by users of this tenant"
	case Sandbox:
		whose = "too many calls by this sandbox"
	case Probe:
		whose = "too many calls from this address"
	default:
		whose = "too many calls without a credential from this address"
	}
	seconds := (wait + int64(time.Second) - 1) / int64(time.Second)
	return fault.New(fault.ResourceExhausted, ReasonRateLimited, "%s; the next is admitted in %d s", whose, seconds).
		WithNext("retry after %d s, and call less often", seconds)
}
