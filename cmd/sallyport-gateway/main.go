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
	"syscall"

	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if slices.Contains(args, "--version") || slices.Contains(args, "-V") {
		fmt.Fprintln(stdout, "sallyport-gateway", version)
		return 0
	}
	cfg, err := config.Parse(args, os.LookupEnv)
	if errors.Is(err, config.ErrHelp) {
		fmt.Fprint(stdout, config.Usage())
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-gateway: %v\n", err)
		return 2
	}
	level := slog.LevelInfo
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		fmt.Fprintf(stderr, "sallyport-gateway: --log-level must be error, warn, info or debug, got %q\n", cfg.LogLevel)
		return 2
	}
	logger := slog.New(slog.NewJSONHandler(stderr, &slog.HandlerOptions{Level: level}))
	g, err := gateway.New(ctx, cfg, gateway.Options{Version: version, Logger: logger})
	if err != nil {
		fmt.Fprintf(stderr, "sallyport-gateway: %v\n", err)
		return 1
	}
	if err := g.Run(ctx); err != nil {
		fmt.Fprintf(stderr, "sallyport-gateway: %v\n", err)
		return 1
	}
	return 0
}
