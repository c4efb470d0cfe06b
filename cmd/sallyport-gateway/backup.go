package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"filippo.io/age"

	"sallyport.dev/sallyport/internal/backup"
	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

const backupUsage = `Usage:
  sallyport-gateway backup --to PATH [--recipient KEY]... [--with-audit] [flags]
      Copy the database and the keys that belong to it, while the gateway runs. PATH is a new folder, or with .tar at
      its end a new file. With --recipient (an age public key, or @FILE with one in each line) it is encrypted; then
      PATH ends in .age. Prints the SHA-256 of the manifest, which identifies the backup. Of PostgreSQL only the keys
      are copied: dump the database by its own tools.

The flags are those of the gateway, which tell where everything is: see sallyport-gateway --help.
`

const restoreUsage = `Usage:
  sallyport-gateway restore --from PATH [--identity FILE] [--manifest-sha256 HEX] [--verify] [flags]
      Check a backup and put it in place. Nothing is replaced: where there is a database already, or a key that differs,
      it is refused. --identity names the file of an age identity that the backup is encrypted to. With
      --manifest-sha256 only the backup with this manifest is restored. --verify checks and writes nothing.

The flags are those of the gateway, which tell where everything goes: see sallyport-gateway --help.
`

// own takes the flags of a command out of args; every other flag is the gateway's. Those of values may occur several
// times.
func own(args []string, values, switches []string) (found map[string][]string, rest []string, err error) {
	found = map[string][]string{}
	for i := 0; i < len(args); i++ {
		name, value, joined := strings.Cut(args[i], "=")
		name = strings.TrimPrefix(name, "--")
		switch {
		case name == args[i] || !slices.Contains(values, name) && !slices.Contains(switches, name):
			rest = append(rest, args[i])
			continue
		case slices.Contains(switches, name):
			if joined {
				return nil, nil, fmt.Errorf("--%s takes no value", name)
			}
		case !joined:
			if i+1 == len(args) {
				return nil, nil, fmt.Errorf("--%s needs a value", name)
			}
			i++
			value = args[i]
		}
		found[name] = append(found[name], value)
	}
	return found, rest, nil
}

// settingsOf reads the gateway's settings for a command that needs to know where its state is. Whoever names the
// database means that one, whatever else a gateway would miss.
func settingsOf(args []string, p process) (*config.Config, error) {
	c, problems, err := config.Check(args, p.env)
	if err != nil {
		return nil, err
	}
	_, variable := p.env("OPENSHELL_DB_URL")
	named := variable || slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--db-url") })
	if len(problems) > 0 && (!named || c.DatabaseURL == "") {
		return nil, problems
	}
	return c, nil
}

func backupCommand(ctx context.Context, args []string, p process) int {
	flags, rest, err := own(args, []string{"to", "recipient"}, []string{"with-audit"})
	if err != nil {
		return p.fail(exitUsage, err)
	}
	c, err := settingsOf(rest, p)
	if errors.Is(err, config.ErrHelp) {
		fmt.Fprint(p.stdout, backupUsage)
		return 0
	}
	if err != nil {
		return p.fail(exitUsage, err)
	}
	if len(flags["to"]) != 1 || flags["to"][0] == "" {
		return p.fail(exitUsage, errors.New("backup needs one --to PATH"))
	}
	recipients, err := recipientsOf(flags["recipient"])
	if err != nil {
		return p.fail(exitUsage, err)
	}
	src, err := sourceOf(c, len(flags["with-audit"]) > 0)
	if err != nil {
		return p.fail(1, err)
	}
	m, digest, err := backup.Write(ctx, flags["to"][0], src, recipients)
	if err != nil {
		return p.fail(1, err)
	}
	for _, missing := range m.Missing {
		fmt.Fprintf(p.stderr, "sallyport-gateway: not in the backup: %s\n", missing)
	}
	fmt.Fprintf(p.stdout, "backup %s: %s\nmanifest SHA-256 %s\n", flags["to"][0], contentOf(m), digest)
	return 0
}

// contentOf says what a backup holds.
func contentOf(m *backup.Manifest) string {
	if m.Database.Kind != "sqlite" {
		return fmt.Sprintf("%d files, no database (%s)", len(m.Entries), m.Database.Kind)
	}
	return fmt.Sprintf("%d objects up to revision %d, %d files", m.Database.Objects, m.Database.Revision, len(m.Entries))
}

func restoreCommand(ctx context.Context, args []string, p process) int {
	flags, rest, err := own(args, []string{"from", "identity", "manifest-sha256"}, []string{"verify"})
	if err != nil {
		return p.fail(exitUsage, err)
	}
	c, err := settingsOf(rest, p)
	if errors.Is(err, config.ErrHelp) {
		fmt.Fprint(p.stdout, restoreUsage)
		return 0
	}
	if err != nil {
		return p.fail(exitUsage, err)
	}
	if len(flags["from"]) != 1 || flags["from"][0] == "" {
		return p.fail(exitUsage, errors.New("restore needs one --from PATH"))
	}
	o := backup.Options{VerifyOnly: len(flags["verify"]) > 0}
	for _, digest := range flags["manifest-sha256"] {
		o.Digest = digest
	}
	for _, file := range flags["identity"] {
		identities, err := identitiesIn(file)
		if err != nil {
			return p.fail(exitUsage, err)
		}
		o.Identities = append(o.Identities, identities...)
	}
	to, err := targetOf(c)
	if err != nil {
		return p.fail(1, err)
	}
	m, err := backup.Restore(ctx, flags["from"][0], to, o)
	if err != nil {
		return p.fail(1, err)
	}
	what := "restored"
	if o.VerifyOnly {
		what = "verified"
	}
	fmt.Fprintf(p.stdout, "%s %s of %s: %s\n", what, flags["from"][0], m.Created.Format("2006-01-02 15:04:05 MST"), contentOf(m))
	for _, missing := range m.Missing {
		fmt.Fprintf(p.stderr, "sallyport-gateway: not in the backup: %s\n", missing)
	}
	return 0
}

