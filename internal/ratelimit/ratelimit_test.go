package ratelimit_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/ratelimit"
)

var _ door.Limiter = (*ratelimit.Limiter)(nil)

const (
	health = "/openshell.v1.OpenShell/Health"
	get    = "/openshell.v1.OpenShell/GetSandbox"
)

// clock is a time that tests move.
type clock struct{ nanos atomic.Int64 }

func (c *clock) now() time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(c.nanos.Load()))
}
func (c *clock) advance(d time.Duration) { c.nanos.Add(int64(d)) }

func newLimiter(t testing.TB, c ratelimit.Config, o ratelimit.Options) (*ratelimit.Limiter, *clock) {
	t.Helper()
	at := &clock{}
	o.Now, o.Probes = at.now, []string{health}
	l, err := ratelimit.New(c, o)
	if err != nil {
		t.Fatal(err)
	}
	return l, at
}

func tcp(address string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(address), Port: 1234} }

func user(subject string) *principal.Principal {
	return &principal.Principal{Kind: principal.User, Issuer: "https://idp", Subject: subject, Tenant: "team1"}
}

func box(id string) *principal.Principal {
	return &principal.Principal{Kind: principal.Sandbox, SandboxID: id, Source: principal.SourceToken}
}

// admitted makes n calls and returns how many were let through.
func admitted(n int, call func() error) int {
	ok := 0
	for range n {
		if call() == nil {
			ok++
		}
	}
	return ok
}

func anonymous(l *ratelimit.Limiter, from net.Addr, method string) func() error {
	return func() error { _, err := l.Attempt(from, method, false); return err }
}

func TestTheZeroConfigLimitsNothing(t *testing.T) {
	t.Parallel()
	l, _ := newLimiter(t, ratelimit.Config{}, ratelimit.Options{})
	from := tcp("192.0.2.1")
	for range 10_000 {
		l.Failed(from)
		if known, err := l.Attempt(from, get, true); known || err != nil {
			t.Fatal(known, err)
		}
		for _, err := range []error{anonymous(l, from, get)(), anonymous(l, from, health)(), l.Admit(user("a"), get), l.Admit(box("b"), get)} {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for c := ratelimit.Anonymous; c <= ratelimit.Sandbox; c++ {
		if n := l.Tracked(c); n != 0 {
			t.Errorf("%d buckets of class %s", n, c)
		}
	}
}

func TestEachClassHasBucketsOfItsOwn(t *testing.T) {
	t.Parallel()
	one := ratelimit.Rate{PerSecond: 1, Burst: 5}
	refused := map[ratelimit.Class]int{}
	l, at := newLimiter(t, ratelimit.Config{Anonymous: one, Probe: one, Failed: one, Principal: one, Sandbox: one},
		ratelimit.Options{Refused: func(c ratelimit.Class) { refused[c]++ }})
	from := tcp("192.0.2.1")
	for name, c := range map[string]func() error{
		"anonymous":      anonymous(l, from, get),
		"health":         anonymous(l, from, health),
		"other address":  anonymous(l, tcp("192.0.2.2"), get),
		"user":           func() error { return l.Admit(user("alice"), get) },
		"other user":     func() error { return l.Admit(user("bob"), get) },
		"sandbox":        func() error { return l.Admit(box("one"), get) },
		"sandbox, other": func() error { return l.Admit(box("two"), get) },
	} {
		if n := admitted(50, c); n != 5 {
			t.Errorf("%s: %d admitted, want 5", name, n)
		}
	}
	// A header does not open a way around the bucket of methods that look at none.
	if _, err := l.Attempt(from, health, true); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("health with a credential: %v", err)
	}
	want := map[ratelimit.Class]int{ratelimit.Anonymous: 90, ratelimit.Probe: 46, ratelimit.Principal: 90, ratelimit.Sandbox: 90}
	for class, n := range want {
		if refused[class] != n {
			t.Errorf("%d refusals of class %s were reported, want %d", refused[class], class, n)
		}
	}
	at.advance(2 * time.Second)
	if n := admitted(50, anonymous(l, from, get)); n != 2 {
		t.Errorf("two seconds later %d are admitted, want 2", n)
	}
}

func TestARefusalExplainsItself(t *testing.T) {
	t.Parallel()
	l, _ := newLimiter(t, ratelimit.Config{Anonymous: ratelimit.Rate{PerSecond: 0.1}, Tenant: ratelimit.Rate{PerSecond: 0.5}}, ratelimit.Options{})
	from := tcp("192.0.2.1")
	if err := anonymous(l, from, get)(); err != nil {
		t.Fatal(err)
	}
	err := anonymous(l, from, get)()
	f := fault.From(err)
	if f.Kind != fault.ResourceExhausted || f.Reason != ratelimit.ReasonRateLimited || !strings.Contains(f.Next, "retry after 10 s") ||
		!strings.Contains(f.Message, "without a credential") {
		t.Errorf("%+v", f)
	}
	if err := l.Admit(user("a"), get); err != nil {
		t.Fatal(err)
	}
	if f := fault.From(l.Admit(user("b"), get)); !strings.Contains(f.Message, "tenant") || !strings.Contains(f.Next, "after 2 s") {
		t.Errorf("%+v", f)
	}
	if err := l.Admit(&principal.Principal{Kind: principal.User, Issuer: "i", Subject: "s"}, get); err != nil {
		t.Errorf("a user without tenant: %v", err)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		a, b net.Addr
		same bool
	}{
		"ports":              {&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}, &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 2}, true},
		"neighbours":         {tcp("192.0.2.1"), tcp("192.0.2.2"), false},
		"mapped":             {tcp("192.0.2.1"), &net.TCPAddr{IP: net.ParseIP("::ffff:192.0.2.1")}, true},
		"one IPv6 network":   {tcp("2001:db8:0:1::1"), tcp("2001:db8:0:1:ffff::2"), true},
		"two IPv6 networks":  {tcp("2001:db8:0:1::1"), tcp("2001:db8:0:2::1"), false},
		"zones":              {&net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0"}, &net.TCPAddr{IP: net.ParseIP("fe80::2"), Zone: "eth1"}, true},
		"sockets":            {&net.UnixAddr{Name: "/a", Net: "unix"}, &net.UnixAddr{Name: "@b", Net: "unix"}, true},
		"memory and nothing": {words("bufconn"), nil, true},
		"memory and network": {words("bufconn"), tcp("192.0.2.1"), false},
		"another make":       {words("192.0.2.1:80"), tcp("192.0.2.1"), true},
		"another make, IPv6": {words("[2001:db8::1]:80"), tcp("2001:db8::1"), true},
		"only an IP":         {&net.IPAddr{IP: net.IPv4(192, 0, 2, 1)}, tcp("192.0.2.1"), true},
		"no IP in it":        {&net.TCPAddr{}, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l, _ := newLimiter(t, ratelimit.Config{Anonymous: ratelimit.Rate{PerSecond: 1}}, ratelimit.Options{})
			if err := anonymous(l, c.a, get)(); err != nil {
				t.Fatal(err)
			}
			if err := anonymous(l, c.b, get)(); (err != nil) != c.same {
				t.Errorf("%v and %v: %v", c.a, c.b, err)
			}
		})
	}
}

