package door

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/fault"
)

const maxRequestID = 128

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

// requestIDOf keeps a client's id if it is one, of printable characters without spaces, and else makes one.
func requestIDOf(values []string) string {
	if len(values) == 1 && saneID(values[0]) {
		return values[0]
	}
	return newRequestID()
}

// newRequestID makes a random UUID. The generator is seeded from the system's entropy but is no secret's source: an
// id has only to be unique, and every call without one pays for this.
func newRequestID() string {
	var id uuid.UUID
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()) //nolint:gosec // See above.
	binary.LittleEndian.PutUint64(id[8:], rand.Uint64()) //nolint:gosec // See above.
	id[6] = id[6]&0x0f | 0x40                            // version 4
	id[8] = id[8]&0x3f | 0x80                            // variant of RFC 9562
	return id.String()
}

func saneID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		if id[i] <= ' ' || id[i] > '~' {
			return false
		}
	}
	return true
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
