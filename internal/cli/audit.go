package cli

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/audit"
	"sallyport.dev/sallyport/internal/audit/export"
	"sallyport.dev/sallyport/internal/cli/output"
)

// auditPage is how many records one call asks for.
const auditPage = 500

// recentAudit is how far back `audit list` looks by default.
const recentAudit = "24h"

// auditView is a record of the audit log.
type auditView struct {
	Sequence  uint64            `json:"sequence"`
	Time      string            `json:"time"`
	Actor     string            `json:"actor"`
	ActorKind string            `json:"actor_kind"`
	Tenant    string            `json:"tenant,omitempty"`
	Action    string            `json:"action"`
	Target    string            `json:"target,omitempty"`
	Verdict   string            `json:"verdict"`
	Reason    string            `json:"reason,omitempty"`
	RequestID string            `json:"request_id,omitempty"`
	Remote    string            `json:"remote,omitempty"`
	Details   map[string]string `json:"details,omitempty"`
	Hash      string            `json:"hash"`
}

// auditFlags select records.
type auditFlags struct {
	since, until                                      string
	actor, action, target, verdict, reason, requestID string
}

func (a *app) auditCommand() *cobra.Command {
	return group("audit", "Search, export and verify the gateway's audit log", nil,
		a.auditListCommand(), a.auditExportCommand(), a.auditVerifyCommand())
}

func (f *auditFlags) register(c *cobra.Command, since string) {
	fl := c.Flags()
	fl.StringVar(&f.since, "since", "", "only records from then on: a time before now, as 30s, 5m, 24h or 7d, or an RFC 3339 time"+since)
	fl.StringVar(&f.until, "until", "", "only records before then, in the forms of --since")
	fl.StringVar(&f.actor, "actor", "", "only records of an actor: \"issuer|subject\", \"sandbox/ID\", \"anonymous\" or \"gateway\"")
	fl.StringVar(&f.action, "action", "", "only records of an action: a full method, or a name such as session.open")
	fl.StringVar(&f.target, "target", "", "only records about a target, such as sandbox/default/NAME")
	fl.StringVar(&f.verdict, "verdict", "", "only records with a verdict: allowed, denied or failed")
	fl.StringVar(&f.reason, "reason", "", "only records with a reason, such as ROLE_MISSING")
	fl.StringVar(&f.requestID, "request-id", "", "only records of a request")
}

// request is what the flags ask for.
func (f *auditFlags) request(now time.Time) (*sallyportpb.ListAuditRecordsRequest, error) {
	since, err := momentMillis("--since", f.since, now)
	if err != nil {
		return nil, err
	}
	until, err := momentMillis("--until", f.until, now)
	if err != nil {
		return nil, err
	}
	if until > 0 && since >= until {
		return nil, usagef("--until must be later than --since")
	}
	switch f.verdict {
	case "", audit.Allowed, audit.Denied, audit.Failed:
	default:
		return nil, usagef("invalid --verdict %q: use allowed, denied or failed", f.verdict)
	}
	return &sallyportpb.ListAuditRecordsRequest{
		SinceMs: since, UntilMs: until, Actor: f.actor, Action: f.action, Target: f.target, Verdict: f.verdict,
		Reason: f.reason, RequestId: f.requestID, PageSize: auditPage,
	}, nil
}

// momentMillis reads a time before now or an absolute one, in milliseconds since 1970; 0 for none.
func momentMillis(flag, s string, now time.Time) (int64, error) {
	if s == "" {
		return 0, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil && t.UnixMilli() > 0 {
		return t.UnixMilli(), nil
	}
	if days, ok := strings.CutSuffix(s, "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			return max(1, now.Add(-time.Duration(n)*24*time.Hour).UnixMilli()), nil
		}
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return max(1, now.Add(-d).UnixMilli()), nil
	}
	return 0, usagef("invalid %s %q: use a time before now, as 30s, 5m, 24h or 7d, or an RFC 3339 time", flag, s)
}

