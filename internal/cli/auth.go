package cli

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// maxInput bounds a file of claims or a configuration, in bytes; the gateway takes no more.
const maxInput = 1 << 20

func (a *app) authCommand() *cobra.Command {
	return group("auth", "See who may do what, and why", nil, a.explainCommand(), a.previewCommand())
}

// explainFlags are what a question is made of.
type explainFlags struct {
	methods         []string
	issuer, subject string
	claims          string
	denied          bool
}

func (a *app) explainCommand() *cobra.Command {
	var f explainFlags
	c := &cobra.Command{
		Use: "explain", Short: "Tell how the gateway sees you, or somebody else, and what is allowed",
		Long: "Tell which issuer matched, which claims were used, the roles and scopes found, and the rule and verdict of each method.\n\n" +
			"Without flags it is about you. Administrators may ask about an identity that the gateway has seen (--issuer and --subject, as audit\n" +
			"records have them) or about claims of a token that does not exist (--claims FILE, the JSON payload; - reads standard input).",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withSession(c.Context(), func(s *session) error { return a.explainAccess(c.Context(), s.conn, f) })
		},
	}
	c.Flags().StringArrayVar(&f.methods, "method", nil, "method to decide about, such as CreateSandbox; may be repeated; default all")
	c.Flags().StringVar(&f.issuer, "issuer", "", "issuer of the identity to explain")
	c.Flags().StringVar(&f.subject, "subject", "", "subject of the identity to explain")
	c.Flags().StringVar(&f.claims, "claims", "", "file with the claims of a token to explain")
	c.Flags().BoolVar(&f.denied, "denied", false, "show only what is not allowed")
	c.MarkFlagsRequiredTogether("issuer", "subject")
	c.MarkFlagsMutuallyExclusive("issuer", "claims")
	return c
}

// fullMethod completes a method's bare name; most are of the one service of the contract.
func fullMethod(name string) string {
	switch {
	case strings.HasPrefix(name, "/"):
		return name
	case strings.Contains(name, "/"):
		return "/" + name
	default:
		return "/openshell.v1.OpenShell/" + name
	}
}

func (a *app) explainAccess(ctx context.Context, conn grpc.ClientConnInterface, f explainFlags) error {
	req := &sallyportpb.ExplainAccessRequest{Workspace: a.flags.workspace, Issuer: f.issuer, Subject: f.subject}
	for _, m := range f.methods {
		req.Methods = append(req.Methods, fullMethod(m))
	}
	if f.claims != "" {
		raw, err := a.readInput(f.claims)
		if err != nil {
			return err
		}
		req.ClaimsJson = string(raw)
	}
	resp, err := sallyportpb.NewGatewayClient(conn).ExplainAccess(ctx, req)
	if err != nil {
		return err
	}
	if f.denied {
		resp.Verdicts = slices.DeleteFunc(resp.Verdicts, (*sallyportpb.MethodVerdict).GetAllowed)
	}
	if a.out.Structured() {
		return a.out.Value(accessViewOf(resp))
	}
	a.showAccess(resp)
	return nil
}

func (a *app) showAccess(r *sallyportpb.ExplainAccessResponse) {
	list := func(words []string) string {
		if len(words) == 0 {
			return "none"
		}
		return strings.Join(words, ", ")
	}
	memberships := make([]string, 0, len(r.GetWorkspaces()))
	for _, w := range slices.Sorted(maps.Keys(r.GetWorkspaces())) {
		memberships = append(memberships, w+" ("+r.GetWorkspaces()[w]+")")
	}
	pairs := []output.Pair{
		{Key: "Identity", Value: r.GetIssuer() + "|" + r.GetSubject()},
		{Key: "Name", Value: r.GetDisplayName()},
		{Key: "Provider", Value: r.GetIdentityProvider()},
		{Key: "Tenant", Value: r.GetTenant()},
		{Key: "Roles", Value: list(r.GetRoles())},
		{Key: "Scopes", Value: list(r.GetScopes())},
		{Key: "Mode", Value: r.GetMode()},
	}
	if len(memberships) > 0 {
		pairs = append(pairs, output.Pair{Key: "Workspaces", Value: list(memberships)})
	}
	a.out.Pairs(pairs)
	rows := make([][]string, 0, len(r.GetSteps()))
	for _, s := range r.GetSteps() {
		rows = append(rows, []string{s.GetName(), s.GetClaim(), s.GetFound(), s.GetOutcome(), s.GetDetail()})
	}
	a.out.Line("")
	a.out.Table([]string{"STEP", "CLAIM", "FOUND", "OUTCOME", "DETAIL"}, rows)
	rows = rows[:0]
	for _, v := range r.GetVerdicts() {
		verdict, rule := "allowed", v.GetAuthMode()
		if !v.GetAllowed() {
			verdict = "denied: " + v.GetMessage()
		}
		for _, more := range []string{v.GetRequiredRole(), v.GetRequiredScope()} {
			if more != "" {
				rule += " " + more
			}
		}
		rows = append(rows, []string{strings.TrimPrefix(v.GetMethod(), "/"), rule, verdict})
	}
	a.out.Line("")
	a.out.Table([]string{"METHOD", "RULE", "VERDICT"}, rows)
}

