package gateway

import (
	"context"
	"io"
	"log/slog"
	"path"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/driver"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/tracecontext"
	"sallyport.dev/sallyport/internal/tracing"
)

// headerRequestID is the door's; a trace and a call's records are found by each other through it.
const headerRequestID = "x-request-id"

// openTracing starts recording if somebody wants traces. As in the reference, what is wrong with that is logged and keeps
// nothing from starting.
func (g *Gateway) openTracing() {
	c := g.cfg.Tracing
	if c.Endpoint == "" {
		return
	}
	sampler, err := tracing.NewSampler(c.Sampler, c.Ratio)
	if err == nil {
		g.tracer, err = tracing.New(tracing.Config{
			Endpoint: c.Endpoint, CAFile: c.CAPath, Service: c.Service, Version: g.opts.Version, Instance: g.cfg.Sandbox.GatewayID,
			Attributes: c.Attributes, Headers: c.Headers, Timeout: c.Timeout, Delay: c.Delay, MaxQueue: c.MaxQueue,
			MaxBatch: c.MaxBatch, Sampler: sampler, Logger: g.log,
		})
	}
	if err != nil {
		g.log.Error("traces are not recorded", "error", err)
		return
	}
	g.relays.Trace(g.traceRelay)
}

// sendTraces sends spans until the function that it returns is called, which sends what is left: the last calls end when
// all else does.
func (g *Gateway) sendTraces() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var sending sync.WaitGroup
	sending.Go(func() {
		if err := g.tracer.Run(ctx); err != nil {
			g.log.Error("send traces", "error", err)
		}
	})
	return func() {
		cancel()
		sending.Wait()
	}
}

// traceOptions put tracing before everything else that looks at calls; none while it is off.
func (g *Gateway) traceOptions() ([]grpc.UnaryServerInterceptor, []grpc.StreamServerInterceptor) {
	if g.tracer == nil {
		return nil, nil
	}
	return []grpc.UnaryServerInterceptor{g.traceUnary}, []grpc.StreamServerInterceptor{g.traceStream}
}

// storeTracer is nil while tracing is off, which spares the store even the question.
func (g *Gateway) storeTracer() store.Tracer {
	if g.tracer == nil {
		return nil
	}
	return func(ctx context.Context) func(error) {
		_, span := g.tracer.Under(ctx, "store commit", tracing.Internal)
		return ending(span)
	}
}

// driverTracer is nil while tracing is off.
func (g *Gateway) driverTracer() driver.Tracer {
	if g.tracer == nil {
		return nil
	}
	return func(ctx context.Context, name, method string) (context.Context, func(error)) {
		service, short := splitMethod(method)
		ctx, span := g.tracer.Under(ctx, service+"/"+short, tracing.Client, tracing.Attribute{Key: "rpc.system", Text: "grpc"},
			tracing.Attribute{Key: "rpc.service", Text: service}, tracing.Attribute{Key: "rpc.method", Text: short},
			tracing.Attribute{Key: "sallyport.driver", Text: name})
		if at, ok := tracecontext.From(ctx); ok {
			ctx = metadata.AppendToOutgoingContext(ctx, tracecontext.Header, at.String())
		}
		if span == nil {
			return ctx, nil
		}
		return ctx, func(err error) {
			span.Number("rpc.grpc.status_code", int64(driver.CodeOf(err)))
			ending(span)(err)
		}
	}
}

func (g *Gateway) traceRelay(ctx context.Context, sandboxID string) func(error) {
	_, span := g.tracer.Under(ctx, "relay open", tracing.Internal, tracing.Attribute{Key: "sallyport.sandbox_id", Text: sandboxID})
	return ending(span)
}

// ending ends a span with what became of the work, nil for no span. Only a fault's stable reason goes out: its message
// may name what a caller sent.
func ending(span *tracing.Span) func(error) {
	if span == nil {
		return nil
	}
	return func(err error) {
		if err != nil {
			span.Fail(reasonLabel(err))
		}
		span.End()
	}
}

