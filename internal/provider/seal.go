package provider

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// KeySize is the length of Options.Key in bytes.
const KeySize = 32

// sealer encrypts literals at rest and fingerprints driver tokens, with keys derived from one.
type sealer struct {
	aead   cipher.AEAD
	macKey []byte
}

func newSealer(key []byte) (*sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("key for credentials at rest has %d bytes, %d are needed", len(key), KeySize)
	}
	encryption, err := hkdf.Key(sha256.New, key, nil, "sallyport provider credentials at rest v1", KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive encryption key: %w", err)
	}
	macKey, err := hkdf.Key(sha256.New, key, nil, "sallyport provider token fingerprint v1", KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive fingerprint key: %w", err)
	}
	block, err := aes.NewCipher(encryption)
	if err != nil {
		return nil, fmt.Errorf("set up encryption: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, fmt.Errorf("set up encryption: %w", err)
	}
	return &sealer{aead: aead, macKey: macKey}, nil
}

// seal encrypts a literal for one place: it opens only as this credential of this provider in this workspace, so
// that a row moved by hand gives nothing away.
func (s *sealer) seal(id, workspace, name, value string) []byte {
	nonce := make([]byte, s.aead.NonceSize(), s.aead.NonceSize()+len(value)+s.aead.Overhead())
	// Never fails: a system without randomness ends the process.
	_, _ = rand.Read(nonce)
	return s.aead.Seal(nonce, nonce, []byte(value), place(id, workspace, name))
}

func (s *sealer) open(id, workspace, name string, sealed []byte) (string, error) {
	n := s.aead.NonceSize()
	if len(sealed) < n {
		return "", errors.New("sealed value is too short")
	}
	value, err := s.aead.Open(nil, sealed[:n], sealed[n:], place(id, workspace, name))
	if err != nil {
		return "", errors.New("sealed value was made with another key or for another place")
	}
	return string(value), nil
}

// fingerprint tells values apart without giving them away; it is the same after a restart.
func (s *sealer) fingerprint(value string) [16]byte {
	m := hmac.New(sha256.New, s.macKey)
	m.Write([]byte(value))
	return [16]byte(m.Sum(nil)[:16])
}

// place encodes where a value belongs. Each part has its length in front, so that no two places look alike.
func place(id, workspace, name string) []byte {
	var b []byte
	for _, part := range []string{"sallyport provider credential v1", id, workspace, name} {
		b = binary.LittleEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}
