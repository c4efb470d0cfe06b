package driveroauth2

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"

	"sallyport.dev/sallyport/driverkit"
)

// probeTimeout is how long a driver that is well takes at most to say so.
const probeTimeout = 4 * time.Second

// Command returns the driver's command line; version is what --version prints.
func Command(version string) *cobra.Command {
	var (
		socket, caFile, logLevel string
		probe                    bool
		uids                     []uint
		opts                     Options
	)
	cmd := &cobra.Command{
		Use:   "sallyport-driver-oauth2",
		Short: "Credentials driver for OAuth 2.0 client credentials",
		Long: "Serves the CredentialsDriver contract on a Unix socket. Each configured credential is an OAuth 2.0\n" +
			"client; its access token is fetched when first asked for, kept, and renewed ahead of its expiry.",
		Args:          cobra.NoArgs,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if probe {
				ctx, cancel := context.WithTimeout(cmd.Context(), probeTimeout)
				defer cancel()
				return driverkit.Probe(ctx, socket)
			}
			logger, err := newLogger(cmd.ErrOrStderr(), logLevel)
			if err != nil {
				return err
			}
			roots, err := loadRoots(caFile)
			if err != nil {
				return err
			}
			opts.Client, opts.Logger = NewHTTPClient(roots), logger
			defer opts.Client.CloseIdleConnections()
			serving := driverkit.Options{Socket: socket, Logger: logger, MaxMessageBytes: 64 << 10}
			for _, uid := range uids {
				if uid > 1<<32-2 {
					return fmt.Errorf("--allow-uid %d: no user id", uid)
				}
				serving.AllowedUIDs = append(serving.AllowedUIDs, uint32(uid))
			}
			return run(cmd.Context(), opts, serving)
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", "/run/drivers/credentials.sock", "Unix socket to serve on")
	f.StringVar(&opts.ConfigPath, "config", "/etc/openshell/credentials.yaml", "file that lists the credentials")
	f.StringVar(&opts.SecretsDir, "secrets-dir", "/etc/openshell/secrets", "directory of the client secret files")
	f.StringVar(&caFile, "ca-file", "", "PEM file of authorities to trust for token endpoints instead of the system's")
	f.BoolVar(&opts.AllowHTTP, "allow-http", false, "permit plain http token endpoints on other machines (the secret travels unencrypted)")
	f.UintSliceVar(&uids, "allow-uid", nil, "user id, besides root and this process's own, that may connect (repeatable)")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	f.BoolVar(&probe, "probe", false, "ask the driver that serves --socket whether it is well, and end")
	return cmd
}

// run serves until ctx ends or the process is told to stop; HUP reloads the configuration.
func run(ctx context.Context, opts Options, serving driverkit.Options) error {
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, unix.SIGTERM)
	defer stop()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, unix.SIGHUP)
	defer signal.Stop(hup)

	driver, err := New(opts)
	if err != nil {
		return err
	}
	defer driver.Close()

	reload := make(chan struct{})
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-hup:
			}
			select {
			case <-ctx.Done():
				return nil
			case reload <- struct{}{}:
			}
		}
	})
	group.Go(func() error { driver.Run(ctx, reload); return nil })
	group.Go(func() error { return driverkit.Serve(ctx, serving, func(s *grpc.Server) { driver.Register(s) }) })
	return group.Wait()
}

func newLogger(w io.Writer, level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level %q: use debug, info, warn or error", level)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
}

func loadRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil //nolint:nilnil // nil means the system's roots
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read --ca-file: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file %s holds no PEM certificate", file)
	}
	return pool, nil
}
