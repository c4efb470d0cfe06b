package cli

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	// tellTimeout bounds renewing a token and showing it to the gateway.
	tellTimeout = time.Minute
	// tellAgain is the pause after a failure of either. Tokens are renewed early enough for several.
	tellAgain = 5 * time.Second
)

// renewing is a token source that says when the token in hand is due.
type renewing interface{ RenewAt() time.Time }

// keepFresh keeps long calls alive until stop is called. A gateway ends a stream with the token that it was opened
// with, unless it has seen a later token of the same user: so whenever the token is due, a small call carries the next
// one. Nothing is printed if that fails: the end of the stream, should it come to that, says why.
func (s *session) keepFresh(ctx context.Context) (stop func()) {
	source, ok := s.tokens.(renewing)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		refreshing(ctx, source, s.showToken)
	}()
	return func() {
		cancel()
		<-done
	}
}

// showToken makes a call that costs the gateway next to nothing; the connection puts the token on it.
func (s *session) showToken(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, tellTimeout)
	defer cancel()
	_, err := s.shell.GetCurrentUser(ctx, &openshellpb.GetCurrentUserRequest{})
	return err
}

// refreshing calls show whenever the source's token is due, until that is of no use or ctx ends.
func refreshing(ctx context.Context, source renewing, show func(context.Context) error) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	shown := true
	for {
		due := source.RenewAt()
		if due.IsZero() {
			return
		}
		wait := time.Until(due)
		if !shown || wait <= 0 {
			// It failed a moment ago, or the provider's tokens are due as soon as they are issued.
			wait = tellAgain
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if shown && time.Until(source.RenewAt()) > 0 {
			continue // Another call has renewed it, and shown it.
		}
		err := show(ctx)
		if fault.Is(err, fault.Unauthenticated) {
			return // Only a person can sign in again.
		}
		// A gateway that does not allow or know the call has still seen the token.
		code := status.Code(err)
		shown = err == nil || code == codes.PermissionDenied || code == codes.Unimplemented
	}
}
