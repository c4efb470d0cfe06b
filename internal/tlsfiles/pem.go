package tlsfiles

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// maxFile bounds a file in bytes; the authorities of all public certificates together are a quarter of it.
const maxFile = 1 << 20

// The texts are the reference's.
var (
	errNoCertificates = errors.New("no certificates found in file")
	errNoKey          = errors.New("no private key found in file")
)

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("read %s: it is larger than %d bytes", path, maxFile)
	}
	return raw, nil
}

// certificates returns all certificates of a file.
func certificates(path string) ([]*x509.Certificate, error) {
	raw, err := read(path)
	if err != nil {
		return nil, err
	}
	var out []*x509.Certificate
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d of %s: %w", len(out)+1, path, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w %s", errNoCertificates, path)
	}
	return out, nil
}

// key returns the first private key of a file: PKCS#8, PKCS#1 or SEC1.
func key(path string) (crypto.Signer, error) {
	raw, err := read(path)
	if err != nil {
		return nil, err
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "":
			return nil, fmt.Errorf("the private key in %s is encrypted: store it without a passphrase", path)
		case strings.HasSuffix(block.Type, "PRIVATE KEY"):
			k, err := parseKey(block)
			if err != nil {
				return nil, fmt.Errorf("the private key in %s: %w", path, err)
			}
			return k, nil
		}
	}
	return nil, fmt.Errorf("%w %s", errNoKey, path)
}

func parseKey(block *pem.Block) (crypto.Signer, error) {
	var k any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		k, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		k, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		k, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, err
	}
	signer, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("a key of type %T cannot sign", k)
	}
	return signer, nil
}

// pair reads a chain and the key of its first certificate.
func pair(certPath, keyPath string) (*tls.Certificate, Certificate, error) {
	chain, err := certificates(certPath)
	if err != nil {
		return nil, Certificate{}, err
	}
	k, err := key(keyPath)
	if err != nil {
		return nil, Certificate{}, err
	}
	if !belongs(k, chain[0]) {
		for i, c := range chain[1:] {
			if belongs(k, c) {
				return nil, Certificate{}, fmt.Errorf("the key in %s belongs to certificate %d of %s: put that one first", keyPath, i+2, certPath)
			}
		}
		return nil, Certificate{}, fmt.Errorf("the private key in %s does not match the certificate %q in %s", keyPath, chain[0].Subject, certPath)
	}
	out := &tls.Certificate{PrivateKey: k, Leaf: chain[0]}
	for _, c := range chain {
		out.Certificate = append(out.Certificate, c.Raw)
	}
	return out, lifeOf(certPath, chain[0]), nil
}

// belongs tells whether the certificate is for the key.
func belongs(k crypto.Signer, c *x509.Certificate) bool {
	public, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(c.PublicKey)
}

func lifeOf(path string, c *x509.Certificate) Certificate {
	return Certificate{Path: path, Subject: c.Subject.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}
