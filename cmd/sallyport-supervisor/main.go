// Command sallyport-supervisor runs inside a sandbox and connects it to its gateway. It takes everything from the
// environment that the compute driver sets.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"sallyport.dev/sallyport/internal/supervisor"
	"sallyport.dev/sallyport/internal/supervisor/env"
	"sallyport.dev/sallyport/internal/supervisor/process"
)

// sftpArgument makes this program serve one file transfer session; the supervisor starts itself with it.
const sftpArgument = "serve-sftp"

const usage = `sallyport-supervisor connects a sandbox to its gateway.

A compute driver starts it with OPENSHELL_SANDBOX_ID, OPENSHELL_ENDPOINT and a credential in the environment;
it takes no flags. See the documentation for all variables.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	switch {
	case len(args) == 1 && args[0] == sftpArgument:
		if err := supervisor.SFTP(); err != nil {
			fmt.Fprintln(stderr, "sallyport-supervisor:", err)
			return 1
		}
		return 0
	case len(args) == 1 && (args[0] == "--help" || args[0] == "-h"):
		fmt.Fprint(stdout, usage)
		return 0
	case len(args) > 0:
		fmt.Fprint(stderr, usage)
		return 2
	}
	code, err := supervise(ctx, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "sallyport-supervisor:", err)
	}
	return code
}

func supervise(ctx context.Context, stderr io.Writer) (int, error) {
	config, err := env.Load(os.Getenv)
	if err != nil {
		return 2, fmt.Errorf("bad environment:\n%w", err)
	}
	if err := env.Scrub(); err != nil {
		fmt.Fprintln(stderr, "sallyport-supervisor: secrets stay visible in this process's environment:", err)
	}
	if err := process.Adopt(); err != nil {
		return 1, err
	}
	code, err := supervisor.Run(ctx, supervisor.Options{
		Config: config, Output: stderr, Adopted: true,
		SFTP: []string{"/proc/self/exe", sftpArgument},
	})
	// Whatever left its group, as daemons do, ends with the sandbox.
	process.KillDescendants()
	return code, err
}
