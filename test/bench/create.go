package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/test/bench/rawcodec"
)

func createRows() []row {
	return []row{{"create", "CreateSandbox, from 1,000 to 10,000 stored, 16 at a time", runCreate}}
}

// Sizes of the create row.
const (
	createFrom = 1000
	createTo   = 10_000
)

// runCreate has no limit: the work is done once, since each create changes what is measured. The time of one sync
// to disk stands in its place.
func runCreate(ctx context.Context, b *bench) (lines []line, err error) {
	w, err := newWorld(ctx, b, worldOptions{stored: createFrom})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	conn, err := w.dial(w.gateway.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	sync, err := syncTime(w.path("sync"), pick(b, 200, 50))
	if err != nil {
		return nil, fmt.Errorf("measure a sync to disk: %w", err)
	}
	total := int64(pick(b, createTo-createFrom, 1000))
	var next atomic.Int64
	began := time.Now()
	before, err := w.gateway.cpu()
	if err != nil {
		return nil, err
	}
	got, err := measure(ctx, w.gateway, workersAtOnce, w.create(conn, &next), func() bool { return next.Load() < total })
	if err != nil {
		return nil, err
	}
	if err := w.awaitApplied(ctx, conn, next.Load()); err != nil {
		return nil, err
	}
	after, err := w.gateway.cpu()
	if err != nil {
		return nil, err
	}
	// What the driver reports of each new sandbox is part of its price.
	wall := got
	wall.wall = time.Since(began)
	got.cpu = after - before
	s := samples{got}
	d := s.detail()
	rate := newLine(fmt.Sprintf("CreateSandbox, 16 at a time (one sync %s ms)", number(sync)), "op/s",
		float64(missing()), got.rate(), atLeast(1000))
	cpu := newLine("CreateSandbox with the driver's report", "CPU us/op", float64(missing()), got.cpuPerOp(), atMost(300))
	applied := newLine("CreateSandbox until the driver's report shows", "op/s", float64(missing()), wall.rate(), recorded())
	rate.OursDetail, cpu.OursDetail, applied.OursDetail = d, d, d
	return []line{rate, cpu, applied}, nil
}

// create creates one sandbox after the other with ordinary contents.
func (w *world) create(conn *grpc.ClientConn, next *atomic.Int64) call {
	codec := grpc.ForceCodecV2(rawcodec.New())
	return func(ctx context.Context, _ int) (int64, error) {
		request, err := proto.Marshal(&openshellpb.CreateSandboxRequest{
			Name: newName(next.Add(1)), Labels: map[string]string{"team": "blue"},
			Spec: &openshellpb.SandboxSpec{
				LogLevel: "info", Environment: map[string]string{"LANG": "C.UTF-8", "PROJECT": "bench"},
				Template: &openshellpb.SandboxTemplate{Image: "registry.example.test/sandbox:1"},
			},
		})
		if err != nil {
			return 0, err
		}
		var reply rawcodec.Message
		err = conn.Invoke(bearer(ctx, w.token), string(createSandbox), &rawcodec.Message{Bytes: request}, &reply, codec, grpc.WaitForReady(true))
		return int64(len(reply.Bytes)), err
	}
}

func newName(i int64) string { return fmt.Sprintf("new-%06d", i) }

// applyTimeout bounds the wait for the driver's reports.
const applyTimeout = 5 * time.Minute

// awaitApplied waits until what the driver reported of the last sandboxes shows in them.
func (w *world) awaitApplied(ctx context.Context, conn *grpc.ClientConn, last int64) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	client := openshellpb.NewOpenShellClient(conn)
	poll := time.NewTicker(20 * time.Millisecond)
	defer poll.Stop()
	for i := max(1, last-workersAtOnce); i <= last; {
		r, err := client.GetSandbox(bearer(ctx, w.token), &openshellpb.GetSandboxRequest{Name: newName(i)})
		if err != nil {
			return fmt.Errorf("wait for the driver's report: %w", err)
		}
		if len(r.GetSandbox().GetStatus().GetConditions()) > 0 {
			i++
			continue
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for the driver's report: %w", context.Cause(ctx))
		}
	}
	return nil
}

// syncTime returns how many milliseconds it takes to make one small write durable.
func syncTime(path string, times int) (float64, error) {
	f, err := os.Create(path)
	if err != nil {
		return 0, err
	}
	block := make([]byte, 4096)
	took := make([]float64, times)
	for i := range took {
		start := time.Now()
		if _, err = f.Write(block); err == nil {
			err = f.Sync()
		}
		if err != nil {
			return 0, errors.Join(err, f.Close())
		}
		took[i] = float64(time.Since(start).Nanoseconds()) / 1e6
	}
	return median(took), f.Close()
}