// Names inside a backup.
const (
	nameCredentialKey  = "state/credential.key"
	nameCredentialRing = "credential/keys"
	nameAuditKey       = "state/audit.key"
	folderSandboxKeys  = "sandbox-keys"
	folderAudit        = "audit"
)

// jwtFiles are the files of sandbox tokens that the newer reference has.
func jwtFiles(c *config.Config) map[string]string {
	return map[string]string{
		"jwt/signing.pem": c.Sandbox.SigningKey, "jwt/public.pem": c.Sandbox.PublicKey, "jwt/kid": c.Sandbox.KeyID,
	}
}

// sourceOf finds what a gateway with these settings cannot be without.
func sourceOf(c *config.Config, withAudit bool) (backup.Source, error) {
	src := backup.Source{Version: version, Gateway: c.Sandbox.GatewayID}
	if c.StateDir == "" {
		return src, errors.New("the database is in memory: there is nothing to copy")
	}
	if !config.IsPostgres(c.DatabaseURL) {
		path, err := sqlite.Path(c.DatabaseURL)
		if err != nil {
			return src, err
		}
		src.Database = path
	} else {
		src.Missing = append(src.Missing, "the PostgreSQL database: dump it with pg_dump before the keys are copied, see docs/operate.md")
	}
	add := func(name, path string) bool {
		info, err := os.Stat(path)
		if path == "" || err != nil || !info.Mode().IsRegular() {
			return false
		}
		src.Files = append(src.Files, backup.File{Name: name, Path: path})
		return true
	}
	own := add(nameCredentialKey, filepath.Join(c.StateDir, "credential.key"))
	switch {
	case c.CredentialKey.Value != "":
		src.Missing = append(src.Missing, "the credential keys, which the gateway gets from a variable: keep them elsewhere")
	case c.CredentialKey.File != "":
		if !add(nameCredentialRing, c.CredentialKey.File) {
			return src, fmt.Errorf("%s cannot be read", c.CredentialKey.File)
		}
	case !own:
		src.Missing = append(src.Missing, "credential keys: there are none in "+c.StateDir)
	}
	add(nameAuditKey, filepath.Join(c.StateDir, "audit.key"))
	for name, path := range jwtFiles(c) {
		if path != "" && !add(name, path) {
			return src, fmt.Errorf("%s cannot be read", path)
		}
	}
	keys, err := filepath.Glob(filepath.Join(c.Sandbox.KeyDir, "*.pem"))
	if err != nil {
		return src, fmt.Errorf("find the keys of sandbox tokens: %w", err)
	}
	for _, path := range keys {
		add(folderSandboxKeys+"/"+filepath.Base(path), path)
	}
	if len(keys) == 0 && c.Sandbox.SigningKey == "" {
		src.Missing = append(src.Missing, "keys of sandbox tokens: there are none in "+c.Sandbox.KeyDir)
	}
	if withAudit && c.Audit.Enabled {
		segments, err := filepath.Glob(filepath.Join(c.Audit.Dir, "audit-*.jsonl"))
		if err != nil {
			return src, fmt.Errorf("find the audit log: %w", err)
		}
		for _, path := range segments {
			add(folderAudit+"/"+filepath.Base(path), path)
		}
	}
	return src, nil
}

func targetOf(c *config.Config) (backup.Target, error) {
	to := backup.Target{Files: map[string]string{}, Folders: map[string]string{folderSandboxKeys: c.Sandbox.KeyDir, folderAudit: c.Audit.Dir}}
	if c.StateDir == "" {
		return to, errors.New("the database is in memory: there is no place to restore to")
	}
	to.Files[nameCredentialKey] = filepath.Join(c.StateDir, "credential.key")
	to.Files[nameCredentialRing] = c.CredentialKey.File
	to.Files[nameAuditKey] = filepath.Join(c.StateDir, "audit.key")
	for name, path := range jwtFiles(c) {
		to.Files[name] = path
	}
	if config.IsPostgres(c.DatabaseURL) {
		return to, nil
	}
	path, err := sqlite.Path(c.DatabaseURL)
	to.Database = path
	return to, err
}

// recipientsOf reads age public keys, as they are or from files.
func recipientsOf(words []string) ([]age.Recipient, error) {
	var all []age.Recipient
	for _, w := range words {
		text := w
		if file, ok := strings.CutPrefix(w, "@"); ok {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, fmt.Errorf("read the recipients: %w", err)
			}
			text = string(data)
		}
		recipients, err := age.ParseRecipients(strings.NewReader(text))
		if err != nil {
			return nil, fmt.Errorf("--recipient must be an age public key such as age1..., or @FILE with one in each line: %w", err)
		}
		all = append(all, recipients...)
	}
	return all, nil
}

// maxIdentity bounds the file of an identity in bytes.
const maxIdentity = 1 << 20

func identitiesIn(file string) ([]age.Identity, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read the identity: %w", err)
	}
	defer f.Close()
	identities, err := age.ParseIdentities(io.LimitReader(f, maxIdentity))
	if err != nil {
		// The library's words may quote the file.
		return nil, fmt.Errorf("%s holds no age identity", file)
	}
	return identities, nil
}
