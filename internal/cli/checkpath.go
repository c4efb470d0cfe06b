package cli

import (
	"time"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/internal/cli/pathcheck"
)

// maxIdleTimes bounds the streams that are held at once.
const maxIdleTimes = 16

func (a *app) gatewayCheckPathCommand() *cobra.Command {
	o := pathcheck.Options{}
	c := &cobra.Command{
		Use: "check-path [NAME]", Short: "Find out what load balancers and proxies on the way to a gateway let through",
		Args: cobra.MaximumNArgs(1), ValidArgsFunction: a.completeGateways,
		Long: "Open connections as clients do and see what passes: TLS and its ALPN, HTTP/1.1, gRPC, streams, large messages, the\n" +
			"WebSocket tunnel. Then hold streams in silence for the given times, all at once, and tell which survive. No credential\n" +
			"is used. Exit code 1 when anything failed; what to do is in the table of time-outs in docs/operate.md.",
		Example: "  sallyport gateway check-path --idle 35s,65s,5m\n  sallyport gateway check-path --gateway-endpoint https://gw.example.org -o json",
		RunE: func(c *cobra.Command, args []string) error {
			if len(o.Idle) > maxIdleTimes {
				return usagef("--idle takes up to %d times", maxIdleTimes)
			}
			for _, d := range o.Idle {
				if d <= 0 || d > 24*time.Hour {
					return usagef("--idle must be times of up to 24h, got %s", d)
				}
			}
			return a.checkPath(c, args, o)
		},
	}
	c.Flags().DurationSliceVar(&o.Idle, "idle", pathcheck.DefaultIdle(), "times for which streams are held in silence")
	c.Flags().DurationVar(&o.Timeout, "timeout", pathcheck.DefaultTimeout, "time for each other step")
	return c
}

func (a *app) checkPath(c *cobra.Command, args []string, o pathcheck.Options) error {
	ref, err := a.resolve()
	if len(args) > 0 {
		ref, err = a.resolveName(args[0])
	}
	if err != nil {
		return err
	}
	a.ref = ref
	t, err := a.target(ref)
	if err != nil {
		return err
	}
	o.Address = t.Endpoint.Address()
	if t.Endpoint.Secure {
		if o.TLS, err = t.TLS(); err != nil {
			return err
		}
	}
	longest := time.Duration(0)
	for _, d := range o.Idle {
		longest = max(longest, d)
	}
	if !a.out.Structured() && longest > 0 {
		a.out.Note("checking %s; this takes %s", t.Endpoint, longest)
	}
	report := pathcheck.Run(c.Context(), o)
	if err := a.showPath(report); err != nil {
		return err
	}
	if report.Failed() {
		return exitWith(exitFailed)
	}
	return nil
}

func (a *app) showPath(r *pathcheck.Report) error {
	if a.out.Structured() {
		return a.out.Value(r)
	}
	rows := make([][]string, 0, len(r.Results))
	for _, c := range r.Results {
		rows = append(rows, []string{c.Name, string(c.Status), c.Detail})
	}
	a.out.Table([]string{"CHECK", "RESULT", "DETAIL"}, rows)
	seen := map[string]bool{}
	for _, c := range r.Results {
		if c.Status == pathcheck.Failed && c.Next != "" && !seen[c.Next] {
			seen[c.Next] = true
			a.out.Note("hint: %s: %s", c.Name, c.Next)
		}
	}
	return nil
}
