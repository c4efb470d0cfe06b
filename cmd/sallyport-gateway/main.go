// Command sallyport-gateway is the control plane: see docs/architecture.md.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/gateway/reload"
	"sallyport.dev/sallyport/internal/nodump"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	code := run(ctx, os.Args[1:], process{env: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr, hangup: hangup})
	stop()
	os.Exit(code)
}

// process is what a command has of the process it runs in.
type process struct {
	env            func(string) (string, bool)
	stdout, stderr io.Writer
	// hangup gets the signal to read the configuration anew.
	hangup <-chan os.Signal
}

// fail reports an error and returns the exit status.
func (p process) fail(code int, err error) int {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintf(p.stderr, "sallyport-gateway: %s\n", strings.TrimRight(line, "\n"))
	}
	return code
}

func run(ctx context.Context, args []string, p process) int {
	if len(args) > 0 {
		if c, ok := commands()[args[0]]; ok {
			return c.run(ctx, args[1:], p)
		}
	}
	if slices.Contains(args, "--version") || slices.Contains(args, "-V") {
		fmt.Fprintln(p.stdout, "sallyport-gateway", version)
		return 0
	}
	return serve(ctx, args, p)
}

// serve is what the program does without a command.
func serve(ctx context.Context, args []string, p process) int {
	cfg, err := config.Parse(args, p.env)
	if errors.Is(err, config.ErrHelp) {
		fmt.Fprint(p.stdout, usage())
		return 0
	}
	if err != nil {
		return p.fail(exitUsage, err)
	}
	level := &slog.LevelVar{}
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return p.fail(exitUsage, err)
	}
	logger := gateway.NewLogger(p.stderr, cfg.LogFormat, level)
	if err := nodump.Set(); err != nil {
		logger.Warn("the gateway's memory cannot be kept out of core files", "error", err)
	}
	g, err := gateway.New(ctx, cfg, gateway.Options{
		Version: version, Logger: logger,
		ParseText: func(file []byte) (*config.Config, error) { return config.ParseText(args, p.env, file) },
	})
	if err != nil {
		return p.fail(1, err)
	}
	watching, stop := context.WithCancel(ctx)
	var group errgroup.Group
	group.Go(func() error {
		return reload.Watch(watching, reload.Options{
			Current: cfg, Signal: p.hangup, Logger: logger, Observe: g.Reloaded,
			Parse: func() (*config.Config, error) { return config.Parse(args, p.env) },
			Apply: func(old, next *config.Config) error {
				if err := g.Apply(old, next); err != nil {
					return err
				}
				return level.UnmarshalText([]byte(next.LogLevel))
			},
		})
	})
	err = g.Run(ctx)
	stop()
	if err = errors.Join(err, group.Wait()); err != nil {
		return p.fail(1, err)
	}
	return 0
}
