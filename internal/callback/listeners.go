package callback

import (
	"context"
	"errors"
	"iter"
	"maps"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/driver/compute"
)

// Driver says where sandboxes have to reach the gateway, as compute.Client does.
type Driver interface {
	// ListenerRequirements returns what the driver wants; nothing, where it does not know the question.
	ListenerRequirements(ctx context.Context) ([]compute.Requirement, error)
	// Connected waits until the driver was connected more often than seen times and returns how often it was.
	Connected(ctx context.Context, seen int) (int, error)
}

const (
	// maxAddresses bounds what a driver gets; what it asks for beyond that is refused.
	maxAddresses = 16
	// askTimeout bounds one question to the driver.
	askTimeout = 10 * time.Second
	// retryFirst and retryLongest bound the pause before what failed is tried again: asking the driver, or listening
	// on an address that does not exist yet.
	retryFirst, retryLongest = time.Second, 30 * time.Second
	// again is when a driver that wants something is asked anew, against one that changes its mind and for the address
	// of the default route, which the network may change.
	again = time.Minute
	// acceptFirst and acceptLongest bound the pause after a connection could not be accepted.
	acceptFirst, acceptLongest = 5 * time.Millisecond, time.Second
)

// Listeners are the gateway's own listener and those that a driver asked for, as one net.Listener. The connections are
// as they were accepted.
type Listeners struct {
	scope   *Scope
	primary net.Listener
	at      netip.AddrPort // of primary; not valid if that is no TCP address

	conns  chan net.Conn
	failed chan error
	done   chan struct{}
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	extra  map[netip.Addr]net.Listener

	// The rest belongs to Run.
	route netip.Addr // last known, where it cannot be found at the moment
	// said is what there was to log in this round, by what it is about, before in the one before.
	said, before map[string]string
}

var _ net.Listener = (*Listeners)(nil)

// Listen makes primary the gateway's own address, which is served in full, and returns the listener to serve. Closing
// that closes primary. It is called once.
func (s *Scope) Listen(primary net.Listener) *Listeners {
	l := &Listeners{
		scope: s, primary: primary, conns: make(chan net.Conn), failed: make(chan error), done: make(chan struct{}),
		extra: map[netip.Addr]net.Listener{},
	}
	v := &view{}
	if tcp, ok := primary.Addr().(*net.TCPAddr); ok {
		a := tcp.AddrPort()
		l.at = netip.AddrPortFrom(plain(a.Addr()), a.Port())
		v.primary = l.at.Addr()
		if v.primary.IsUnspecified() {
			v.public = s.public
		}
	}
	s.view.Store(v)
	l.wg.Go(l.acceptPrimary)
	return l
}

// Accept implements net.Listener.
func (l *Listeners) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Addr returns the gateway's own address.
func (l *Listeners) Addr() net.Addr { return l.primary.Addr() }

// Close closes all listeners. Accepted connections stay.
func (l *Listeners) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.done)
	err := l.primary.Close()
	for _, e := range l.extra {
		e.Close()
	}
	clear(l.extra)
	l.mu.Unlock()
	l.wg.Wait()
	return err
}

// acceptPrimary hands on what the gateway's own listener gives, errors too: who serves knows how to go on after them.
func (l *Listeners) acceptPrimary() {
	for {
		c, err := l.primary.Accept()
		if err == nil {
			l.hand(c)
			continue
		}
		select {
		case l.failed <- err:
		case <-l.done:
			return
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
	}
}

// acceptExtra serves one callback address until its listener is closed. Its troubles are not those of the others.
func (l *Listeners) acceptExtra(e net.Listener) {
	pause := acceptFirst
	for {
		c, err := e.Accept()
		if err == nil {
			pause = acceptFirst
			l.hand(c)
			continue
		}
		if errors.Is(err, net.ErrClosed) {
			return
		}
		l.scope.cfg.Logger.Error("accept a connection at a callback address", "address", e.Addr().String(), "error", err)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-l.done:
			timer.Stop()
			return
		}
		pause = min(2*pause, acceptLongest)
	}
}

func (l *Listeners) hand(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		c.Close()
	}
}

// Run asks the driver whenever it has connected, and listens where it wants, until ctx ends or the driver's connection
// is closed; it returns why. Addresses stay open while the driver is away: sandboxes outlive it.
func (l *Listeners) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	connected := make(chan struct{})
	var following sync.WaitGroup
	defer following.Wait()
	defer cancel(nil) // Before the wait.
	following.Go(func() {
		for seen := 0; ; {
			var err error
			if seen, err = l.scope.cfg.Driver.Connected(ctx, seen); err != nil {
				cancel(err)
				return
			}
			select {
			case connected <- struct{}{}:
			case <-ctx.Done():
				return
			}
		}
	})
	wake := time.NewTimer(0)
	wake.Stop()
	defer wake.Stop()
	pause := retryFirst
	for {
		select {
		case <-connected:
			pause = retryFirst
		case <-wake.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		some, settled := l.round(ctx)
		switch {
		case !settled:
			wake.Reset(pause)
			pause = min(2*pause, retryLongest)
		case some:
			wake.Reset(again)
			pause = retryFirst
		default:
			wake.Stop()
		}
	}
}

