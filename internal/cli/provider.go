package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"

	"sallyport.dev/sallyport/gen/sallyportpb"
	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
)

// driverNotation stands before the name of a credential that the gateway's credentials driver fetches, in place
// of a value.
const driverNotation = "driver://credentials/"

func (a *app) providerCommand() *cobra.Command {
	return group("provider", "Manage the credentials that sandboxes get", nil,
		a.providerCreateCommand(), a.providerListCommand(), a.providerGetCommand(), a.providerUpdateCommand(),
		a.providerDeleteCommand())
}

type providerFlags struct {
	name, kind                  string
	credentials, driver, config []string
}

func (f *providerFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringArrayVar(&f.credentials, "credential", nil,
		"credential as KEY=VALUE, or KEY to take the value of the environment variable KEY; repeatable")
	fl.StringArrayVar(&f.driver, "driver-credential", nil,
		"credential as KEY=NAME, fetched by the gateway's credentials driver under NAME; repeatable")
	fl.StringArrayVar(&f.config, "config", nil, "setting as KEY=VALUE; repeatable")
}

// values reads credentials and settings. What is wrong with one is told without its value.
func (a *app) values(f providerFlags) (credentials, config map[string]string, err error) {
	credentials, err = pairsOf("credential", f.credentials, func(key string) (string, error) {
		v, ok := a.opts.Env(key)
		if !ok || v == "" {
			return "", failure(fmt.Sprintf("export %s, or give --credential %s=VALUE", key, key),
				"environment variable %s is not set", key)
		}
		return v, nil
	})
	if err != nil {
		return nil, nil, err
	}
	driver, err := pairsOf("driver-credential", f.driver, nil)
	if err != nil {
		return nil, nil, err
	}
	for key, name := range driver {
		if _, twice := credentials[key]; twice {
			return nil, nil, usagef("credential %q is given as a value and as a driver credential", key)
		}
		if name == "" || strings.Contains(name, "/") {
			return nil, nil, usagef("invalid driver credential %q of %q", name, key)
		}
		credentials[key] = driverNotation + name
	}
	config, err = pairsOf("config", f.config, nil)
	return credentials, config, err
}

func (a *app) providerCreateCommand() *cobra.Command {
	var f providerFlags
	c := &cobra.Command{
		Use: "create --name NAME --type TYPE --credential KEY[=VALUE]...", Short: "Create a provider", Args: cobra.NoArgs,
		Long: "Create a provider. A value on the command line is visible to other users of this machine while the\n" +
			"command runs; --credential KEY takes it from the environment instead.",
		RunE: func(c *cobra.Command, _ []string) error {
			if f.name == "" || f.kind == "" {
				return usagef("--name and --type are required")
			}
			if len(f.credentials)+len(f.driver) == 0 {
				return usagef("give at least one --credential or --driver-credential")
			}
			credentials, config, err := a.values(f)
			if err != nil {
				return err
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.CreateProvider(c.Context(), &openshellpb.CreateProviderRequest{
					Provider: &datamodelpb.Provider{
						Metadata: &datamodelpb.ObjectMeta{Name: f.name, Workspace: a.flags.workspace}, Type: f.kind,
						Credentials: credentials, Config: config,
					},
					Workspace: a.flags.workspace,
				})
				if err != nil {
					return err
				}
				return a.changedProvider("Created", resp.GetProvider())
			})
		},
	}
	c.Flags().StringVar(&f.name, "name", "", "name of the provider")
	c.Flags().StringVar(&f.kind, "type", "", "type of the provider, such as generic, github or anthropic")
	f.register(c)
	return c
}

func (a *app) changedProvider(verb string, p *datamodelpb.Provider) error {
	if a.out.Structured() {
		return a.out.Value(viewProvider(p))
	}
	a.out.Line("%s provider: %s", verb, p.GetMetadata().GetName())
	return nil
}

func (a *app) providerUpdateCommand() *cobra.Command {
	var f providerFlags
	c := &cobra.Command{
		Use: "update NAME", Short: "Change credentials and settings of a provider", Args: cobra.ExactArgs(1),
		Long:              "Change credentials and settings of a provider; what is not named stays. KEY= without a value removes KEY.",
		ValidArgsFunction: a.completeProviders,
		RunE: func(c *cobra.Command, args []string) error {
			credentials, config, err := a.values(f)
			if err != nil {
				return err
			}
			if len(credentials)+len(config) == 0 {
				return usagef("give what to change: --credential, --driver-credential or --config")
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.UpdateProvider(c.Context(), &openshellpb.UpdateProviderRequest{
					Provider: &datamodelpb.Provider{
						Metadata:    &datamodelpb.ObjectMeta{Name: args[0], Workspace: a.flags.workspace},
						Credentials: credentials, Config: config,
					},
					Workspace: a.flags.workspace,
				})
				if err != nil {
					return err
				}
				return a.changedProvider("Updated", resp.GetProvider())
			})
		},
	}
	f.register(c)
	return c
}

