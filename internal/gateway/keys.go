package gateway

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"sallyport.dev/sallyport/internal/privatefile"
)

const keySize = 32

// loadKey returns the key that encrypts literal credentials in the database, making it at the first start. It lies
// beside the database, not in it, so that a copy of the database alone gives nothing away. An empty dir gives a key
// that lives as long as the process, which suits a database in memory.
func loadKey(dir string) ([]byte, error) {
	if dir == "" {
		key := make([]byte, keySize)
		rand.Read(key)
		return key, nil
	}
	path := filepath.Join(dir, "credential.key")
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == keySize:
		return key, nil
	case err == nil:
		return nil, fmt.Errorf("%s must hold %d bytes, has %d: restore it from the backup of this database", path, keySize, len(key))
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("read the credential key: %w", err)
	}
	key = make([]byte, keySize)
	rand.Read(key)
	if err := privatefile.Create(path, key); err != nil {
		return nil, fmt.Errorf("write the credential key: %w", err)
	}
	return key, nil
}
