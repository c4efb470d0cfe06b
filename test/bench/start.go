package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

func startRows() []row {
	return []row{
		{"cold-start", "cold start with an existing database", runColdStart},
		{"cold-start-100k", "cold start with 100,000 stored sandboxes", runColdStartMany},
		{"idle", "RSS idle", runIdle},
		{"rest", "at rest with 10,000 stored", runRest},
	}
}

const (
	largeStored = 100_000
	// quietAfter is when a gateway has met its driver and has asked it for its list for the second time.
	quietAfter = 5 * time.Second
)

// ready waits until the gateway has its database, its driver and its issuer.
func (w *world) ready(ctx context.Context) error {
	conn, err := w.dial(w.gateway.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stream, err := healthpb.NewHealthClient(conn).Watch(ctx, &healthpb.HealthCheckRequest{})
	for err == nil {
		var r *healthpb.HealthCheckResponse
		if r, err = stream.Recv(); err == nil && r.Status == healthpb.HealthCheckResponse_SERVING {
			return nil
		}
	}
	return fmt.Errorf("wait for the gateway to be ready: %w", err)
}

// comeToRest waits until the gateway is ready and what follows a start is over.
func (w *world) comeToRest(ctx context.Context) error {
	if err := w.ready(ctx); err != nil {
		return err
	}
	return pause(ctx, quietAfter)
}

// coldStart starts a server, asks it once and stops it. It returns milliseconds from the start to the answer.
func (w *world) coldStart(ctx context.Context, begin func(context.Context) (*process, error)) (ms float64, err error) {
	p, err := begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.stop()) }()
	conn, err := w.dial(p.address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := openshellpb.NewOpenShellClient(conn).Health(ctx, &openshellpb.HealthRequest{}, grpc.WaitForReady(true)); err != nil {
		return 0, err
	}
	return float64(time.Since(p.began).Nanoseconds()) / 1e6, nil
}

func (b *bench) coldStarts(ctx context.Context, stored int) (limit, ours float64, err error) {
	w, err := prepareWorld(ctx, b, worldOptions{stored: stored})
	defer func() { err = errors.Join(err, w.close()) }()
	if err != nil {
		return 0, 0, err
	}
	var took [2][]float64
	for round := -1; round < pick(b, 11, 3); round++ {
		for i, begin := range []func(context.Context) (*process, error){w.startLimit, w.startGateway} {
			if b.skips(i) {
				continue
			}
			ms, err := w.coldStart(ctx, begin)
			if err != nil {
				return 0, 0, err
			}
			if round >= 0 {
				took[i] = append(took[i], ms)
			}
		}
	}
	return median(took[0]), median(took[1]), nil
}

func runColdStart(ctx context.Context, b *bench) ([]line, error) {
	limit, ours, err := b.coldStarts(ctx, fewStored)
	if err != nil {
		return nil, err
	}
	return []line{newLine("cold start, 100 stored, to the first answer", "ms", limit, ours, ratioAtMost(2))}, nil
}

func runColdStartMany(ctx context.Context, b *bench) ([]line, error) {
	stored := pick(b, largeStored, largeStored/10)
	limit, ours, err := b.coldStarts(ctx, stored)
	if err != nil {
		return nil, err
	}
	return []line{newLine(fmt.Sprintf("cold start, %d stored, to the first answer", stored), "ms", limit, ours, atMost(1000))}, nil
}

// idleServers starts both with this many stored sandboxes and lets them come to rest.
func (b *bench) idleServers(ctx context.Context, stored int) (*world, error) {
	w, err := newWorld(ctx, b, worldOptions{stored: stored})
	if err != nil {
		return nil, err
	}
	if w.limit, err = w.startLimit(ctx); err == nil {
		err = w.comeToRest(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, w.close())
	}
	return w, nil
}

func runIdle(ctx context.Context, b *bench) (lines []line, err error) {
	w, err := b.idleServers(ctx, 0)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	var rss [2]float64
	for i, server := range w.servers() {
		bytes, err := server.rss()
		if err != nil {
			return nil, err
		}
		rss[i] = float64(bytes) / mebibyte
	}
	if err := b.snapshot(ctx, w.gateway); err != nil {
		return nil, err
	}
	return []line{newLine("RSS idle", "MiB", rss[0], rss[1], atMost(25))}, nil
}

func runRest(ctx context.Context, b *bench) (lines []line, err error) {
	w, err := b.idleServers(ctx, manyStored)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	// The driver's list is asked for each minute and shall be in.
	d := pick(b, time.Minute, 10*time.Second)
	var before, used [2]time.Duration
	for i, server := range w.servers() {
		if before[i], err = server.cpu(); err != nil {
			return nil, err
		}
	}
	if err := pause(ctx, d); err != nil {
		return nil, err
	}
	var rss [2]float64
	for i, server := range w.servers() {
		after, err := server.cpu()
		if err != nil {
			return nil, err
		}
		used[i] = after - before[i]
		bytes, err := server.rss()
		if err != nil {
			return nil, err
		}
		rss[i] = float64(bytes) / mebibyte
	}
	if err := b.snapshot(ctx, w.gateway); err != nil {
		return nil, err
	}
	perSecond := func(t time.Duration) float64 { return float64(t.Microseconds()) / 1e3 / d.Seconds() }
	return []line{
		newLine("at rest with 10,000 stored", "CPU ms/s", perSecond(used[0]), perSecond(used[1]), atMost(2)),
		newLine("at rest with 10,000 stored", "RSS MiB", rss[0], rss[1], recorded()),
	}, nil
}
