//go:build linux

package driverprocess

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

const envPrefix = "SALLYPORT_DRIVER_PROCESS_"

// Command returns the driver's command line; version is what --version prints and gateways are told. Each flag
// can be set by a variable as well: SALLYPORT_DRIVER_PROCESS_ and its name in capitals with underscores.
func Command(version string) *cobra.Command {
	var (
		opts             = Options{Version: version}
		socket, logLevel string
		uids             []uint
	)
	cmd := &cobra.Command{
		Use:   "sallyport-driver-process",
		Short: "Compute driver for one Linux machine",
		Long: "Serves the ComputeDriver contract on a Unix socket. A sandbox is a supervisor process with its own\n" +
			"directory, environment and, where kernel and privileges allow, namespaces and resource limits.\n" +
			"Sandboxes go on running while the driver is away; it finds them again.",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PreRunE:       func(cmd *cobra.Command, _ []string) error { return fromEnv(cmd.Flags()) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger, err := newLogger(cmd.ErrOrStderr(), logLevel)
			if err != nil {
				return err
			}
			opts.Logger = logger
			serving := driverkit.Options{Socket: socket, Logger: logger}
			for _, uid := range uids {
				if uid > 1<<32-2 {
					return fmt.Errorf("--allow-uid %d: no user id", uid)
				}
				serving.AllowedUIDs = append(serving.AllowedUIDs, uint32(uid))
			}
			err = serve(cmd.Context(), opts, serving)
			if !errors.Is(err, context.Canceled) || cmd.Context().Err() == nil {
				return err
			}
			// Told to stop before it had begun: that is no failure.
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "", "Unix socket to serve on (required)")
	f.StringVar(&opts.StateDir, "state-dir", "", "directory that holds the sandboxes; made 0700 (required)")
	f.StringVar(&opts.Supervisor, "supervisor-binary", besideSelf("sallyport-supervisor"), "supervisor to run in each sandbox")
	f.StringVar(&opts.GatewayEndpoint, "gateway-endpoint", "", "http(s)://host:port at which supervisors reach the gateway (required)")
	f.StringVar(&opts.GatewayCA, "gateway-ca", "", "PEM file with which supervisors verify the gateway")
	f.StringVar(&opts.Isolation, "isolation", IsolationAuto, "auto: what works, reported in each sandbox's status; none; required: refuse to create when any is missing")
	f.StringSliceVar(&opts.Hide, "hide", nil, "host path that sandboxes with their own mounts do not see (repeatable)")
	f.BoolVar(&opts.ShutdownSandboxes, "shutdown-sandboxes", false, "stop the sandboxes when the driver stops; they run again when it is back")
	f.Int64Var(&opts.MaxProcesses, "max-processes", DefaultMaxProcesses, "processes a sandbox may have; 0 for no limit")
	f.DurationVar(&opts.Grace, "grace", DefaultGrace, "how long a supervisor has to end when its sandbox is stopped")
	f.UintSliceVar(&uids, "allow-uid", nil, "user id, besides root and this process's own, that may connect (repeatable)")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return cmd
}

func serve(ctx context.Context, opts Options, serving driverkit.Options) (err error) {
	if serving.Socket == "" {
		return errors.New("--socket is required")
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	defer stop()
	socket, err := filepath.Abs(serving.Socket)
	if err != nil {
		return fmt.Errorf("resolve socket path: %w", err)
	}
	// A sandbox must not reach the driver, whoever it runs as.
	if dir := filepath.Dir(socket); hideable(dir) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create socket directory: %w", err)
		}
		opts.Hide = append(opts.Hide, dir)
	}
	driver, err := Open(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	return driverkit.Serve(ctx, serving, func(s *grpc.Server) {
		computepb.RegisterComputeDriverServer(s, NewService(driver))
	})
}

// fromEnv sets the flags that the command line left out from their variables.
func fromEnv(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		name := envPrefix + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		value, ok := os.LookupEnv(name)
		if !ok || f.Changed || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := flags.Set(f.Name, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	})
	return errors.Join(errs...)
}

func besideSelf(name string) string {
	self, err := os.Executable()
	if err != nil {
		return name
	}
	return filepath.Join(filepath.Dir(self), name)
}

func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: l})), nil
}
