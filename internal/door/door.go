// Package door is the one entrance of every gRPC call: it names the request, finds out who is calling, asks whether
// that caller may, and turns what comes back into a gRPC status. Behind it a service sees a context with a
// principal and a message, and no header. It must not know what any message means.
package door

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/streamstop"
)

// Headers the door reads. Everything a client sends in others, markers that gateways of the mvp generation pass
// inside included, ends here.
const (
	headerAuthorization = "authorization"
	headerSandboxSecret = "x-sandbox-secret"
	headerRequestID     = "x-request-id"
)

// Observer is told of every call that ended. The method is a full method with a rule, or "unknown", so that peers
// cannot invent labels.
type Observer interface {
	Observe(method string, code codes.Code, d time.Duration)
}

// UnknownMethod is the label of calls to methods that have no rule.
const UnknownMethod = "unknown"

// Authorizer decides whether a caller may call a method.
type Authorizer interface {
	Authorize(p *principal.Principal, fullMethod string) error
	Table() *authz.Table
}

// Limiter bounds what callers may ask for, before and after it is known who they are.
type Limiter interface {
	// Attempt is asked before authentication. It refuses calls without any credential from an address that has spent
	// its share, and tells whether only credentials that are known already may be looked at.
	Attempt(remote net.Addr, method string, credential bool) (knownOnly bool, err error)
	// Failed charges the address for a credential that was not believed.
	Failed(remote net.Addr)
	// Admit charges an authenticated caller and its tenant for a call.
	Admit(p *principal.Principal, method string) error
}

// Sessions knows which principals are revoked and which streams are open on whose behalf.
type Sessions interface {
	// Admit refuses a revoked principal. A credential that lives longer than the one before renews the open streams
	// of the same caller.
	Admit(p *principal.Principal) error
	// Enter holds an open stream until done is called. It calls end with the cause when the principal is revoked, or
	// when its credential expires without having been renewed.
	Enter(p *principal.Principal, end context.CancelCauseFunc) (done func())
}

// Connection is what a connection's AuthInfo may implement, so that who floods the gateway with calls that are refused
// waits rather than those who are let in.
type Connection interface {
	// Good is told of each call whose caller was believed; it is on the way of every call.
	Good()
	// Slow is told of each call that was refused after its address had spent its attempts.
	Slow()
}

// Config is what a door needs.
type Config struct {
	Authenticator authn.Authenticator
	Authorizer    Authorizer
	// Observer may be nil.
	Observer Observer
	// Logger is told of failures inside and of refusals; nil discards.
	Logger *slog.Logger
	// Pass names, in lower case, the headers that say something of the caller's program rather than of the caller;
	// only these reach handlers.
	Pass []string
	// Limiter, Sessions and Audit may be nil: nothing is limited, nobody is revoked, nothing is recorded.
	Limiter  Limiter
	Sessions Sessions
	Audit    audit.Recorder
	// Describe names what a request is about in audit records, such as "sandbox/default/name"; nil names nothing.
	Describe func(method string, request any) string
	// Peer tells who is at the other end of a call's connection; nil is gRPC's own word, which knows nothing of who
	// stands behind a bridge.
	Peer func(ctx context.Context) (*peer.Peer, bool)
}

// Door makes the interceptors. It is immutable and safe for concurrent use.
type Door struct {
	authenticator authn.Authenticator
	authorizer    Authorizer
	table         *authz.Table
	observer      Observer
	log           *slog.Logger
	pass          []string
	limiter       Limiter
	sessions      Sessions
	audit         audit.Recorder
	describe      func(method string, request any) string
	peer          func(ctx context.Context) (*peer.Peer, bool)
}

// New returns a door. It refuses to be one that lets everybody in.
func New(c Config) (*Door, error) {
	if c.Authenticator == nil || c.Authorizer == nil || c.Authorizer.Table() == nil {
		return nil, errors.New("set up door: an authenticator and an authorizer with rules are needed")
	}
	d := &Door{
		authenticator: c.Authenticator,
		authorizer:    c.Authorizer,
		table:         c.Authorizer.Table(),
		observer:      c.Observer,
		log:           c.Logger,
		pass:          c.Pass,
		limiter:       c.Limiter,
		sessions:      c.Sessions,
		audit:         c.Audit,
		describe:      c.Describe,
		peer:          c.Peer,
	}
	if d.peer == nil {
		d.peer = peer.FromContext
	}
	if d.limiter == nil {
		d.limiter = unlimited{}
	}
	if d.sessions == nil {
		d.sessions = unwatched{}
	}
	if d.audit == nil {
		d.audit = audit.Discard{}
	}
	if d.describe == nil {
		d.describe = func(string, any) string { return "" }
	}
	if d.observer == nil {
		d.observer = blind{}
	}
	if d.log == nil {
		d.log = slog.New(slog.DiscardHandler)
	}
	return d, nil
}

type blind struct{}

func (blind) Observe(string, codes.Code, time.Duration) {}

type unlimited struct{}

