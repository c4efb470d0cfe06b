package servicehost

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"strings"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/listener"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/service"
)

// Actions in audit records, beside audit.ActionSessionOpen and audit.ActionSessionClose.
const (
	// ActionRequest is a request to a service that was refused.
	ActionRequest = "service.request"
	// ActionLink is a link that signs a browser in to a service.
	ActionLink = "service.link"
)

// via is what records of sessions say of how they came to be.
const via = "service"

// Stable reasons of this package's refusals.
const (
	ReasonCrossOrigin = "CROSS_ORIGIN"
	ReasonBadRequest  = "SERVICE_REQUEST"
	ReasonNotReady    = "SANDBOX_NOT_READY"
	ReasonUnreachable = "SERVICE_UNREACHABLE"
	ReasonLink        = "SERVICE_LINK_INVALID"
	ReasonTooMuch     = "TOO_MANY_ATTEMPTS"
)

const (
	headerRequestID     = "X-Request-Id"
	headerAuthorization = "Authorization"
)

// how is by what a caller was let in.
type how string

const (
	bySession how = "session"
	byToken   how = "token"
	// byConnection is a client certificate, or nothing at all where that is enough: what a browser shows by itself.
	byConnection how = "connection"
	// byLoopback is no authentication at all.
	byLoopback how = "loopback"
)

// caller is who makes a request.
type caller struct {
	how how
	// principal is nil with byLoopback.
	principal *principal.Principal
	// ticket is the session of bySession.
	ticket *ticket
	// header is the one that had the token of byToken.
	header string
}

// key is what a caller's requests are counted by.
func (c *caller) key() string {
	if c.principal == nil {
		return string(byLoopback)
	}
	return c.principal.Actor()
}

// attempt is one request, with what is recorded of it.
type attempt struct {
	h         *Handler
	w         http.ResponseWriter
	r         *http.Request
	name      service.Name
	requestID string
	remote    net.Addr
	caller    caller
}

func newAttempt(h *Handler, w http.ResponseWriter, r *http.Request, name service.Name) *attempt {
	return &attempt{h: h, w: w, r: r, name: name, remote: callinfo.Remote(r), requestID: callinfo.RequestID(r.Header[headerRequestID])}
}

// serve answers one request to a service's host.
func (h *Handler) serve(w http.ResponseWriter, r *http.Request, name service.Name) {
	a := newAttempt(h, w, r, name)
	if !h.enter() {
		a.refuse(errShutdown)
		return
	}
	defer h.serving.Done()
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	defer context.AfterFunc(h.ctx, func() { end(errShutdown) })()
	a.r = r.WithContext(ctx)
	var err error
	switch {
	case r.Method == http.MethodConnect || !strings.HasPrefix(r.URL.Path, "/") || r.URL.Host != "" && r.ProtoMajor == 1 && r.URL.Host != r.Host:
		err = fault.New(fault.InvalidArgument, ReasonBadRequest, "invalid service request").WithNext("ask for a path")
	case strings.HasPrefix(r.URL.Path, pathReserved):
		err = a.own()
	default:
		err = a.pass(ctx, end)
	}
	if err != nil {
		a.refuse(err)
	}
}

// pass lets the request through to the program, or says why not.
func (a *attempt) pass(ctx context.Context, end context.CancelCauseFunc) error {
	if err := a.identify(ctx); err != nil {
		return err
	}
	e, sb, err := a.find()
	if err != nil {
		return err
	}
	waiting := sb.Phase == sandbox.PhaseProvisioning && sb.DriverPhase == sandbox.PhaseReady
	if sb.Phase != sandbox.PhaseReady && !waiting {
		return fault.New(fault.FailedPrecondition, ReasonNotReady, "sandbox is not ready").
			WithNext("see the sandbox's phase with `sallyport sandbox get %s`", a.name.Sandbox)
	}
	open := &active{service: e.ID, caller: a.caller.key(), end: end, still: func() error { return a.still(e) }}
	if err := a.h.open.add(open); err != nil {
		return err
	}
	defer a.h.open.remove(open)
	if p := a.caller.principal; p != nil {
		defer a.h.cfg.Users.Enter(p, end)()
	}
	// What was taken away in the meantime has looked for open requests before this one was there.
	if err := a.still(e); err != nil {
		return err
	}
	if a.caller.how != bySession && a.h.visits.first(open.caller, e.ID) {
		a.record(audit.ActionSessionOpen, audit.Allowed, "", map[string]string{"via": via, "by": string(a.caller.how)})
	}
	a.h.proxy.serve(a, e)
	return nil
}

// identify finds out who makes the request and whether that caller may use services at all.
func (a *attempt) identify(ctx context.Context) error {
	explicit := a.r.Header[HeaderAuthorization]
	if a.h.cfg.Loopback && len(explicit) == 0 && a.local() {
		if strictlyForeign(a.r) {
			return crossOrigin()
		}
		a.caller = caller{how: byLoopback}
		return nil
	}
	c, err := a.recognise(ctx, explicit)
	if err != nil {
		return err
	}
	a.caller = c
	if c.how != byToken && foreign(a.r) {
		return crossOrigin()
	}
	return a.admit(c)
}

