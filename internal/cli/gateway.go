package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

func (a *app) gatewayCommand() *cobra.Command {
	return group("gateway", "Register gateways and sign in to them", []string{"gw"},
		a.gatewayAddCommand(), a.gatewayLoginCommand(), a.gatewayLogoutCommand(), a.gatewayListCommand(),
		a.gatewaySelectCommand(), a.gatewayRemoveCommand(), a.gatewayInfoCommand(), a.gatewayCheckPathCommand())
}

// gatewayArg is the name as argument, else the chosen or selected one.
func (a *app) gatewayArg(args []string) (string, error) {
	if len(args) > 0 {
		return args[0], profile.CheckName(args[0])
	}
	name, err := a.activeName()
	if err == nil && name == "" {
		err = failure("name one, see `sallyport gateway list`", "No active gateway.")
	}
	return name, err
}

// loginFlags choose how a person signs in.
type loginFlags struct {
	device bool
	port   uint16
}

func (f *loginFlags) register(c *cobra.Command) {
	c.Flags().BoolVar(&f.device, "device", false, "sign in with a code on another device, for machines without a browser")
	c.Flags().Uint16Var(&f.port, "callback-port", 0,
		"port of this machine that the browser comes back to, for identity providers that must know it; 0 for any")
}

func (a *app) gatewayLoginCommand() *cobra.Command {
	var f loginFlags
	c := &cobra.Command{
		Use: "login [NAME]", Short: "Sign in to a gateway", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeGateways,
		Long: "Sign in with a browser, or as a machine when OPENSHELL_OIDC_CLIENT_SECRET is set.\n" +
			"OPENSHELL_NO_BROWSER=1 starts no browser: with --device, or where the identity provider allows it, a code is\n" +
			"entered on another device; else the address is printed.",
		RunE: func(c *cobra.Command, args []string) error {
			name, err := a.gatewayArg(args)
			if err != nil {
				return err
			}
			ref, err := a.resolveName(name)
			if err != nil {
				return err
			}
			if !c.Flags().Changed("callback-port") {
				f.port = ref.meta.OIDCCallbackPort
			}
			return a.login(c.Context(), ref, f)
		},
	}
	f.register(c)
	return c
}

func (a *app) login(ctx context.Context, ref gatewayRef, f loginFlags) error {
	m := ref.meta
	if m.Auth() == profile.AuthEdge {
		if f.device || f.port != 0 {
			return usagef("--device and --callback-port are for gateways with an identity provider of their own")
		}
		token, err := a.signInAtEdge(ctx, ref.endpoint)
		if err != nil {
			return err
		}
		if err := a.root.SaveEdgeToken(m.Name, token); err != nil {
			return err
		}
		a.out.Note("Authenticated to gateway '%s'", m.Name)
		return nil
	}
	if m.Auth() != profile.AuthOIDC {
		return failure("", "Gateway '%s' does not use edge or OIDC authentication", m.Name)
	}
	if m.OIDCIssuer == "" {
		return failure("register it again with `--oidc-issuer`",
			"gateway '%s' has OIDC auth but no issuer URL in metadata", m.Name)
	}
	token, err := a.signIn(ctx, login.ConfigOf(m), a.root.PromptRequired(m.Name), f)
	if err != nil {
		return err
	}
	unlock, err := a.root.Lock(ctx, m.Name)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.root.SaveToken(m.Name, token); err != nil {
		return err
	}
	as := ""
	if user := login.DisplayName(token.AccessToken); user != "" {
		as = " as " + user
	}
	a.out.Note("Authenticated to gateway '%s'%s", m.Name, as)
	return nil
}

// signInAtEdge obtains the token of the proxy in front of a gateway.
func (a *app) signInAtEdge(ctx context.Context, e transport.Endpoint) (string, error) {
	if !e.Secure && !e.Loopback() {
		return "", failure("use an https endpoint", "a proxy's token is not taken from a page without https")
	}
	return login.Edge{Open: login.Opener(a.opts.Env), Notes: a.opts.Stdio.Err}.Login(ctx, e.String())
}

