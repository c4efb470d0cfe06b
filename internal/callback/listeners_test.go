package callback_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/callback"
	"sallyport.dev/sallyport/internal/driver/compute"
)

// mute is a listener on which nobody calls.
type mute struct {
	at   netip.AddrPort
	once sync.Once
	done chan struct{}
}

func newMute(at netip.AddrPort) *mute { return &mute{at: at, done: make(chan struct{})} }

func (m *mute) Accept() (net.Conn, error) { <-m.done; return nil, net.ErrClosed }
func (m *mute) Close() error              { m.once.Do(func() { close(m.done) }); return nil }
func (m *mute) Addr() net.Addr            { return net.TCPAddrFromAddrPort(m.at) }

// machine is a network of which a test decides what there is.
type machine struct {
	notes *notes

	mu       sync.Mutex
	absent   map[string]bool
	open     map[string]*mute
	tries    int
	route    string
	routeErr error
}

func (m *machine) listen(_ context.Context, at netip.AddrPort) (net.Listener, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tries++
	if m.absent[at.Addr().String()] {
		return nil, errors.New("cannot assign requested address")
	}
	l := newMute(at)
	m.open[at.String()] = l
	return l, nil
}

func (m *machine) defaultRoute(context.Context) (netip.Addr, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.routeErr != nil {
		return netip.Addr{}, m.routeErr
	}
	return netip.MustParseAddr(m.route), nil
}

// listening returns what is open, in order.
func (m *machine) listening() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []string
	for at, l := range m.open {
		select {
		case <-l.done:
		default:
			out = append(out, at)
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func (m *machine) change(f func()) { m.mu.Lock(); defer m.mu.Unlock(); f() }

// run starts listeners of a gateway at primary in a bubble.
func run(t *testing.T, primary string, driver callback.Driver, public ...netip.Addr) (*machine, *callback.Scope) {
	t.Helper()
	m := &machine{notes: &notes{}, absent: map[string]bool{}, open: map[string]*mute{}, route: "10.1.2.3"}
	s, err := callback.New(callback.Config{
		Driver: driver, Table: rules(t), Logger: slog.New(slog.NewTextHandler(m.notes, nil)),
		Open: m.listen, DefaultRoute: m.defaultRoute, Public: public,
	})
	if err != nil {
		t.Fatal(err)
	}
	own := newMute(netip.MustParseAddrPort(primary))
	all := s.Listen(own)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- all.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("run ended with %v", err)
		}
		if err := errors.Join(all.Close(), all.Close()); err != nil {
			t.Error(err)
		}
		select {
		case <-own.done:
		default:
			t.Error("the gateway's own listener is still open")
		}
		if left := m.listening(); left != "" {
			t.Errorf("still open: %s", left)
		}
	})
	return m, s
}

func want(place compute.Place, address string) compute.Requirement {
	return compute.Requirement{Place: place, Address: address, Reason: "test"}
}