type words string

func (words) Network() string  { return "other" }
func (w words) String() string { return string(w) }

// Whoever sends wrong credentials must not shut out others behind the same address.
func TestFailedAttemptsLeaveKnownCredentialsAlone(t *testing.T) {
	t.Parallel()
	l, at := newLimiter(t, ratelimit.Config{Failed: ratelimit.Rate{PerSecond: 1, Burst: 3}}, ratelimit.Options{})
	from, other := tcp("192.0.2.1"), tcp("192.0.2.2")
	knownOnly := func(from net.Addr) bool {
		t.Helper()
		known, err := l.Attempt(from, get, true)
		if err != nil {
			t.Fatal(err)
		}
		return known
	}
	for i := range 3 {
		if knownOnly(from) {
			t.Fatalf("only known credentials after %d failures", i)
		}
		l.Failed(from)
	}
	if !knownOnly(from) || knownOnly(other) {
		t.Error("the address that failed, and only that, must be down to known credentials")
	}
	for range 100 {
		l.Failed(from) // What is refused for want of budget does not lengthen the wait.
	}
	at.advance(time.Second)
	if knownOnly(from) {
		t.Error("a second later one attempt must be possible again")
	}
	l.Failed(from)
	if !knownOnly(from) {
		t.Error("and then no other")
	}
}

func TestSharedSecretSandboxesAreNotLimited(t *testing.T) {
	t.Parallel()
	l, _ := newLimiter(t, ratelimit.Config{Sandbox: ratelimit.Rate{PerSecond: 1}, Principal: ratelimit.Rate{PerSecond: 1}}, ratelimit.Options{})
	p := &principal.Principal{Kind: principal.Sandbox, Source: principal.SourceSharedSecret}
	if n := admitted(10, func() error { return l.Admit(p, get) }); n != 10 {
		t.Errorf("%d of 10", n)
	}
	if n := admitted(10, func() error { return l.Admit(&principal.Principal{}, get) }); n != 10 {
		t.Errorf("nobody: %d of 10", n)
	}
}