// signIn obtains a token: as a machine if there is a secret, else as a person. Where no browser may be started, another
// device is tried first, unless the person has asked for an address on this machine by naming its port.
func (a *app) signIn(ctx context.Context, cfg login.Config, prompt bool, f loginFlags) (profile.Token, error) {
	client := transport.HTTPClient(nil)
	defer client.CloseIdleConnections()
	secret, ok := a.opts.Env(login.SecretEnv)
	switch {
	case ok && f.device:
		return profile.Token{}, usagef("--device is for people, and %s is set", login.SecretEnv)
	case ok:
		return login.ClientCredentials(ctx, client, cfg, secret)
	}
	open := login.Opener(a.opts.Env)
	if f.device || open == nil && f.port == 0 {
		token, err := login.Device{Client: client, Notes: a.opts.Stdio.Err}.Login(ctx, cfg)
		if known, ok := errors.AsType[*fault.Error](err); f.device || !ok || known.Reason != login.ReasonDevice {
			return token, err
		}
	}
	b := login.Browser{Client: client, Open: open, Notes: a.opts.Stdio.Err, PromptLogin: prompt, Port: f.port}
	return b.Login(ctx, cfg)
}

func (a *app) gatewayLogoutCommand() *cobra.Command {
	return &cobra.Command{
		Use: "logout [NAME]", Short: "Forget the token for a gateway", Args: cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeGateways,
		RunE: func(_ *cobra.Command, args []string) error {
			name, err := a.gatewayArg(args)
			if err != nil {
				return err
			}
			ref, err := a.resolveName(name)
			if err != nil {
				return err
			}
			had := false
			switch ref.meta.Auth() {
			case profile.AuthOIDC:
				had, err = a.root.DeleteToken(name)
			case profile.AuthEdge:
				had, err = a.root.DeleteEdgeToken(name)
			}
			if err != nil {
				return err
			}
			if !had {
				return failure("", "Gateway '%s' has no stored credentials to clear", name)
			}
			a.out.Note("Logged out of gateway '%s'", name)
			return nil
		},
	}
}

// gatewayView is a registration as programs see it.
type gatewayView struct {
	Name         string `json:"name"`
	Endpoint     string `json:"endpoint"`
	Type         string `json:"type"`
	Source       string `json:"source"`
	Auth         string `json:"auth"`
	Active       bool   `json:"active"`
	IsRemote     bool   `json:"is_remote"`
	RemoteHost   string `json:"remote_host,omitempty"`
	ResolvedHost string `json:"resolved_host,omitempty"`
}

func viewGateway(m profile.Metadata, active string) gatewayView {
	return gatewayView{
		Name: m.Name, Endpoint: m.Endpoint, Type: m.Type(), Source: string(m.Source), Auth: m.Auth(),
		Active: m.Name == active, IsRemote: m.IsRemote, RemoteHost: m.RemoteHost, ResolvedHost: m.ResolvedHost,
	}
}

func (a *app) gatewayListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the registered gateways", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return a.listGateways() },
	}
}

func (a *app) listGateways() error {
	active, err := a.activeName()
	if err != nil {
		return err
	}
	all, err := a.root.List()
	if err != nil {
		return err
	}
	views := make([]gatewayView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, m := range all {
		v := viewGateway(m, active)
		mark := " "
		if v.Active {
			mark = "*"
		}
		views = append(views, v)
		rows = append(rows, []string{mark, v.Name, v.Endpoint, v.Type, v.Auth, v.Source})
	}
	if a.out.Structured() {
		return a.out.Value(views)
	}
	if len(rows) == 0 {
		a.out.Line("No gateways found.")
	}
	a.out.Table([]string{" ", "NAME", "ENDPOINT", "TYPE", "AUTH", "SOURCE"}, rows)
	return nil
}

func (a *app) gatewaySelectCommand() *cobra.Command {
	return &cobra.Command{
		Use: "select [NAME]", Aliases: []string{"use"}, Short: "Choose the gateway that commands use by default",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeGateways,
		RunE: func(_ *cobra.Command, args []string) error {
			if a.rootErr != nil {
				return a.rootErr
			}
			if len(args) == 0 {
				if err := a.listGateways(); err != nil {
					return err
				}
				a.out.Note("hint: choose one with `sallyport gateway select NAME`")
				return nil
			}
			if err := a.root.SetActive(args[0]); err != nil {
				return err
			}
			a.out.Note("Active gateway set to '%s'", args[0])
			if override := a.env("OPENSHELL_GATEWAY"); override != "" && override != args[0] {
				a.out.Note("warning: OPENSHELL_GATEWAY=%s is set and will override this selection", override)
				a.out.Note("hint: export OPENSHELL_GATEWAY=%s", args[0])
			}
			return nil
		},
	}
}

func (a *app) gatewayRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use: "remove [NAME]", Aliases: []string{"rm"}, Short: "Forget a gateway with its tokens and certificates",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeGateways,
		RunE: func(_ *cobra.Command, args []string) error {
			name, err := a.gatewayArg(args)
			if err != nil {
				return err
			}
			if a.rootErr != nil {
				return a.rootErr
			}
			if err := a.root.Remove(name); err != nil {
				return err
			}
			a.out.Note("Gateway '%s' removed", name)
			return nil
		},
	}
}

