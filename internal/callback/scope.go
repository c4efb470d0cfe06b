// Package callback keeps the addresses at which sandboxes reach the gateway because their driver asked for them, and
// what may be done there: sandboxes call the methods that are for sandboxes, and nothing else is answered, neither
// another method, nor a user, nor plain HTTP. An address is told by the local end of a connection, so that it makes no
// difference whether the gateway listens on it alone or on all addresses of the machine. The package knows the rules'
// modes and no method, no token and no message.
package callback

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
)

// Refusal is what everybody is told who asks for anything else at a callback address. Clients know these words.
const Refusal = "compute-driver callback listeners accept sandbox callback RPCs only"

// ReasonScope is the stable reason of that refusal.
const ReasonScope = "CALLBACK_LISTENER_SCOPE"

// headerRequestID is where the id of a refused call is told, as the door does.
const headerRequestID = "x-request-id"

// Config is what a Scope is made of.
type Config struct {
	// Driver says which addresses are wanted.
	Driver Driver
	// Table tells which methods sandboxes may call.
	Table *authz.Table
	// Public are addresses that a gateway which listens on all addresses serves in full although a driver asks for
	// them, because users come in there too.
	Public []netip.Addr
	// Recorder is told of refused calls; nil discards.
	Recorder audit.Recorder
	// Refused is told the method, or door.UnknownMethod, of each refused call, and "http" for plain HTTP; nil tells
	// nobody. It must not block.
	Refused func(method string)
	// Changed is told the addresses at which only sandboxes are served whenever they have changed; nil tells nobody. It
	// must not block.
	Changed func([]netip.Addr)
	Logger  *slog.Logger
	// DefaultRoute returns the address of this machine on the interface of the default route; nil asks the system.
	DefaultRoute func(ctx context.Context) (netip.Addr, error)
	// Open listens on an address; nil asks the system.
	Open func(ctx context.Context, at netip.AddrPort) (net.Listener, error)
}

// Scope decides which connections came in at a callback address, and refuses there what is not for sandboxes. It is
// safe for concurrent use.
type Scope struct {
	cfg    Config
	public map[netip.Addr]bool
	view   atomic.Pointer[view]
}

// New returns a Scope. Until Listen has told it what the gateway's own address is, every TCP connection is held to it.
func New(cfg Config) (*Scope, error) {
	if cfg.Driver == nil || cfg.Table == nil || cfg.Logger == nil {
		return nil, errors.New("set up callback listeners: driver, rules and logger are required")
	}
	if cfg.Recorder == nil {
		cfg.Recorder = audit.Discard{}
	}
	if cfg.Refused == nil {
		cfg.Refused = func(string) {}
	}
	if cfg.Changed == nil {
		cfg.Changed = func([]netip.Addr) {}
	}
	if cfg.DefaultRoute == nil {
		cfg.DefaultRoute = defaultRoute
	}
	if cfg.Open == nil {
		cfg.Open = open
	}
	s := &Scope{cfg: cfg, public: make(map[netip.Addr]bool, len(cfg.Public))}
	for _, a := range cfg.Public {
		s.public[plain(a)] = true
	}
	s.view.Store(&view{})
	return s, nil
}

// view is what is known of the addresses at one moment. It is immutable.
type view struct {
	// primary is the gateway's own address; not valid where that is not known or no IP address.
	primary netip.Addr
	// callback are the addresses that drivers asked for and that nobody else is served at.
	callback map[netip.Addr]bool
	// loopback says that one of them is a loopback address. Who reaches one reaches all, so all are callback addresses.
	loopback bool
	// public are exceptions, of a wildcard primary.
	public map[netip.Addr]bool
}

// narrow tells whether a connection with this local end is for sandboxes only.
func (v *view) narrow(local net.Addr) bool {
	if local == nil {
		return true
	}
	tcp, ok := local.(*net.TCPAddr)
	if !ok {
		// Made inside the process by who was let in already, or a Unix socket: drivers cannot ask for either.
		return false
	}
	addr := plain(tcp.AddrPort().Addr())
	if !v.primary.IsValid() || !v.primary.IsUnspecified() {
		// What did not come to the gateway's own address can only have come to a callback address, also when the
		// driver wants that no longer and the connection is older.
		return addr != v.primary
	}
	switch {
	case v.primary.Is4() && addr.Is6():
		return true // Not an address of the gateway's own either.
	case v.public[addr]:
		return false
	}
	return v.callback[addr] || v.loopback && addr.IsLoopback()
}

