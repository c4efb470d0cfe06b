package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

func sessionRows() []row {
	return []row{
		{"sessions", "1,000 idle supervisors over plaintext: memory and speed of connecting", func(ctx context.Context, b *bench) ([]line, error) {
			return runSessions(ctx, b, false)
		}},
		{"sessions-tls", "1,000 idle supervisors over TLS", func(ctx context.Context, b *bench) ([]line, error) {
			return runSessions(ctx, b, true)
		}},
	}
}

const (
	manySessions = 1000
	// connectingAtOnce bounds the supervisors that are connecting.
	connectingAtOnce = 64
	// settle is what a server has to give memory back before it is looked at.
	settle = 5 * time.Second
)

// sessionFigures are what one server shows with all supervisors connected.
type sessionFigures struct {
	rate, rss, cpu []float64
}

// runSessions starts both servers afresh in each round: memory that was once used is not given back at once.
func runSessions(ctx context.Context, b *bench, secure bool) ([]line, error) {
	n := pick(b, manySessions, 200)
	var figures [2]sessionFigures
	for range pick(b, 3, 1) {
		if err := b.sessionRound(ctx, n, secure, &figures); err != nil {
			return nil, err
		}
	}
	how := "plaintext"
	if secure {
		how = "TLS"
	}
	both := func(f func(sessionFigures) []float64) (float64, float64) {
		return median(f(figures[0])), median(f(figures[1]))
	}
	limit, ours := both(func(f sessionFigures) []float64 { return f.rss })
	memory := newLine(fmt.Sprintf("RSS with %d idle supervisors, %s", n, how), "MiB", limit, ours, ratioAtMost(1.3))
	limit, ours = both(func(f sessionFigures) []float64 { return f.rate })
	speed := newLine(fmt.Sprintf("%d supervisors connecting, %s", n, how), "sessions/s", limit, ours, ratioAtLeast(0.6))
	limit, ours = both(func(f sessionFigures) []float64 { return f.cpu })
	cost := newLine(fmt.Sprintf("%d supervisors connecting, %s", n, how), "CPU us/op", limit, ours, recorded())
	return []line{memory, speed, cost}, nil
}

func (b *bench) sessionRound(ctx context.Context, n int, secure bool, figures *[2]sessionFigures) (err error) {
	w, err := newWorld(ctx, b, worldOptions{stored: n, secure: secure})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	if w.limit, err = w.startLimit(ctx); err != nil {
		return err
	}
	// The gateway has to have met its driver before it is measured.
	if err := w.ready(ctx); err != nil {
		return err
	}
	for i, server := range w.servers() {
		if b.skips(i) {
			continue
		}
		if err := w.connectAll(ctx, server, &figures[i]); err != nil {
			return fmt.Errorf("%s: %w", server.name, err)
		}
	}
	return nil
}

// connectAll connects a supervisor for each sandbox, looks at the server and ends them.
func (w *world) connectAll(ctx context.Context, server *process, f *sessionFigures) (err error) {
	stubs := make([]*stub, len(w.ids))
	defer func() {
		for _, s := range stubs {
			if s != nil {
				err = errors.Join(err, s.close())
			}
		}
	}()
	before, err := server.cpu()
	if err != nil {
		return err
	}
	group := errgroup.Group{}
	group.SetLimit(connectingAtOnce)
	began := time.Now()
	for i, id := range w.ids {
		group.Go(func() error {
			var err error
			stubs[i], err = w.connectStub(ctx, server.address, stubOptions{sandboxID: id, capability: true})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := server.cpu()
	if err != nil {
		return err
	}
	if err := pause(ctx, settle); err != nil {
		return err
	}
	rss, err := server.rss()
	if err != nil {
		return err
	}
	if err := w.b.snapshot(ctx, server); err != nil {
		return err
	}
	f.rate = append(f.rate, float64(len(w.ids))/took.Seconds())
	f.rss = append(f.rss, float64(rss)/mebibyte)
	f.cpu = append(f.cpu, float64((after-before).Microseconds())/float64(len(w.ids)))
	return nil
}
