// Package servicehost serves the services of sandboxes over HTTP, each under a host name of its own, by relays to the
// sandboxes' ports. It decides who gets in: who shows the gateway's credential, or a browser that somebody who may has
// signed in to this one service with a link. It keeps what is the gateway's from the program in the sandbox, and what is
// the program's inside its own host. Which services there are, whose they are, and who may know of them is decided
// elsewhere; the package must not know how.
package servicehost

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/pipe"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/service"
)

// Method is the method whose rule decides about requests to a service: who may see that there is one may use it.
const Method = "/openshell.v1.OpenShell/GetService"

// PathLink is where, on the gateway's own host, links are made that sign a browser in.
const PathLink = "/auth/service-link"

// Paths on the host of a service that are the gateway's. No other below the first reaches the program either.
const (
	pathReserved = "/.sallyport/"
	PathSignIn   = pathReserved + "sign-in"
	PathSignOut  = pathReserved + "sign-out"
)

const (
	// Cookie keeps a browser signed in to one host. By its prefix browsers take it from this very host alone.
	Cookie = "__Host-sallyport-service"
	// HeaderAuthorization carries a caller's credential where Authorization is meant for the program in the sandbox.
	HeaderAuthorization = "Sallyport-Authorization"
)

// Defaults of Config.
const (
	DefaultSessionTTL     = 8 * time.Hour
	DefaultMaxPerService  = 256
	DefaultMaxPerCaller   = 128
	DefaultSupervisorWait = 15 * time.Second
	DefaultHeaderTimeout  = 10 * time.Minute
	// LinkTTL is how long a link opens something.
	LinkTTL = time.Minute
)

// Services finds services. *service.Service implements it.
type Services interface {
	// Find returns a service to a caller who may know of it.
	Find(p *principal.Principal, name service.Name) (*service.Endpoint, *sandbox.Sandbox, error)
	// Locate returns it to the gateway itself.
	Locate(name service.Name) (*service.Endpoint, *sandbox.Sandbox, error)
	Address() service.Address
}

// Authorizer decides whether a caller may call a method. *authz.Current implements it.
type Authorizer interface {
	Authorize(p *principal.Principal, fullMethod string) error
}

// Limiter bounds what callers may ask for, as door.Limiter does for calls.
type Limiter interface {
	Attempt(remote net.Addr, method string, credential bool) (knownOnly bool, err error)
	Failed(remote net.Addr)
	Admit(p *principal.Principal, method string) error
}

// Users knows which users are revoked. *revocation.Registry implements it.
type Users interface {
	Admit(p *principal.Principal) error
	Enter(p *principal.Principal, end context.CancelCauseFunc) (done func())
}

// Config is what a Handler is made of. Services, Relays, Authenticator and Authorizer are required.
type Config struct {
	Services      Services
	Relays        *relay.Registry
	Authenticator authn.Authenticator
	Authorizer    Authorizer
	// Limiter, Users and Audit may be nil: nothing is limited, nobody is revoked, nothing is recorded.
	Limiter Limiter
	Users   Users
	Audit   audit.Recorder
	// Loopback lets peers on this machine in without authentication if they come over plain HTTP, as the reference does.
	Loopback bool
	// SessionTTL is how long a browser stays signed in; 0 means DefaultSessionTTL.
	SessionTTL time.Duration
	// MaxPerService and MaxPerCaller bound the requests that are served at a time; 0 means the defaults.
	MaxPerService, MaxPerCaller int
	// SupervisorWait is how long a request waits for the sandbox's supervisor, HeaderTimeout for the head of the
	// program's answer, Idle how long a connection to the program may carry nothing; 0 means the defaults.
	SupervisorWait, HeaderTimeout, Idle time.Duration
	// Observe is told the status of each answer, for a metric; nil tells nobody. It must not block.
	Observe func(status int)
	// Logger is told of failures inside; nil discards.
	Logger *slog.Logger
	// Now is the clock, Random the source of secrets; nil is the system's.
	Now    func() time.Time
	Random io.Reader
}

// Handler serves services. Run has to run for what is open to end in time.
type Handler struct {
	cfg      Config
	address  service.Address
	proxy    *proxy
	links    *tickets
	sessions *tickets
	open     actives
	visits   visits

	ctx  context.Context // ends what is open
	stop context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	serving sync.WaitGroup
}

