package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport.dev/sallyport/internal/gateway/config"
	"sallyport.dev/sallyport/internal/keyring"
	"sallyport.dev/sallyport/internal/privatefile"
)

const (
	// credentialKeyFile lies in the state directory.
	credentialKeyFile = "credential.key"
	maxKeyFile        = 64 << 10
)

// CredentialKeyPath is the file of the keys that encrypt credentials at rest; empty where they come from a variable, or
// where the database is in memory.
func CredentialKeyPath(cfg *config.Config) string {
	switch {
	case cfg.CredentialKey.Value != "":
		return ""
	case cfg.CredentialKey.File != "":
		return cfg.CredentialKey.File
	case cfg.StateDir == "":
		return ""
	}
	return filepath.Join(cfg.StateDir, credentialKeyFile)
}

// loadKeys returns the keys that encrypt literal credentials in the database: those of the configuration, or else those
// of the state directory, where one is made at the first start. There it lies beside the database, not in it, so that a
// copy of the database alone gives nothing away. Where the configuration has keys, one that an earlier start left in
// the state directory still decrypts. Without any place there is a key that lives as long as the process, which suits
// a database in memory.
func loadKeys(cfg *config.Config) (keyring.Ring, error) {
	given := cfg.CredentialKey
	var own keyring.Ring
	if cfg.StateDir != "" {
		ring, err := readKeys(filepath.Join(cfg.StateDir, credentialKeyFile))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%w: restore it from the backup of this database", err)
		}
		own = ring
	}
	switch {
	case given.Value != "":
		ring, err := keyring.Parse([]byte(given.Value))
		if err != nil {
			return nil, fmt.Errorf("read the credential keys of the variable: %w", err)
		}
		return ring.With(own...), nil
	case given.File != "":
		ring, err := readKeys(given.File)
		if err != nil {
			return nil, err
		}
		return ring.With(own...), nil
	case own != nil:
		return own, nil
	case cfg.StateDir == "":
		return keyring.Ring{keyring.New()}, nil
	}
	key := keyring.New()
	if err := privatefile.Create(filepath.Join(cfg.StateDir, credentialKeyFile), key); err != nil {
		return nil, fmt.Errorf("write the credential key: %w", err)
	}
	return keyring.Ring{key}, nil
}

// readKeys reads a file of keys. Its errors name the file and never a key.
func readKeys(path string) (keyring.Ring, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read the credential keys: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err == nil && len(data) > maxKeyFile {
		err = fmt.Errorf("%s is larger than %d bytes", path, maxKeyFile)
	}
	if err != nil {
		return nil, fmt.Errorf("read the credential keys: %w", err)
	}
	ring, err := keyring.ParseFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s must hold %d bytes, or keys of that length in base64: %w", path, keyring.KeySize, err)
	}
	return ring, nil
}

// reseal has what an older key encrypted encrypted with the one in force. That it fails keeps nobody from working: the
// older keys are still there, and the next start tries again.
func (g *Gateway) reseal(ctx context.Context) {
	if _, err := g.providers.Reseal(ctx); err != nil && ctx.Err() == nil {
		g.log.Error("credentials are still encrypted with an older key", "error", err)
	}
}
