// Package relay holds the live connections to supervisors: one session a sandbox, and the relays opened over it.
//
// A relay belongs to one session. When the session ends, for whatever reason, every relay on it ends at once
// with that reason; a relay never moves to another session. Callers address a sandbox, not a session, so that a
// registry that spans several gateways can stand behind the same methods. The package moves bytes and knows
// nothing of what they mean, nor of any wire message.
package relay

import (
	"context"
	"time"
)

// Limits of the registry; the first two follow the reference gateways.
const (
	// MaxPending bounds the relays of one gateway that wait for their supervisor to claim them.
	MaxPending = 256
	// MaxPendingPerSandbox bounds them for one sandbox.
	MaxPendingPerSandbox = 32
	// PlaceTimeout is how long an Open waits while there are as many relays as these limits allow.
	PlaceTimeout = 2 * time.Second
	// MaxPerSandbox bounds the open relays of one sandbox.
	MaxPerSandbox = 512
	// ClaimTimeout is how long a supervisor has to claim a relay.
	ClaimTimeout = 10 * time.Second
	// HeartbeatInterval is what a supervisor is told to keep.
	HeartbeatInterval = 15 * time.Second
	// SilenceLimit is how long a supervisor may stay silent before its session ends.
	SilenceLimit = 3 * HeartbeatInterval
	// beatInterval is how exactly heartbeats are kept.
	beatInterval = time.Second
)

// Target is what the supervisor shall connect a relay to. The zero Target is the sandbox's SSH server.
type Target struct {
	// Host and Port name a loopback TCP address inside the sandbox, if Host is not empty.
	Host string
	Port uint32
	// ServiceID is passed to the supervisor as it is.
	ServiceID string
}

// Message is one control message to a supervisor: exactly one field is set.
type Message struct {
	Heartbeat bool
	Open      *Open
	Close     *Close
}

// Open asks the supervisor to claim a relay and connect it to its target.
type Open struct {
	ChannelID string
	Target    Target
}

// Close tells the supervisor that nobody waits for a relay any more.
type Close struct {
	ChannelID string
	Reason    string
}

// Wire is the supervisor's end of a relay: a stream of messages whose bounds are kept. One goroutine may send
// while another receives. Recv returns io.EOF when the supervisor closed its side.
type Wire interface {
	Send(data []byte) error
	Recv() ([]byte, error)
}

// Hello is what a supervisor says of itself when it connects.
type Hello struct {
	SandboxID  string
	InstanceID string
	// Capabilities are extensions of the protocol that this supervisor announced.
	Capabilities []string
	// Takeover tells whether the session may replace a live one; false for supervisors that proved nothing
	// but a shared secret.
	Takeover bool
}

// Observer is told when a sandbox gains or loses its supervisor. Calls for one sandbox are in order.
type Observer interface {
	Connected(ctx context.Context, sandboxID, sessionID, instanceID string)
	Disconnected(ctx context.Context, sandboxID, sessionID, reason string)
}
