package cli

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

func (a *app) settingsCommand() *cobra.Command {
	return group("settings", "Show and change runtime settings", nil,
		a.settingsGetCommand(), a.settingsSetCommand(), a.settingsDeleteCommand())
}

// settingView is what a setting is for a sandbox, and who says so.
type settingView struct {
	Value string `json:"value"`
	Scope string `json:"scope"`
}

// sandboxSettingsView is a sandbox's configuration as programs see it.
type sandboxSettingsView struct {
	Sandbox        string                 `json:"sandbox"`
	ConfigRevision uint64                 `json:"config_revision"`
	PolicySource   string                 `json:"policy_source"`
	PolicyHash     string                 `json:"policy_hash"`
	Settings       map[string]settingView `json:"settings"`
}

// globalSettingsView is what is set for all sandboxes.
type globalSettingsView struct {
	Scope            string            `json:"scope"`
	SettingsRevision uint64            `json:"settings_revision"`
	Settings         map[string]string `json:"settings"`
}

// unset stands for a value that nobody set.
const unset = "<unset>"

func settingWord(v *sandboxpb.SettingValue) string {
	switch v := v.GetValue().(type) {
	case *sandboxpb.SettingValue_BoolValue:
		return fmt.Sprint(v.BoolValue)
	case *sandboxpb.SettingValue_StringValue:
		return v.StringValue
	case *sandboxpb.SettingValue_IntValue:
		return fmt.Sprint(v.IntValue)
	case *sandboxpb.SettingValue_BytesValue:
		return fmt.Sprintf("<%d bytes>", len(v.BytesValue))
	}
	return unset
}

// settingValue reads a value from the command line. The gateway knows which type a setting has.
func settingValue(word string) *sandboxpb.SettingValue {
	switch strings.ToLower(word) {
	case "1", "true", "yes", "y", "on":
		return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_BoolValue{BoolValue: true}}
	case "0", "false", "no", "n", "off":
		return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_BoolValue{}}
	}
	return &sandboxpb.SettingValue{Value: &sandboxpb.SettingValue_StringValue{StringValue: word}}
}

func (a *app) settingsGetCommand() *cobra.Command {
	var global bool
	c := &cobra.Command{
		Use: "get [NAME]", Short: "Show the settings of a sandbox, or those of all", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if global && len(args) > 0 {
				return usagef("--global is about all sandboxes: name none")
			}
			return a.withSession(c.Context(), func(s *session) error {
				if global {
					return a.showGlobalSettings(c.Context(), s)
				}
				return a.showSandboxSettings(c.Context(), s, firstArg(args))
			})
		},
	}
	c.Flags().BoolVar(&global, "global", false, "what is set for all sandboxes")
	return c
}

func (a *app) showGlobalSettings(ctx context.Context, s *session) error {
	resp, err := s.shell.GetGatewayConfig(ctx, &sandboxpb.GetGatewayConfigRequest{})
	if err != nil {
		return err
	}
	v := globalSettingsView{Scope: "global", SettingsRevision: resp.GetSettingsRevision(), Settings: map[string]string{}}
	for key, value := range resp.GetSettings() {
		v.Settings[key] = settingWord(value)
	}
	if a.out.Structured() {
		return a.out.Value(v)
	}
	a.out.Pairs([]output.Pair{{Key: "Scope", Value: v.Scope}, {Key: "Settings revision", Value: fmt.Sprint(v.SettingsRevision)}})
	var rows [][]string
	for _, key := range slices.Sorted(maps.Keys(v.Settings)) {
		rows = append(rows, []string{key, v.Settings[key]})
	}
	a.out.Table([]string{"SETTING", "VALUE"}, rows)
	return nil
}

