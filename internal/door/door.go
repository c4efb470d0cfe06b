// Package door is the one entrance of every gRPC call: it names the request, finds out who is calling, asks whether
// that caller may, and turns what comes back into a gRPC status. Behind it a service sees a context with a
// principal and a message, and no header. It must not know what any message means.
package door

import (
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"sallyport.dev/sallyport/internal/authn"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/principal"
)

// Headers the door reads. Everything a client sends in others, markers that gateways of the mvp generation pass
// inside included, ends here.
const (
	headerAuthorization = "authorization"
	headerSandboxSecret = "x-sandbox-secret"
	headerRequestID     = "x-request-id"
)

// streamLeeway lets a stream of a user live as long past the credential's expiry as a new call would be accepted.
const streamLeeway = 60 * time.Second

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
}

// Door makes the interceptors. It is immutable and safe for concurrent use.
type Door struct {
	authenticator authn.Authenticator
	authorizer    Authorizer
	table         *authz.Table
	observer      Observer
	log           *slog.Logger
	pass          []string
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

// Unary returns the interceptor of unary calls. It has to be the outermost but for tracing.
func (d *Door) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, message any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		c := d.enter(ctx, info.FullMethod)
		var answer any
		admitted, err := d.admit(ctx, c)
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

// Stream returns the interceptor of streaming calls. A stream of a user whose credential expires has a context that
// ends a minute after that; handlers return when their context is done.
func (d *Door) Stream() grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		ctx := stream.Context()
		c := d.enter(ctx, info.FullMethod)
		admitted, err := d.admit(ctx, c)
		if err != nil {
			return d.leave(ctx, c, err, grpc.SetTrailer)
		}
		if p := c.principal; p.Kind == principal.User && !p.Expires.IsZero() {
			var cancel context.CancelFunc
			admitted, cancel = context.WithDeadlineCause(admitted, p.Expires.Add(streamLeeway), errCredentialExpired)
			defer cancel()
		}
		setErr := stream.SetHeader(metadata.MD{headerRequestID: {c.requestID}})
		err = c.stream(server, &admittedStream{ServerStream: stream, ctx: admitted}, handler)
		if errors.Is(context.Cause(admitted), errCredentialExpired) {
			// Even if the handler calls it an orderly end: the client must not take what it got for all there is.
			err = errStreamExpired(err)
		}
		if err == nil {
			err = setErr
		}
		return d.leave(ctx, c, err, nil)
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
}

func (d *Door) enter(ctx context.Context, method string) *call {
	c := &call{method: method, label: UnknownMethod, began: time.Now()}
	if c.rule, c.known = d.table.Rule(method); c.known {
		c.label = method
	}
	c.requestID = requestIDOf(metadata.ValueFromIncomingContext(ctx, headerRequestID))
	return c
}

// admit returns the context for the handler, or why the caller is not let in.
func (d *Door) admit(ctx context.Context, c *call) (context.Context, error) {
	c.principal = anonymous
	if c.rule.Mode != authz.Unauthenticated {
		c.request = authn.Request{
			Method:        c.method,
			Authorization: metadata.ValueFromIncomingContext(ctx, headerAuthorization),
			AdmitsSandbox: c.rule.Mode.AdmitsSandbox(),
			SandboxOnly:   c.rule.Mode == authz.SandboxOnly,
			SandboxSecret: metadata.ValueFromIncomingContext(ctx, headerSandboxSecret),
		}
		if from, ok := peer.FromContext(ctx); ok {
			c.request.PeerCertificate = certificateOf(from.AuthInfo)
			if from.Addr != nil {
				c.request.Remote = from.Addr.String()
			}
		}
		p, err := d.authenticator.Authenticate(ctx, &c.request)
		if err != nil {
			return nil, err
		}
		if p != nil {
			c.principal = p
		}
		if err := d.authorizer.Authorize(c.principal, c.method); err != nil {
			return nil, err
		}
	}
	ctx = metadata.NewIncomingContext(ctx, d.passed(ctx))
	ctx = context.WithValue(ctx, requestIDKey{}, c)
	return principal.With(ctx, c.principal), nil
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
		return nil
	}
	answer := statusOf(c.method, err, c.requestID)
	d.observer.Observe(c.label, answer.Code(), time.Since(c.began))
	d.report(ctx, c, answer.Code(), err)
	return answer.Err()
}

// admittedStream is a stream with the context the door made. It stops when that ends, which the transport's own
// stream would not do.
type admittedStream struct {
	grpc.ServerStream
	ctx context.Context
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
	return s.ServerStream.RecvMsg(message)
}
