package logpush

import (
	"context"
	"log/slog"
	"strings"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

const (
	target       = "sallyport_supervisor"
	maxMessage   = 8 << 10
	maxFields    = 32
	maxFieldSize = 1 << 10
)

// Handler returns a handler that queues records of at least level. Sizes are bounded, so that one line cannot
// make a message that the gateway refuses.
func (p *Pusher) Handler(level slog.Leveler) slog.Handler {
	return &handler{pusher: p, level: level}
}

type handler struct {
	pusher *Pusher
	level  slog.Leveler
	prefix string
	attrs  []slog.Attr
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level.Level() }

func (h *handler) Handle(_ context.Context, r slog.Record) error {
	line := &openshellpb.SandboxLogLine{
		SandboxId: h.pusher.sandboxID, TimestampMs: r.Time.UnixMilli(), Level: levelName(r.Level),
		Target: target, Message: cut(r.Message, maxMessage), Source: "sandbox",
	}
	if n := len(h.attrs) + r.NumAttrs(); n > 0 {
		line.Fields = make(map[string]string, n)
	}
	for _, a := range h.attrs {
		addField(line.Fields, "", a)
	}
	r.Attrs(func(a slog.Attr) bool {
		addField(line.Fields, h.prefix, a)
		return true
	})
	h.pusher.add(line)
	return nil
}

func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.attrs = append([]slog.Attr{}, h.attrs...)
	for _, a := range attrs {
		a.Key = h.prefix + a.Key
		c.attrs = append(c.attrs, a)
	}
	return &c
}

func (h *handler) WithGroup(name string) slog.Handler {
	if name == "" {
		return h
	}
	c := *h
	c.prefix = h.prefix + name + "."
	return &c
}

func addField(fields map[string]string, prefix string, a slog.Attr) {
	v := a.Value.Resolve()
	if v.Kind() == slog.KindGroup {
		if a.Key != "" {
			prefix += a.Key + "."
		}
		for _, g := range v.Group() {
			addField(fields, prefix, g)
		}
		return
	}
	if a.Key == "" || len(fields) >= maxFields {
		return
	}
	fields[cut(prefix+a.Key, maxFieldSize)] = cut(v.String(), maxFieldSize)
}

// cut shortens s and keeps it valid UTF-8, which the wire demands.
func cut(s string, n int) string {
	if len(s) > n {
		s = s[:n]
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// levelName uses the contract's names.
func levelName(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "ERROR"
	case l >= slog.LevelWarn:
		return "WARN"
	case l >= slog.LevelInfo:
		return "INFO"
	}
	return "DEBUG"
}