func (g *Gateway) traceUnary(ctx context.Context, message any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	if quiet(info.FullMethod) {
		return next(ctx, message)
	}
	ctx, span := g.startCall(ctx, info.FullMethod)
	answer, err := next(ctx, message)
	endCall(span, err)
	return answer, err
}

func (g *Gateway) traceStream(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	if quiet(info.FullMethod) {
		return next(server, stream)
	}
	ctx, span := g.startCall(stream.Context(), info.FullMethod)
	err := next(server, tracedStream{ServerStream: stream, ctx: ctx})
	endCall(span, err)
	return err
}

// tracedStream is a stream whose context has a position in a trace.
type tracedStream struct {
	grpc.ServerStream
	ctx context.Context //nolint:containedctx // reason: a ServerStream carries its context
}

// Context returns that context.
func (s tracedStream) Context() context.Context { return s.ctx }

// quiet methods are asked all day long by whoever watches the gateway.
func quiet(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.v1.") || strings.HasPrefix(method, "/grpc.reflection.")
}

// startCall begins a call's span below the caller's, if it names one. A method without a rule is one name for all.
func (g *Gateway) startCall(ctx context.Context, method string) (context.Context, *tracing.Span) {
	if values := metadata.ValueFromIncomingContext(ctx, tracecontext.Header); len(values) == 1 {
		if from, ok := tracecontext.Parse(values[0]); ok {
			ctx = tracecontext.With(ctx, from)
		}
	}
	name, service, short := door.UnknownMethod, door.UnknownMethod, door.UnknownMethod
	if g.metrics.methods[method] != nil {
		service, short = splitMethod(method)
		name = service + "/" + short
	}
	ctx, span := g.tracer.Start(ctx, name, tracing.Server, tracing.Attribute{Key: "rpc.system", Text: "grpc"},
		tracing.Attribute{Key: "rpc.service", Text: service}, tracing.Attribute{Key: "rpc.method", Text: short})
	if span == nil {
		return ctx, nil
	}
	// The door would make one that the span does not know.
	ids := metadata.ValueFromIncomingContext(ctx, headerRequestID)
	id := callinfo.RequestID(ids)
	span.Text("sallyport.request_id", id)
	if len(ids) == 1 && ids[0] == id {
		return ctx, span
	}
	in, _ := metadata.FromIncomingContext(ctx)
	if in == nil {
		in = metadata.MD{}
	}
	in.Set(headerRequestID, id)
	return metadata.NewIncomingContext(ctx, in), span
}

func endCall(span *tracing.Span, err error) {
	if span == nil {
		return
	}
	code := status.Code(err)
	span.Number("rpc.grpc.status_code", int64(code))
	// Only what the gateway is to blame for is an error of the server's span, as OpenTelemetry has it.
	switch code {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		span.Fail(code.String())
	default:
	}
	span.End()
}

func splitMethod(method string) (service, short string) {
	return strings.Trim(path.Dir(method), "/"), path.Base(method)
}

// NewLogger returns a logger that writes lines of JSON, or of text where the format is "text", each with the ids of the
// trace and of the call that it belongs to.
func NewLogger(w io.Writer, format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "text" {
		return slog.New(logHandler{slog.NewTextHandler(w, options)})
	}
	return slog.New(logHandler{slog.NewJSONHandler(w, options)})
}

// logHandler adds the ids by which a line is found: those of the trace and of the call that it belongs to.
type logHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h logHandler) Handle(ctx context.Context, r slog.Record) error {
	if at, ok := tracecontext.From(ctx); ok {
		r.AddAttrs(slog.String("trace_id", at.Trace()))
	}
	if id := door.RequestID(ctx); id != "" && !has(r, "request_id") {
		r.AddAttrs(slog.String("request_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return logHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h logHandler) WithGroup(name string) slog.Handler { return logHandler{h.Handler.WithGroup(name)} }

func has(r slog.Record, key string) (found bool) {
	r.Attrs(func(a slog.Attr) bool {
		found = found || a.Key == key
		return !found
	})
	return found
}
