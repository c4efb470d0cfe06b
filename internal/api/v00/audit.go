package v00

import (
	"context"
	"encoding/hex"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/peer"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/sandbox"
)

// AuditLog is searched by ListAuditRecords.
type AuditLog interface {
	Search(ctx context.Context, f audit.Filter) (audit.Page, error)
}

// auditHandler serves searches of the audit log.
type auditHandler struct {
	svc Services
}

// ListAuditRecords searches the audit log, oldest record first. since_ms is included, until_ms is not. A page may hold
// fewer records than were asked for, or none, and still not be the last: one call reads only so much of the log.
func (h auditHandler) ListAuditRecords(ctx context.Context, req *sallyportpb.ListAuditRecordsRequest) (*sallyportpb.ListAuditRecordsResponse, error) {
	if h.svc.Audit == nil {
		return nil, fault.New(fault.FailedPrecondition, "AUDIT_OFF", "this gateway keeps no audit log").
			WithNext("switch the audit log on in the gateway's configuration")
	}
	filter, err := filterFromWire(req)
	if err != nil {
		return nil, err
	}
	page, err := h.svc.Audit.Search(ctx, filter)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fault.Wrap(context.Cause(ctx), fault.Canceled, "CALLER_GONE", "the caller ended the call")
		}
		return nil, fault.Wrap(err, fault.Unavailable, "AUDIT_UNREADABLE", "the audit log cannot be read").
			WithNext("see the gateway's log, then try again")
	}
	resp := &sallyportpb.ListAuditRecordsResponse{Records: make([]*sallyportpb.AuditRecord, len(page.Records))}
	for i := range page.Records {
		resp.Records[i] = auditToWire(&page.Records[i])
	}
	if page.Next > 0 {
		resp.NextPageToken = strconv.FormatUint(page.Next, 10)
	}
	return resp, nil
}

func filterFromWire(req *sallyportpb.ListAuditRecordsRequest) (audit.Filter, error) {
	f := audit.Filter{
		Actor: req.Actor, Action: req.Action, Target: req.Target, Verdict: req.Verdict, Reason: req.Reason,
		RequestID: req.RequestId, Limit: int(req.PageSize),
	}
	switch {
	case req.SinceMs < 0 || req.UntilMs < 0:
		return f, fault.New(fault.InvalidArgument, "TIME_RANGE", "since_ms and until_ms must not be negative")
	case req.UntilMs > 0 && req.SinceMs >= req.UntilMs:
		return f, fault.New(fault.InvalidArgument, "TIME_RANGE", "until_ms must be later than since_ms")
	case req.PageSize < 0:
		return f, fault.New(fault.InvalidArgument, "PAGE_SIZE", "page_size must not be negative")
	case !slices.Contains([]string{"", audit.Allowed, audit.Denied, audit.Failed}, req.Verdict):
		return f, fault.New(fault.InvalidArgument, "VERDICT", "verdict must be allowed, denied or failed")
	}
	if req.SinceMs > 0 {
		f.Since = time.UnixMilli(req.SinceMs)
	}
	if req.UntilMs > 0 {
		f.Until = time.UnixMilli(req.UntilMs)
	}
	if req.PageToken != "" {
		after, err := strconv.ParseUint(req.PageToken, 10, 64)
		if err != nil || after == 0 {
			return f, fault.New(fault.InvalidArgument, "PAGE_TOKEN", "page_token is not one that this gateway gave").
				WithNext("begin without a page_token")
		}
		f.After = after
	}
	return f, nil
}

func auditToWire(r *audit.Record) *sallyportpb.AuditRecord {
	return &sallyportpb.AuditRecord{
		Sequence: r.Sequence, TimeMs: millis(r.Time), Actor: r.Actor, ActorKind: r.ActorKind, Tenant: r.Tenant,
		Action: r.Action, Target: r.Target, Verdict: r.Verdict, Reason: r.Reason, RequestId: r.RequestID,
		Remote: r.Remote, Details: r.Details, Hash: hex.EncodeToString(r.Hash[:]),
	}
}

// recorderOf returns the recorder of the services, one that drops everything if there is none.
func recorderOf(svc Services) audit.Recorder {
	if svc.Recorder == nil {
		return audit.Discard{}
	}
	return svc.Recorder
}

// byCaller begins a record of something that the caller of ctx did and was allowed to do.
func byCaller(ctx context.Context, action, target string) audit.Record {
	p := principal.From(ctx)
	r := audit.Record{
		Time: time.Now(), Actor: p.Actor(), ActorKind: p.Kind.String(), Tenant: p.Tenant, Action: action, Target: target,
		Verdict: audit.Allowed, RequestID: door.RequestID(ctx),
	}
	if from, ok := peer.FromContext(ctx); ok && from.Addr != nil {
		if host, _, err := net.SplitHostPort(from.Addr.String()); err == nil {
			r.Remote = host
		}
	}
	return r
}

// recordDisclosure records that a sandbox was given values of credentials: one record a provider, so that the log can
// be searched for who got what a provider holds. Names only.
func recordDisclosure(ctx context.Context, to audit.Recorder, sb *sandbox.Sandbox, env *provider.Environment) {
	keys := map[string][]string{}
	for _, key := range slices.Sorted(maps.Keys(env.Origins)) {
		o := env.Origins[key]
		name := key
		if o.Credential != "" {
			name += "=" + o.Credential
		}
		keys[o.Provider] = append(keys[o.Provider], name)
	}
	for _, name := range slices.Sorted(maps.Keys(keys)) {
		r := byCaller(ctx, audit.ActionDisclose, "provider/"+sb.Object.Workspace+"/"+name)
		r.Details = map[string]string{
			"sandbox": "sandbox/" + sb.Object.Workspace + "/" + sb.Object.Name, "count": strconv.Itoa(len(keys[name])),
		}
		for i, part := range packed(keys[name]) {
			r.Details["credentials_"+strconv.Itoa(i+1)] = part
		}
		to.Record(r)
	}
}

// recordToken records that the caller, a sandbox, was given a token of its own, and what it showed for it.
func recordToken(ctx context.Context, to audit.Recorder) {
	p := principal.From(ctx)
	r := byCaller(ctx, audit.ActionDisclose, "sandbox/"+p.SandboxID)
	r.Details = map[string]string{"credential": "sandbox token", "for": p.Source}
	to.Record(r)
}

// Bounds of the names in a record of a disclosure.
const (
	maxNames     = 250
	maxNameParts = 12
)

// packed joins names into texts that fit into details; what does not fit is only counted.
func packed(names []string) []string {
	var out []string
	var part strings.Builder
	for _, name := range names {
		if part.Len() > 0 && part.Len()+1+len(name) > maxNames {
			out = append(out, part.String())
			part.Reset()
		}
		if part.Len() > 0 {
			part.WriteByte(',')
		}
		part.WriteString(name)
	}
	if part.Len() > 0 {
		out = append(out, part.String())
	}
	return out[:min(len(out), maxNameParts)]
}