func (unlimited) Attempt(net.Addr, string, bool) (bool, error) { return false, nil }
func (unlimited) Failed(net.Addr)                              {}
func (unlimited) Admit(*principal.Principal, string) error     { return nil }

type unwatched struct{}

func (unwatched) Admit(*principal.Principal) error { return nil }

// Enter ends a user's stream when the credential expires, as late as a new call would be accepted.
func (unwatched) Enter(p *principal.Principal, end context.CancelCauseFunc) (done func()) {
	if p.Kind != principal.User || p.Expires.IsZero() {
		return func() {}
	}
	timer := time.AfterFunc(time.Until(p.Expires.Add(leeway)), func() { end(ErrCredentialExpired) })
	return func() { timer.Stop() }
}

// leeway is how far the clocks of identity provider and gateway may differ.
const leeway = 60 * time.Second

// Unary returns the interceptor of unary calls. It has to be the outermost but for tracing.
func (d *Door) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c := d.enter(ctx, info.FullMethod)
		var answer any
		admitted, err := d.admit(ctx, c)
		c.about(d, message)
		if err == nil {
			answer, err = c.unary(admitted, message, handler)
		}
		if err != nil {
			// A header would keep an error from going out in one frame; a trailer does not.
			return nil, d.leave(ctx, c, err, grpc.SetTrailer)
		}
		return answer, d.leave(ctx, c, nil, grpc.SetHeader)
	}
}

// Stream returns the interceptor of streaming calls. The context of a stream ends when its caller is revoked or its
// caller's credential expires without renewal; handlers return when their context is done.
func (d *Door) Stream() grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx := stream.Context()
		c := d.enter(ctx, info.FullMethod)
		held := streamstop.Of(ctx) != nil
		admit := d.admit
		if held {
			admit = d.admitAside
		}
		admitted, err := admit(ctx, c)
		if err != nil {
			return d.leave(ctx, c, err, grpc.SetTrailer)
		}
		end := streamstop.Of(admitted)
		if end == nil {
			admitted = streamstop.With(admitted)
			end = streamstop.Of(admitted)
		}
		defer end(nil)
		defer d.sessions.Enter(c.principal, end)()
		var setErr error
		var last func(context.Context, metadata.MD) error
		if held {
			// The library would keep the header as long as the stream, of which there are thousands.
			last = grpc.SetTrailer
		} else {
			setErr = stream.SetHeader(metadata.MD{headerRequestID: {c.requestID}})
		}
		err = c.stream(server, &admittedStream{ServerStream: stream, ctx: admitted, call: c, door: d}, handler)
		if cause := context.Cause(admitted); cause != nil {
			// Even if the handler calls it an orderly end: the client must not take what it got for all there is.
			err = errStreamEnded(cause, err)
		}
		if err == nil {
			err = setErr
		}
		return d.leave(ctx, c, err, last)
	}
}

// Unknown answers methods that no registered service has. Give it to grpc.UnknownServiceHandler, so that such calls
// pass through the door like others.
func (d *Door) Unknown() grpc.StreamHandler {
	return func(_ any, stream grpc.ServerStream) error {
		method, _ := grpc.MethodFromServerStream(stream)
		return authz.UnknownMethod(method)
	}
}

// call is one call on its way through the door. It is also the context under which the handler finds the request id,
// which saves an allocation on every call.
type call struct {
	context.Context

	method    string
	label     string
	rule      authz.Rule
	known     bool
	requestID string
	principal *principal.Principal
	began     time.Time
	// request is kept here, so that one allocation serves the whole way.
	request authn.Request
	remote  net.Addr
	// conn is the connection's own part in keeping a flood out, nil where it has none.
	conn Connection
	// target names what the call is about, in calls that are recorded.
	target   string
	recorded bool
}

func (d *Door) enter(ctx context.Context, method string) *call {
	c := &call{method: method, label: UnknownMethod, began: time.Now()}
	if c.rule, c.known = d.table.Rule(method); c.known {
		c.label = method
	}
	c.requestID = callinfo.RequestID(metadata.ValueFromIncomingContext(ctx, headerRequestID))
	return c
}

// admitAside is admit on a goroutine of its own, for streams that are held by the thousand. Checking a signature needs a
// stack several times as large as waiting for a message does, and the stack of a stream would keep that size for as long
// as the stream lives. For short streams it would only cost time.
func (d *Door) admitAside(ctx context.Context, c *call) (admitted context.Context, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer recovered(&err)
		admitted, err = d.admit(ctx, c) //nolint:fatcontext // reason: it is assigned once, for the caller
	}()
	<-done
	return admitted, err
}

// admit returns the context for the handler, or why the caller is not let in.
func (d *Door) admit(ctx context.Context, c *call) (context.Context, error) {
	c.principal = anonymous
	d.ask(ctx, c)
	if err := d.identify(ctx, c); err != nil {
		return nil, err
	}
	ctx = metadata.NewIncomingContext(ctx, d.passed(ctx))
	ctx = context.WithValue(ctx, requestIDKey{}, c)
	return principal.With(ctx, c.principal), nil
}