// New returns a Handler. Close ends what it serves.
func New(c Config) (*Handler, error) {
	if c.Services == nil || c.Relays == nil || c.Authenticator == nil || c.Authorizer == nil {
		return nil, errors.New("set up service hosts: services, relays, an authenticator and an authorizer are needed")
	}
	settle(&c)
	h := &Handler{
		cfg: c, address: c.Services.Address(),
		links:    newTickets(LinkTTL, maxLinks, maxLinksPerUser, c.Now, c.Random),
		sessions: newTickets(c.SessionTTL, maxSessions, maxSessionsPerUser, c.Now, c.Random),
	}
	h.open.init(c.MaxPerService, c.MaxPerCaller)
	h.visits.init(c.Now)
	h.ctx, h.stop = context.WithCancelCause(context.Background())
	h.proxy = newProxy(h)
	return h, nil
}

// settle fills in the defaults.
func settle(c *Config) {
	if c.Limiter == nil {
		c.Limiter = unlimited{}
	}
	if c.Users == nil {
		c.Users = everybody{}
	}
	if c.Audit == nil {
		c.Audit = audit.Discard{}
	}
	if c.Observe == nil {
		c.Observe = func(int) {}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	for _, d := range []struct {
		value  *time.Duration
		preset time.Duration
	}{
		{&c.SessionTTL, DefaultSessionTTL},
		{&c.SupervisorWait, DefaultSupervisorWait},
		{&c.HeaderTimeout, DefaultHeaderTimeout},
		{&c.Idle, pipe.DefaultIdle},
	} {
		if *d.value <= 0 {
			*d.value = d.preset
		}
	}
	if c.MaxPerService <= 0 {
		c.MaxPerService = DefaultMaxPerService
	}
	if c.MaxPerCaller <= 0 {
		c.MaxPerCaller = DefaultMaxPerCaller
	}
}

type unlimited struct{}

func (unlimited) Attempt(net.Addr, string, bool) (bool, error) { return false, nil }
func (unlimited) Failed(net.Addr)                              {}
func (unlimited) Admit(*principal.Principal, string) error     { return nil }

type everybody struct{}

func (everybody) Admit(*principal.Principal) error { return nil }
func (everybody) Enter(*principal.Principal, context.CancelCauseFunc) func() {
	return func() {}
}

var errShutdown = fault.New(fault.Unavailable, "SHUTTING_DOWN", "gateway is shutting down").WithNext("try again in a moment")

// Wrap serves requests to the hosts of services, and hands all others to next.
func (h *Handler) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, ok := h.address.Parse(r.Host)
		if !ok {
			next.ServeHTTP(w, r)
			return
		}
		h.serve(w, r, name)
	})
}

// Alone serves requests to the hosts of services and nothing else: for plaintext connections on a port that speaks TLS.
func (h *Handler) Alone() http.Handler {
	return h.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		newAttempt(h, w, r, service.Name{}).refuse(service.NotFound())
	}))
}

// enter counts a request in, unless the handler is closed.
func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.closed {
		h.serving.Add(1)
	}
	return !h.closed
}

// Idle closes the connections to programs that no request needs, so that a gateway that drains need not wait for them.
func (h *Handler) Idle() { h.proxy.transport.CloseIdleConnections() }

// Close ends all that is served, waits for it, and serves nothing more.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	h.mu.Unlock()
	h.stop(errShutdown)
	h.serving.Wait()
	h.Idle()
}

// Open returns how many requests are being served, Sessions how many browsers are signed in, for metrics.
func (h *Handler) Open() int { return h.open.len() }

// Sessions returns how many browsers are signed in.
func (h *Handler) Sessions() int { return h.sessions.len() }

// sweepEvery is how late what is open may end that has nothing to live on any more.
const sweepEvery = 2 * time.Second

// Run ends what has nothing to live on any more, until ctx ends.
func (h *Handler) Run(ctx context.Context) error {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			h.Idle()
			return nil
		case <-ticker.C:
			h.sweep()
		}
	}
}

// sweep ends sessions whose users or services are no more, and requests that nothing lets in any longer.
func (h *Handler) sweep() {
	for _, ended := range h.sessions.sweep(func(t *ticket) error {
		_, err := h.entitled(t)
		return err
	}) {
		h.sessionEnded(ended.ticket, ended.why)
	}
	h.links.sweep(func(*ticket) error { return nil })
	for _, a := range h.open.all() {
		if err := a.still(); err != nil {
			a.end(err)
		}
	}
}
