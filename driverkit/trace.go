package driverkit

import (
	"context"
	"log/slog"

	"google.golang.org/grpc/metadata"

	"sallyport.dev/sallyport/internal/tracecontext"
)

// TraceID returns the id of the trace that a call of the gateway belongs to, as 32 hexadecimal digits, and whether the
// trace is being recorded. It is empty where the gateway records no traces.
func TraceID(ctx context.Context) (id string, recorded bool) {
	c, ok := tracecontext.From(ctx)
	if !ok {
		return "", false
	}
	return c.Trace(), c.Sampled
}

// Traceparent returns the header by which what a driver calls in its turn joins the trace; empty where there is none.
func Traceparent(ctx context.Context) string {
	c, ok := tracecontext.From(ctx)
	if !ok {
		return ""
	}
	return c.String()
}

// LogHandler returns a handler that adds trace_id to what is logged with a call's context, so that the lines of gateway
// and driver about one call are found together.
func LogHandler(next slog.Handler) slog.Handler { return traceHandler{next} }

type traceHandler struct{ slog.Handler }

// Handle implements slog.Handler.
func (h traceHandler) Handle(ctx context.Context, r slog.Record) error {
	if id, _ := TraceID(ctx); id != "" {
		r.AddAttrs(slog.String("trace_id", id))
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h traceHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return traceHandler{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h traceHandler) WithGroup(name string) slog.Handler {
	return traceHandler{h.Handler.WithGroup(name)}
}

// traced returns ctx at the position in a trace that its caller named.
func traced(ctx context.Context) context.Context {
	values := metadata.ValueFromIncomingContext(ctx, tracecontext.Header)
	if len(values) != 1 {
		return ctx
	}
	c, ok := tracecontext.Parse(values[0])
	if !ok {
		return ctx
	}
	return tracecontext.With(ctx, c)
}
