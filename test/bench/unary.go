package main

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// Sizes of the unary rows.
const (
	fewStored  = 100
	manyStored = 10_000
	page       = 100
	manyTokens = 1000
)

func unaryRows() []row {
	return []row{
		{"health", "Health, 16 at a time", runHealth},
		{"get", "GetSandbox with one token, 16 at a time", runGet},
		{"get-one", "GetSandbox, one at a time", runGetOne},
		{"get-tokens", "GetSandbox with 1,000 tokens, 16 at a time", runGetTokens},
		{"list-100", "ListSandboxes, 100 of 100 stored, 16 at a time", runList},
		{"list-10000", "ListSandboxes, 100 of 10,000 stored, 16 at a time", runListMany},
	}
}

// unaryPair connects to both servers of a shared world. What is to be answered is captured before the limit starts.
type unaryPair struct {
	world  *world
	limit  *grpc.ClientConn
	ours   *grpc.ClientConn
	closed []func() error
}

func (b *bench) unaryPair(ctx context.Context, stored int) (*unaryPair, error) {
	w, err := b.world(ctx, stored)
	if err != nil {
		return nil, err
	}
	u := &unaryPair{world: w}
	if u.ours, err = w.dial(w.gateway.address); err != nil {
		return nil, err
	}
	u.closed = append(u.closed, u.ours.Close)
	if w.limit == nil {
		if err := w.captureUnary(ctx, u.ours); err != nil {
			return nil, errors.Join(err, u.close())
		}
		if w.limit, err = w.startLimit(ctx); err != nil {
			return nil, errors.Join(err, u.close())
		}
	}
	if u.limit, err = w.dial(w.limit.address); err != nil {
		return nil, errors.Join(err, u.close())
	}
	u.closed = append(u.closed, u.limit.Close)
	return u, nil
}

func (u *unaryPair) close() error {
	var errs []error
	for _, f := range u.closed {
		errs = append(errs, f())
	}
	return errors.Join(errs...)
}

func (w *world) captureUnary(ctx context.Context, conn *grpc.ClientConn) error {
	healthy := &openshellpb.HealthResponse{}
	one := &openshellpb.SandboxResponse{}
	many := &openshellpb.ListSandboxesResponse{}
	return errors.Join(
		w.capture(ctx, conn, health, &openshellpb.HealthRequest{}, healthy, func() error {
			if healthy.Status != openshellpb.ServiceStatus_SERVICE_STATUS_HEALTHY {
				return fmt.Errorf("status %s", healthy.Status)
			}
			return nil
		}),
		w.capture(ctx, conn, getSandbox, &openshellpb.GetSandboxRequest{Name: boxName(0)}, one, func() error {
			if one.GetSandbox().GetMetadata().GetId() != w.ids[0] {
				return errors.New("another sandbox")
			}
			return nil
		}),
		w.capture(ctx, conn, listSandboxes, listRequest(), many, func() error {
			if len(many.Sandboxes) != page {
				return fmt.Errorf("%d sandboxes", len(many.Sandboxes))
			}
			return nil
		}),
	)
}

func listRequest() *openshellpb.ListSandboxesRequest {
	return &openshellpb.ListSandboxesRequest{Limit: page}
}

// subjects are both servers doing the same.
func (u *unaryPair) subjects(workers int, m method, requests [][]byte, tokens []string) []subject {
	return []subject{
		{u.world.limit, workers, unaryCall(u.limit, m, requests, tokens)},
		{u.world.gateway, workers, unaryCall(u.ours, m, requests, tokens)},
	}
}

// compareUnary measures one method on both servers of the world with few sandboxes.
func (b *bench) compareUnary(ctx context.Context, workers int, m method, requests [][]byte, tokens []string) (got []samples, err error) {
	u, err := b.unaryPair(ctx, fewStored)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, u.close()) }()
	if len(tokens) == 0 && m != health {
		tokens = []string{u.world.token}
	}
	return b.compare(ctx, u.subjects(workers, m, requests, tokens)...)
}

