package cli

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/sallyportpb"
)

// revocationPage is how many revocations one call asks for.
const revocationPage = 500

// sandboxActor is how audit records name a sandbox, before its id.
const sandboxActor = "sandbox/"

// revocationView is a revocation as programs see it.
type revocationView struct {
	ID           string `json:"id"`
	Issuer       string `json:"issuer,omitempty"`
	Subject      string `json:"subject,omitempty"`
	SandboxID    string `json:"sandbox_id,omitempty"`
	SessionID    string `json:"session_id,omitempty"`
	Reason       string `json:"reason,omitempty"`
	IssuedBefore bool   `json:"issued_before"`
	ExpiresAt    string `json:"expires_at,omitempty"`
	CreatedAt    string `json:"created_at"`
	CreatedBy    string `json:"created_by"`
	// StreamsEnded is there after a revocation only.
	StreamsEnded *int32 `json:"streams_ended,omitempty"`
}

func viewRevocation(r *sallyportpb.Revocation) revocationView {
	return revocationView{
		ID: r.GetId(), Issuer: r.GetIssuer(), Subject: r.GetSubject(), SandboxID: r.GetSandboxId(), SessionID: r.GetSessionId(),
		Reason: r.GetReason(), IssuedBefore: r.GetIssuedBefore(), ExpiresAt: rfc3339(r.GetExpiresAtMs()),
		CreatedAt: rfc3339(r.GetCreatedAtMs()), CreatedBy: r.GetCreatedBy(),
	}
}

// whom words the target as audit records do.
func (v revocationView) whom() string {
	switch {
	case v.SandboxID != "":
		return sandboxActor + v.SandboxID
	case v.SessionID != "":
		return "session " + v.SessionID + " of " + v.Issuer
	default:
		return v.Issuer + "|" + v.Subject
	}
}

func (a *app) accessCommand() *cobra.Command {
	return group("access", "Take access away from users, sessions and sandboxes, and give it back (administrators only)", nil,
		a.revokeCommand(), a.restoreCommand(), a.revocationsCommand())
}

type revokeFlags struct {
	issuer, subject, session, sandbox string
	reason, lasts                     string
	issuedBefore                      bool
}

func (a *app) revokeCommand() *cobra.Command {
	var f revokeFlags
	c := &cobra.Command{
		Use: "revoke [ACTOR] [flags]", Short: "Refuse a user, a session or a sandbox from now on, and end its open streams",
		Long: "Refuse a user, a session or a sandbox from now on, and end its open streams.\n\n" +
			"ACTOR is a user or a sandbox as audit records name them, \"issuer|subject\" or \"sandbox/ID\". Instead, --subject or\n" +
			"--session name a user or a sign-in session (the claims sub and sid of its tokens), and --sandbox a sandbox by its\n" +
			"name. A revoked sandbox is not deleted. Revoking again replaces reason, end and moment.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				want, err := a.revocationOf(c.Context(), s, firstArg(args), f)
				if err != nil {
					return err
				}
				return a.revoke(c.Context(), s, want)
			})
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.issuer, "issuer", "", "identity provider of --subject or --session (default: the one you sign in with)")
	fl.StringVar(&f.subject, "subject", "", "user to refuse")
	fl.StringVar(&f.session, "session", "", "sign-in session to refuse")
	fl.StringVar(&f.sandbox, "sandbox", "", "sandbox to refuse, by its name")
	fl.StringVar(&f.reason, "reason", "", "why, for people")
	fl.StringVar(&f.lasts, "for", "", "how long, as 30m, 24h or 7d (default: until it is restored)")
	fl.BoolVar(&f.issuedBefore, "issued-before", false, "refuse only tokens issued before now, so that signing in again helps")
	return c
}

