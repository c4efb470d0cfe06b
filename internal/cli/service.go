package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/cli/login"
	"sallyport.dev/sallyport/internal/cli/output"
	"sallyport.dev/sallyport/internal/cli/transport"
	"sallyport.dev/sallyport/internal/fault"
)

const (
	// linkPath is where a gateway makes links that sign a browser in to a service.
	linkPath = "/auth/service-link"
	// maxLinkAnswer bounds what is read of the answer, in bytes.
	maxLinkAnswer = 64 << 10
)

func (a *app) serviceCommand() *cobra.Command {
	return group("service", "Give ports of sandboxes a URL at the gateway", []string{"svc"},
		a.serviceExposeCommand(), a.serviceListCommand(), a.serviceGetCommand(), a.serviceDeleteCommand(), a.serviceOpenCommand())
}

// serviceView is a service as programs see it.
type serviceView struct {
	ID              string `json:"id"`
	Workspace       string `json:"workspace"`
	Sandbox         string `json:"sandbox"`
	SandboxID       string `json:"sandbox_id"`
	Service         string `json:"service"`
	TargetPort      uint32 `json:"target_port"`
	URL             string `json:"url"`
	ResourceVersion uint64 `json:"resource_version"`
	CreatedAt       string `json:"created_at,omitempty"`
}

func viewService(r *openshellpb.ServiceEndpointResponse) serviceView {
	e, m := r.GetEndpoint(), r.GetEndpoint().GetMetadata()
	return serviceView{
		ID: m.GetId(), Workspace: m.GetWorkspace(), Sandbox: e.GetSandboxName(), SandboxID: e.GetSandboxId(), Service: e.GetServiceName(),
		TargetPort: e.GetTargetPort(), URL: r.GetUrl(), ResourceVersion: m.GetResourceVersion(), CreatedAt: rfc3339(m.GetCreatedAtMs()),
	}
}

func (a *app) showService(r *openshellpb.ServiceEndpointResponse) error {
	v := viewService(r)
	if a.out.Structured() {
		return a.out.Value(v)
	}
	a.out.Pairs([]output.Pair{
		{Key: "Sandbox", Value: v.Sandbox},
		{Key: "Service", Value: v.Service},
		{Key: "Port", Value: fmt.Sprint(v.TargetPort)},
		{Key: "URL", Value: v.URL},
		{Key: "Workspace", Value: v.Workspace},
		{Key: "Created", Value: v.CreatedAt},
		{Key: "Id", Value: v.ID},
		{Key: "Resource version", Value: fmt.Sprint(v.ResourceVersion)},
	})
	return nil
}

// secondArg is the optional name of a service behind a sandbox's.
func secondArg(args []string, at int) string {
	if len(args) > at {
		return args[at]
	}
	return ""
}

func (a *app) serviceExposeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "expose SANDBOX PORT [NAME]", Short: "Give a port of a sandbox a URL",
		Long: "Give a port of a sandbox's loopback a URL at the gateway, or its service another port. Names have at most 19\n" +
			"characters: lowercase letters, digits and single hyphens. Whoever opens the URL has to sign in to the gateway.",
		Args: cobra.RangeArgs(2, 3), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			port, err := strconv.ParseUint(args[1], 10, 16)
			if err != nil || port == 0 {
				return usagef("invalid port %q: use a number from 1 to 65535", args[1])
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.ExposeService(c.Context(), &openshellpb.ExposeServiceRequest{
					Sandbox: args[0], Service: secondArg(args, 2), TargetPort: uint32(port), Domain: true, Workspace: a.flags.workspace,
				})
				if err != nil {
					return err
				}
				if a.out.Structured() {
					return a.showService(resp)
				}
				a.out.Line("%s", resp.GetUrl())
				return nil
			})
		},
	}
}

func (a *app) serviceListCommand() *cobra.Command {
	req := &openshellpb.ListServicesRequest{}
	c := &cobra.Command{
		Use: "list [SANDBOX]", Short: "List services", Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			if req.Sandbox = firstArg(args); req.Sandbox != "" && req.AllWorkspaces {
				return usagef("--all-workspaces does not go with the name of a sandbox")
			}
			if !req.AllWorkspaces {
				req.Workspace = a.flags.workspace
			}
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := s.shell.ListServices(c.Context(), req)
				if err != nil {
					return err
				}
				return a.listServices(resp.GetServices(), req.AllWorkspaces)
			})
		},
	}
	f := c.Flags()
	f.Uint32Var(&req.Limit, "limit", defaultLimit, "show at most so many")
	f.Uint32Var(&req.Offset, "offset", 0, "leave out so many at the start")
	f.BoolVar(&req.AllWorkspaces, "all-workspaces", false, "of every workspace")
	return c
}

func (a *app) listServices(all []*openshellpb.ServiceEndpointResponse, workspaces bool) error {
	views := make([]serviceView, 0, len(all))
	rows := make([][]string, 0, len(all))
	for _, r := range all {
		v := viewService(r)
		views = append(views, v)
		row := []string{v.Sandbox, orWord(v.Service, "-"), fmt.Sprint(v.TargetPort), v.URL}
		if workspaces {
			row = append([]string{v.Workspace}, row...)
		}
		rows = append(rows, row)
	}
	header := []string{"SANDBOX", "SERVICE", "PORT", "URL"}
	if workspaces {
		header = append([]string{"WORKSPACE"}, header...)
	}
	return a.showList("services", views, false, header, rows)
}