// eachAuditRecord gives the matching records to take, page by page, until take says that it has enough.
func eachAuditRecord(ctx context.Context, conn grpc.ClientConnInterface, req *sallyportpb.ListAuditRecordsRequest,
	take func([]*sallyportpb.AuditRecord) (more bool, err error),
) error {
	client := sallyportpb.NewGatewayClient(conn)
	for {
		resp, err := client.ListAuditRecords(ctx, req)
		if err != nil {
			return err
		}
		if len(resp.GetRecords()) > 0 {
			if more, err := take(resp.GetRecords()); err != nil || !more {
				return err
			}
		}
		if resp.GetNextPageToken() == "" {
			return nil
		}
		req.PageToken = resp.GetNextPageToken()
	}
}

func (a *app) auditListCommand() *cobra.Command {
	var f auditFlags
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List records of the audit log, oldest first (administrators only)", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if f.since == "" && f.until == "" && f.requestID == "" {
				f.since = recentAudit
			}
			if limit < 1 {
				return usagef("--limit must be at least 1")
			}
			req, err := f.request(time.Now())
			if err != nil {
				return err
			}
			return a.withSession(c.Context(), func(s *session) error { return a.listAudit(c.Context(), s.conn, req, limit) })
		},
	}
	f.register(c, "; default "+recentAudit+" without --until and --request-id")
	c.Flags().IntVar(&limit, "limit", 1000, "show at most so many records")
	return c
}

func (a *app) listAudit(ctx context.Context, conn grpc.ClientConnInterface, req *sallyportpb.ListAuditRecordsRequest, limit int) error {
	var records []*sallyportpb.AuditRecord
	// One more than is shown tells whether there are more.
	err := eachAuditRecord(ctx, conn, req, func(page []*sallyportpb.AuditRecord) (bool, error) {
		records = append(records, page...)
		return len(records) <= limit, nil
	})
	if err != nil {
		return err
	}
	if len(records) > limit {
		records = records[:limit]
		a.out.Note("note: more records match; narrow the search or raise --limit")
	}
	if a.out.Structured() {
		views := make([]auditView, 0, len(records))
		for _, r := range records {
			views = append(views, viewAudit(r))
		}
		return a.out.Value(views)
	}
	if len(records) == 0 {
		a.out.Line("No audit records found.")
		return nil
	}
	rows := make([][]string, 0, len(records))
	for _, r := range records {
		action := r.GetAction()[strings.LastIndexByte(r.GetAction(), '/')+1:]
		reason := r.GetReason()
		if n := r.GetDetails()[audit.DetailRepeated]; n != "" {
			reason += " x" + n
		}
		rows = append(rows, []string{
			strconv.FormatUint(r.GetSequence(), 10), auditTime(r), r.GetVerdict(), action, r.GetTarget(), r.GetActor(),
			reason, r.GetRemote(), r.GetRequestId(),
		})
	}
	a.out.Table([]string{"SEQUENCE", "TIME", "VERDICT", "ACTION", "TARGET", "ACTOR", "REASON", "REMOTE", "REQUEST_ID"}, rows)
	return nil
}

