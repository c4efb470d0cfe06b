package audit

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

	"sallyport.dev/sallyport/internal/privatefile"
)

// OpenKey returns the key that signs the log's checkpoints, making it at the first start: the file is PKCS #8 in PEM,
// readable by its owner only. Beside it lies the public key, with ".pub" added to the name, for those who verify the
// log elsewhere. The key belongs with the gateway's other keys, not in the log's folder: whoever may only write there
// cannot rewrite the log unnoticed.
func OpenKey(path string) (ed25519.PrivateKey, error) {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createKey(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the audit key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("read the audit key %s: it holds no PEM", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read the audit key %s: %w", path, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read the audit key %s: it is not an Ed25519 key", path)
	}
	return key, writePublic(path, key)
}

// ParsePublicKey reads a public key from PEM, as OpenKey writes it.
func ParsePublicKey(raw []byte) (ed25519.PublicKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("read a public key: no PEM found")
	}
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read a public key: %w", err)
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("read a public key: it is not an Ed25519 key")
	}
	return key, nil
}

// KeyID names a public key in checkpoints: the first 8 bytes of its SHA-256, in lower-case hex.
func KeyID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	return hex.EncodeToString(sum[:8])
}

func createKey(path string) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the audit key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("make the audit key: %w", err)
	}
	if err := privatefile.Replace(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})); err != nil {
		return nil, fmt.Errorf("write the audit key: %w", err)
	}
	return key, writePublic(path, key)
}

func writePublic(path string, key ed25519.PrivateKey) error {
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return errors.New("write the public audit key: it is not an Ed25519 key")
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return fmt.Errorf("write the public audit key: %w", err)
	}
	want := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	if have, err := os.ReadFile(path + ".pub"); err == nil && string(have) == string(want) {
		return nil
	}
	if err := privatefile.Replace(path+".pub", want, func(f *os.File) error { return f.Chmod(0o644) }); err != nil {
		return fmt.Errorf("write the public audit key: %w", err)
	}
	return nil
}