func TestRequirements(t *testing.T) {
	t.Parallel()
	hundred := make([]compute.Requirement, 100)
	sixteen := make([]string, 16)
	for i := range hundred {
		hundred[i] = want(compute.ExactPlace, fmt.Sprintf("10.0.0.%d:8080", i+1))
		if i < len(sixteen) {
			sixteen[i] = fmt.Sprintf("10.0.0.%d:8080", i+1)
		}
	}
	slices.Sort(sixteen)
	one := func(place compute.Place, address string) []compute.Requirement {
		return []compute.Requirement{want(place, address)}
	}
	const primary = "10.9.9.9:8080"
	for name, c := range map[string]struct {
		primary, route string
		asked          []compute.Requirement
		open, logged   string
	}{
		"exact":                {asked: one(compute.ExactPlace, "172.17.0.1:8080"), open: "172.17.0.1:8080"},
		"exact IPv6":           {asked: one(compute.ExactPlace, "[fd00::1]:8080"), open: "[fd00::1]:8080"},
		"IPv4 in IPv6":         {asked: one(compute.ExactPlace, "[::ffff:172.17.0.1]:8080"), open: "172.17.0.1:8080"},
		"loopback":             {asked: one(compute.LoopbackPlace, ""), open: "127.0.0.1:8080"},
		"default route":        {asked: one(compute.DefaultRoutePlace, ""), open: "10.1.2.3:8080"},
		"public route":         {asked: one(compute.DefaultRoutePlace, ""), route: "203.0.113.7", logged: "not a private IPv4 address"},
		"IPv6 route":           {asked: one(compute.DefaultRoutePlace, ""), route: "fd00::7", logged: "not a private IPv4 address"},
		"nothing":              {},
		"twice":                {asked: append(one(compute.LoopbackPlace, ""), one(compute.ExactPlace, "127.0.0.1:8080")...), open: "127.0.0.1:8080"},
		"other port":           {asked: one(compute.ExactPlace, "172.17.0.1:22"), logged: "asks for port 22; the gateway's is 8080"},
		"port 0":               {asked: one(compute.ExactPlace, "172.17.0.1:0"), logged: "asks for port 0"},
		"wildcard":             {asked: one(compute.ExactPlace, "0.0.0.0:8080"), logged: "all addresses"},
		"IPv6 wildcard":        {asked: one(compute.ExactPlace, "[::]:8080"), logged: "all addresses"},
		"wildcard in IPv6":     {asked: one(compute.ExactPlace, "[::ffff:0.0.0.0]:8080"), logged: "all addresses"},
		"multicast":            {asked: one(compute.ExactPlace, "224.0.0.1:8080"), logged: "a group"},
		"IPv6 multicast":       {asked: one(compute.ExactPlace, "[ff02::1]:8080"), logged: "a group"},
		"broadcast":            {asked: one(compute.ExactPlace, "255.255.255.255:8080"), logged: "a group"},
		"zone":                 {asked: one(compute.ExactPlace, "[fe80::1%eth0]:8080"), logged: "on one interface only"},
		"name":                 {asked: one(compute.ExactPlace, "localhost:8080"), logged: "no IP address"},
		"no port":              {asked: one(compute.ExactPlace, "172.17.0.1"), logged: "no IP address"},
		"empty":                {asked: one(compute.ExactPlace, ""), logged: "no IP address"},
		"newer place":          {asked: one(compute.UnknownPlace, ""), logged: "names no address"},
		"a hundred":            {asked: hundred, open: strings.Join(sixteen, " "), logged: "too many"},
		"the own":              {asked: one(compute.ExactPlace, primary), logged: "is the gateway's own"},
		"below a wildcard":     {primary: "[::]:8080", asked: one(compute.ExactPlace, "172.17.0.1:8080"), logged: "only sandboxes are served"},
		"beside IPv4 wildcard": {primary: "0.0.0.0:8080", asked: one(compute.ExactPlace, "[fd00::1]:8080"), open: "[fd00::1]:8080"},
		"good among bad":       {asked: append(one(compute.ExactPlace, "0.0.0.0:8080"), want(compute.LoopbackPlace, "")), open: "127.0.0.1:8080", logged: "all addresses"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				own := c.primary
				if own == "" {
					own = primary
				}
				driver := newAsks()
				m, _ := run(t, own, driver)
				synctest.Wait()
				if c.route != "" {
					m.change(func() { m.route = c.route })
				}
				driver.restart(nil, c.asked...)
				synctest.Wait()
				if got := m.listening(); got != c.open {
					t.Errorf("listening on %q, want %q", got, c.open)
				}
				if c.logged == "" && strings.Contains(m.notes.text(), "WARN") || !strings.Contains(m.notes.text(), c.logged) {
					t.Errorf("log, which should say %q:\n%s", c.logged, m.notes.text())
				}
			})
		})
	}
}

func TestAGatewayWithoutPortOpensNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m, _ := run(t, "10.9.9.9:0", newAsks(want(compute.LoopbackPlace, ""), want(compute.ExactPlace, "172.17.0.1:0")))
		synctest.Wait()
		if m.listening() != "" || !strings.Contains(m.notes.text(), "no port") {
			t.Errorf("listening on %q; log:\n%s", m.listening(), m.notes.text())
		}
	})
}

