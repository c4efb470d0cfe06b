// Package keyring reads, makes and names the keys that encrypt credentials at rest. It knows how they are written in a
// variable, a Secret or a file, and nothing of what they encrypt. Its errors never hold a key.
package keyring

import (
	"bytes"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// KeySize is the length of a key in bytes.
const KeySize = 32

// MaxKeys bounds the keys of a ring: the one that encrypts and those that are being replaced.
const MaxKeys = 16

const idBytes = 8

// Ring is at least one key. The first encrypts; all decrypt.
type Ring [][]byte

// Parse reads keys in base64, with the alphabet of either kind, with or without padding, separated by white space or
// commas. Lines that begin with # are comments.
func Parse(text []byte) (Ring, error) {
	var ring Ring
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(strings.TrimSpace(line), "#") {
			continue
		}
		for _, word := range strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }) {
			key, err := decode(word)
			if err != nil {
				return nil, fmt.Errorf("key %d: %w", len(ring)+1, err)
			}
			ring = append(ring, key)
		}
	}
	return ring, ring.check()
}

// ParseFile is Parse for a file's content, which may be one key in 32 plain bytes too.
func ParseFile(data []byte) (Ring, error) {
	if len(data) == KeySize {
		return Ring{bytes.Clone(data)}, nil
	}
	return Parse(data)
}

func decode(word string) ([]byte, error) {
	word = strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimRight(word, "="))
	key, err := base64.RawStdEncoding.Strict().DecodeString(word)
	if err != nil {
		// The decoder's own words tell where, not what; still they are not needed.
		return nil, errors.New("not base64")
	}
	if len(key) != KeySize {
		return nil, fmt.Errorf("%d bytes, and %d are needed", len(key), KeySize)
	}
	return key, nil
}

func (r Ring) check() error {
	switch {
	case len(r) == 0:
		return errors.New("no key")
	case len(r) > MaxKeys:
		return fmt.Errorf("%d keys, more than %d", len(r), MaxKeys)
	}
	for n, key := range r {
		for _, other := range r[:n] {
			if bytes.Equal(key, other) {
				return fmt.Errorf("key %d is there twice", n+1)
			}
		}
	}
	return nil
}

// New makes a key.
func New() []byte {
	key := make([]byte, KeySize)
	// Never fails: a system without randomness ends the process.
	_, _ = rand.Read(key)
	return key
}

// Format writes the ring as Parse reads it, a key a line.
func (r Ring) Format() []byte {
	var b bytes.Buffer
	for _, key := range r {
		b.WriteString(base64.StdEncoding.EncodeToString(key))
		b.WriteByte('\n')
	}
	return b.Bytes()
}

// With returns the ring with further keys that decrypt, without those it has already.
func (r Ring) With(keys ...[]byte) Ring {
	out := append(Ring{}, r...)
	for _, key := range keys {
		known := false
		for _, k := range out {
			known = known || bytes.Equal(k, key)
		}
		if !known {
			out = append(out, key)
		}
	}
	return out
}

// ID names a key without giving it away: 16 hexadecimal digits that are derived from it.
func ID(key []byte) string {
	id, err := hkdf.Key(sha256.New, key, nil, "sallyport credential key id v1", idBytes)
	if err != nil {
		// Only a length beyond all measure fails.
		return ""
	}
	return hex.EncodeToString(id)
}
