package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Sizes of the flood row. The good callers leave most of the machine idle, so that the quiet figure is that of a call
// and not of a queue; both sides keep to a schedule, and what is late is not made up for.
const (
	goodCallers = 4
	goodPerSec  = 400
	floodConns  = 16
	floodPerSec = 10_000
)

func floodRows() []row {
	return []row{{"flood", "GetSandbox with a good token while 10,000 tokens of unknown keys come a second", runFlood}}
}

// runFlood compares a gateway with itself: quiet, and while one address sends tokens whose keys nobody knows. The
// world is its own, because the address has spent its attempts afterwards.
func runFlood(ctx context.Context, b *bench) (lines []line, err error) {
	w, err := newWorld(ctx, b, worldOptions{stored: fewStored, limited: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	good, err := w.dial(w.gateway.address)
	if err != nil {
		return nil, err
	}
	defer good.Close()
	requests, err := getRequests()
	if err != nil {
		return nil, err
	}
	f, drained, err := b.newFlood(ctx, w, requests[0])
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.close(), drained()) }()
	call := unaryCall(good, getSandbox, requests, []string{w.token})
	if _, err := call(ctx, 0); err != nil {
		return nil, fmt.Errorf("the good callers' first call: %w", err)
	}
	var quiet, flooded samples
	var offers, rates []float64
	for round := -1; round < b.rounds(); round++ {
		before, err := b.goodCalls(ctx, w, call)
		if err != nil {
			return nil, fmt.Errorf("quiet: %w", err)
		}
		during, offered, refused, err := f.during(func() (sample, error) { return b.goodCalls(ctx, w, call) })
		if err != nil {
			return nil, fmt.Errorf("flooded: %w", err)
		}
		if round >= 0 {
			quiet, flooded = append(quiet, before), append(flooded, during)
			offers, rates = append(offers, offered), append(rates, refused)
		}
	}
	return floodLines(quiet, flooded, offers, rates), nil
}

// newFlood connects the flood. drained waits, once it is closed, for the readers of its answers.
func (b *bench) newFlood(ctx context.Context, w *world, message []byte) (f *flood, drained func() error, err error) {
	f = &flood{token: forger(b.issuer.url)}
	errs := make([]error, floodConns)
	var readers sync.WaitGroup
	for i := range floodConns {
		h, err := newHose(ctx, w.gateway.address, message)
		if err != nil {
			return nil, nil, errors.Join(err, f.close())
		}
		f.hoses = append(f.hoses, h)
		readers.Go(func() { errs[i] = h.drain() })
	}
	return f, func() error { readers.Wait(); return errors.Join(errs...) }, nil
}

func floodLines(quiet, flooded samples, offers, rates []float64) []line {
	d := design{"<= 2 x quiet", func(quiet, flooded float64) bool { return flooded <= 2*quiet }}
	pair := []samples{quiet, flooded}
	p99 := compared("GetSandbox of good callers, quiet against flooded", "p99 ms", pair, sample.p99, d)
	p50 := compared("GetSandbox of good callers, quiet against flooded", "p50 ms", pair, sample.p50, recorded())
	offer := newLine("tokens of unknown keys, offered", "op/s", float64(missing()), median(offers), atLeast(0.8*floodPerSec))
	taken := newLine("tokens of unknown keys, read and refused", "op/s", float64(missing()), median(rates), recorded())
	taken.OursDetail = flooded.detail()
	return []line{p99, p50, offer, taken}
}

// goodCalls lets the good callers call on schedule for a window, longer than others since only one call in a hundred
// decides.
func (b *bench) goodCalls(ctx context.Context, w *world, c call) (sample, error) {
	before, err := w.gateway.cpu()
	if err != nil {
		return sample{}, err
	}
	results := make([][]time.Duration, goodCallers)
	errs := make([]error, goodCallers)
	began := time.Now()
	deadline := began.Add(2 * b.window())
	var group sync.WaitGroup
	for i := range goodCallers {
		group.Go(func() {
			errs[i] = onSchedule(ctx, goodCallers*time.Second/goodPerSec, func() bool { return time.Now().Before(deadline) },
				func() error {
					start := time.Now()
					_, err := c(ctx, i)
					results[i] = append(results[i], time.Since(start))
					return err
				})
		})
	}
	group.Wait()
	if err := errors.Join(errs...); err != nil {
		return sample{}, err
	}
	s := sample{wall: time.Since(began), latencies: slices.Concat(results...)}
	after, err := w.gateway.cpu()
	if err != nil {
		return sample{}, err
	}
	s.cpu, s.ops = after-before, len(s.latencies)
	slices.Sort(s.latencies)
	if s.rss, err = w.gateway.rss(); err == nil && s.ops == 0 {
		err = errors.New("no call was made")
	}
	return s, err
}

// onSchedule does something every so often while more says so. What takes longer than the interval loses turns.
func onSchedule(ctx context.Context, interval time.Duration, more func() bool, do func() error) error {
	// Callers that begin together would arrive together for ever.
	timer := time.NewTimer(rand.N(interval))
	defer timer.Stop()
	for more() {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case now := <-timer.C:
			if err := do(); err != nil {
				return err
			}
			timer.Reset(max(0, interval-time.Since(now)))
		}
	}
	return nil
}

// flood sends tokens that no key verifies, from one address.
type flood struct {
	hoses []*hose
	token func() string
}

func (f *flood) close() error {
	var errs []error
	for _, h := range f.hoses {
		errs = append(errs, h.conn.Close())
	}
	return errors.Join(errs...)
}

// counts returns how many calls were due so far, and how many were refused.
func (f *flood) counts() (offered, refused float64) {
	for _, h := range f.hoses {
		offered, refused = offered+float64(h.offered.Load()), refused+float64(h.refused.Load())
	}
	return offered, refused
}

// during floods while measured runs, and returns what that measured and how many tokens a second were due and refused.
func (f *flood) during(measured func() (sample, error)) (s sample, offered, refused float64, err error) {
	var over atomic.Bool
	errs := make([]error, len(f.hoses))
	var group sync.WaitGroup
	offeredBefore, refusedBefore := f.counts()
	began := time.Now()
	for i, h := range f.hoses {
		group.Go(func() { errs[i] = h.spray(floodPerSec/floodConns, getSandbox, f.token, over.Load) })
	}
	s, err = measured()
	offered, refused = f.counts()
	seconds := time.Since(began).Seconds()
	over.Store(true)
	group.Wait()
	return s, (offered - offeredBefore) / seconds, (refused - refusedBefore) / seconds, errors.Join(err, errors.Join(errs...))
}

// forger returns a maker of tokens of the issuer, each naming another key. All else is as it should be, so that only
// the key can be the reason to refuse them.
func forger(issuer string) func() string {
	encode := base64.RawURLEncoding.EncodeToString
	now := time.Now()
	claims, err := json.Marshal(map[string]any{
		"iss": issuer, "aud": audience, "sub": "mallory-id", "typ": "Bearer", "iat": now.Unix(), "exp": now.Add(tokenLife).Unix(),
		"realm_access": map[string]any{"roles": []string{"openshell-user", "openshell-admin"}},
	})
	if err != nil {
		panic(err) // These values always encode.
	}
	signature := make([]byte, 256)
	rest := "." + encode(claims) + "." + encode(signature)
	return func() string {
		return encode(fmt.Appendf(nil, `{"alg":"RS256","typ":"JWT","kid":"%016x"}`, rand.Uint64())) + rest
	}
}
