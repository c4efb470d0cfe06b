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
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"sallyport.dev/sallyport/internal/privatefile"
)

const (
	keySuffix = ".pem"
	// firstKey sorts before the keys that come later.
	firstKey    = "0001" + keySuffix
	maxKeyFile  = 16 << 10
	maxKeyFiles = 64
	idBytes     = 16
)

// key is one signing key with its id: the first 16 bytes, in hex, of the SHA-256 of the public key's SPKI DER, or
// what a file says.
type key struct {
	id      string
	private ed25519.PrivateKey
	// file is its path, empty for a key in memory.
	file string
}

func (k key) public() ed25519.PublicKey {
	return ed25519.PublicKey(k.private[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

func newKey(private ed25519.PrivateKey, file string) (key, error) {
	k := key{private: private, file: file}
	der, err := x509.MarshalPKIXPublicKey(k.public())
	if err != nil {
		return key{}, fmt.Errorf("encode public key: %w", err)
	}
	sum := sha256.Sum256(der)
	k.id = hex.EncodeToString(sum[:idBytes])
	return k, nil
}

// looksLikeOurs tells whether a key id can be one that newKey makes.
func looksLikeOurs(id string) bool {
	if len(id) != 2*idBytes {
		return false
	}
	_, err := hex.DecodeString(id)
	return err == nil
}

func newMemoryKey() (key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return key{}, fmt.Errorf("create key: %w", err)
	}
	return newKey(private, "")
}

// firstKeys reads all keys, and makes one where there is none.
func firstKeys(o Options) ([]key, error) {
	if o.Dir == "" && o.SigningKey == "" {
		k, err := newMemoryKey()
		return []key{k}, err
	}
	if o.Dir != "" {
		if err := os.MkdirAll(o.Dir, 0o700); err != nil {
			return nil, fmt.Errorf("create directory: %w", err)
		}
	}
	keys, err := readAll(o)
	if err != nil || len(keys) > 0 {
		return keys, err
	}
	if err := createKey(o.Dir, firstKey); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	// Reading back finds the key of whoever came first, should another process have started at the same time.
	keys, err = readAll(o)
	if err == nil && len(keys) == 0 {
		err = fmt.Errorf("key in %s vanished after it was written", o.Dir)
	}
	return keys, err
}

// readAll returns the keys of the directory in the order of their names, and the signing key's file last.
func readAll(o Options) ([]key, error) {
	var keys []key
	if o.Dir != "" {
		var err error
		if keys, err = readKeys(o.Dir); err != nil {
			return nil, err
		}
	}
	if o.SigningKey == "" {
		return keys, nil
	}
	k, err := readSigningKey(o)
	if err != nil {
		return nil, err
	}
	return append(keys, k), nil
}

// readKeys returns the keys of all *.pem files in the order of their names.
func readKeys(dir string) ([]key, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return nil, fmt.Errorf("look at directory: %w", err)
	}
	if err := closedDir(dir, info); err != nil {
		return nil, err
	}
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
		k, err := readKey(filepath.Join(dir, e.Name()), shared(info))
		if err != nil {
			return nil, err
		}
		keys = append(keys, k)
	}
	return keys, nil
}

// readKey reads a private key. Where others could have put the file there, it must be root's or ours.
func readKey(path string, ownedOnly bool) (key, error) {
	data, info, err := readFile(path)
	if err != nil {
		return key{}, err
	}
	if err := closedFile(path, info); err != nil {
		return key{}, err
	}
	if ownedOnly && !trustedOwner(info) {
		return key{}, fmt.Errorf("read key %s: another user's file in a directory that other users can write to", path)
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
	return newKey(private, path)
}

// readSigningKey reads the key of the three files that the newer generation keeps.
func readSigningKey(o Options) (key, error) {
	k, err := readKey(o.SigningKey, false)
	if err != nil {
		return key{}, err
	}
	if o.PublicKey != "" {
		data, _, err := readFile(o.PublicKey)
		if err != nil {
			return key{}, err
		}
		block, _ := pem.Decode(data)
		if block == nil || block.Type != "PUBLIC KEY" {
			return key{}, fmt.Errorf("read key %s: no public key in PEM", o.PublicKey)
		}
		parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return key{}, fmt.Errorf("read key %s: %w", o.PublicKey, err)
		}
		if public, ok := parsed.(ed25519.PublicKey); !ok || !public.Equal(k.public()) {
			return key{}, fmt.Errorf("%s is not the public half of %s", o.PublicKey, o.SigningKey)
		}
	}
	if o.KeyID == "" {
		return k, nil
	}
	data, _, err := readFile(o.KeyID)
	if err != nil {
		return key{}, err
	}
	// An id of another form than ours keeps tokens good that another gateway signed with this key.
	if k.id = strings.TrimSpace(string(data)); !validID(k.id) {
		return key{}, fmt.Errorf("%s does not hold one key id of letters, digits, \"-\", \"_\" and \".\"", o.KeyID)
	}
	return k, nil
}

func readFile(path string) ([]byte, fs.FileInfo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("look at key: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, nil, fmt.Errorf("read key %s: not a file of at most %d bytes", path, maxKeyFile)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("read key: %w", err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, nil, fmt.Errorf("read key: %w", err)
	}
	return data, info, nil
}

// createKey writes a new key. It appears under its name whole or not at all, and never replaces another: the error is
// fs.ErrExist then.
func createKey(dir, name string) error {
	k, err := newMemoryKey()
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k.private)
	if err != nil {
		return fmt.Errorf("encode key: %w", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	own := func(f *os.File) error { return giveToOwner(dir, f) }
	if err := privatefile.Create(filepath.Join(dir, name), block, own); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

// nameAfter returns a file name that sorts after the name of the last key: its number plus one.
func nameAfter(last string) string {
	stem := strings.TrimSuffix(last, keySuffix)
	digits := len(stem)
	for digits > 0 && stem[digits-1] >= '0' && stem[digits-1] <= '9' {
		digits--
	}
	number, err := strconv.ParseUint(stem[digits:], 10, 63)
	next := strconv.FormatUint(number+1, 10)
	if width := len(stem) - digits; err == nil && len(next) <= width {
		return stem[:digits] + strings.Repeat("0", width-len(next)) + next + keySuffix
	}
	// No number, or one that would need another digit and then sort first.
	return stem + firstKey
}