func (a *app) providerListCommand() *cobra.Command {
	req := &openshellpb.ListProvidersRequest{}
	var names bool
	c := &cobra.Command{
		Use: "list", Short: "List providers", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if names && a.out.Structured() {
				return usagef("--names does not go with -o %s", a.out.Format)
			}
			req.Workspace = a.flags.workspace
			if req.GetAllWorkspaces() {
				req.Workspace = ""
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.ListProviders(c.Context(), req)
				if err != nil {
					return err
				}
				return a.listProviders(resp.GetProviders(), names)
			})
		},
	}
	f := c.Flags()
	f.Uint32Var(&req.Limit, "limit", defaultLimit, "show at most so many")
	f.Uint32Var(&req.Offset, "offset", 0, "leave out so many at the start")
	f.BoolVar(&req.AllWorkspaces, "all-workspaces", false, "of every workspace")
	f.BoolVar(&names, "names", false, "print names only")
	return c
}

func (a *app) listProviders(all []*datamodelpb.Provider, names bool) error {
	views := make([]providerView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, p := range all {
		v := viewProvider(p)
		views = append(views, v)
		rows = append(rows, []string{v.Name, v.Type, fmt.Sprint(len(v.CredentialKeys)), fmt.Sprint(len(v.ConfigKeys))})
	}
	return a.showList("providers", views, names, []string{"NAME", "TYPE", "CREDENTIAL_KEYS", "CONFIG_KEYS"}, rows)
}

func (a *app) providerGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show a provider, never its values", Args: cobra.ExactArgs(1),
		ValidArgsFunction: a.completeProviders,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.GetProvider(c.Context(),
					&openshellpb.GetProviderRequest{Name: args[0], Workspace: a.flags.workspace})
				if err != nil {
					return err
				}
				v := viewProvider(resp.GetProvider())
				if a.out.Structured() {
					return a.out.Value(v)
				}
				a.out.Pairs([]output.Pair{
					{Key: "Id", Value: v.ID},
					{Key: "Name", Value: v.Name},
					{Key: "Workspace", Value: v.Workspace},
					{Key: "Type", Value: v.Type},
					{Key: "Credential keys", Value: strings.Join(v.CredentialKeys, ", ")},
					{Key: "Config keys", Value: strings.Join(v.ConfigKeys, ", ")},
					{Key: "Created", Value: v.CreatedAt},
					{Key: "Labels", Value: joinMap(v.Labels)},
					{Key: "Resource version", Value: fmt.Sprint(v.ResourceVersion)},
				})
				return nil
			})
		},
	}
}

func (a *app) providerDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME...", Aliases: []string{"rm"}, Short: "Delete providers", Args: cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeProviders,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error { return a.deleteProviders(c.Context(), s, args) })
		},
	}
}

func (a *app) deleteProviders(ctx context.Context, s *session, names []string) error {
	return a.deleteEach(names, "provider", func(name string) error {
		resp, err := s.shell.DeleteProvider(ctx, &openshellpb.DeleteProviderRequest{Name: name, Workspace: a.flags.workspace})
		if err == nil && !resp.GetDeleted() {
			return failure("see `sallyport provider list`", "provider '%s' not found", name)
		}
		return err
	})
}

// deleteEach deletes things of one kind, goes on after a failure and fails in the end if any did.
func (a *app) deleteEach(names []string, kind string, remove func(name string) error) error {
	views := make([]deletedView, 0, len(names))
	var failed error
	for _, name := range names {
		err := remove(name)
		v := deletedView{Name: name, Deleted: err == nil}
		if err != nil {
			v.Error, _ = a.explain(err)
			if len(names) > 1 {
				a.out.Note("error: %s '%s': %s", kind, name, v.Error)
				err = failure("", "not all %ss were deleted", kind)
			}
			failed = err
		} else if !a.out.Structured() {
			a.out.Line("Deleted %s: %s", kind, name)
		}
		views = append(views, v)
	}
	if a.out.Structured() {
		if err := a.out.Value(views); err != nil {
			return err
		}
	}
	return failed
}

// credentialView is a credential that the gateway's driver can fetch.
type credentialView struct {
	Name   string   `json:"name"`
	Scopes []string `json:"scopes"`
}

func (a *app) credentialCommand() *cobra.Command {
	return group("credential", "See what the gateway's credentials driver can fetch", nil, &cobra.Command{
		Use: "list", Short: "List the driver's credentials by name (administrators only)", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withSession(c.Context(), func(s *session) error { return a.listCredentials(c.Context(), s.conn) })
		},
	})
}

func (a *app) listCredentials(ctx context.Context, conn grpc.ClientConnInterface) error {
	resp, err := sallyportpb.NewGatewayClient(conn).ListCredentials(ctx, &sallyportpb.ListCredentialsRequest{})
	if err != nil {
		return err
	}
	views := make([]credentialView, 0, len(resp.GetCredentials()))
	rows := make([][]string, 0, len(resp.GetCredentials()))
	for _, cr := range resp.GetCredentials() {
		views = append(views, credentialView{cr.GetName(), append([]string{}, cr.GetScopes()...)})
		rows = append(rows, []string{cr.GetName(), strings.Join(cr.GetScopes(), " ")})
	}
	if a.out.Structured() {
		return a.out.Value(views)
	}
	if len(rows) == 0 {
		a.out.Line("No credentials found.")
	}
	a.out.Table([]string{"NAME", "SCOPES"}, rows)
	return nil
}