// gatewayInfoView is a registration with what the gateway says about itself.
type gatewayInfoView struct {
	Gateway string `json:"gateway"`
	Server  string `json:"server"`
	gatewayView
	Issuer         string       `json:"oidc_issuer,omitempty"`
	ClientID       string       `json:"oidc_client_id,omitempty"`
	Audience       string       `json:"oidc_audience,omitempty"`
	Scopes         string       `json:"oidc_scopes,omitempty"`
	Status         string       `json:"status,omitempty"`
	Version        string       `json:"version,omitempty"`
	ComputeDrivers []driverView `json:"compute_drivers,omitempty"`
}

type driverView struct {
	Name         string             `json:"name"`
	Capabilities driverCapabilities `json:"capabilities"`
}

type driverCapabilities struct {
	DriverName    string `json:"driver_name"`
	DriverVersion string `json:"driver_version"`
}

func (a *app) gatewayInfoCommand() *cobra.Command {
	var name string
	var server bool
	c := &cobra.Command{
		Use: "info [NAME]", Short: "Show a registration, and with --server what the gateway says about itself",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeGateways,
		RunE: func(c *cobra.Command, args []string) error {
			if name != "" {
				args = []string{name}
			}
			name, err := a.gatewayArg(args)
			if err != nil {
				return err
			}
			ref, err := a.resolveName(name)
			if err != nil {
				return err
			}
			return a.showGateway(c.Context(), ref, server)
		},
	}
	c.Flags().StringVar(&name, "name", "", "the gateway's name")
	c.Flags().BoolVar(&server, "server", false, "ask the gateway (administrators only)")
	return c
}

func (a *app) showGateway(ctx context.Context, ref gatewayRef, server bool) error {
	active, err := a.activeName()
	if err != nil {
		return err
	}
	m := ref.meta
	v := gatewayInfoView{
		Gateway: m.Name, Server: m.Endpoint, gatewayView: viewGateway(m, active), Issuer: m.OIDCIssuer,
		ClientID: m.OIDCClientID, Audience: m.OIDCAudience, Scopes: m.OIDCScopes,
	}
	if server {
		s, err := a.dial(ctx, ref, true)
		if err != nil {
			return err
		}
		defer s.close()
		info, err := s.shell.GetGatewayInfo(ctx, &openshellpb.GetGatewayInfoRequest{})
		if err != nil {
			return err
		}
		v.Status, v.Version = enumWord(info.GetStatus().String(), "SERVICE_STATUS_"), info.GetGatewayVersion()
		for _, d := range info.GetComputeDrivers() {
			c := d.GetCapabilities()
			v.ComputeDrivers = append(v.ComputeDrivers,
				driverView{d.GetName(), driverCapabilities{c.GetDriverName(), c.GetDriverVersion()}})
		}
	}
	if a.out.Structured() {
		return a.out.Value(v)
	}
	pairs := []output.Pair{
		{Key: "Gateway", Value: v.Gateway},
		{Key: "Gateway endpoint", Value: v.Server},
		{Key: "Type", Value: v.Type},
		{Key: "Auth", Value: v.Auth},
		{Key: "Source", Value: v.Source},
		{Key: "Remote host", Value: v.RemoteHost},
		{Key: "Resolved host", Value: v.ResolvedHost},
		{Key: "Issuer", Value: v.Issuer},
		{Key: "Client id", Value: v.ClientID},
		{Key: "Audience", Value: v.Audience},
		{Key: "Scopes", Value: v.Scopes},
		{Key: "Status", Value: v.Status},
		{Key: "Version", Value: v.Version},
	}
	for _, d := range v.ComputeDrivers {
		pairs = append(pairs, output.Pair{
			Key:   "Compute driver",
			Value: fmt.Sprintf("%s (%s %s)", d.Name, d.Capabilities.DriverName, d.Capabilities.DriverVersion),
		})
	}
	a.out.Pairs(pairs)
	return nil
}
