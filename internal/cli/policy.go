package cli

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

func (a *app) policyCommand() *cobra.Command {
	return group("policy", "Show the policies of sandboxes and how they fared", nil,
		a.policyGetCommand(), a.policyListCommand(), a.policyDeleteCommand())
}

// policyLimit is how many revisions a list shows unless asked for more.
const policyLimit = 20

// revisionView is a policy's revision as programs see it.
type revisionView struct {
	Scope         string            `json:"scope"`
	Sandbox       string            `json:"sandbox,omitempty"`
	Version       uint32            `json:"version"`
	Hash          string            `json:"hash"`
	Status        string            `json:"status"`
	ActiveVersion uint32            `json:"active_version,omitempty"`
	CreatedAtMS   int64             `json:"created_at_ms,omitempty"`
	LoadedAtMS    int64             `json:"loaded_at_ms,omitempty"`
	LoadError     string            `json:"load_error,omitempty"`
	Provenance    map[string]string `json:"provenance,omitempty"`
	Policy        json.RawMessage   `json:"policy,omitempty"`
}

// viewRevision leaves out the sandbox's name with --global.
func viewRevision(r *openshellpb.SandboxPolicyRevision, sandbox string) (revisionView, error) {
	v := revisionView{
		Scope: "sandbox", Sandbox: sandbox, Version: r.GetVersion(), Hash: r.GetPolicyHash(), CreatedAtMS: r.GetCreatedAtMs(),
		Status:     strings.ToLower(strings.TrimPrefix(r.GetStatus().String(), "POLICY_STATUS_")),
		LoadedAtMS: r.GetLoadedAtMs(), LoadError: r.GetLoadError(), Provenance: r.GetProvenance(),
	}
	if sandbox == "" {
		v.Scope = "global"
	}
	if r.GetPolicy() == nil {
		return v, nil
	}
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(r.GetPolicy())
	if err != nil {
		return v, fmt.Errorf("show the policy: %w", err)
	}
	v.Policy = raw
	return v, nil
}

// policyTarget returns the name of the sandbox a command is about, empty with --global.
func (a *app) policyTarget(s *session, global bool, args []string) (string, error) {
	if global {
		return "", nil
	}
	return a.sandboxName(s.ref, firstArg(args))
}

func (a *app) policyGetCommand() *cobra.Command {
	var global, full bool
	var version uint32
	c := &cobra.Command{
		Use: "get [NAME]", Short: "Show a revision of a policy", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if global && len(args) > 0 {
				return usagef("--global is about all sandboxes: name none")
			}
			return a.withSession(c.Context(), func(s *session) error {
				name, err := a.policyTarget(s, global, args)
				if err != nil {
					return err
				}
				resp, err := s.shell.GetSandboxPolicyStatus(c.Context(), &openshellpb.GetSandboxPolicyStatusRequest{
					Workspace: a.flags.workspace, Name: name, Global: global, Version: version,
				})
				if err != nil {
					return err
				}
				v, err := viewRevision(resp.GetRevision(), name)
				if err != nil {
					return err
				}
				v.ActiveVersion = resp.GetActiveVersion()
				if a.out.Structured() {
					return a.out.Value(v)
				}
				return a.showRevision(v, full)
			})
		},
	}
	c.Flags().BoolVar(&global, "global", false, "the policy of all sandboxes (administrators of the platform only)")
	c.Flags().Uint32Var(&version, "rev", 0, "which revision; 0 is the newest")
	c.Flags().BoolVar(&full, "full", false, "print the policy itself, too")
	return c
}

func (a *app) showRevision(v revisionView, full bool) error {
	pairs := []output.Pair{
		{Key: "Version", Value: fmt.Sprint(v.Version)},
		{Key: "Hash", Value: v.Hash},
		{Key: "Status", Value: v.Status},
		{Key: "Active version", Value: fmt.Sprint(v.ActiveVersion)},
		{Key: "Created", Value: rfc3339(v.CreatedAtMS)},
		{Key: "Loaded", Value: rfc3339(v.LoadedAtMS)},
		{Key: "Load error", Value: v.LoadError},
	}
	a.out.Pairs(pairs)
	if !full {
		return nil
	}
	var policy any
	if err := json.Unmarshal(v.Policy, &policy); err != nil {
		return fmt.Errorf("show the policy: %w", err)
	}
	text, err := json.MarshalIndent(policy, "", "  ")
	if err != nil {
		return fmt.Errorf("show the policy: %w", err)
	}
	a.out.Line("%s", text)
	return nil
}

func (a *app) policyListCommand() *cobra.Command {
	req := &openshellpb.ListSandboxPoliciesRequest{}
	c := &cobra.Command{
		Use: "list [NAME]", Short: "List the revisions of a policy, newest first", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if req.GetGlobal() && len(args) > 0 {
				return usagef("--global is about all sandboxes: name none")
			}
			return a.withSession(c.Context(), func(s *session) error {
				name, err := a.policyTarget(s, req.GetGlobal(), args)
				if err != nil {
					return err
				}
				req.Workspace, req.Name = a.flags.workspace, name
				resp, err := s.shell.ListSandboxPolicies(c.Context(), req)
				if err != nil {
					return err
				}
				return a.listRevisions(resp.GetRevisions(), name)
			})
		},
	}
	c.Flags().BoolVar(&req.Global, "global", false, "the policy of all sandboxes (administrators of the platform only)")
	c.Flags().Uint32Var(&req.Limit, "limit", policyLimit, "show at most so many")
	c.Flags().Uint32Var(&req.Offset, "offset", 0, "leave out so many at the start")
	return c
}

func (a *app) listRevisions(all []*openshellpb.SandboxPolicyRevision, sandbox string) error {
	views := make([]revisionView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, r := range all {
		v, err := viewRevision(r, sandbox)
		if err != nil {
			return err
		}
		views = append(views, v)
		rows = append(rows, []string{
			fmt.Sprint(v.Version), v.Hash[:min(len(v.Hash), 12)], v.Status, tableTime(v.CreatedAtMS), firstRunes(v.LoadError, 40),
		})
	}
	if a.out.Structured() {
		return a.out.Value(views)
	}
	if len(rows) == 0 {
		a.out.Line("No policies found.")
	}
	a.out.Table([]string{"VERSION", "HASH", "STATUS", "CREATED", "ERROR"}, rows)
	return nil
}

// firstRunes cuts a text for a table.
func firstRunes(text string, most int) string {
	if runes := []rune(text); len(runes) > most {
		return string(runes[:most]) + "…"
	}
	return text
}

func (a *app) policyDeleteCommand() *cobra.Command {
	var scope configScope
	c := &cobra.Command{
		Use: "delete --global --yes", Short: "Delete the policy of all sandboxes, so that each has its own again", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if !scope.global {
				return usagef("only the policy of all sandboxes can be deleted: pass --global")
			}
			if err := scope.check(nil); err != nil {
				return err
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.UpdateConfig(c.Context(), &openshellpb.UpdateConfigRequest{
					Global: true, SettingKey: "policy", DeleteSetting: true,
				})
				if err != nil {
					return err
				}
				if a.out.Structured() {
					return a.out.Value(settingChange{"policy", resp.GetSettingsRevision(), resp.GetDeleted()})
				}
				if !resp.GetDeleted() {
					a.out.Line("There is no global policy")
					return nil
				}
				a.out.Line("Deleted the global policy")
				return nil
			})
		},
	}
	scope.flags(c)
	return c
}
