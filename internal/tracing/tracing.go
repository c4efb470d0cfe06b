// Package tracing records spans of a process's own work and sends them to a collector by OTLP over gRPC. It knows how
// traces are sampled, queued and written; what a span is about is its caller's business. It writes the few messages it
// needs by hand, which is why a gateway that can trace is no larger than one that cannot.
//
// A nil *Tracer and a nil *Span are off: all their methods do nothing.
package tracing

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/tracecontext"
)

// Kind is what part a span has in a call, with the numbers of OTLP.
type Kind uint8

// The kinds.
const (
	Internal Kind = 1
	Server   Kind = 2
	Client   Kind = 3
)

// maxAttributes bounds what a span says, maxText each text in bytes.
const (
	maxAttributes = 16
	maxText       = 256
)

// Attribute is one thing that a span says: a text, or a number where Text is empty.
type Attribute struct {
	Key    string
	Text   string
	Number int64
}

// Span is one piece of work. It belongs to one goroutine until End.
type Span struct {
	tracer     *Tracer
	name       string
	kind       Kind
	at         tracecontext.Context
	parent     [8]byte
	remote     bool
	began, end time.Time
	attributes []Attribute
	failed     bool
	message    string
}

// Tracer decides which traces are recorded and holds spans until they are sent. It may be used by many goroutines.
type Tracer struct {
	c        Config
	exporter *exporter
	wake     chan struct{}

	mu     sync.Mutex
	queue  []*Span
	closed bool

	exported, dropped, failed atomic.Uint64
}

// Stats count spans since the start.
type Stats struct {
	// Exported were taken by the collector, Dropped did not fit into the queue, Failed were not taken.
	Exported, Dropped, Failed uint64
}

// Stats returns the counts; all are 0 of a nil Tracer.
func (t *Tracer) Stats() Stats {
	if t == nil {
		return Stats{}
	}
	return Stats{Exported: t.exported.Load(), Dropped: t.dropped.Load(), Failed: t.failed.Load()}
}

// Start begins a span below the position that ctx has, or a new trace where it has none. The span is nil for a trace
// that is not recorded; the context tells those who follow so, too.
func (t *Tracer) Start(ctx context.Context, name string, kind Kind, attributes ...Attribute) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	parent, below := tracecontext.From(ctx)
	next := tracecontext.Context{TraceID: parent.TraceID, SpanID: newSpanID()}
	if !below {
		next.TraceID = newTraceID()
	}
	next.Sampled = t.c.Sampler.sample(next.TraceID, parent, below)
	ctx = tracecontext.With(ctx, next)
	if !next.Sampled {
		return ctx, nil
	}
	s := &Span{tracer: t, name: name, kind: kind, at: next, parent: parent.SpanID, remote: parent.Remote, began: t.c.Now()}
	s.attributes = append(make([]Attribute, 0, len(attributes)+2), attributes...)
	return ctx, s
}

// Under begins a span below the position that ctx has, and none where it has none: for work that is of interest only as
// a part of a call.
func (t *Tracer) Under(ctx context.Context, name string, kind Kind, attributes ...Attribute) (context.Context, *Span) {
	if t == nil {
		return ctx, nil
	}
	if at, ok := tracecontext.From(ctx); !ok || !at.Sampled {
		return ctx, nil
	}
	return t.Start(ctx, name, kind, attributes...)
}

// Text adds an attribute; texts are cut where they are too long, and attributes left out where there are too many.
func (s *Span) Text(key, value string) {
	if s != nil && len(s.attributes) < maxAttributes {
		s.attributes = append(s.attributes, Attribute{Key: key, Text: cut(value)})
	}
}

// Number adds an attribute.
func (s *Span) Number(key string, value int64) {
	if s != nil && len(s.attributes) < maxAttributes {
		s.attributes = append(s.attributes, Attribute{Key: key, Number: value})
	}
}

// Fail marks the span as failed. The message must be one that may be shown: no error's private cause.
func (s *Span) Fail(message string) {
	if s != nil {
		s.failed, s.message = true, cut(message)
	}
}

// cut makes a text that a collector can take: not too long, and UTF-8.
func cut(text string) string {
	return strings.ToValidUTF8(text[:min(len(text), maxText)], "\uFFFD")
}

// End ends the span and has it sent.
func (s *Span) End() {
	if s == nil {
		return
	}
	s.end = s.tracer.c.Now()
	s.tracer.add(s)
}

// add queues a span, or drops it: work never waits for a collector.
func (t *Tracer) add(s *Span) {
	t.mu.Lock()
	if t.closed || len(t.queue) >= t.c.MaxQueue {
		t.mu.Unlock()
		t.dropped.Add(1)
		return
	}
	t.queue = append(t.queue, s)
	full := len(t.queue) >= t.c.MaxBatch
	t.mu.Unlock()
	if full {
		select {
		case t.wake <- struct{}{}:
		default:
		}
	}
}

// take removes up to a batch of spans from the queue, and tells whether more are left.
func (t *Tracer) take() (batch []*Span, more bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := min(len(t.queue), t.c.MaxBatch)
	batch = append(batch, t.queue[:n]...)
	rest := copy(t.queue, t.queue[n:])
	clear(t.queue[rest:])
	t.queue = t.queue[:rest]
	return batch, rest >= t.c.MaxBatch
}

// Run sends spans until ctx ends, and then what is left, for no longer than one export may take. It returns nil.
func (t *Tracer) Run(ctx context.Context) error {
	if t == nil {
		return nil
	}
	defer t.exporter.close()
	ticker := time.NewTicker(t.c.Delay)
	defer ticker.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-ticker.C:
		case <-t.wake:
		}
		for more := true; more && ctx.Err() == nil; {
			var batch []*Span
			batch, more = t.take()
			t.send(ctx, batch)
		}
	}
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), t.c.Timeout)
	defer cancel()
	for last.Err() == nil {
		batch, _ := t.take()
		if len(batch) == 0 {
			break
		}
		t.send(last, batch)
	}
	// What there was no time for is not there.
	t.mu.Lock()
	left := len(t.queue)
	t.queue = nil
	t.mu.Unlock()
	t.failed.Add(uint64(left))
	return nil
}

// Close gives up the connection of a tracer that is not run. Run does so at its end.
func (t *Tracer) Close() {
	if t != nil {
		t.exporter.close()
	}
}

// send exports a batch and counts what became of it.
func (t *Tracer) send(ctx context.Context, batch []*Span) {
	if len(batch) == 0 {
		return
	}
	rejected, err := t.exporter.export(ctx, batch)
	switch {
	case err != nil:
		t.failed.Add(uint64(len(batch)))
	default:
		rejected = min(max(rejected, 0), int64(len(batch)))
		t.failed.Add(uint64(rejected))
		t.exported.Add(uint64(len(batch)) - uint64(rejected))
	}
}

// Ids have to be unique, not secret.
func newTraceID() (id [16]byte) {
	binary.LittleEndian.PutUint64(id[:8], rand.Uint64()|1) //nolint:gosec // See above.
	binary.BigEndian.PutUint64(id[8:], rand.Uint64())      //nolint:gosec // See above.
	return id
}

func newSpanID() (id [8]byte) {
	binary.LittleEndian.PutUint64(id[:], rand.Uint64()|1) //nolint:gosec // See above.
	return id
}