// round asks the driver and does what can be done. some tells whether it wants anything, settled whether nothing is
// left to try again.
func (l *Listeners) round(ctx context.Context) (some, settled bool) {
	l.before, l.said = l.said, map[string]string{}
	asking, cancel := context.WithTimeout(ctx, askTimeout)
	requirements, err := l.scope.cfg.Driver.ListenerRequirements(asking)
	cancel()
	log := l.scope.cfg.Logger
	if ctx.Err() != nil {
		return false, false
	}
	if err != nil {
		// Nothing is closed for it: what the driver wants is not known.
		if l.news("driver", err.Error()) {
			log.Warn("callback addresses cannot be asked for; trying again", "error", err)
		}
		return true, false
	}
	wanted, settled := l.wanted(ctx, requirements)
	if !l.apply(ctx, wanted) {
		settled = false
	}
	return len(requirements) > 0, settled
}

// wanted returns the addresses that are given to the driver, each with its reason.
func (l *Listeners) wanted(ctx context.Context, requirements []compute.Requirement) (map[netip.Addr]string, bool) {
	settled := true
	wanted := map[netip.Addr]string{}
	log := l.scope.cfg.Logger
	if n := len(requirements); n > maxAddresses {
		if l.news("number", strconv.Itoa(n)) {
			log.Warn("driver asks for too many callback addresses; the last are refused", "asked", n, "most", maxAddresses)
		}
		requirements = requirements[:maxAddresses]
	}
	for _, r := range requirements {
		about := r.Place.String() + " " + r.Address
		addr, err := resolve(ctx, r, l.at.Port(), l.scope.cfg.DefaultRoute)
		if err == nil && r.Place == compute.DefaultRoutePlace {
			l.route = addr
		}
		if why, ok := errors.AsType[refused](err); ok {
			if l.news(about, r.Reason, string(why)) {
				log.Warn("callback address refused", "place", r.Place.String(), "address", r.Address, "for", r.Reason, "why", string(why))
			}
			continue
		}
		if err != nil {
			settled = false
			if l.news(about, r.Reason, err.Error()) {
				log.Warn("callback address is not known; trying again", "place", r.Place.String(), "for", r.Reason, "error", err)
			}
			if !l.route.IsValid() {
				continue
			}
			addr = l.route
		}
		wanted[addr] = r.Reason
	}
	return wanted, settled
}

// apply opens and closes listeners so that the wanted addresses are served, and holds them to the scope. It returns
// whether all are.
func (l *Listeners) apply(ctx context.Context, wanted map[netip.Addr]string) bool {
	v := l.scope.view.Load()
	covered, missing := map[netip.Addr]bool{}, map[netip.Addr]string{}
	log := l.scope.cfg.Logger
	for addr, reason := range wanted {
		switch about := addr.String(); {
		case addr == v.primary:
			if l.news(about, "own", reason) {
				log.Info("callback address is the gateway's own, which is served in full", "address", about, "for", reason)
			}
		case v.public[addr]:
			if l.news(about, "public", reason) {
				log.Info("callback address is public, and served in full", "address", about, "for", reason)
			}
		case v.primary.IsUnspecified() && (v.primary.Is6() || addr.Is4()):
			if l.news(about, "covered", reason) {
				log.Warn("callback address is one of the gateway's; from now on only sandboxes are served there, and users at the others",
					"address", about, "for", reason)
			}
			covered[addr] = true
		default:
			missing[addr] = reason
		}
	}
	// The scope is narrowed before an address is opened, and widened after it was closed.
	l.scope.view.Store(v.to(maps.Keys(v.callback), maps.Keys(covered), maps.Keys(missing)))
	l.closeBut(missing)
	whole := true
	for addr, reason := range missing {
		if l.open(ctx, addr, reason) {
			covered[addr] = true
		} else {
			whole = false
		}
	}
	l.scope.view.Store(v.to(maps.Keys(covered)))
	if !maps.Equal(v.callback, covered) {
		l.scope.cfg.Changed(l.scope.Addresses())
	}
	return whole
}

// to returns v with other callback addresses.
func (v *view) to(sets ...iter.Seq[netip.Addr]) *view {
	next := &view{primary: v.primary, public: v.public, callback: map[netip.Addr]bool{}}
	for _, set := range sets {
		for a := range set {
			next.callback[a] = true
			next.loopback = next.loopback || a.IsLoopback()
		}
	}
	return next
}

func (l *Listeners) closeBut(wanted map[netip.Addr]string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for addr, e := range l.extra {
		if _, ok := wanted[addr]; ok {
			continue
		}
		e.Close()
		delete(l.extra, addr)
		l.scope.cfg.Logger.Info("callback address closed", "address", addr.String())
	}
}

// open returns whether the address is listened on.
func (l *Listeners) open(ctx context.Context, addr netip.Addr, reason string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.extra[addr]; ok || l.closed {
		return true
	}
	e, err := l.scope.cfg.Open(ctx, netip.AddrPortFrom(addr, l.at.Port()))
	if err != nil {
		if l.news(addr.String(), "failed", reason, err.Error()) {
			l.scope.cfg.Logger.Warn("callback address cannot be listened on; trying again", "address", addr.String(), "for", reason, "error", err)
		}
		return false
	}
	l.extra[addr] = e
	l.scope.cfg.Logger.Info("callback address open", "address", e.Addr().String(), "for", reason)
	l.wg.Go(func() { l.acceptExtra(e) })
	return true
}

// news tells whether something is to be logged: unless the round before said the same of what it is about.
func (l *Listeners) news(about string, words ...string) bool {
	text := strings.Join(words, "\x00")
	l.said[about] = text
	return l.before[about] != text
}
