// Command sallyport-supervisor runs inside a sandbox and connects it to its gateway. It takes everything from the
// environment that the compute driver sets.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"sallyport.dev/sallyport/internal/supervisor"
	"sallyport.dev/sallyport/internal/supervisor/env"
	"sallyport.dev/sallyport/internal/supervisor/process"
	"sallyport.dev/sallyport/internal/supervisor/seed"
)

// sftpArgument makes this program serve one file transfer session; the supervisor starts itself with it.
const sftpArgument = "serve-sftp"

// seedArgument makes this program fill a workspace from the image and end, as a pod does before its main container.
const seedArgument = "seed"

const usage = `sallyport-supervisor connects a sandbox to its gateway.

Usage:
  sallyport-supervisor [--workdir DIR]
      Run. A compute driver sets OPENSHELL_SANDBOX_ID, OPENSHELL_ENDPOINT and a credential in the environment; see
      the documentation for all variables. --workdir is another way to say SALLYPORT_WORKDIR.
  sallyport-supervisor copy-self DEST
      Copy this program to a file, or into a folder under the name by which it was called, and end.
  sallyport-supervisor seed FROM TO
      Copy what is in one folder into another, unless that was done before, and end.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args, os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with everything handed in; the first of the words is the name by which the program was called.
func run(ctx context.Context, words []string, stdout, stderr io.Writer) int {
	args, getenv := words[1:], os.Getenv
	if dir, ok := workdir(args); ok {
		args = nil
		getenv = func(name string) string {
			if name == "SALLYPORT_WORKDIR" {
				return dir
			}
			return os.Getenv(name)
		}
	}
	switch {
	case len(args) > 0 && args[0] == copyArgument && len(args) <= 2:
		to, err := copySelf(strings.Join(args[1:], ""), words[0])
		if err != nil {
			fmt.Fprintln(stderr, "sallyport-supervisor:", err)
			return 1
		}
		fmt.Fprintln(stdout, to)
		return 0
	case len(args) == 3 && args[0] == seedArgument:
		if err := seed.Tree(args[1], args[2], stderr); err != nil {
			fmt.Fprintln(stderr, "sallyport-supervisor:", err)
			return 1
		}
		return 0
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
	code, err := supervise(ctx, getenv, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "sallyport-supervisor:", err)
	}
	return code
}

// workdir reads the one flag that drivers of the newer reference generation pass.
func workdir(args []string) (dir string, ok bool) {
	if len(args) == 2 && args[0] == "--workdir" {
		return args[1], true
	}
	if len(args) != 1 {
		return "", false
	}
	return strings.CutPrefix(args[0], "--workdir=")
}

func supervise(ctx context.Context, getenv func(string) string, stderr io.Writer) (int, error) {
	config, err := env.Load(getenv)
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
