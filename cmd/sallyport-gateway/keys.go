package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"sallyport.dev/sallyport/internal/authn/sandboxtoken"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/gateway/config"
)

const keysUsage = `Usage:
  sallyport-gateway keys list [flags]
      List the keys of sandbox tokens; the last one signs.
  sallyport-gateway keys rotate [flags]
      Make a new key, which signs from now on. A gateway that runs finds it within ten seconds.
  sallyport-gateway keys retire [flags]
      Remove the keys whose tokens must all have ended, the time of recovery included.
  sallyport-gateway keys list-credential-keys [flags]
      List the keys that encrypt credentials in the database; the first one encrypts.
  sallyport-gateway keys rotate-credential-key [flags]
      Put a new key before those of --credential-key-file or of the state directory. The gateway's next start encrypts
      everything with it; the older ones stay in the file, to be removed by hand. Keys of a variable or a Secret are
      changed where they are kept.

The flags are those of the gateway, of which --sandbox-key-dir alone is enough, with --sandbox-token-ttl-secs and
--sandbox-token-recovery-secs for keys retire; for credential keys --credential-key-file or --state-dir is enough: see
sallyport-gateway --help.
`

func keysCommand(_ context.Context, args []string, p process) int {
	name := ""
	if len(args) > 0 {
		name, args = args[0], args[1:]
	}
	if credentialCommand, ok := credentialKeyCommands()[name]; ok {
		return credentialCommand.run(args, p)
	}
	do := map[string]func(config.SandboxIdentity, process) error{"list": listKeys, "rotate": rotateKeys, "retire": retireKeys}[name]
	switch {
	case name == "-h" || name == "--help" || name == "help":
		fmt.Fprint(p.stdout, keysUsage)
		return 0
	case name == "":
		return p.fail(exitUsage, errors.New("keys needs one of list, rotate, retire, list-credential-keys and rotate-credential-key"))
	case do == nil:
		return p.fail(exitUsage, fmt.Errorf("keys has no command %q; it has list, rotate, retire, list-credential-keys and rotate-credential-key", name))
	}
	c, problems, err := config.Check(args, p.env)
	if err != nil {
		fmt.Fprint(p.stdout, keysUsage)
		return 0
	}
	// Who names the folder means that folder, whatever else the gateway would miss.
	named := slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--sandbox-key-dir") })
	if len(problems) > 0 && (!named || c.Sandbox.KeyDir == "") {
		return p.fail(exitUsage, problems)
	}
	if c.Sandbox.KeyDir == "" {
		return p.fail(exitUsage, errors.New("the keys of sandbox tokens are in memory; name their folder with --sandbox-key-dir"))
	}
	if err := do(c.Sandbox, p); err != nil {
		return p.fail(1, explained(err))
	}
	return 0
}

// explained tells the cause of a fault and what to do, since the operator is the one who may know.
func explained(err error) error {
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Next != "" {
		return fmt.Errorf("%w\n%s", err, f.Next)
	}
	return err
}

func listKeys(s config.SandboxIdentity, p process) error {
	keys, err := sandboxtoken.List(s.KeyDir)
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tSINCE\tSIGNS\tFILE")
	for n, k := range keys {
		signs := "no"
		if n == len(keys)-1 && s.SigningKey == "" {
			signs = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", k.ID, k.Since.UTC().Format(time.RFC3339), signs, k.File)
	}
	return w.Flush()
}

func openKeys(s config.SandboxIdentity, p process) (*sandboxtoken.Issuer, error) {
	return sandboxtoken.New(sandboxtoken.Options{
		Dir: s.KeyDir, SigningKey: s.SigningKey, PublicKey: s.PublicKey, KeyID: s.KeyID, GatewayID: s.GatewayID,
		TTL: s.TTL, Recovery: s.Recovery, Logger: slog.New(slog.NewTextHandler(p.stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

func rotateKeys(s config.SandboxIdentity, p process) error {
	keys, err := openKeys(s, p)
	if err != nil {
		return err
	}
	id, verifying, err := keys.Rotate()
	if err != nil {
		return err
	}
	fmt.Fprintf(p.stdout, "key %s signs; %d keys verify\n", id, len(verifying))
	return nil
}

func retireKeys(s config.SandboxIdentity, p process) error {
	keys, err := openKeys(s, p)
	if err != nil {
		return err
	}
	retired, err := keys.Retire()
	for _, id := range retired {
		fmt.Fprintf(p.stdout, "key %s removed\n", id)
	}
	if err == nil && len(retired) == 0 {
		fmt.Fprintln(p.stdout, "no key is old enough")
	}
	return err
}
