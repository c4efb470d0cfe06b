// Package sessions records in the audit log when a supervisor's session opens and closes. It stands between the relays
// and whoever observes them, passes everything on, and knows nothing of sandboxes but their ids.
package sessions

import (
	"context"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/peer"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
)

// Superseded is why a session ended whose sandbox has a newer one.
const Superseded = "superseded by a newer session"

// Observer is a relay.Observer that records. It is safe for concurrent use.
type Observer struct {
	next relay.Observer
	to   audit.Recorder
	now  func() time.Time
	// requestID tells the id of the call that a context belongs to.
	requestID func(context.Context) string

	mu sync.Mutex
	// open holds the session of each sandbox; relays keep at most one.
	open map[string]session
}

type session struct {
	id     string
	opened audit.Record
}

// Config is what an Observer is made of. Next and Recorder are required.
type Config struct {
	Next     relay.Observer
	Recorder audit.Recorder
	// RequestID tells the id of the call that a context belongs to; nil for none.
	RequestID func(context.Context) string
	// Now is the clock; nil is the system's.
	Now func() time.Time
}

// New returns an Observer.
func New(c Config) *Observer {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.RequestID == nil {
		c.RequestID = func(context.Context) string { return "" }
	}
	return &Observer{next: c.Next, to: c.Recorder, now: c.Now, requestID: c.RequestID, open: map[string]session{}}
}

var _ relay.Observer = (*Observer)(nil)

// Connected implements relay.Observer. The relays do not say that the session before has ended when a newer one takes
// its place, so that is recorded here.
func (o *Observer) Connected(ctx context.Context, sandboxID, sessionID, instanceID string) {
	p := principal.From(ctx)
	r := audit.Record{
		Time: o.now(), Actor: p.Actor(), ActorKind: p.Kind.String(), Tenant: p.Tenant, Action: audit.ActionSessionOpen,
		Target: "sandbox/" + sandboxID, Verdict: audit.Allowed, RequestID: o.requestID(ctx),
		Details: map[string]string{"session": sessionID, "instance": instanceID, "source": p.Source},
	}
	if from, ok := peer.FromContext(ctx); ok && from.Addr != nil {
		if host, _, err := net.SplitHostPort(from.Addr.String()); err == nil {
			r.Remote = host
		}
	}
	opened := r
	opened.Details = nil // The record of the end has its own, and a map for each open session is a lot.
	o.mu.Lock()
	before, superseded := o.open[sandboxID]
	o.open[sandboxID] = session{id: sessionID, opened: opened}
	o.mu.Unlock()
	if superseded && before.id != sessionID {
		o.closed(before, Superseded)
	}
	o.to.Record(r)
	o.next.Connected(ctx, sandboxID, sessionID, instanceID)
}

// Disconnected implements relay.Observer.
func (o *Observer) Disconnected(ctx context.Context, sandboxID, sessionID, reason string) {
	o.mu.Lock()
	s, ok := o.open[sandboxID]
	if ok = ok && s.id == sessionID; ok {
		delete(o.open, sandboxID)
	}
	o.mu.Unlock()
	if ok {
		o.closed(s, reason)
	}
	o.next.Disconnected(ctx, sandboxID, sessionID, reason)
}

// closed records the end of a session. Its reason is one of the gateway's own texts.
func (o *Observer) closed(s session, reason string) {
	r := s.opened
	r.Time, r.Action = o.now(), audit.ActionSessionClose
	r.Details = map[string]string{
		"session": s.id, "reason": reason, "lasted": r.Time.Sub(s.opened.Time).Round(time.Millisecond).String(),
	}
	o.to.Record(r)
}
