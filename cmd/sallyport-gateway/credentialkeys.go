package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"sallyport.dev/sallyport/internal/gateway"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/keyring"
	"sallyport.dev/sallyport/internal/privatefile"
)

// credentialKeyCommand is a command about the keys that encrypt credentials.
type credentialKeyCommand func(c *config.Config, p process) error

func credentialKeyCommands() map[string]credentialKeyCommand {
	return map[string]credentialKeyCommand{"list-credential-keys": listCredentialKeys, "rotate-credential-key": rotateCredentialKey}
}

// run reads the settings as the gateway would; who names the place means it, whatever else the gateway would miss.
func (do credentialKeyCommand) run(args []string, p process) int {
	c, problems, err := config.Check(args, p.env)
	if err != nil {
		fmt.Fprint(p.stdout, keysUsage)
		return 0
	}
	named := slices.ContainsFunc(args, func(a string) bool {
		return strings.HasPrefix(a, "--credential-key-file") || strings.HasPrefix(a, "--state-dir") || strings.HasPrefix(a, "--db-url")
	})
	if len(problems) > 0 && (!named || c.StateDir == "" && c.CredentialKey.File == "") {
		return p.fail(exitUsage, problems)
	}
	if err := do(c, p); err != nil {
		return p.fail(1, err)
	}
	return 0
}

// credentialKeysOf returns the keys that are kept, and the file they are in, empty for a variable.
func credentialKeysOf(c *config.Config) (keyring.Ring, string, error) {
	if c.CredentialKey.Value != "" {
		ring, err := keyring.Parse([]byte(c.CredentialKey.Value))
		return ring, "", err
	}
	path := gateway.CredentialKeyPath(c)
	if path == "" {
		return nil, "", errors.New("the database is in memory, and its key too; name a file with --credential-key-file")
	}
	data, err := os.ReadFile(path) //nolint:gosec // reason: the operator names the file
	if err != nil {
		return nil, path, err
	}
	ring, err := keyring.ParseFile(data)
	if err != nil {
		return nil, path, fmt.Errorf("%s: %w", path, err)
	}
	return ring, path, nil
}

func listCredentialKeys(c *config.Config, p process) error {
	ring, path, err := credentialKeysOf(c)
	if err != nil {
		return err
	}
	if path == "" {
		path = "variable"
	}
	w := tabwriter.NewWriter(p.stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "KEY\tENCRYPTS\tFROM")
	for n, key := range ring {
		encrypts := "no"
		if n == 0 {
			encrypts = "yes"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", keyring.ID(key), encrypts, path)
	}
	return w.Flush()
}

func rotateCredentialKey(c *config.Config, p process) error {
	ring, path, err := credentialKeysOf(c)
	switch {
	case err == nil && path == "":
		return errors.New("the keys are in a variable: put a new one before them where that is set, 'NEW,OLD', made with 'openssl rand -base64 32', and start the gateway anew")
	case errors.Is(err, fs.ErrNotExist) && path != "":
		return fmt.Errorf("%w; the gateway makes the first key when it starts", err)
	case err != nil:
		return err
	case len(ring) == keyring.MaxKeys:
		return fmt.Errorf("%s has %d keys already; remove those that encrypt nothing any more", path, len(ring))
	}
	// A link, as Kubernetes mounts a Secret with, is not ours to replace.
	if info, err := os.Lstat(path); err != nil { //nolint:gosec // reason: the operator names the file
		return err
	} else if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is kept by somebody else: put a new key before the others there, made with 'openssl rand -base64 32'", path)
	}
	next := keyring.Ring{keyring.New()}.With(ring...)
	if err := privatefile.Replace(path, annotated(next)); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	fmt.Fprintf(p.stdout, "key %s encrypts from the next start of the gateway on; %d older ones decrypt\n", keyring.ID(next[0]), len(ring))
	return nil
}

// annotated is the ring with the id of each key above it, for whoever removes one by hand.
func annotated(ring keyring.Ring) []byte {
	var b strings.Builder
	for n, key := range ring {
		role := "decrypts only"
		if n == 0 {
			role = "encrypts"
		}
		fmt.Fprintf(&b, "# %s %s\n%s", keyring.ID(key), role, keyring.Ring{key}.Format())
	}
	return []byte(b.String())
}