func (a *app) showSandboxSettings(ctx context.Context, s *session, name string) error {
	sb, err := a.getSandbox(ctx, s, name)
	if err != nil {
		return err
	}
	resp, err := s.shell.GetSandboxConfig(ctx, &sandboxpb.GetSandboxConfigRequest{SandboxId: sb.GetMetadata().GetId()})
	if err != nil {
		return err
	}
	v := sandboxSettingsView{
		Sandbox: sb.GetMetadata().GetName(), ConfigRevision: resp.GetConfigRevision(), PolicyHash: resp.GetPolicyHash(),
		PolicySource: strings.ToLower(strings.TrimPrefix(resp.GetPolicySource().String(), "POLICY_SOURCE_")), Settings: map[string]settingView{},
	}
	for key, e := range resp.GetSettings() {
		scope := strings.ToLower(strings.TrimPrefix(e.GetScope().String(), "SETTING_SCOPE_"))
		if e.GetScope() == sandboxpb.SettingScope_SETTING_SCOPE_UNSPECIFIED {
			scope = "unset"
		}
		v.Settings[key] = settingView{Value: settingWord(e.GetValue()), Scope: scope}
	}
	if a.out.Structured() {
		return a.out.Value(v)
	}
	a.out.Pairs([]output.Pair{
		{Key: "Sandbox", Value: v.Sandbox},
		{Key: "Config revision", Value: fmt.Sprint(v.ConfigRevision)},
		{Key: "Policy source", Value: v.PolicySource},
		{Key: "Policy hash", Value: v.PolicyHash},
	})
	var rows [][]string
	for _, key := range slices.Sorted(maps.Keys(v.Settings)) {
		rows = append(rows, []string{key, v.Settings[key].Value, v.Settings[key].Scope})
	}
	a.out.Table([]string{"SETTING", "VALUE", "SCOPE"}, rows)
	return nil
}

// configScope is whose configuration a command changes.
type configScope struct {
	global, yes bool
}

func (o *configScope) flags(c *cobra.Command) {
	c.Flags().BoolVar(&o.global, "global", false, "for all sandboxes (administrators of the platform only)")
	c.Flags().BoolVar(&o.yes, "yes", false, "do it; --global asks for that")
}

// check refuses a change for everybody that nobody confirmed.
func (o *configScope) check(args []string) error {
	switch {
	case o.global && len(args) > 0:
		return usagef("--global is about all sandboxes: name none")
	case o.global && !o.yes:
		return usagef("this changes all sandboxes: pass --yes")
	}
	return nil
}

// changeSetting sends a change of a setting in its scope, and has tell say to people what came of it.
func (a *app) changeSetting(ctx context.Context, scope configScope, args []string, req *openshellpb.UpdateConfigRequest,
	tell func(*openshellpb.UpdateConfigResponse),
) error {
	if err := scope.check(args); err != nil {
		return err
	}
	return a.withSession(ctx, func(s *session) error {
		req.Global = scope.global
		if !scope.global {
			name, err := a.sandboxName(s.ref, firstArg(args))
			if err != nil {
				return err
			}
			req.Workspace, req.Name = a.flags.workspace, name
		}
		resp, err := s.shell.UpdateConfig(ctx, req)
		if err != nil {
			return err
		}
		if a.out.Structured() {
			return a.out.Value(settingChange{req.GetSettingKey(), resp.GetSettingsRevision(), resp.GetDeleted()})
		}
		tell(resp)
		return nil
	})
}

// settingChange is a changed setting as programs see it.
type settingChange struct {
	Key              string `json:"key"`
	SettingsRevision uint64 `json:"settings_revision"`
	Deleted          bool   `json:"deleted"`
}

func (a *app) settingsSetCommand() *cobra.Command {
	var scope configScope
	var key, value string
	c := &cobra.Command{
		Use: "set [NAME] --key KEY --value VALUE", Short: "Set a setting of a sandbox, or of all", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			set := settingValue(value)
			return a.changeSetting(c.Context(), scope, args, &openshellpb.UpdateConfigRequest{SettingKey: key, SettingValue: set},
				func(resp *openshellpb.UpdateConfigResponse) {
					a.out.Line("Set %s to %s (settings revision %d)", key, settingWord(set), resp.GetSettingsRevision())
				})
		},
	}
	scope.flags(c)
	c.Flags().StringVar(&key, "key", "", "name of the setting")
	c.Flags().StringVar(&value, "value", "", "true, false, or a word")
	c.MarkFlagsRequiredTogether("key", "value")
	c.MarkFlagsOneRequired("key")
	return c
}

func (a *app) settingsDeleteCommand() *cobra.Command {
	var scope configScope
	var key string
	c := &cobra.Command{
		Use: "delete [NAME] --key KEY", Short: "Unset a setting of a sandbox, or of all", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.changeSetting(c.Context(), scope, args, &openshellpb.UpdateConfigRequest{SettingKey: key, DeleteSetting: true},
				func(resp *openshellpb.UpdateConfigResponse) {
					if !resp.GetDeleted() {
						a.out.Line("%s was not set", key)
						return
					}
					a.out.Line("Deleted %s (settings revision %d)", key, resp.GetSettingsRevision())
				})
		},
	}
	scope.flags(c)
	c.Flags().StringVar(&key, "key", "", "name of the setting")
	c.MarkFlagsOneRequired("key")
	return c
}
