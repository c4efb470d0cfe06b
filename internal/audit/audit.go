// Package audit keeps one record for each state change, denial, disclosure of a credential and opening or closing of
// a session. Records form a hash chain that can be verified offline. The package knows no method and no service; what
// it is told, it keeps in order and gives back. It must never be told a secret: records hold names, not values.
package audit

import "time"

// Verdicts of a record.
const (
	Allowed = "allowed"
	Denied  = "denied"
	// Failed marks a permitted operation that did not succeed.
	Failed = "failed"
)

// Actions of the gateway's own, beside the full names of gRPC methods.
const (
	ActionSessionOpen  = "session.open"
	ActionSessionClose = "session.close"
	ActionStreamEnd    = "stream.end"
	ActionDisclose     = "credential.disclose"
	ActionConfigReload = "config.reload"
	ActionStart        = "gateway.start"
	ActionStop         = "gateway.stop"
)

// Record is one entry. Who fills it in leaves Sequence, Prev and Hash alone.
type Record struct {
	// Sequence is the position in the log, from 1, without gaps.
	Sequence uint64
	Time     time.Time
	// Actor is who acted, as principal.Actor names it, or "gateway".
	Actor string
	// ActorKind is "user", "sandbox", "anonymous" or "gateway".
	ActorKind string
	Tenant    string
	// Action is a full gRPC method or one of the Action constants.
	Action string
	// Target is what was acted on, as "kind/workspace/name" or "kind/id"; empty where there is none.
	Target  string
	Verdict string
	// Reason is the stable reason of a denial or failure.
	Reason    string
	RequestID string
	// Remote is the peer's address without its port.
	Remote string
	// Details are further facts, at most 16, each of at most 256 bytes.
	Details map[string]string
	// Prev and Hash are the chain values of the record before this one and of this one.
	Prev, Hash [32]byte
}

// Recorder takes records. It never blocks for long and never fails towards the caller: a log that cannot be written
// is the log's own to report.
type Recorder interface {
	Record(r Record)
}

// Discard drops every record, for tests and for gateways without an audit log.
type Discard struct{}

// Record implements Recorder.
func (Discard) Record(Record) {}
