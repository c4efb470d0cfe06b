package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// call does one piece of work and returns how many bytes of output it brought.
type call func(ctx context.Context, worker int) (int64, error)

// sample is what one window measured of one server.
type sample struct {
	ops   int
	bytes int64
	wall  time.Duration
	// cpu is the server's processor time, nobody else's.
	cpu       time.Duration
	rss       int64
	latencies []time.Duration
}

const (
	million  = 1e6
	mebibyte = 1 << 20
)

func (s sample) cpuPerOp() float64 { return float64(s.cpu.Nanoseconds()) / 1e3 / float64(s.ops) }
func (s sample) rate() float64     { return float64(s.ops) / s.wall.Seconds() }
func (s sample) perSecond() float64 {
	return float64(s.bytes) / million / s.wall.Seconds()
}

func (s sample) cpuPerMB() float64 {
	return float64(s.cpu.Nanoseconds()) / 1e6 / (float64(s.bytes) / million)
}
func (s sample) p50() float64 { return s.quantile(0.5) }
func (s sample) p99() float64 { return s.quantile(0.99) }

// quantile returns milliseconds; the latencies are sorted.
func (s sample) quantile(q float64) float64 {
	if len(s.latencies) == 0 {
		return float64(missing())
	}
	return float64(s.latencies[int(q*float64(len(s.latencies)-1))].Nanoseconds()) / 1e6
}

// window lets workers call, one after the other each, for d; calls under way are finished and counted.
func window(ctx context.Context, p *process, workers int, d time.Duration, c call) (sample, error) {
	deadline := time.Now().Add(d)
	return measure(ctx, p, workers, c, func() bool { return time.Now().Before(deadline) })
}

// measure lets workers call as long as more says so.
func measure(ctx context.Context, p *process, workers int, c call, more func() bool) (sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, err := p.cpu()
	if err != nil {
		return sample{}, err
	}
	results := make([]sample, workers)
	began := time.Now()
	var group sync.WaitGroup
	for i := range workers {
		group.Go(func() {
			r := &results[i]
			for ctx.Err() == nil && more() {
				start := time.Now()
				n, err := c(ctx, i)
				if err != nil {
					cancel(err)
					return
				}
				r.latencies = append(r.latencies, time.Since(start))
				r.bytes += n
			}
		})
	}
	group.Wait()
	s := sample{wall: time.Since(began)}
	after, err := p.cpu()
	if cause := context.Cause(ctx); cause != nil {
		return sample{}, cause
	}
	if err != nil {
		return sample{}, err
	}
	s.cpu = after - before
	for _, r := range results {
		s.latencies = append(s.latencies, r.latencies...)
		s.bytes += r.bytes
	}
	slices.Sort(s.latencies)
	if s.ops = len(s.latencies); s.ops == 0 {
		return sample{}, errors.New("no call was made")
	}
	s.rss, err = p.rss()
	return s, err
}

// subject is a server under measurement and the work to do there.
type subject struct {
	process *process
	workers int
	call    call
}

// samples are the windows of one subject.
type samples []sample

func (s samples) median(f func(sample) float64) float64 {
	if len(s) == 0 {
		return float64(missing())
	}
	values := make([]float64, len(s))
	for i := range s {
		values[i] = f(s[i])
	}
	return median(values)
}

func median(values []float64) float64 {
	if len(values) == 0 {
		return float64(missing())
	}
	slices.Sort(values)
	m := len(values) / 2
	if len(values)%2 == 1 {
		return values[m]
	}
	return (values[m-1] + values[m]) / 2
}

func (s samples) detail() detail {
	if len(s) == 0 {
		return noDetail()
	}
	return detail{
		CPUPerOp: number(s.median(sample.cpuPerOp)), Rate: number(s.median(sample.rate)),
		P50: number(s.median(sample.p50)), P99: number(s.median(sample.p99)),
		RSS: number(s.median(func(s sample) float64 { return float64(s.rss) / mebibyte })),
	}
}

// compare measures the subjects in turns (A B A B ...), so that whatever else the machine does meets them alike,
// after a window each that does not count.
func (b *bench) compare(ctx context.Context, subjects ...subject) ([]samples, error) {
	out := make([]samples, len(subjects))
	for round := -1; round < b.rounds(); round++ {
		d := b.window()
		if round < 0 {
			d /= 2
		}
		for i, s := range subjects {
			if b.skips(i) {
				continue
			}
			got, err := window(ctx, s.process, s.workers, d, s.call)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.process.name, err)
			}
			if round >= 0 {
				out[i] = append(out[i], got)
			}
		}
	}
	return out, nil
}

// compared makes a line of two subjects' samples, limit first.
func compared(work, unit string, got []samples, f func(sample) float64, d design) line {
	l := newLine(work, unit, got[0].median(f), got[1].median(f), d)
	l.LimitDetail, l.OursDetail = got[0].detail(), got[1].detail()
	return l
}
