package door

import (
	"errors"
	"time"

	"google.golang.org/grpc/codes"

	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/callinfo"
	"sallyport.dev/sallyport/internal/fault"
)

// about notes what a call that may be recorded is about.
func (c *call) about(d *Door, message any) {
	if c.rule.Changes() || c.rule.Mode.AdmitsSandbox() {
		c.target = d.describe(c.method, message)
	}
}

// recordBegin records a stream that acts in a sandbox when it begins, so that a gateway that dies meanwhile leaves a
// trace of it.
func (d *Door) recordBegin(c *call) {
	if c.rule.Changes() {
		c.recorded = true
		d.audit.Record(d.recordOf(c, audit.Allowed, ""))
	}
}

// record records a call that ended: every denial, and what changes state. A method that is not known has no record
// unless its caller was refused.
func (d *Door) record(c *call, code codes.Code, err error) {
	verdict := audit.Failed
	switch code {
	case codes.OK:
		if !c.rule.Changes() || c.recorded {
			return
		}
		verdict = audit.Allowed
	case codes.PermissionDenied, codes.Unauthenticated, codes.ResourceExhausted:
		verdict = audit.Denied
	default:
		if !c.rule.Changes() {
			return
		}
	}
	reason := code.String()
	if f, ok := errors.AsType[*fault.Error](err); ok {
		reason = f.Reason
	}
	if code == codes.OK {
		reason = ""
	}
	d.audit.Record(d.recordOf(c, verdict, reason))
}

func (d *Door) recordOf(c *call, verdict, reason string) audit.Record {
	return audit.Record{
		Time: time.Now(), Actor: c.principal.Actor(), ActorKind: c.principal.Kind.String(), Tenant: c.principal.Tenant,
		Action: c.label, Target: c.target, Verdict: verdict, Reason: reason, RequestID: c.requestID, Remote: callinfo.Host(c.remote),
	}
}