func auditTime(r *sallyportpb.AuditRecord) string {
	return time.UnixMilli(r.GetTimeMs()).UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func viewAudit(r *sallyportpb.AuditRecord) auditView {
	return auditView{
		Sequence: r.GetSequence(), Time: auditTime(r), Actor: r.GetActor(), ActorKind: r.GetActorKind(), Tenant: r.GetTenant(),
		Action: r.GetAction(), Target: r.GetTarget(), Verdict: r.GetVerdict(), Reason: r.GetReason(), RequestID: r.GetRequestId(),
		Remote: r.GetRemote(), Details: r.GetDetails(), Hash: r.GetHash(),
	}
}

// auditRecord is a record as the exporters take it.
func auditRecord(r *sallyportpb.AuditRecord) audit.Record {
	out := audit.Record{
		Sequence: r.GetSequence(), Time: time.UnixMilli(r.GetTimeMs()), Actor: r.GetActor(), ActorKind: r.GetActorKind(),
		Tenant: r.GetTenant(), Action: r.GetAction(), Target: r.GetTarget(), Verdict: r.GetVerdict(), Reason: r.GetReason(),
		RequestID: r.GetRequestId(), Remote: r.GetRemote(), Details: r.GetDetails(),
	}
	// A hash that cannot be read is none.
	if sum, err := hex.DecodeString(r.GetHash()); err == nil && len(sum) == len(out.Hash) {
		copy(out.Hash[:], sum)
	}
	return out
}

func (a *app) auditExportCommand() *cobra.Command {
	var f auditFlags
	var format, endpoint string
	c := &cobra.Command{
		Use: "export", Short: "Export the audit log in the form of another system (administrators only)",
		Long: "Export records of the audit log, oldest first.\n\n" +
			"json   one record a line\n" +
			"ocsf   one event of the Open Cybersecurity Schema Framework a line\n" +
			"otlp   requests of the OpenTelemetry protocol, one a line; with --endpoint they are sent there instead",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			req, err := f.request(time.Now())
			if err != nil {
				return err
			}
			take, done, err := a.auditExporter(c.Context(), format, endpoint)
			if err != nil {
				return err
			}
			err = a.withSession(c.Context(), func(s *session) error { return eachAuditRecord(c.Context(), s.conn, req, take) })
			if doneErr := done(); err == nil {
				err = doneErr
			}
			return err
		},
	}
	f.register(c, "")
	c.Flags().StringVar(&format, "format", "json", "form of the records: json, ocsf or otlp")
	c.Flags().StringVar(&endpoint, "endpoint", "", "send OTLP to a receiver at this base URL instead of printing it")
	return c
}

type takeAudit = func([]*sallyportpb.AuditRecord) (more bool, err error)

// auditExporter returns what is done with each page, and at the end.
func (a *app) auditExporter(ctx context.Context, format, endpoint string) (take takeAudit, done func() error, err error) {
	if endpoint != "" && format != "otlp" {
		return nil, nil, usagef("--endpoint needs --format otlp")
	}
	if endpoint != "" {
		return a.auditSender(ctx, endpoint)
	}
	out := bufio.NewWriter(a.opts.Stdio.Out)
	line := func(v any) error {
		data, ok := v.([]byte)
		if !ok {
			var err error
			if data, err = json.Marshal(v); err != nil {
				return fmt.Errorf("encode an audit record: %w", err)
			}
		}
		if _, err := out.Write(append(data, '\n')); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return nil
	}
	var convert func(*sallyportpb.AuditRecord) any
	switch format {
	case "json":
		convert = func(r *sallyportpb.AuditRecord) any { return viewAudit(r) }
	case "ocsf":
		convert = func(r *sallyportpb.AuditRecord) any {
			record := auditRecord(r)
			return export.OCSF(&record, "")
		}
	case "otlp":
		return func(page []*sallyportpb.AuditRecord) (bool, error) {
			data, err := export.Request(auditRecords(page), export.Origin{})
			if err != nil {
				return false, err
			}
			return true, line(data)
		}, out.Flush, nil
	default:
		return nil, nil, usagef("invalid --format %q: use json, ocsf or otlp", format)
	}
	return func(page []*sallyportpb.AuditRecord) (bool, error) {
		for _, r := range page {
			if err := line(convert(r)); err != nil {
				return false, err
			}
		}
		return true, nil
	}, out.Flush, nil
}

func auditRecords(page []*sallyportpb.AuditRecord) []audit.Record {
	records := make([]audit.Record, 0, len(page))
	for _, r := range page {
		records = append(records, auditRecord(r))
	}
	return records
}

// auditSender sends pages to a receiver.
func (a *app) auditSender(ctx context.Context, endpoint string) (take takeAudit, done func() error, err error) {
	sender, err := export.NewSender(endpoint, nil, export.Origin{}, nil)
	if err != nil {
		return nil, nil, usagef("invalid --endpoint: %v", err)
	}
	var sent, rejected int64
	take = func(page []*sallyportpb.AuditRecord) (bool, error) {
		n, err := sender.Send(ctx, auditRecords(page))
		if err != nil {
			return false, failure("check the receiver, then export again from where this stopped",
				"%d records were sent; sending those from record %d failed: %v", sent, page[0].GetSequence(), err)
		}
		sent, rejected = sent+int64(len(page)), rejected+n
		return true, nil
	}
	return take, func() error {
		sender.Close()
		a.out.Note("%d records sent, %d of them rejected by the receiver", sent, rejected)
		return nil
	}, nil
}