func (a *app) serviceGetCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get SANDBOX [NAME]", Short: "Show a service", Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				resp, err := a.getService(c.Context(), s, args)
				if err != nil {
					return err
				}
				return a.showService(resp)
			})
		},
	}
}

func (a *app) getService(ctx context.Context, s *session, args []string) (*openshellpb.ServiceEndpointResponse, error) {
	return s.shell.GetService(ctx, &openshellpb.GetServiceRequest{
		Sandbox: args[0], Service: secondArg(args, 1), Workspace: a.flags.workspace,
	})
}

func (a *app) serviceDeleteCommand() *cobra.Command {
	return &cobra.Command{
		Use: "delete SANDBOX [NAME]", Aliases: []string{"rm"}, Short: "Take a service's URL away", Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			name := args[0]
			if service := secondArg(args, 1); service != "" {
				name += "/" + service
			}
			return a.withSession(c.Context(), func(s *session) error {
				return a.deleteEach([]string{name}, "service", func(string) error {
					resp, err := s.shell.DeleteService(c.Context(), &openshellpb.DeleteServiceRequest{
						Sandbox: args[0], Service: secondArg(args, 1), Workspace: a.flags.workspace,
					})
					if err == nil && !resp.GetDeleted() {
						return failure("see `sallyport service list`", "service '%s' not found", name)
					}
					return err
				})
			})
		},
	}
}

func (a *app) serviceOpenCommand() *cobra.Command {
	var printed bool
	c := &cobra.Command{
		Use: "open SANDBOX [NAME]", Short: "Open a service in the browser, signed in",
		Long: "Open a service in the browser with a link that signs it in: once, within a minute, to this one service. Whoever has\n" +
			"the link first gets in as you, so do not pass it on.",
		Args: cobra.RangeArgs(1, 2), ValidArgsFunction: a.completeSandboxes,
		RunE: func(c *cobra.Command, args []string) error {
			return a.withSession(c.Context(), func(s *session) error {
				link, err := a.serviceLink(c.Context(), s, args)
				if err != nil {
					return err
				}
				return a.openService(c.Context(), link, printed)
			})
		},
	}
	c.Flags().BoolVar(&printed, "print", false, "print the link and start no browser")
	return c
}

// openService opens a link, or prints it where that cannot be done.
func (a *app) openService(ctx context.Context, link string, printed bool) error {
	if a.out.Structured() {
		return a.out.Value(struct {
			URL string `json:"url"`
		}{link})
	}
	open := login.Opener(a.opts.Env)
	if !printed && open != nil {
		err := open(ctx, link)
		if err == nil {
			a.out.Note("opened in the browser")
			return nil
		}
		a.out.Note("the browser was not started (%v); open this link within a minute:", err)
	}
	a.out.Line("%s", link)
	return nil
}

// serviceLink asks the gateway for a link to a service. One that makes none gives everybody who knows the URL in.
func (a *app) serviceLink(ctx context.Context, s *session, args []string) (string, error) {
	link, err := a.askLink(ctx, s, map[string]string{
		"workspace": a.flags.workspace, "sandbox": args[0], "service": secondArg(args, 1),
	})
	if !errors.Is(err, errNoLinks) {
		return link, err
	}
	resp, err := a.getService(ctx, s, args)
	if err != nil {
		return "", err
	}
	return resp.GetUrl(), nil
}

// errNoLinks says that the gateway does not know what a link is.
var errNoLinks = errors.New("the gateway makes no links to services")

func (a *app) askLink(ctx context.Context, s *session, body map[string]string) (string, error) {
	target, err := a.target(s.ref)
	if err != nil {
		return "", err
	}
	tls, err := target.TLS()
	if err != nil {
		return "", err
	}
	client := transport.HTTPClient(tls)
	defer client.CloseIdleConnections()
	raw, err := json.Marshal(body)
	if err != nil {
		return "", fmt.Errorf("encode the request: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.ref.endpoint.String()+linkPath, bytes.NewReader(raw))
	if err != nil {
		return "", fmt.Errorf("ask for a link: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	if s.tokens != nil {
		token, err := s.tokens.Token(ctx)
		if err != nil {
			return "", err
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", fault.Wrap(err, fault.Unavailable, "CLI", "failed to connect to gateway '%s' at %s", s.ref.label(), s.ref.endpoint).
			WithNext("check that the gateway runs and that the endpoint is right")
	}
	defer resp.Body.Close()
	return readLink(resp)
}

// readLink reads what came of the request for a link.
func readLink(resp *http.Response) (string, error) {
	var answer struct {
		URL     string `json:"url"`
		Message string `json:"message"`
		Next    string `json:"next"`
	}
	media, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || media != "application/json" {
		if resp.StatusCode == http.StatusNotFound {
			return "", errNoLinks
		}
		return "", failure("check that the endpoint is the gateway's own", "the gateway answered %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLinkAnswer)).Decode(&answer); err != nil {
		return "", fmt.Errorf("read the gateway's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", failure(answer.Next, "%s", orWord(answer.Message, resp.Status))
	}
	if u, err := url.Parse(answer.URL); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return "", failure("", "the gateway's link is no URL")
	}
	return answer.URL, nil
}
