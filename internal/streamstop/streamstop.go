// Package streamstop ends gRPC streams from the server's side. A handler that waits for its peer's next message can
// otherwise be woken by nobody but the peer, so that every long stream would need a second goroutine. The package
// knows contexts and nothing of what a stream carries or why it ends.
package streamstop

import (
	"context"

	"google.golang.org/grpc/tap"
)

type key struct{}

// Tap returns the hook, for grpc.InTapHandle, that makes the calls of these methods stoppable. Methods are written
// "/package.Service/Method".
func Tap(methods map[string]bool) tap.ServerInHandle {
	return func(ctx context.Context, info *tap.Info) (context.Context, error) {
		if !methods[info.FullMethodName] {
			return ctx, nil
		}
		return With(ctx), nil
	}
}

// stoppable is a context and the way to end it in one, which saves an allocation a stream.
type stoppable struct {
	context.Context
	stop context.CancelCauseFunc
}

// Value gives out the stopping function under its key.
func (s *stoppable) Value(k any) any {
	if _, ok := k.(key); ok {
		return s.stop
	}
	return s.Context.Value(k)
}

// With returns a context that the function that Of returns can end. Made by a hook before the stream, it ends the stream
// itself; made later, it ends what the handler does, which returns then.
func With(ctx context.Context) context.Context {
	inner, stop := context.WithCancelCause(ctx)
	return &stoppable{Context: inner, stop: stop}
}

// Of returns the function that ends the stream ctx belongs to: its context, and, where Tap made it so, every Recv and Send
// that waits. The handler still has to return. It is nil where the stream was not made stoppable.
func Of(ctx context.Context) context.CancelCauseFunc {
	stop, _ := ctx.Value(key{}).(context.CancelCauseFunc)
	return stop
}
