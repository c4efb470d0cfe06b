package sandboxtoken

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

const (
	keySuffix = ".pem"
	// firstKey sorts before the keys that an operator adds later.
	firstKey    = "0001" + keySuffix
	maxKeyFile  = 16 << 10
	maxKeyFiles = 64
)

// key is one signing key with its id: the first 16 bytes, in hex, of the SHA-256 of the public key's SPKI DER.
type key struct {
	id      string
	private ed25519.PrivateKey
}

func (k key) public() ed25519.PublicKey {
	return ed25519.PublicKey(k.private[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

func newKey(private ed25519.PrivateKey) (key, error) {
	k := key{private: private}
	der, err := x509.MarshalPKIXPublicKey(k.public())
	if err != nil {
		return key{}, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	k.id = hex.EncodeToString(sum[:16])
	return k, nil
}

func loadKeys(dir string) ([]key, error) {
	if dir == "" {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("create key: %w", err)
		}
		k, err := newKey(private)
		return []key{k}, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create directory: %w", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at directory: %w", err)
	}
	if err := closed(dir, info); err != nil {
		return nil, err
	}
	keys, err := readKeys(dir)
	if err != nil || len(keys) > 0 {
		return keys, err
	}
	if err := createKey(dir); err != nil {
		return nil, err
	}
	// Reading back finds the key of whoever came first, should another process have started at the same time.
	keys, err = readKeys(dir)
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("key in %s vanished after it was written", dir)
	}
	return keys, err
}

// readKeys returns the keys of all *.pem files in the order of their names.
func readKeys(dir string) ([]key, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list keys: %w", err)
	}
	var keys []key
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), keySuffix) || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if len(keys) == maxKeyFiles {
			return nil, fmt.Errorf("more than %d keys in %s; remove those whose tokens have expired", maxKeyFiles, dir)
		}
		k, err := readKey(filepath.Join(dir, e.Name()))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

func readKey(path string) (key, error) {
	info, err := os.Stat(path)
	if err != nil {
		return key{}, fmt.Errorf("look at key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return key{}, fmt.Errorf("read key %s: not a file of at most %d bytes", path, maxKeyFile)
	}
	if err := closed(path, info); err != nil {
		return key{}, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return key{}, fmt.Errorf("read key: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return key{}, fmt.Errorf("read key %s: no PKCS#8 private key in PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return key{}, fmt.Errorf("read key %s: %w", path, err)
	}
	private, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return key{}, fmt.Errorf("read key %s: not an Ed25519 key", path)
	}
	return newKey(private)
}

// createKey writes a first key. It appears under its name whole or not at all, and never replaces another.
func createKey(dir string) (err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("create key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	// os.CreateTemp opens with mode 0600.
	file, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer func() {
		if removed := os.Remove(file.Name()); removed != nil && err == nil {
			err = fmt.Errorf("write key: %w", removed)
		}
	}()
	_, err = file.Write(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	if err := os.Link(file.Name(), filepath.Join(dir, firstKey)); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write key: %w", err)
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// closed refuses what other users could read or change.
func closed(path string, info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("%s is open to other users (mode %#o); run chmod go-rwx on it", path, mode)
	}
	return nil
}
