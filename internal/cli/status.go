package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/cli/transport"
)

// statusView is what `status` finds. Status is connected, error, disconnected or not_configured.
type statusView struct {
	Gateway        string   `json:"gateway"`
	Server         string   `json:"server"`
	Status         string   `json:"status"`
	Authentication authView `json:"authentication"`
	Version        string   `json:"version,omitempty"`
	Error          string   `json:"error,omitempty"`
}

// authView tells whether the gateway accepts this user. Status is authenticated, not_required, failed or
// unverified.
type authView struct {
	Status   string `json:"status"`
	Mode     string `json:"mode,omitempty"`
	Provider string `json:"provider,omitempty"`
	Error    string `json:"error,omitempty"`
	Reason   string `json:"reason,omitempty"`
}

func (a *app) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Tell whether the gateway answers and accepts you", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			v, err := a.status(c.Context())
			if err != nil {
				return err
			}
			if err := a.showStatus(v); err != nil {
				return err
			}
			if v.Status != "connected" {
				return exitWith(exitFailed)
			}
			return nil
		},
	}
}

func (a *app) status(ctx context.Context) (statusView, error) {
	if a.flags.endpoint == "" {
		if name, err := a.activeName(); err != nil {
			return statusView{}, err
		} else if name == "" {
			return statusView{Status: "not_configured", Error: "No gateway configured."}, nil
		}
	}
	ref, err := a.resolve()
	if err != nil {
		return statusView{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*transport.ConnectTimeout)
	defer cancel()
	v := statusView{Gateway: ref.label(), Server: ref.endpoint.String()}
	// Whether the gateway answers is asked without a token, so that a lapsed session is not taken for a
	// gateway that is down.
	open, err := a.dial(ctx, ref, false)
	if err != nil {
		return v, err
	}
	defer open.close()
	health, err := open.shell.Health(ctx, &openshellpb.HealthRequest{})
	if err != nil {
		v.Status = "disconnected"
		if c := status.Code(err); c != codes.Unavailable && c != codes.DeadlineExceeded {
			v.Status = "error"
		}
		v.Error, _ = a.explain(err)
		v.Authentication = authView{Status: "unverified"}
		return v, nil
	}
	v.Version = health.GetVersion()
	v.Status = "connected"
	if health.GetStatus() == openshellpb.ServiceStatus_SERVICE_STATUS_UNHEALTHY {
		v.Status, v.Error = "error", "the gateway reports itself unhealthy"
	}
	v.Authentication = a.authStatus(ctx, ref)
	return v, nil
}

func (a *app) authStatus(ctx context.Context, ref gatewayRef) authView {
	v := authView{Mode: profile.AuthNone}
	if ref.registered {
		v.Mode = ref.meta.Auth()
	}
	failed := func(err error) authView {
		v.Status = "failed"
		v.Error, v.Reason = a.explain(err)
		return v
	}
	s, err := a.dial(ctx, ref, true)
	if err != nil {
		return failed(err)
	}
	defer s.close()
	user, err := s.shell.GetCurrentUser(ctx, &openshellpb.GetCurrentUserRequest{})
	switch status.Code(err) {
	case codes.OK:
		v.Status, v.Provider = "authenticated", user.GetIdentityProvider()
		if v.Mode == profile.AuthNone || v.Mode == profile.AuthPlaintext {
			v.Status = "not_required"
		}
	case codes.PermissionDenied:
		v.Status, v.Reason = "authenticated", "authorization denied"
	case codes.Unimplemented:
		v.Status, v.Reason = "unverified", "the gateway cannot tell who is calling"
	default:
		return failed(err)
	}
	return v
}

func (a *app) showStatus(v statusView) error {
	if a.out.Structured() {
		return a.out.Value(v)
	}
	if v.Status == "not_configured" {
		a.out.Line("%s", v.Error)
		a.out.Note("hint: register one with `sallyport gateway add URL`")
		return nil
	}
	words := map[string]string{"connected": "Connected", "disconnected": "Disconnected", "error": "Error"}
	auth := enumWord(strings.ReplaceAll(v.Authentication.Status, "_", " "), "")
	for _, more := range []string{v.Authentication.Error, v.Authentication.Reason} {
		if more != "" {
			auth += "; " + more
		}
	}
	a.out.Line("Server Status")
	a.out.Pairs([]output.Pair{
		{Key: "Gateway", Value: v.Gateway},
		{Key: "Server", Value: v.Server},
		{Key: "Status", Value: words[v.Status]},
		{Key: "Version", Value: v.Version},
		{Key: "Authentication", Value: auth},
		{Key: "Error", Value: v.Error},
	})
	return nil
}

// whoamiView is who the gateway takes the caller for.
type whoamiView struct {
	Subject          string   `json:"subject"`
	DisplayName      string   `json:"display_name"`
	Roles            []string `json:"roles"`
	Scopes           []string `json:"scopes"`
	IdentityProvider string   `json:"identity_provider"`
}

func (a *app) whoamiCommand() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Show who the gateway takes you for", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				u, err := s.shell.GetCurrentUser(c.Context(), &openshellpb.GetCurrentUserRequest{})
				if err != nil {
					return err
				}
				v := whoamiView{
					u.GetSubject(), u.GetDisplayName(), append([]string{}, u.GetRoles()...),
					append([]string{}, u.GetScopes()...), u.GetIdentityProvider(),
				}
				if a.out.Structured() {
					return a.out.Value(v)
				}
				a.out.Pairs([]output.Pair{
					{Key: "Subject", Value: v.Subject},
					{Key: "Display name", Value: v.DisplayName},
					{Key: "Roles", Value: strings.Join(v.Roles, ", ")},
					{Key: "Scopes", Value: strings.Join(v.Scopes, " ")},
					{Key: "Identity provider", Value: v.IdentityProvider},
				})
				return nil
			})
		},
	}
}