func TestAddressesFollowTheDriver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		driver := newAsks(want(compute.ExactPlace, "172.17.0.1:8080"), want(compute.LoopbackPlace, ""))
		m, s := run(t, "10.9.9.9:8080", driver)
		at := func(when, open string) {
			t.Helper()
			synctest.Wait()
			if got := m.listening(); got != open {
				t.Fatalf("%s: listening on %q, want %q", when, got, open)
			}
		}
		at("first", "127.0.0.1:8080 172.17.0.1:8080")
		// A driver that cannot answer takes nothing away.
		driver.restart(errors.New("hangs"))
		at("hanging", "127.0.0.1:8080 172.17.0.1:8080")
		driver.restart(nil, want(compute.ExactPlace, "172.17.0.1:8080"), want(compute.ExactPlace, "172.18.0.1:8080"))
		at("changed", "172.17.0.1:8080 172.18.0.1:8080")
		if got := fmt.Sprint(s.Addresses()); got != "[172.17.0.1 172.18.0.1]" {
			t.Errorf("addresses %s", got)
		}
		// Without a new life too, within the period.
		driver.mu.Lock()
		driver.want = driver.want[1:]
		driver.mu.Unlock()
		time.Sleep(61 * time.Second)
		at("changed its mind", "172.18.0.1:8080")
		driver.restart(nil)
		at("nothing", "")
		asked := driver.times()
		time.Sleep(24 * time.Hour)
		if driver.times() != asked {
			t.Errorf("a driver that wants nothing was asked %d times more", driver.times()-asked)
		}
	})
}

func TestAddressesThatComeLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		driver := newAsks()
		m, _ := run(t, "10.9.9.9:8080", driver)
		synctest.Wait()
		m.change(func() { m.absent["172.17.0.1"], m.routeErr = true, errors.New("network is unreachable") })
		driver.restart(nil, want(compute.ExactPlace, "172.17.0.1:8080"), want(compute.DefaultRoutePlace, ""), want(compute.LoopbackPlace, ""))
		time.Sleep(time.Hour)
		if got := m.listening(); got != "127.0.0.1:8080" {
			t.Fatalf("listening on %q", got)
		}
		// A pause of 30 seconds at most and, after the first ones, no less.
		if m.tries < 100 || m.tries > 130 {
			t.Errorf("%d attempts in an hour", m.tries)
		}
		if n := strings.Count(m.notes.text(), "cannot be listened on"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, m.notes.text())
		}
		m.change(func() { m.absent, m.routeErr = nil, nil })
		time.Sleep(31 * time.Second)
		if got := m.listening(); got != "10.1.2.3:8080 127.0.0.1:8080 172.17.0.1:8080" {
			t.Fatalf("listening on %q", got)
		}
		// The route is lost for a while, then it is another.
		m.change(func() { m.routeErr = errors.New("network is unreachable") })
		time.Sleep(2 * time.Minute)
		if got := m.listening(); got != "10.1.2.3:8080 127.0.0.1:8080 172.17.0.1:8080" {
			t.Fatalf("listening on %q without a route", got)
		}
		m.change(func() { m.routeErr, m.route = nil, "192.168.7.7" })
		time.Sleep(2 * time.Minute)
		if got := m.listening(); got != "127.0.0.1:8080 172.17.0.1:8080 192.168.7.7:8080" {
			t.Fatalf("listening on %q with another route", got)
		}
	})
}

func TestADriverThatFailsIsAskedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		driver := newAsks()
		driver.err = errors.New("not yet")
		m, _ := run(t, "10.9.9.9:8080", driver)
		time.Sleep(10 * time.Minute)
		if n := driver.times(); n < 18 || n > 30 {
			t.Errorf("asked %d times in ten minutes", n)
		}
		if n := strings.Count(m.notes.text(), "cannot be asked for"); n != 1 {
			t.Errorf("logged %d times:\n%s", n, m.notes.text())
		}
		driver.mu.Lock()
		driver.err, driver.want = nil, []compute.Requirement{want(compute.LoopbackPlace, "")}
		driver.mu.Unlock()
		time.Sleep(31 * time.Second)
		if got := m.listening(); got != "127.0.0.1:8080" {
			t.Errorf("listening on %q", got)
		}
	})
}
