package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/internal/fault"
)

type retryable struct{ grpc.EmptyCallOption }

// Retryable marks a call that may be made twice: it is tried once more if the connection broke before an answer.
func Retryable() grpc.CallOption { return retryable{} }

// Invoke makes one call within the bounds of Config. It is what generated clients use.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	started := time.Now()
	limit := started.Add(c.cfg.RPCTimeout)
	ctx, cancel := context.WithDeadline(context.WithValue(ctx, callDeadline{}, limit), limit)
	defer cancel()
	again := false
	for _, o := range opts {
		if _, ok := o.(retryable); ok {
			again = true
		}
	}
	var end func(error)
	if c.cfg.Trace != nil {
		ctx, end = c.cfg.Trace(ctx, c.cfg.Name, method)
	}
	err := c.attempt(ctx, method, args, reply, opts)
	if again && err != nil && ctx.Err() == nil && fault.From(err).Reason == ReasonUnavailable {
		err = c.attempt(ctx, method, args, reply, opts)
	}
	if end != nil {
		end(err)
	}
	if c.cfg.Metrics != nil {
		c.cfg.Metrics.DriverCall(c.cfg.Name, path.Base(method), CodeOf(err).String(), time.Since(started))
	}
	return err
}

func (c *Conn) attempt(ctx context.Context, method string, args, reply any, opts []grpc.CallOption) error {
	if err := c.acquire(ctx, method); err != nil {
		return err
	}
	defer func() { <-c.slots }()
	if err := c.awaitReady(ctx, method); err != nil {
		return err
	}
	if wait, ok := c.breaker.admit(time.Now()); !ok {
		return c.suspended(wait)
	}
	var header, trailer metadata.MD
	err := c.cc.Invoke(ctx, method, args, reply, append(opts[:len(opts):len(opts)], grpc.Header(&header), grpc.Trailer(&trailer))...)
	o, err := c.judge(ctx, method, err, answered(err, header, trailer))
	c.breaker.settle(o, time.Now())
	return err
}

// acquire takes one of the driver's places, waiting for it within the bounds of time and queue.
func (c *Conn) acquire(ctx context.Context, method string) error {
	select {
	case c.slots <- struct{}{}:
		return nil
	default:
	}
	c.mu.Lock()
	if c.queued >= c.cfg.MaxQueued {
		c.mu.Unlock()
		return fault.Wrap(&transportError{}, fault.ResourceExhausted, ReasonBusy,
			"%s driver at socket %s is busy: %d calls are running and %d are waiting",
			c.cfg.Name, c.cfg.Socket, c.cfg.MaxConcurrent, c.cfg.MaxQueued).WithNext("try again in a moment")
	}
	c.queued++
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		c.queued--
		c.mu.Unlock()
	}()
	select {
	case c.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return c.ended(ctx, method, ctx.Err())
	}
}

// awaitReady waits for a driver that was lost less than Grace ago, so that its restart fails no call.
func (c *Conn) awaitReady(ctx context.Context, method string) error {
	for {
		c.mu.Lock()
		ready, changed, left := c.ready, c.changed, time.Until(c.downSince.Add(c.cfg.Grace))
		c.mu.Unlock()
		switch {
		case ready:
			return nil
		case left <= 0:
			return c.unavailable(nil)
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-c.stopped:
			timer.Stop()
			return c.unavailable(errors.New("connection closed"))
		case <-ctx.Done():
			timer.Stop()
			return c.ended(ctx, method, ctx.Err())
		}
		timer.Stop()
	}
}