// admit asks whether an authenticated caller may use services still.
func (a *attempt) admit(c caller) error {
	p := c.principal
	if c.ticket != nil {
		p = c.ticket.known
	}
	if err := a.h.cfg.Users.Admit(p); err != nil {
		return err
	}
	if err := a.h.cfg.Limiter.Admit(p, Method); err != nil {
		return err
	}
	return a.h.cfg.Authorizer.Authorize(p, Method)
}

// recognise finds out who makes the request. A session comes before the header Authorization, which a page may send for
// purposes of its own.
func (a *attempt) recognise(ctx context.Context, explicit []string) (caller, error) {
	if len(explicit) == 0 {
		if t := a.h.sessions.find(cookieOf(a.r)); t != nil && t.name == a.name {
			return caller{how: bySession, principal: t.user, ticket: t}, nil
		}
	}
	c := caller{how: byToken, header: HeaderAuthorization}
	values := explicit
	if len(explicit) == 0 {
		values = a.r.Header[headerAuthorization]
		c.header = headerAuthorization
		if len(values) == 0 {
			c = caller{how: byConnection}
		}
	}
	p, err := a.authenticate(ctx, values)
	if err != nil {
		return caller{}, err
	}
	c.principal = p
	return c, nil
}

// authenticate asks who shows a credential, as the door does.
func (a *attempt) authenticate(ctx context.Context, authorization []string) (*principal.Principal, error) {
	req := &authn.Request{
		Method: Method, Authorization: authorization, PeerCertificate: certificateOf(a.r), Remote: a.remote.String(),
	}
	credential := len(authorization) > 0 || req.PeerCertificate != nil
	var err error
	if req.KnownOnly, err = a.h.cfg.Limiter.Attempt(a.remote, Method, credential); err != nil {
		return nil, err
	}
	p, err := a.h.cfg.Authenticator.Authenticate(ctx, req)
	if err != nil {
		if f, ok := errors.AsType[*fault.Error](err); ok && credential && f.Kind == fault.Unauthenticated && f.Reason != authz.ReasonExpired {
			a.h.cfg.Limiter.Failed(a.remote)
		}
		return nil, err
	}
	if p == nil {
		return nil, fault.New(fault.Unauthenticated, authn.ReasonMissingAuthorization, "missing authorization header")
	}
	return p, nil
}

// find returns the service and its sandbox to the caller. To who may not know of it there is none, whatever the reason.
func (a *attempt) find() (*service.Endpoint, *sandbox.Sandbox, error) {
	var e *service.Endpoint
	var sb *sandbox.Sandbox
	var err error
	if a.caller.principal == nil {
		e, sb, err = a.h.cfg.Services.Locate(a.name)
	} else {
		e, sb, err = a.h.cfg.Services.Find(a.caller.principal, a.name)
	}
	if fault.Is(err, fault.PermissionDenied) {
		err = service.NotFound()
	}
	if err == nil && a.caller.ticket != nil && a.caller.ticket.endpointID != e.ID {
		err = errTicketExpired // It is another service of the same name.
	}
	return e, sb, err
}

// still tells why a request that was let in must end. Failures inside are no such reason.
func (a *attempt) still(e *service.Endpoint) error {
	if t := a.caller.ticket; t != nil && !a.h.sessions.holds(t) {
		return errTicketExpired
	}
	now, _, err := a.find()
	switch {
	case fault.Is(err, fault.NotFound), fault.Is(err, fault.Unauthenticated):
		return err
	case err == nil && now.ID != e.ID:
		return service.NotFound()
	}
	return nil
}

// entitled returns the service of a ticket, or why it lets its user in no more.
func (h *Handler) entitled(t *ticket) (*service.Endpoint, error) {
	if err := h.cfg.Users.Admit(t.known); err != nil {
		return nil, err
	}
	if err := h.cfg.Authorizer.Authorize(t.known, Method); err != nil {
		return nil, err
	}
	e, _, err := h.cfg.Services.Find(t.user, t.name)
	switch {
	case fault.Is(err, fault.PermissionDenied):
		return nil, service.NotFound()
	case err != nil:
		return nil, err
	case e.ID != t.endpointID:
		return nil, service.NotFound()
	}
	return e, nil
}

// local tells whether the peer is on this machine and nothing stands between: the connection is plain, between loopback
// addresses, and no proxy says that it passes on what another one asks.
func (a *attempt) local() bool {
	r := a.r
	if r.TLS != nil || listener.Injected(r.Context()) || relayed(r.Header) {
		return false
	}
	at, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && loopback(at) && loopback(a.remote)
}

func relayed(h http.Header) bool {
	for name := range h {
		if name == "Forwarded" || name == "Via" || strings.HasPrefix(name, "X-Forwarded-") || name == "X-Real-Ip" {
			return true
		}
	}
	return false
}

func loopback(addr net.Addr) bool {
	tcp, ok := addr.(*net.TCPAddr)
	return ok && tcp.AddrPort().Addr().Unmap().IsLoopback()
}

// certificateOf returns the peer's certificate if TLS verified it against the client CA.
func certificateOf(r *http.Request) *x509.Certificate {
	if r.TLS == nil || len(r.TLS.VerifiedChains) == 0 || len(r.TLS.VerifiedChains[0]) == 0 {
		return nil
	}
	return r.TLS.VerifiedChains[0][0]
}
