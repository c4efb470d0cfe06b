package certgen

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Files of the key that signs sandbox tokens, in a Secret and in the folder jwt.
const (
	fileSigning = "signing.pem"
	filePublic  = "public.pem"
	fileKeyID   = "kid"

	publicBlock = "PUBLIC KEY"
	keyIDBytes  = 16
)

// newSigningKey makes the key of sandbox tokens: Ed25519, PKCS#8 and SPKI in PEM, and the id by which tokens name it,
// the first half of the public key's SHA-256.
func newSigningKey() (map[string][]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of sandbox tokens: %w", err)
	}
	return signingFiles(private)
}

func signingFiles(private ed25519.PrivateKey) (map[string][]byte, error) {
	privateDER, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return nil, fmt.Errorf("encode the key of sandbox tokens: %w", err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(private.Public())
	if err != nil {
		return nil, fmt.Errorf("encode the key of sandbox tokens: %w", err)
	}
	sum := sha256.Sum256(publicDER)
	return map[string][]byte{
		fileSigning: pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: privateDER}),
		filePublic:  pem.EncodeToMemory(&pem.Block{Type: publicBlock, Bytes: publicDER}),
		fileKeyID:   []byte(hex.EncodeToString(sum[:keyIDBytes])),
	}, nil
}

// completed is a key of ours of which a run that was cut off wrote the first files only; nil if it is not that.
func completed(files map[string][]byte) (map[string][]byte, error) {
	if files[filePublic] != nil && files[fileKeyID] != nil {
		return nil, nil
	}
	block, _ := pem.Decode(files[fileSigning])
	if block == nil {
		return nil, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return nil, nil //nolint:nilerr // reason: checkSigningKey says what is wrong with it
	}
	whole, err := signingFiles(private)
	if err != nil {
		return nil, err
	}
	for name, data := range files {
		whole[name] = data
	}
	return whole, nil
}

// checkSigningKey tells what is wrong with a key of sandbox tokens, whoever made it.
func checkSigningKey(files map[string][]byte) error {
	block, _ := pem.Decode(files[fileSigning])
	if block == nil {
		return errors.New(fileSigning + " is missing or not in PEM")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	private, ok := parsed.(ed25519.PrivateKey)
	if err != nil || !ok {
		return errors.New(fileSigning + " is no Ed25519 key")
	}
	block, _ = pem.Decode(files[filePublic])
	if block == nil {
		return errors.New(filePublic + " is missing or not in PEM")
	}
	parsedPublic, err := x509.ParsePKIXPublicKey(block.Bytes)
	public, ok := parsedPublic.(ed25519.PublicKey)
	if err != nil || !ok || !public.Equal(private.Public()) {
		return errors.New(filePublic + " is not the public half of " + fileSigning)
	}
	if strings.TrimSpace(string(files[fileKeyID])) == "" {
		return errors.New(fileKeyID + " is missing")
	}
	return nil
}
