// Package sandboxlog keeps the last log lines and platform events of each sandbox in memory and passes new ones
// to followers. Rings grow on demand and the sum of all rings is bounded; everything is lost on restart, as
// clients of the protocol expect.
package sandboxlog

import (
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// MaxLines bounds the log lines kept of one sandbox.
	MaxLines = 2000
	// MaxEvents bounds the platform events kept of one sandbox.
	MaxEvents = 50
	// MaxLineBytes bounds one line with its fields; longer messages are cut.
	MaxLineBytes = 16 << 10
	// followerQueue is how many items a slow follower may fall behind before it loses the oldest.
	followerQueue = 1024
)

// Sources of log lines.
const (
	SourceGateway = "gateway"
	SourceSandbox = "sandbox"
)

// Line is one log line.
type Line struct {
	Time    time.Time
	Level   string
	Target  string
	Message string
	Source  string
	Fields  map[string]string
}

// Event is one event of the platform that runs the sandbox, as its driver reported it.
type Event struct {
	Time     time.Time
	Source   string
	Type     string
	Reason   string
	Message  string
	Metadata map[string]string
}

// Item is what a follower receives: a line, an event, or a count of items it was too slow for.
type Item struct {
	Line  *Line
	Event *Event
	Lost  int
}

// Filter selects lines. The zero Filter selects all.
type Filter struct {
	Since    time.Time
	Sources  []string
	MinLevel string
}

// Match tells whether the line passes. Lines of unknown level pass only where the minimum is unknown too, which
// is what clients of the reference know.
func (f Filter) Match(l *Line) bool {
	if !f.Since.IsZero() && l.Time.Before(f.Since) {
		return false
	}
	if len(f.Sources) > 0 && !slices.Contains(f.Sources, l.Source) {
		return false
	}
	return f.MinLevel == "" || levelNumber(l.Level) <= levelNumber(f.MinLevel)
}

func levelNumber(level string) int {
	switch strings.ToUpper(level) {
	case "ERROR":
		return 0
	case "WARN":
		return 1
	case "INFO", "OCSF":
		return 2
	case "DEBUG":
		return 3
	case "TRACE":
		return 4
	default:
		return 5
	}
}

// Hub holds the rings of all sandboxes.
type Hub struct {
	maxBytes int

	mu    sync.Mutex
	boxes map[string]*box
	bytes int
}

type box struct {
	lines     []*Line
	events    []*Event
	bytes     int
	followers map[*Follower]struct{}
}

// NewHub returns a Hub whose rings together hold at most maxBytes of text.
func NewHub(maxBytes int) *Hub {
	return &Hub{maxBytes: maxBytes, boxes: map[string]*box{}}
}

func (h *Hub) box(id string) *box {
	b := h.boxes[id]
	if b == nil {
		b = &box{followers: map[*Follower]struct{}{}}
		h.boxes[id] = b
	}
	return b
}

// Append adds lines to a sandbox's ring and passes them to its followers.
func (h *Hub) Append(sandboxID string, lines ...*Line) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.box(sandboxID)
	for _, l := range lines {
		if len(l.Message) > MaxLineBytes {
			l.Message = l.Message[:MaxLineBytes]
		}
		if l.Source == "" {
			l.Source = SourceGateway
		}
		size := l.size()
		b.lines, b.bytes, h.bytes = append(b.lines, l), b.bytes+size, h.bytes+size
		for f := range b.followers {
			f.push(Item{Line: l})
		}
	}
	for len(b.lines) > MaxLines || (h.bytes > h.maxBytes && len(b.lines) > 1) {
		size := b.lines[0].size()
		b.lines[0] = nil
		b.lines, b.bytes, h.bytes = b.lines[1:], b.bytes-size, h.bytes-size
	}
}

// AddEvent adds a platform event.
func (h *Hub) AddEvent(sandboxID string, e *Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.box(sandboxID)
	b.events = append(b.events, e)
	if len(b.events) > MaxEvents {
		b.events = slices.Delete(b.events, 0, len(b.events)-MaxEvents)
	}
	for f := range b.followers {
		f.push(Item{Event: e})
	}
}

// Lines returns the last n lines that the filter lets through, oldest first, and how many lines the ring holds.
func (h *Hub) Lines(sandboxID string, n int, f Filter) (lines []*Line, total int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.boxes[sandboxID]
	if b == nil {
		return nil, 0
	}
	return b.tail(n, f), len(b.lines)
}

func (b *box) tail(n int, f Filter) []*Line {
	var out []*Line
	for i := len(b.lines) - 1; i >= 0 && len(out) < n; i-- {
		if f.Match(b.lines[i]) {
			out = append(out, b.lines[i])
		}
	}
	slices.Reverse(out)
	return out
}

// Follow subscribes to a sandbox and returns what its rings hold at that very moment, so that nothing is missed
// or seen twice.
func (h *Hub) Follow(sandboxID string, tailLines, tailEvents int, f Filter) (*Follower, []*Line, []*Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	b := h.box(sandboxID)
	fo := &Follower{hub: h, id: sandboxID, filter: f, wake: make(chan struct{}, 1)}
	b.followers[fo] = struct{}{}
	events := slices.Clone(b.events[max(0, len(b.events)-tailEvents):])
	return fo, b.tail(tailLines, f), events
}

// Drop forgets a sandbox.
func (h *Hub) Drop(sandboxID string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if b := h.boxes[sandboxID]; b != nil {
		h.bytes -= b.bytes
		delete(h.boxes, sandboxID)
	}
}

func (l *Line) size() int {
	n := 64 + len(l.Message) + len(l.Target)
	for k, v := range l.Fields {
		n += len(k) + len(v) + 32
	}
	return n
}

// Follower receives a sandbox's new lines and events.
type Follower struct {
	hub    *Hub
	id     string
	filter Filter
	wake   chan struct{}

	mu    sync.Mutex
	queue []Item
	lost  int
}

// Wake receives a value when Take has something.
func (f *Follower) Wake() <-chan struct{} { return f.wake }

// Take returns what has arrived since the last call.
func (f *Follower) Take() []Item {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.queue
	f.queue = nil
	if f.lost > 0 {
		out = append([]Item{{Lost: f.lost}}, out...)
		f.lost = 0
	}
	return out
}

func (f *Follower) push(it Item) {
	if it.Line != nil && !f.filter.Match(it.Line) {
		return
	}
	f.mu.Lock()
	if len(f.queue) >= followerQueue {
		f.queue = f.queue[1:]
		f.lost++
	}
	f.queue = append(f.queue, it)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Close unsubscribes.
func (f *Follower) Close() {
	f.hub.mu.Lock()
	defer f.hub.mu.Unlock()
	if b := f.hub.boxes[f.id]; b != nil {
		delete(b.followers, f)
	}
}