// ask fills in what authentication has to know of the call.
func (d *Door) ask(ctx context.Context, c *call) {
	from, ok := d.peer(ctx)
	if ok {
		c.remote = from.Addr
		c.conn, _ = from.AuthInfo.(Connection)
	}
	if c.rule.Mode == authz.Unauthenticated {
		return
	}
	c.request = authn.Request{
		Method:        c.method,
		Authorization: metadata.ValueFromIncomingContext(ctx, headerAuthorization),
		AdmitsSandbox: c.rule.Mode.AdmitsSandbox(),
		SandboxOnly:   c.rule.Mode == authz.SandboxOnly,
		SandboxSecret: metadata.ValueFromIncomingContext(ctx, headerSandboxSecret),
	}
	if ok {
		c.request.PeerCertificate = certificateOf(from.AuthInfo)
		if from.Addr != nil {
			c.request.Remote = from.Addr.String()
		}
	}
}

// credential tells whether the call carries anything that says who is calling.
func (c *call) credential() bool {
	r := &c.request
	return len(r.Authorization) > 0 || len(r.SandboxSecret) > 0 || r.PeerCertificate != nil
}

func (c *call) slow() {
	if c.conn != nil {
		c.conn.Slow()
	}
}

// identify finds out who is calling and whether that caller may.
func (d *Door) identify(ctx context.Context, c *call) error {
	r := &c.request
	credential := c.credential()
	var err error
	if r.KnownOnly, err = d.limiter.Attempt(c.remote, c.label, credential); err != nil {
		c.slow()
		return err
	}
	if c.rule.Mode == authz.Unauthenticated {
		return nil
	}
	p, err := d.authenticator.Authenticate(ctx, r)
	if err != nil {
		// A credential that is authentic but over is no guess: after an outage many supervisors come with one. Nor is it
		// the caller's fault when it cannot be told.
		if f, ok := errors.AsType[*fault.Error](err); ok && credential &&
			f.Kind == fault.Unauthenticated && f.Reason != authz.ReasonExpired {
			d.limiter.Failed(c.remote)
		}
		if r.KnownOnly {
			c.slow()
		}
		return err
	}
	if p != nil {
		c.principal = p
		if c.conn != nil {
			c.conn.Good()
		}
	}
	if err := d.sessions.Admit(c.principal); err != nil {
		return err
	}
	if err := d.limiter.Admit(c.principal, c.label); err != nil {
		return err
	}
	return d.authorizer.Authorize(c.principal, c.method)
}

// passed returns the headers that handlers may see, nil for none.
func (d *Door) passed(ctx context.Context) metadata.MD {
	var out metadata.MD
	for _, name := range d.pass {
		if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
			if out == nil {
				out = metadata.MD{}
			}
			out[name] = values
		}
	}
	return out
}

var anonymous = &principal.Principal{}

// certificateOf returns the peer's certificate if TLS verified it against the client CA, not one that was merely
// presented.
func certificateOf(info credentials.AuthInfo) *x509.Certificate {
	if i, ok := info.(interface{ Certificate() *x509.Certificate }); ok {
		return i.Certificate()
	}
	tlsInfo, ok := info.(credentials.TLSInfo)
	if !ok || len(tlsInfo.State.VerifiedChains) == 0 || len(tlsInfo.State.VerifiedChains[0]) == 0 {
		return nil
	}
	return tlsInfo.State.VerifiedChains[0][0]
}

// leave reports the call and returns its status. set sends the request id back, where that was not done before.
func (d *Door) leave(ctx context.Context, c *call, err error, set func(context.Context, metadata.MD) error) error {
	if set != nil {
		// It fails only where the call is over for the client anyway.
		if setErr := set(ctx, metadata.MD{headerRequestID: {c.requestID}}); setErr != nil && err == nil {
			err = setErr
		}
	}
	if err == nil {
		d.observer.Observe(c.label, codes.OK, time.Since(c.began))
		d.record(c, codes.OK, nil)
		return nil
	}
	answer := statusOf(c.method, err, c.requestID)
	d.record(c, answer.Code(), err)
	d.observer.Observe(c.label, answer.Code(), time.Since(c.began))
	d.report(ctx, c, answer.Code(), err)
	return answer.Err()
}

// admittedStream is a stream with the context the door made. It stops when that ends, which the transport's own
// stream would not do.
type admittedStream struct {
	grpc.ServerStream
	ctx  context.Context
	call *call
	door *Door
	// received tells that the first message, which says what the call is about, has come.
	received bool
}

// Context returns the context with the principal.
func (s *admittedStream) Context() context.Context { return s.ctx }

// SendMsg sends unless the context has ended.
func (s *admittedStream) SendMsg(message any) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(message)
}

// RecvMsg receives unless the context has ended.
func (s *admittedStream) RecvMsg(message any) error {
	if err := s.ctx.Err(); err != nil {
		return err
	}
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	if !s.received {
		s.received = true
		s.call.about(s.door, message)
		s.door.recordBegin(s.call)
	}
	return nil
}
