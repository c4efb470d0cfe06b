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

	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], process{env: os.LookupEnv, stdout: os.Stdout, stderr: os.Stderr})
	stop()
	os.Exit(code)
}

// process is what a command has of the process it runs in.
type process struct {
	env            func(string) (string, bool)
	stdout, stderr io.Writer
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
	level := slog.LevelInfo
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return p.fail(exitUsage, err)
	}
	logger := slog.New(slog.NewJSONHandler(p.stderr, &slog.HandlerOptions{Level: level}))
	g, err := gateway.New(ctx, cfg, gateway.Options{Version: version, Logger: logger})
	if err != nil {
		return p.fail(1, err)
	}
	if err := g.Run(ctx); err != nil {
		return p.fail(1, err)
	}
	return 0
}