// plain is the one form in which addresses are compared.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// Addresses returns the addresses, in order, that the driver was given and at which only sandboxes are served.
func (s *Scope) Addresses() []netip.Addr {
	return slices.SortedFunc(maps.Keys(s.view.Load().callback), netip.Addr.Compare)
}

// holds tells whether a call came in at a callback address. A call whose connection is not known any more is held too:
// its client has gone, and what it was allowed to do cannot be told.
func (s *Scope) holds(ctx context.Context) bool {
	p, ok := listener.Peer(ctx)
	if !ok {
		return true
	}
	if p.AuthInfo != nil && p.AuthInfo.AuthType() == "bridge" {
		return true
	}
	return s.view.Load().narrow(p.LocalAddr)
}

func refusal() *fault.Error {
	return fault.New(fault.PermissionDenied, ReasonScope, Refusal).
		WithNext("call the gateway's own address; at this one only the supervisors of sandboxes are served, with their sandbox tokens")
}

// check returns the answer to a call that must not go on, else nil.
func (s *Scope) check(ctx context.Context, method string) error {
	if !s.holds(ctx) {
		return nil
	}
	rule, known := s.cfg.Table.Rule(method)
	if known && rule.Mode.AdmitsSandbox() {
		return nil
	}
	label := door.UnknownMethod
	if known {
		label = method
	}
	id := uuid.NewString()
	r := audit.Record{
		Time: time.Now(), Actor: (*principal.Principal)(nil).Actor(), ActorKind: principal.Anonymous.String(),
		Action: label, Verdict: audit.Denied, Reason: ReasonScope, RequestID: id,
	}
	if p, ok := listener.Peer(ctx); ok {
		if tcp, ok := p.Addr.(*net.TCPAddr); ok {
			r.Remote = plain(tcp.AddrPort().Addr()).String()
		}
	}
	s.cfg.Recorder.Record(r)
	s.cfg.Refused(label)
	// It fails only where the call is over for the client anyway.
	_ = grpc.SetTrailer(ctx, metadata.Pairs(headerRequestID, id))
	return door.Status(refusal(), id)
}

// Unary refuses calls of methods that are not for sandboxes. It comes before the door, which asks nothing of who calls
// some of them.
func (s *Scope) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		if err := s.check(ctx, info.FullMethod); err != nil {
			return nil, err
		}
		return next(ctx, message)
	}
}

// Stream is Unary for streams, and for methods that no service has.
func (s *Scope) Stream() grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		if err := s.check(stream.Context(), info.FullMethod); err != nil {
			return err
		}
		return next(server, stream)
	}
}

// HTTP refuses plain HTTP at callback addresses.
func (s *Scope) HTTP(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
		if !ok || s.view.Load().narrow(local) {
			s.cfg.Refused("http")
			http.Error(w, Refusal, http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// Authenticator lets next recognise nobody but sandboxes where a call came in at a callback address: client
// certificates do not count there, since sandboxes may share one, and users are refused.
func (s *Scope) Authenticator(next authn.Authenticator) authn.Authenticator {
	return &sandboxesOnly{scope: s, next: next}
}

type sandboxesOnly struct {
	scope *Scope
	next  authn.Authenticator
}

// Authenticate implements authn.Authenticator.
func (a *sandboxesOnly) Authenticate(ctx context.Context, r *authn.Request) (*principal.Principal, error) {
	if !a.scope.holds(ctx) {
		return a.next.Authenticate(ctx, r)
	}
	asked := *r
	asked.PeerCertificate = nil
	p, err := a.next.Authenticate(ctx, &asked)
	if err != nil {
		return nil, err
	}
	if p != nil && p.Kind == principal.User {
		return nil, refusal()
	}
	return p, nil
}
