// Package rawcodec carries gRPC messages as the bytes they already are, so that neither the limit server nor the
// measuring client spends time on encoding. It knows no method and no message.
package rawcodec

import (
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
)

// Message is one encoded message.
type Message struct{ Bytes []byte }

// Codec passes a *Message through and leaves every other message to the protobuf codec. On the wire it is
// indistinguishable from that one.
type Codec struct{ typed encoding.CodecV2 }

// New returns a Codec.
func New() Codec { return Codec{typed: encoding.GetCodecV2(proto.Name)} }

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*Message); ok {
		return mem.BufferSlice{mem.SliceBuffer(m.Bytes)}, nil
	}
	return c.typed.Marshal(v)
}

// Unmarshal implements encoding.CodecV2. A Message that has room keeps its buffer.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	m, ok := v.(*Message)
	if !ok {
		return c.typed.Unmarshal(data, v)
	}
	n := data.Len()
	if cap(m.Bytes) < n {
		m.Bytes = make([]byte, n)
	}
	m.Bytes = m.Bytes[:n]
	data.CopyTo(m.Bytes)
	return nil
}

// Name implements encoding.CodecV2.
func (Codec) Name() string { return proto.Name }
