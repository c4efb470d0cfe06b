// Package execchannel is the framing of an exec channel: how our gateway and our supervisor run a command over
// one relay without SSH. The relay is already inside TLS and bound to the sandbox, so a second handshake and
// cipher would only cost time. Other supervisors never see it: a gateway uses it only with a supervisor that
// announced Capability in the metadata of its ConnectSupervisor call.
//
// A channel is one relay whose RelayOpen carries ServiceID. Each RelayFrame.data holds exactly one frame: a type
// byte, then the payload. The gateway sends Start once, then Stdin, StdinEOF, Resize and Cancel; the supervisor
// sends Stdout and Stderr, then Exit or Failed once, and closes its side.
package execchannel

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// MetadataKey is the metadata key of ConnectSupervisor under which a supervisor lists its capabilities.
	MetadataKey = "sallyport-capabilities"
	// Capability is the value that announces this framing.
	Capability = "exec.v1"
	// ServiceID is the value of RelayOpen.service_id that asks for an exec channel.
	ServiceID = "sallyport.exec.v1"
	// MaxPayload bounds a frame's payload in bytes; receivers take up to that much.
	MaxPayload = 64 << 10
	// SendPayload is what senders put into a frame: with its envelopes it just fits the transport's pooled buffers
	// of 32 KiB, whose next size is far larger and cleared for every use.
	SendPayload = 32<<10 - 64
)

// Type is the first byte of a frame.
type Type byte

const (
	// Start carries an encoded sallyport.v1.ExecStart.
	Start Type = 1
	// Stdin carries bytes for the command's standard input.
	Stdin Type = 2
	// StdinEOF closes the command's standard input; no payload.
	StdinEOF Type = 3
	// Resize carries two big-endian uint16: columns, rows.
	Resize Type = 4
	// Cancel ends the command with its whole process group (SIGTERM, then SIGKILL); no payload.
	Cancel Type = 5
	// Stdout carries bytes of standard output.
	Stdout Type = 16
	// Stderr carries bytes of standard error.
	Stderr Type = 17
	// Exit carries a big-endian int32: the exit code, or 128 plus the signal's number.
	Exit Type = 18
	// Failed carries a UTF-8 reason: the command could not be started.
	Failed Type = 19
)

// ErrEmpty reports a frame without a type byte.
var ErrEmpty = errors.New("exec channel: empty frame")

// Frame is one decoded frame. Payload aliases the bytes it was decoded from.
type Frame struct {
	Type    Type
	Payload []byte
}

// Decode splits a relay frame's data.
func Decode(data []byte) (Frame, error) {
	if len(data) == 0 {
		return Frame{}, ErrEmpty
	}
	if len(data) > MaxPayload+1 {
		return Frame{}, fmt.Errorf("exec channel: frame exceeds maximum length (%d > %d)", len(data), MaxPayload+1)
	}
	return Frame{Type: Type(data[0]), Payload: data[1:]}, nil
}

// Encode returns a fresh frame that holds a copy of payload.
func Encode(t Type, payload []byte) []byte {
	out := make([]byte, 1+len(payload))
	out[0] = byte(t)
	copy(out[1:], payload)
	return out
}

// EncodeExit returns an Exit frame.
func EncodeExit(code int32) []byte {
	return binary.BigEndian.AppendUint32([]byte{byte(Exit)}, uint32(code))
}

// ExitCode reads the payload of an Exit frame.
func (f Frame) ExitCode() (int32, error) {
	if f.Type != Exit || len(f.Payload) != 4 {
		return 0, fmt.Errorf("exec channel: malformed exit frame of %d bytes", len(f.Payload))
	}
	return int32(binary.BigEndian.Uint32(f.Payload)), nil
}

// EncodeResize returns a Resize frame.
func EncodeResize(cols, rows uint16) []byte {
	out := []byte{byte(Resize)}
	out = binary.BigEndian.AppendUint16(out, cols)
	return binary.BigEndian.AppendUint16(out, rows)
}

// Size reads the payload of a Resize frame.
func (f Frame) Size() (cols, rows uint16, err error) {
	if f.Type != Resize || len(f.Payload) != 4 {
		return 0, 0, fmt.Errorf("exec channel: malformed resize frame of %d bytes", len(f.Payload))
	}
	return binary.BigEndian.Uint16(f.Payload), binary.BigEndian.Uint16(f.Payload[2:]), nil
}