// judge turns the outcome of a gRPC call into this package's error and what it teaches the breaker. answered
// tells whether anything of the driver's answer arrived: a driver's own UNAVAILABLE is an answer like any other.
func (c *Conn) judge(ctx context.Context, method string, err error, answered bool) (outcome, error) {
	switch {
	case err == nil:
		return outcomeAlive, nil
	case ctx.Err() != nil || status.Code(err) == codes.DeadlineExceeded && expiring(ctx):
		o := outcomeNone
		if c.timedOut(ctx) {
			o = outcomeDead
		}
		return o, c.ended(ctx, method, err)
	case answered:
		return outcomeAlive, refused(status.Convert(err))
	case status.Code(err) == codes.Unavailable:
		return outcomeDead, c.unavailable(err)
	default:
		// Made by the local library, for example a message that cannot be encoded.
		return outcomeNone, fault.Wrap(&transportError{cause: err}, fault.Internal, ReasonInvalidAnswer,
			"call %s of the %s driver failed", path.Base(method), c.cfg.Name).WithNext("look at the gateway's log for the cause")
	}
}

// expiring tells whether ctx is about to end. The deadline travels to the driver, so that the driver's end of the
// call can be seen a moment before one's own clock says the same.
func expiring(ctx context.Context) bool {
	const skew = 50 * time.Millisecond
	at, ok := ctx.Deadline()
	return ok && time.Until(at) < skew
}

// callDeadline is when Config.RPCTimeout of a call ends; a context that ends no earlier ended because of it.
type callDeadline struct{}

// timedOut tells whether ctx ended because of Config.RPCTimeout and not by its caller's own doing.
func (c *Conn) timedOut(ctx context.Context) bool {
	limit, ok := ctx.Value(callDeadline{}).(time.Time)
	at, has := ctx.Deadline()
	return ok && has && !at.Before(limit) && !errors.Is(ctx.Err(), context.Canceled)
}

// ended is the error of a call whose context ended.
func (c *Conn) ended(ctx context.Context, method string, err error) error {
	cause := &transportError{cause: err}
	if c.timedOut(ctx) {
		return fault.Wrap(cause, fault.Unavailable, ReasonTimeout, "%s driver at socket %s did not answer %s within %s",
			c.cfg.Name, c.cfg.Socket, path.Base(method), c.cfg.RPCTimeout).
			WithNext("look at the log of the %s driver or restart it, then try again", c.cfg.Name)
	}
	if !errors.Is(ctx.Err(), context.Canceled) {
		return fault.Wrap(cause, fault.DeadlineExceeded, ReasonCallEnded,
			"the call's time ran out before the %s driver answered %s", c.cfg.Name, path.Base(method)).
			WithNext("try again with a longer deadline")
	}
	return fault.Wrap(cause, fault.Canceled, ReasonCallEnded,
		"the caller left before the %s driver answered %s", c.cfg.Name, path.Base(method))
}

// NewStream opens a stream as soon as the driver is connected. Streams have no deadline but ctx and take no place
// of the calls; their errors are mapped like those of calls.
func (c *Conn) NewStream(ctx context.Context, desc *grpc.StreamDesc, method string, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := c.cc.NewStream(ctx, desc, method, append(opts[:len(opts):len(opts)], grpc.WaitForReady(true))...)
	if err != nil {
		_, err = c.judge(ctx, method, err, false)
		return nil, fmt.Errorf("open stream: %w", err)
	}
	return &stream{ClientStream: s, ctx: ctx, conn: c, method: method}, nil
}

type stream struct {
	grpc.ClientStream
	// ctx is the caller's; the inner stream's own is also canceled by the stream's end.
	ctx    context.Context
	conn   *Conn
	method string
}

// RecvMsg is the inner one with mapped errors; io.EOF stays.
func (s *stream) RecvMsg(m any) error {
	err := s.ClientStream.RecvMsg(m)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	header, headerErr := s.Header()
	if headerErr != nil {
		header = nil
	}
	_, err = s.conn.judge(s.ctx, s.method, err, answered(err, header, s.Trailer()))
	return err
}

// answered tells whether err came from the driver and not from the transport: an answer has trailers, and what
// the local library finds wrong with an answer comes after its header.
func answered(err error, header, trailer metadata.MD) bool {
	return len(trailer) > 0 || len(header) > 0 && status.Code(err) != codes.Unavailable
}