func runHealth(ctx context.Context, b *bench) ([]line, error) {
	got, err := b.compareUnary(ctx, workersAtOnce, health, [][]byte{nil}, nil)
	if err != nil {
		return nil, err
	}
	return []line{compared("Health, 16 at a time", "CPU us/op", got, sample.cpuPerOp, ratioAtMost(1.2))}, nil
}

// getRequests ask for all stored sandboxes in turn.
func getRequests() ([][]byte, error) {
	var all []*openshellpb.GetSandboxRequest
	for i := range fewStored {
		all = append(all, &openshellpb.GetSandboxRequest{Name: boxName(i)})
	}
	return encodeAll(all)
}

func runGet(ctx context.Context, b *bench) ([]line, error) {
	requests, err := getRequests()
	if err != nil {
		return nil, err
	}
	got, err := b.compareUnary(ctx, workersAtOnce, getSandbox, requests, nil)
	if err != nil {
		return nil, err
	}
	return []line{compared("GetSandbox authenticated, 16 at a time", "CPU us/op", got, sample.cpuPerOp, ratioAtMost(1.5))}, nil
}

func runGetOne(ctx context.Context, b *bench) ([]line, error) {
	requests, err := getRequests()
	if err != nil {
		return nil, err
	}
	got, err := b.compareUnary(ctx, 1, getSandbox, requests, nil)
	if err != nil {
		return nil, err
	}
	return []line{
		compared("GetSandbox, one at a time", "p50 ms", got, sample.p50, ratioAtMost(1.5)),
		compared("GetSandbox, one at a time", "p99 ms", got, sample.p99, ratioAtMost(1.5)),
	}, nil
}

func runGetTokens(ctx context.Context, b *bench) ([]line, error) {
	requests, err := getRequests()
	if err != nil {
		return nil, err
	}
	tokens := make([]string, manyTokens)
	for i := range tokens {
		if tokens[i], err = b.issuer.mint(fmt.Sprintf("user-%04d", i)); err != nil {
			return nil, err
		}
	}
	got, err := b.compareUnary(ctx, workersAtOnce, getSandbox, requests, tokens)
	if err != nil {
		return nil, err
	}
	return []line{compared("GetSandbox, 1,000 tokens, 16 at a time", "CPU us/op", got, sample.cpuPerOp, ratioAtMost(1.5))}, nil
}

func runList(ctx context.Context, b *bench) ([]line, error) {
	requests, err := encodeAll([]*openshellpb.ListSandboxesRequest{listRequest()})
	if err != nil {
		return nil, err
	}
	got, err := b.compareUnary(ctx, workersAtOnce, listSandboxes, requests, nil)
	if err != nil {
		return nil, err
	}
	return []line{compared("ListSandboxes of 100, 16 at a time", "CPU us/op", got, sample.cpuPerOp, ratioAtMost(3))}, nil
}

// sameAs is how far two figures may differ and still count as equal on this machine.
const sameAs = 1.2

// runListMany measures a third server: the gateway with few sandboxes, which the one with many shall equal.
func runListMany(ctx context.Context, b *bench) (lines []line, err error) {
	requests, err := encodeAll([]*openshellpb.ListSandboxesRequest{listRequest()})
	if err != nil {
		return nil, err
	}
	few, err := b.unaryPair(ctx, fewStored)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, few.close()) }()
	many, err := b.unaryPair(ctx, manyStored)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, many.close()) }()
	subjects := append(many.subjects(workersAtOnce, listSandboxes, requests, []string{many.world.token}),
		few.subjects(workersAtOnce, listSandboxes, requests, []string{few.world.token})[1])
	got, err := b.compare(ctx, subjects...)
	if err != nil {
		return nil, err
	}
	reference := got[2].median(sample.cpuPerOp)
	d := design{
		fmt.Sprintf("as with 100 stored (%s)", number(reference)),
		func(_, ours float64) bool { return ours <= sameAs*reference },
	}
	return []line{compared("ListSandboxes, 100 of 10,000 stored", "CPU us/op", got, sample.cpuPerOp, d)}, nil
}