func (a *app) previewCommand() *cobra.Command {
	return &cobra.Command{
		Use: "preview FILE", Short: "Tell who would lose or gain access with another configuration file (administrators only)",
		Long: "Tell, before a configuration file is put in force, whose access it would change among the identities that the gateway has\n" +
			"seen since it started. The gateway's own flags and variables stay as they are. - reads standard input.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := a.readInput(args[0])
			if err != nil {
				return err
			}
			return a.withSession(c.Context(), func(s *session) error { return a.previewAccess(c.Context(), s.conn, raw) })
		},
	}
}

func (a *app) previewAccess(ctx context.Context, conn grpc.ClientConnInterface, file []byte) error {
	resp, err := sallyportpb.NewGatewayClient(conn).PreviewAccess(ctx, &sallyportpb.PreviewAccessRequest{ConfigToml: string(file)})
	if err != nil {
		return err
	}
	if a.out.Structured() {
		return a.out.Value(previewViewOf(resp))
	}
	rows := make([][]string, 0, len(resp.GetChanges()))
	for _, c := range resp.GetChanges() {
		rows = append(rows, []string{
			c.GetIssuer() + "|" + c.GetSubject(), c.GetDisplayName(), summary(c.GetLost()), summary(c.GetGained()), c.GetRefused(),
		})
	}
	if len(rows) > 0 {
		a.out.Table([]string{"IDENTITY", "NAME", "LOSES", "GAINS", "REMARK"}, rows)
	}
	a.out.Line("%d identities change, %d keep what they have.", len(rows), resp.GetUnchanged())
	return nil
}

// summary names a few methods and counts the others.
func summary(methods []string) string {
	const shown = 3
	names := make([]string, 0, shown)
	for i, m := range methods {
		if i == shown {
			return fmt.Sprintf("%s and %d more", strings.Join(names, ", "), len(methods)-shown)
		}
		names = append(names, m[strings.LastIndexByte(m, '/')+1:])
	}
	return strings.Join(names, ", ")
}

// readInput reads a file, or standard input for "-".
func (a *app) readInput(name string) ([]byte, error) {
	from := a.opts.Stdio.In
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		from = f
	}
	raw, err := io.ReadAll(io.LimitReader(from, maxInput+1))
	if err == nil && len(raw) > maxInput {
		err = fmt.Errorf("%s is larger than %d bytes", name, maxInput)
	}
	return raw, err
}

// Views of the answers, for programs.
type (
	accessView struct {
		Kind       string            `json:"kind"`
		Issuer     string            `json:"issuer"`
		Subject    string            `json:"subject"`
		Name       string            `json:"display_name,omitempty"`
		Provider   string            `json:"identity_provider,omitempty"`
		Tenant     string            `json:"tenant,omitempty"`
		Roles      []string          `json:"roles"`
		Scopes     []string          `json:"scopes"`
		Mode       string            `json:"mode"`
		Workspaces map[string]string `json:"workspaces,omitempty"`
		Steps      []stepView        `json:"steps"`
		Verdicts   []verdictView     `json:"verdicts"`
	}
	stepView struct {
		Name    string `json:"name"`
		Claim   string `json:"claim,omitempty"`
		Found   string `json:"found,omitempty"`
		Outcome string `json:"outcome"`
		Detail  string `json:"detail,omitempty"`
	}
	verdictView struct {
		Method  string `json:"method"`
		Allowed bool   `json:"allowed"`
		Reason  string `json:"reason,omitempty"`
		Message string `json:"message,omitempty"`
		Mode    string `json:"auth_mode"`
		Role    string `json:"required_role,omitempty"`
		Scope   string `json:"required_scope,omitempty"`
	}
	previewView struct {
		Changes   []changeView `json:"changes"`
		Unchanged int32        `json:"unchanged"`
	}
	changeView struct {
		Issuer  string   `json:"issuer"`
		Subject string   `json:"subject"`
		Name    string   `json:"display_name,omitempty"`
		Lost    []string `json:"lost"`
		Gained  []string `json:"gained"`
		Refused string   `json:"refused,omitempty"`
	}
)

func accessViewOf(r *sallyportpb.ExplainAccessResponse) accessView {
	v := accessView{
		Kind: r.GetKind(), Issuer: r.GetIssuer(), Subject: r.GetSubject(), Name: r.GetDisplayName(), Provider: r.GetIdentityProvider(),
		Tenant: r.GetTenant(), Roles: append([]string{}, r.GetRoles()...), Scopes: append([]string{}, r.GetScopes()...),
		Mode: r.GetMode(), Workspaces: r.GetWorkspaces(), Steps: []stepView{}, Verdicts: []verdictView{},
	}
	for _, s := range r.GetSteps() {
		v.Steps = append(v.Steps, stepView{s.GetName(), s.GetClaim(), s.GetFound(), s.GetOutcome(), s.GetDetail()})
	}
	for _, d := range r.GetVerdicts() {
		v.Verdicts = append(v.Verdicts, verdictView{
			d.GetMethod(), d.GetAllowed(), d.GetReason(), d.GetMessage(), d.GetAuthMode(), d.GetRequiredRole(), d.GetRequiredScope(),
		})
	}
	return v
}

func previewViewOf(r *sallyportpb.PreviewAccessResponse) previewView {
	v := previewView{Changes: []changeView{}, Unchanged: r.GetUnchanged()}
	for _, c := range r.GetChanges() {
		v.Changes = append(v.Changes, changeView{
			c.GetIssuer(), c.GetSubject(), c.GetDisplayName(), append([]string{}, c.GetLost()...), append([]string{}, c.GetGained()...), c.GetRefused(),
		})
	}
	return v
}
