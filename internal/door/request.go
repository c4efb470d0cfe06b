package door

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/fault"
)

type requestIDKey struct{}

// Value gives out the call itself under its key.
func (c *call) Value(key any) any {
	if _, ok := key.(requestIDKey); ok {
		return c
	}
	return c.Context.Value(key)
}

// RequestID returns the id of the call that ctx belongs to, for logs and for what is sent on; empty outside a call.
func RequestID(ctx context.Context) string {
	if c, ok := ctx.Value(requestIDKey{}).(*call); ok {
		return c.requestID
	}
	return ""
}

// panicked is a panic in a handler, with the stack it left.
type panicked struct {
	value any
	stack []byte
}

// Error says what the handler panicked with.
func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

func (c *call) unary(ctx context.Context, message any, handler grpc.UnaryHandler) (answer any, err error) {
	defer recovered(&err)
	return handler(ctx, message)
}

func (c *call) stream(server any, stream grpc.ServerStream, handler grpc.StreamHandler) (err error) {
	defer recovered(&err)
	return handler(server, stream)
}

func recovered(err *error) {
	if value := recover(); value != nil {
		*err = &panicked{value: value, stack: debug.Stack()}
	}
}

// report logs what an operator has to know: what failed inside, and who was refused.
func (d *Door) report(ctx context.Context, c *call, code codes.Code, err error) {
	level := slog.LevelDebug
	switch code {
	case codes.Internal, codes.Unknown, codes.DataLoss:
		level = slog.LevelError
	case codes.PermissionDenied:
		level = slog.LevelInfo
	}
	if !d.log.Enabled(ctx, level) {
		return
	}
	attrs := []slog.Attr{
		slog.String("method", c.label), slog.String("code", code.String()), slog.String("request_id", c.requestID),
		slog.String("actor", c.principal.Actor()), slog.Any("err", err),
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		attrs = append(attrs, slog.String("reason", f.Reason))
	}
	if p, ok := errors.AsType[*panicked](err); ok {
		attrs = append(attrs, slog.String("stack", string(p.stack)))
	}
	d.log.LogAttrs(ctx, level, "call refused or failed", attrs...)
}
