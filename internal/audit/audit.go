// Package audit keeps one record for each state change, denial, disclosure of a credential and opening or closing of
// a session. Records form a hash chain that can be verified offline, and checkpoints signed with the log's own key
// tell a rewritten chain from the true one; docs/audit.md describes both. The package knows no method and no service;
// what it is told, it keeps in order and gives back. It must never be told a secret: records hold names, not values.
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
	ActionDisclose     = "credential.disclose"
	ActionConfigReload = "config.reload"
	ActionStart        = "gateway.start"
	ActionStop         = "gateway.stop"
	// ActionChainBroken says that the log found its own files altered or damaged; details name the file and the place.
	ActionChainBroken = "audit.chain_broken"
	// ActionLost says how many records could not be kept, because the disk did not take them in time.
	ActionLost = "audit.lost"
)

// Gateway is the actor, and the kind of actor, of what the gateway does by itself.
const Gateway = "gateway"

// Various stands for the actor, action, reason and remote of denials that were too many to be told apart.
const Various = "various"

// Keys of details that the log itself sets.
const (
	// DetailRepeated is how many denials like this one were left out since the last record of them.
	DetailRepeated = "repeated"
	// DetailSince is when the first of the denials left out happened, in RFC 3339.
	DetailSince = "since"
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
