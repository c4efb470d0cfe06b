package driverkube

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"k8s.io/klog/v2"

	"sallyport.dev/sallyport/driverkit"
	"sallyport.dev/sallyport/gen/v00/computepb"
)

// Command returns the driver's command line; version is what --version prints and gateways are told. Each flag can
// be set by a variable as well: SALLYPORT_DRIVER_ and its name in capitals with underscores.
func Command(version string) *cobra.Command {
	opts := Options{Version: version}
	var own flags
	cmd := &cobra.Command{
		Use:   "sallyport-driver-kubernetes",
		Short: "Compute driver for Kubernetes",
		Long: "Serves the ComputeDriver contract on a Unix socket. A sandbox is a Sandbox object of the agent-sandbox\n" +
			"project (agents.x-k8s.io), whose controller makes the pod. The driver keeps nothing of its own.",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		PreRunE:       func(cmd *cobra.Command, _ []string) error { return fromEnv(cmd.Flags(), os.LookupEnv) },
		RunE: func(cmd *cobra.Command, _ []string) error {
			err := run(cmd.Context(), cmd.ErrOrStderr(), opts, own)
			if !errors.Is(err, context.Canceled) || cmd.Context().Err() == nil {
				return err
			}
			// Told to stop before it had begun: that is no failure.
			return nil
		},
	}
	opts.register(cmd.Flags(), &own)
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		if wrong, ok := errors.AsType[*pflag.NotExistError](err); ok {
			if name := nearest(cmd.Flags(), wrong.GetSpecifiedName()); name != "" {
				return fmt.Errorf("%w: did you mean --%s?", err, name)
			}
			return fmt.Errorf("%w: --help lists all flags", err)
		}
		return err
	})
	return cmd
}

// Execute runs the command line; flags may have one dash or two.
func Execute(ctx context.Context, version string, args []string) error {
	cmd := Command(version)
	cmd.SetArgs(doubleDashes(args))
	return cmd.ExecuteContext(ctx)
}

func run(ctx context.Context, stderr io.Writer, opts Options, own flags) error {
	var level slog.Level
	if err := level.UnmarshalText([]byte(own.logLevel)); err != nil {
		return fmt.Errorf("--log-level %q: use debug, info, warn or error", own.logLevel)
	}
	opts.Logger = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: level}))
	// The client library writes through a logger of its own, which is the process's.
	klog.SetSlogLogger(opts.Logger)
	var err error
	if opts.Tolerations, err = readTolerations(own.tolerationsFile); err != nil {
		return err
	}
	serving := driverkit.Options{Socket: own.socket, Logger: opts.Logger}
	for _, uid := range own.uids {
		if uid > 1<<32-2 {
			return fmt.Errorf("--allow-uid %d: no user id", uid)
		}
		serving.AllowedUIDs = append(serving.AllowedUIDs, uint32(uid))
	}
	if serving.Socket, err = filepath.Abs(own.socket); err != nil {
		return fmt.Errorf("resolve socket path: %w", err)
	}
	return serve(ctx, opts, serving, own.metricsPort)
}

func serve(ctx context.Context, opts Options, serving driverkit.Options, metricsPort uint16) (err error) {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	defer stop()
	driver, err := Open(ctx, opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, driver.Close()) }()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return driverkit.Serve(ctx, serving, func(s *grpc.Server) {
			computepb.RegisterComputeDriverServer(s, NewService(driver))
		})
	})
	if metricsPort != 0 {
		group.Go(func() error { return driver.serveMetrics(ctx, metricsPort) })
	}
	return group.Wait()
}
