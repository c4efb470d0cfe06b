// Package tracecontext reads and writes the W3C Trace Context header by which processes agree that their work belongs to
// one trace, and carries it in a context. It knows no span, and sends nothing anywhere: a driver needs no more.
package tracecontext

import (
	"context"
	"encoding/hex"
)

// Header is the name of the header and of the gRPC metadata.
const Header = "traceparent"

// Context is one position in a trace. The zero Context is none.
type Context struct {
	TraceID [16]byte
	// SpanID is the span that whatever follows belongs below.
	SpanID [8]byte
	// Sampled tells that the trace is being recorded.
	Sampled bool
	// Remote tells that the span is of another process.
	Remote bool
}

// length of "00-" trace id "-" span id "-" flags.
const length = 2 + 1 + 32 + 1 + 16 + 1 + 2

// Parse reads a header by the rules of W3C Trace Context: version 00 exactly, of a later version the part that is known.
// It is false for everything else, and for ids of zeros.
func Parse(header string) (Context, bool) {
	var c Context
	if len(header) < length || header[2] != '-' || header[35] != '-' || header[52] != '-' {
		return Context{}, false
	}
	var version, flags [1]byte
	if !fill(version[:], header[:2]) || version[0] == 0xff || version[0] == 0 && len(header) != length ||
		len(header) > length && header[length] != '-' {
		return Context{}, false
	}
	if !fill(c.TraceID[:], header[3:35]) || !fill(c.SpanID[:], header[36:52]) || !fill(flags[:], header[53:55]) {
		return Context{}, false
	}
	c.Sampled, c.Remote = flags[0]&1 != 0, true
	if !c.Valid() {
		return Context{}, false
	}
	return c, true
}

// fill decodes lower-case hexadecimal digits, the only ones that the format has.
func fill(to []byte, from string) bool {
	for i := range len(from) {
		if b := from[i]; (b < '0' || b > '9') && (b < 'a' || b > 'f') {
			return false
		}
	}
	_, err := hex.Decode(to, []byte(from))
	return err == nil
}

// Valid tells whether c is a position in a trace.
func (c Context) Valid() bool { return c.TraceID != [16]byte{} && c.SpanID != [8]byte{} }

// String is the header.
func (c Context) String() string {
	b := make([]byte, 0, length)
	b = append(b, "00-"...)
	b = hex.AppendEncode(b, c.TraceID[:])
	b = append(b, '-')
	b = hex.AppendEncode(b, c.SpanID[:])
	if c.Sampled {
		return string(append(b, "-01"...))
	}
	return string(append(b, "-00"...))
}

// Trace is the trace's id as logs and stores of traces write it.
func (c Context) Trace() string { return hex.EncodeToString(c.TraceID[:]) }

type key struct{}

// With returns a context at this position.
func With(ctx context.Context, c Context) context.Context { return context.WithValue(ctx, key{}, c) }

// From returns the position of ctx; false where there is none.
func From(ctx context.Context) (Context, bool) {
	c, ok := ctx.Value(key{}).(Context)
	return c, ok
}