// verifyView is what `audit verify` found.
type verifyView struct {
	OK          bool                `json:"ok"`
	Files       int                 `json:"files"`
	Records     int                 `json:"records"`
	Checkpoints int                 `json:"checkpoints"`
	First       uint64              `json:"first"`
	Last        uint64              `json:"last"`
	Pruned      uint64              `json:"pruned,omitempty"`
	Head        string              `json:"head"`
	Signed      uint64              `json:"signed"`
	Torn        int                 `json:"torn_bytes,omitempty"`
	Problems    []verifyProblemView `json:"problems"`
	More        int                 `json:"more_problems,omitempty"`
}

type verifyProblemView struct {
	File string `json:"file"`
	Line int    `json:"line,omitempty"`
	Text string `json:"text"`
}

func (a *app) auditVerifyCommand() *cobra.Command {
	var keyFiles []string
	c := &cobra.Command{
		Use: "verify DIR|FILE...", Short: "Verify files of an audit log offline",
		Long: "Verify files of an audit log without a gateway: that no record was altered, removed, added or moved.\n\n" +
			"With --public-key the signed checkpoints are checked too; without it, a log that somebody wrote anew from some\n" +
			"record to its end passes. The key is beside the gateway's other keys, in audit.key.pub; get it from there by a\n" +
			"way that whoever may write the log does not control.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			var keys []ed25519.PublicKey
			for _, path := range keyFiles {
				raw, err := os.ReadFile(path)
				if err != nil {
					return failure("", "read the public key: %v", err)
				}
				key, err := audit.ParsePublicKey(raw)
				if err != nil {
					return failure("give the file audit.key.pub of the gateway", "%s: %v", path, err)
				}
				keys = append(keys, key)
			}
			report, err := audit.Verify(args, keys...)
			if err != nil {
				return failure("give the folder of the audit log, or its files", "verify the audit log: %v", err)
			}
			return a.showVerified(report, len(keys) > 0)
		},
	}
	c.Flags().StringArrayVar(&keyFiles, "public-key", nil, "file of the key that signs the checkpoints; repeatable, for keys used one after the other")
	return c
}

func (a *app) showVerified(r *audit.Report, keyed bool) error {
	v := verifyView{
		OK: r.OK(), Files: r.Files, Records: r.Records, Checkpoints: r.Checkpoints, First: r.First, Last: r.Last,
		Pruned: r.Pruned, Head: hex.EncodeToString(r.Head[:]), Signed: r.Signed, Torn: r.Torn, More: r.More,
		Problems: []verifyProblemView{},
	}
	for _, p := range r.Problems {
		v.Problems = append(v.Problems, verifyProblemView(p))
	}
	if a.out.Structured() {
		if err := a.out.Value(v); err != nil {
			return err
		}
	} else {
		a.describeVerified(&v, keyed)
	}
	if !v.OK {
		return exitWith(exitFailed)
	}
	return nil
}

func (a *app) describeVerified(v *verifyView, keyed bool) {
	result := "intact"
	if !v.OK {
		result = "NOT intact"
	}
	signed := "not checked; give --public-key"
	if keyed {
		signed = fmt.Sprintf("up to record %d", v.Signed)
	}
	a.out.Pairs([]output.Pair{
		{Key: "Result", Value: result},
		{Key: "Files", Value: strconv.Itoa(v.Files)},
		{Key: "Records", Value: fmt.Sprintf("%d (%d to %d)", v.Records, v.First, v.Last)},
		{Key: "Signatures", Value: signed},
		{Key: "Head", Value: v.Head},
	})
	if v.Pruned > 0 {
		a.out.Note("note: the first %d records are gone with older files", v.Pruned)
	}
	if v.Torn > 0 {
		a.out.Note("note: the log ends with an unfinished line of %d bytes, as a gateway that runs or was killed leaves it", v.Torn)
	}
	for _, p := range v.Problems {
		a.out.Note("problem: %s:%d: %s", p.File, p.Line, p.Text)
	}
	if v.More > 0 {
		a.out.Note("and %d problems more", v.More)
	}
}