// A full table forgets nobody who has spent anything.
func TestAFloodOfOthersDoesNotRefillABucket(t *testing.T) {
	t.Parallel()
	const tracked = 1024
	l, at := newLimiter(t, ratelimit.Config{Anonymous: ratelimit.Rate{PerSecond: 0.01, Burst: 10}}, ratelimit.Options{Tracked: tracked})
	attacker := tcp("192.0.2.1")
	if n := admitted(20, anonymous(l, attacker, get)); n != 10 {
		t.Fatalf("%d admitted", n)
	}
	others := 0
	for i := range 20 * tracked {
		others += admitted(1, anonymous(l, &net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))}, get))
	}
	if n := l.Tracked(ratelimit.Anonymous); n > tracked {
		t.Errorf("%d buckets, at most %d", n, tracked)
	}
	if n := admitted(20, anonymous(l, attacker, get)); n != 0 {
		t.Errorf("%d more calls for the attacker", n)
	}
	// Those without a bucket share 32 of ten calls each.
	if most := tracked + 32*10; others > most {
		t.Errorf("%d calls of others, at most %d", others, most)
	}
	at.advance(time.Hour)
	fresh := 0
	for i := range 2 * tracked {
		fresh += admitted(1, anonymous(l, &net.TCPAddr{IP: net.IPv4(11, byte(i>>16), byte(i>>8), byte(i))}, get))
	}
	if fresh < tracked {
		t.Errorf("when all buckets are full again only %d newcomers get in", fresh)
	}
}

func TestReconfigure(t *testing.T) {
	t.Parallel()
	l, at := newLimiter(t, ratelimit.Config{Principal: ratelimit.Rate{PerSecond: 0.001, Burst: 100}}, ratelimit.Options{})
	call := func() error { return l.Admit(user("a"), get) }
	if n := admitted(200, call); n != 100 {
		t.Fatalf("%d", n)
	}
	if err := l.Reconfigure(ratelimit.Config{Principal: ratelimit.Rate{PerSecond: 10, Burst: 2}}); err != nil {
		t.Fatal(err)
	}
	if n := admitted(10, call); n != 0 {
		t.Errorf("a new rate filled an empty bucket: %d", n)
	}
	at.advance(time.Second)
	if n := admitted(10, call); n != 2 {
		t.Errorf("a second later %d, want 2: what was spent at the old rate must not hold the caller up", n)
	}
	if err := l.Reconfigure(ratelimit.Config{}); err != nil {
		t.Fatal(err)
	}
	if n := admitted(10, call); n != 10 {
		t.Errorf("without a limit %d", n)
	}
}

func TestRatesThatMakeNoSense(t *testing.T) {
	t.Parallel()
	zero := 0.0
	for _, r := range []ratelimit.Rate{
		{PerSecond: -1}, {PerSecond: zero / zero}, {PerSecond: 1 / zero}, {PerSecond: 1e-9}, {PerSecond: 0.01, Burst: 1 << 40},
	} {
		l, err := ratelimit.New(ratelimit.Config{Tenant: r}, ratelimit.Options{})
		if !fault.Is(err, fault.InvalidArgument) || !strings.Contains(err.Error(), "tenant") {
			t.Errorf("%+v: %v, %v", r, l, err)
		}
	}
}

func TestWindow(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		n    int
		w    time.Duration
		want ratelimit.Rate
	}{
		{120, time.Minute, ratelimit.Rate{PerSecond: 2, Burst: 120}},
		{0, time.Minute, ratelimit.Rate{}},
		{5, 0, ratelimit.Rate{}},
		{-1, time.Second, ratelimit.Rate{}},
	} {
		if got := ratelimit.Window(c.n, c.w); got != c.want {
			t.Errorf("Window(%d, %v) = %+v", c.n, c.w, got)
		}
	}
}

// Many at once must not get more than one after the other would.
func TestConcurrentCallers(t *testing.T) {
	t.Parallel()
	l, _ := newLimiter(t, ratelimit.Config{Sandbox: ratelimit.Rate{PerSecond: 1, Burst: 100}}, ratelimit.Options{})
	var ok atomic.Int64
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() { ok.Add(int64(admitted(100, func() error { return l.Admit(box("x"), get) }))) })
	}
	group.Wait()
	if ok.Load() != 100 {
		t.Errorf("%d admitted, want 100", ok.Load())
	}
}