// revocationOf is what the command line asks for. Whether it makes sense, the gateway decides.
func (a *app) revocationOf(ctx context.Context, s *session, actor string, f revokeFlags) (*sallyportpb.Revocation, error) {
	r := &sallyportpb.Revocation{Reason: f.reason, IssuedBefore: f.issuedBefore}
	named := 0
	for _, v := range []string{actor, f.subject, f.session, f.sandbox} {
		if v != "" {
			named++
		}
	}
	if named != 1 {
		return nil, usagef("name exactly one: ACTOR, --subject, --session or --sandbox")
	}
	if f.lasts != "" {
		d, err := lifetime(f.lasts)
		if err != nil {
			return nil, err
		}
		r.ExpiresAtMs = time.Now().Add(d).UnixMilli()
	}
	id, isSandbox := strings.CutPrefix(actor, sandboxActor)
	issuer, subject, isUser := strings.Cut(actor, "|")
	switch {
	case f.sandbox != "":
		sb, err := a.getSandbox(ctx, s, f.sandbox)
		if err != nil {
			return nil, err
		}
		r.SandboxId = sb.GetMetadata().GetId()
	case isSandbox:
		r.SandboxId = id
	case isUser:
		r.Issuer, r.Subject = issuer, subject
	case actor != "":
		return nil, usagef("invalid actor %q: use \"issuer|subject\" or \"sandbox/ID\"", actor)
	default:
		r.Subject, r.SessionId, r.Issuer = f.subject, f.session, orWord(f.issuer, s.ref.meta.OIDCIssuer)
		if r.Issuer == "" {
			return nil, usagef("name the identity provider with --issuer")
		}
	}
	return r, nil
}

// lifetime reads a time that is not over at once, as 30m, 24h or 7d.
func lifetime(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if days, ok := strings.CutSuffix(s, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, usagef("invalid --for %q: use a time as 30m, 24h or 7d", s)
	}
	return d, nil
}

func (a *app) revoke(ctx context.Context, s *session, want *sallyportpb.Revocation) error {
	resp, err := sallyportpb.NewGatewayClient(s.conn).Revoke(ctx, &sallyportpb.RevokeRequest{Revocation: want})
	if err != nil {
		return err
	}
	ended := resp.GetStreamsEnded()
	v := viewRevocation(resp.GetRevocation())
	if a.out.Structured() {
		v.StreamsEnded = &ended
		return a.out.Value(v)
	}
	a.out.Line("Revoked: %s (%s)", v.whom(), v.ID)
	a.out.Line("Open streams ended: %d", ended)
	a.out.Note("hint: take it back with `sallyport access restore %s`", v.ID)
	return nil
}

func (a *app) restoreCommand() *cobra.Command {
	return &cobra.Command{
		Use: "restore ID", Short: "Take a revocation back", Args: cobra.ExactArgs(1),
		Long: "Take a revocation back. ID is that of the revocation, see `sallyport access list`.",
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				_, err := sallyportpb.NewGatewayClient(s.conn).Restore(c.Context(), &sallyportpb.RestoreRequest{Id: args[0]})
				if err != nil {
					return err
				}
				if a.out.Structured() {
					return a.out.Value(struct {
						ID       string `json:"id"`
						Restored bool   `json:"restored"`
					}{args[0], true})
				}
				a.out.Line("Restored: %s", args[0])
				return nil
			})
		},
	}
}

func (a *app) revocationsCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List what is revoked, newest first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				return a.listRevocations(c.Context(), sallyportpb.NewGatewayClient(s.conn))
			})
		},
	}
}

func (a *app) listRevocations(ctx context.Context, client sallyportpb.GatewayClient) error {
	views := []revocationView{}
	req := &sallyportpb.ListRevocationsRequest{PageSize: revocationPage}
	for {
		resp, err := client.ListRevocations(ctx, req)
		if err != nil {
			return err
		}
		for _, r := range resp.GetRevocations() {
			views = append(views, viewRevocation(r))
		}
		// A gateway that repeats itself would be asked for ever.
		if next := resp.GetNextPageToken(); next == "" || next == req.PageToken {
			break
		}
		req.PageToken = resp.GetNextPageToken()
	}
	if a.out.Structured() {
		return a.out.Value(views)
	}
	if len(views) == 0 {
		a.out.Line("Nothing is revoked.")
		return nil
	}
	rows := make([][]string, len(views))
	for i, v := range views {
		what := "all"
		if v.IssuedBefore {
			what = "issued before"
		}
		rows[i] = []string{v.ID, v.whom(), what, v.CreatedAt, orWord(v.ExpiresAt, "-"), v.Reason}
	}
	a.out.Table([]string{"ID", "WHO", "CREDENTIALS", "SINCE", "UNTIL", "REASON"}, rows)
	return nil
}
