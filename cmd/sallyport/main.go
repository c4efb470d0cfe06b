// Command sallyport is the client of an OpenShell gateway. Its command dev runs a whole system for development.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/internal/cli"
	"sallyport.dev/sallyport/internal/dev"
)

// version is set by the linker.
var version = "unknown" //nolint:gochecknoglobals // The linker can set nothing else.

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return cli.Run(ctx, args, cli.Options{
		Version: version,
		Stdio:   cli.Stdio{In: os.Stdin, Out: os.Stdout, Err: os.Stderr},
		Env:     os.LookupEnv,
		Extra:   []*cobra.Command{dev.Command()},
	})
}