// Whatever the rate and whenever the calls come: over any time from the start, at most burst + rate*time get in, and a
// caller who keeps to the rate is never refused.
func FuzzNeverMoreThanTheRate(f *testing.F) {
	f.Add(1.0, 5, []byte{0, 0, 0, 0, 0, 0, 255, 1, 2, 3})
	f.Add(1e6, 1, []byte{1, 1, 1, 1, 1, 1, 1, 1})
	f.Add(0.013, 3, []byte{255, 255, 255, 255, 0, 0, 0, 255})
	f.Fuzz(func(t *testing.T, perSecond float64, burst int, gaps []byte) {
		at := &clock{}
		l, err := ratelimit.New(ratelimit.Config{Principal: ratelimit.Rate{PerSecond: perSecond, Burst: burst}}, ratelimit.Options{Now: at.now})
		if err != nil || perSecond == 0 {
			return
		}
		burst = max(1, burst)
		step := max(1, time.Duration(float64(time.Second)/perSecond/64))
		got := 0
		for _, gap := range gaps {
			at.advance(time.Duration(gap) * step)
			for range 3 {
				if l.Admit(user("a"), get) == nil {
					got++
				}
			}
			if most := float64(burst) + perSecond*time.Duration(at.nanos.Load()).Seconds(); float64(got) > most+1e-6 {
				t.Fatalf("%d admitted in %v, at most %f", got, time.Duration(at.nanos.Load()), most)
			}
		}
		at.advance(time.Duration(float64(2*time.Second)/perSecond) + 2)
		if err := l.Admit(user("a"), get); err != nil {
			t.Errorf("refused after a pause: %v", err)
		}
	})
}

// BenchmarkHotPath is what a door pays for one call of a user with everything limited.
func BenchmarkHotPath(b *testing.B) {
	many := ratelimit.Rate{PerSecond: 1e9, Burst: 1 << 20}
	l, err := ratelimit.New(ratelimit.Config{Anonymous: many, Probe: many, Failed: many, Principal: many, Tenant: many, Sandbox: many},
		ratelimit.Options{Probes: []string{health}})
	if err != nil {
		b.Fatal(err)
	}
	from := tcp("192.0.2.1")
	callers := make([]*principal.Principal, 1000)
	for i := range callers {
		callers[i] = user(fmt.Sprintf("5f0c2a1e-%04d", i))
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if _, err := l.Attempt(from, get, true); err != nil {
			b.Fatal(err)
		}
		if err := l.Admit(callers[i%len(callers)], get); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkRefusal is what a flood costs: an address without credential, refused.
func BenchmarkRefusal(b *testing.B) {
	l, err := ratelimit.New(ratelimit.Config{Anonymous: ratelimit.Rate{PerSecond: 1}}, ratelimit.Options{})
	if err != nil {
		b.Fatal(err)
	}
	from := tcp("192.0.2.1")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = l.Attempt(from, get, false)
	}
}

// BenchmarkUnlimited is the price of limits that nobody set.
func BenchmarkUnlimited(b *testing.B) {
	l, err := ratelimit.New(ratelimit.Config{}, ratelimit.Options{Probes: []string{health}})
	if err != nil {
		b.Fatal(err)
	}
	from, p := tcp("192.0.2.1"), user("alice")
	b.ReportAllocs()
	for b.Loop() {
		_, _ = l.Attempt(from, get, true)
		_ = l.Admit(p, get)
	}
}

// TestACallerWhoWasHeldUpIsNotRefused has a caller whose look at the clock comes late: others have taken in between.
func TestACallerWhoWasHeldUpIsNotRefused(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	now := time.Unix(1_700_000_000, 0)
	l, err := ratelimit.New(ratelimit.Config{Tenant: ratelimit.Rate{PerSecond: 10000, Burst: 20000}}, ratelimit.Options{Now: func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		now = now.Add(5 * time.Second)
		return now
	}})
	if err != nil {
		t.Fatal(err)
	}
	var callers sync.WaitGroup
	for range 50 {
		callers.Go(func() {
			for range 200 {
				if err := l.Admit(&principal.Principal{Kind: principal.User, Issuer: "i", Subject: "s", Tenant: "t"}, ""); err != nil {
					t.Errorf("refused: %v", err)
					return
				}
			}
		})
	}
	callers.Wait()
}
