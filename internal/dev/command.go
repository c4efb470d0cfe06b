// Package dev is `sallyport dev`: it composes a whole system on one machine out of the ordinary programs (an
// identity provider in this process; gateway and drivers as processes of their own) and registers it with the
// command line client. It owns their life, their state directory and the demonstration; it talks to the gateway
// over the public contract only and knows nothing of its inside.
package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"sallyport.dev/sallyport/internal/cli/profile"
	"sallyport.dev/sallyport/internal/devidp"
)

// profileName is the name under which the client knows the development gateway.
const profileName = "dev"

// ErrDemoFailed is returned when a step of the demo failed; the steps say which.
var ErrDemoFailed = errors.New("the demo failed")

type flags struct {
	stateDir, binDir, output string
	demo                     bool
}

// Command returns the command `dev`.
func Command() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "dev",
		Short: "Run a whole system on this machine for development",
		Long: "Starts an identity provider, a gateway with TLS, a compute driver and a credentials driver on this\n" +
			"machine, registers the gateway as \"" + profileName + "\" and runs until it is interrupted. State lies in one\n" +
			"directory and is used again at the next start. The users and passwords are well known: the system\n" +
			"listens on this machine only and is not meant for anything but development.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.output != "table" && f.output != "json" {
				return fmt.Errorf("-o %s: use table or json", f.output)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			defer stop()
			return run(ctx, f, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	cmd.Flags().StringVar(&f.stateDir, "state-dir", "", "directory of all state (default $XDG_STATE_HOME/sallyport/dev; a temporary one with --demo)")
	cmd.Flags().StringVar(&f.binDir, "bin-dir", "", "directory of the other commands (default the one of this command)")
	cmd.Flags().BoolVar(&f.demo, "demo", false, "walk through a demonstration, then stop; the exit status tells whether every step succeeded")
	// Takes the place of the flag that all commands have: there is no YAML here.
	cmd.Flags().StringVarP(&f.output, "output", "o", "table", "output format: table or json")
	return cmd
}

func run(ctx context.Context, f flags, out, errOut io.Writer) (err error) {
	conf := config{stateDir: f.stateDir, binaries: f.binDir, first: preferredPorts(), getenv: os.Getenv, say: sayTo(errOut)}
	if conf.binaries == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("find own directory: %w", err)
		}
		conf.binaries = filepath.Dir(self)
	}
	if f.demo {
		conf.first = ports{}
		if conf.stateDir == "" {
			if conf.stateDir, err = os.MkdirTemp("", "sallyport-demo-"); err != nil {
				return fmt.Errorf("create state: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(conf.stateDir)) }()
		}
		return runDemo(ctx, conf, &reporter{out: out, json: f.output == "json"})
	}
	if conf.stateDir == "" {
		if conf.stateDir, err = defaultStateDir(os.Getenv); err != nil {
			return err
		}
	}
	return runUntilStopped(ctx, conf, f.output == "json", out)
}

// sayTo prints lines from several processes' keepers.
func sayTo(w io.Writer) func(string, ...any) {
	var mu sync.Mutex
	return func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, format+"\n", args...)
	}
}

func runUntilStopped(ctx context.Context, conf config, asJSON bool, out io.Writer) error {
	sys, err := start(ctx, conf)
	if err != nil {
		return err
	}
	active, err := register(sys)
	if err != nil {
		return errors.Join(err, sys.stop())
	}
	if asJSON {
		err = json.NewEncoder(out).Encode(sys.endpoints())
	} else {
		_, err = io.WriteString(out, usage(sys, active))
	}
	if err != nil {
		return errors.Join(err, sys.stop())
	}
	<-ctx.Done()
	conf.say("stopping")
	return sys.stop()
}

// register makes the gateway known to the client. It becomes the active one only where there is none: what a
// person has selected stays selected.
func register(sys *system) (active string, err error) {
	root, err := profile.Dir(os.LookupEnv)
	if err != nil {
		return "", err
	}
	if err := root.SaveCA(profileName, sys.certs.caPEM); err != nil {
		return "", fmt.Errorf("register gateway: %w", err)
	}
	if err := root.Save(profile.Metadata{
		Name: profileName, Endpoint: sys.gatewayURL(), AuthMode: profile.AuthOIDC,
		OIDCIssuer: sys.idp.Issuer(), OIDCClientID: devidp.CLIClient, OIDCScopes: "openshell:all",
	}); err != nil {
		return "", fmt.Errorf("register gateway: %w", err)
	}
	if active, err = root.Active(); err != nil {
		return "", fmt.Errorf("read active gateway: %w", err)
	}
	if active == "" {
		if err := root.SetActive(profileName); err != nil {
			return "", fmt.Errorf("select gateway: %w", err)
		}
		active = profileName
	}
	return active, nil
}

func runDemo(ctx context.Context, conf config, r *reporter) error {
	var sys *system
	ok := r.step(ctx, "start gateway, drivers and identity provider", func(ctx context.Context) (string, error) {
		var err error
		if sys, err = start(ctx, conf); err != nil {
			return "", err
		}
		return fmt.Sprintf("gateway %s, identity provider %s", sys.gatewayURL(), sys.idp.Issuer()), nil
	})
	if !ok {
		return ErrDemoFailed
	}
	d := newDemo(sys)
	d.run(ctx, r)
	r.step(context.WithoutCancel(ctx), "stop everything and leave nothing behind", func(context.Context) (string, error) {
		if err := sys.stop(); err != nil {
			return "", err
		}
		left, err := sys.leftovers(d.id(), d.groups)
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left behind: %v", left)
		}
		return "no process, socket, mount or control group left", err
	})
	if r.failed {
		return ErrDemoFailed
	}
	return nil
}
