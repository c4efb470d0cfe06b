package devidp

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-jose/go-jose/v4"
	"github.com/luikyv/go-oidc/pkg/goidc"

	"sallyport.dev/sallyport/internal/privatefile"
)

// Files of a state directory.
const (
	keyFile    = "signing-key.pem"
	secretFile = "demo-service-secret"
	grantsFile = "grants.json"
)

// loadKeys reads the signing key, making it in an empty directory.
func loadKeys(dir string) (goidc.JSONWebKeySet, error) {
	path := filepath.Join(dir, keyFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw, err = makeKey(path)
	}
	if err != nil {
		return goidc.JSONWebKeySet{}, fmt.Errorf("load signing key: %w", err)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return goidc.JSONWebKeySet{}, fmt.Errorf("load signing key: %s holds no PEM block: remove it to have a new one made", path)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return goidc.JSONWebKeySet{}, fmt.Errorf("load signing key: parse %s: %w", path, err)
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return goidc.JSONWebKeySet{}, fmt.Errorf("load signing key: %s holds no RSA key", path)
	}
	spki, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		return goidc.JSONWebKeySet{}, fmt.Errorf("load signing key: %w", err)
	}
	sum := sha256.Sum256(spki)
	return goidc.JSONWebKeySet{Keys: []jose.JSONWebKey{{
		Key: key, KeyID: base64.RawURLEncoding.EncodeToString(sum[:16]), Algorithm: string(jose.RS256), Use: "sig",
	}}}, nil
}

func makeKey(path string) ([]byte, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	raw := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return raw, writeFile(path, raw)
}

// loadSecret reads the demo client's secret, making it in an empty directory.
func loadSecret(dir string) (string, error) {
	path := filepath.Join(dir, secretFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		raw = []byte(rand.Text())
		err = writeFile(path, raw)
	}
	if err != nil {
		return "", fmt.Errorf("load demo client secret: %w", err)
	}
	if len(raw) < 16 {
		return "", fmt.Errorf("load demo client secret: %s is too short: remove it to have a new one made", path)
	}
	return string(raw), nil
}

func readGrants(dir string) ([]*goidc.Grant, error) {
	path := filepath.Join(dir, grantsFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load grants: %w", err)
	}
	var grants []*goidc.Grant
	if err := json.Unmarshal(raw, &grants); err != nil {
		return nil, fmt.Errorf("load grants: parse %s: %w", path, err)
	}
	return grants, nil
}

// writeFile replaces a private file as a whole: a reader sees the old content or the new.
func writeFile(path string, content []byte) error {
	if err := privatefile.Replace(path, content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
