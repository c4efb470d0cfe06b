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
	"slices"

	"sallyport.dev/sallyport/internal/keyring"
)

// KeySize is the length of Options.Key in bytes.
const KeySize = keyring.KeySize

// errSealed is all that is told of a value that does not open.
var errSealed = errors.New("sealed value was made with another key or for another place")

// sealer encrypts literals at rest with one key and opens those of others too.
type sealer struct {
	active *sealKey
	// keys are all, the active one first.
	keys []*sealKey
}

// sealKey encrypts literals at rest and fingerprints driver tokens, with keys derived from one.
type sealKey struct {
	id     string
	aead   cipher.AEAD
	macKey []byte
}

func newSealer(active []byte, old [][]byte) (*sealer, error) {
	s := &sealer{}
	for _, key := range append([][]byte{active}, old...) {
		k, err := newSealKey(key)
		if err != nil {
			return nil, err
		}
		s.keys = append(s.keys, k)
	}
	s.active = s.keys[0]
	return s, nil
}

func newSealKey(key []byte) (*sealKey, error) {
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
	return &sealKey{id: keyring.ID(key), aead: aead, macKey: macKey}, nil
}

// seal encrypts a literal for one place: it opens only as this credential of this provider in this workspace, so
// that a row moved by hand gives nothing away.
func (s *sealer) seal(id, workspace, name, value string) secretRow {
	aead := s.active.aead
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(value)+aead.Overhead())
	// Never fails: a system without randomness ends the process.
	_, _ = rand.Read(nonce)
	return secretRow{Sealed: aead.Seal(nonce, nonce, []byte(value), place(id, workspace, name)), Key: s.active.id}
}

// open decrypts a literal and tells with which key. Rows of earlier versions name none.
func (s *sealer) open(id, workspace, name string, row secretRow) (value string, with *sealKey, err error) {
	for _, k := range s.keys {
		if row.Key != "" && row.Key != k.id {
			continue
		}
		n := k.aead.NonceSize()
		if len(row.Sealed) < n {
			return "", nil, errors.New("sealed value is too short")
		}
		plain, err := k.aead.Open(nil, row.Sealed[:n], row.Sealed[n:], place(id, workspace, name))
		if err == nil {
			return string(plain), k, nil
		}
	}
	return "", nil, errSealed
}

// has tells whether a key of that id was given.
func (s *sealer) has(id string) bool {
	return slices.ContainsFunc(s.keys, func(k *sealKey) bool { return k.id == id })
}

// fingerprint tells values apart without giving them away; it is the same after a restart with the same key.
func (s *sealer) fingerprint(value string) [16]byte {
	m := hmac.New(sha256.New, s.active.macKey)
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
