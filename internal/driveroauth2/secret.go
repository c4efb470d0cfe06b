package driveroauth2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
)

// maxSecretBytes bounds a secret file; anything larger is no client secret.
const maxSecretBytes = 64 << 10

// readSecret reads the file ref inside dir with surrounding white space removed. It never leaves dir, neither by
// the name nor by a symbolic link; links inside it work, as mounted Kubernetes secrets need them. The file is
// read anew for each token request, so a rotated secret is in use at once.
func readSecret(dir, ref string) (string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return "", fmt.Errorf("open secrets directory: %s", reasonOf(err))
	}
	defer root.Close()
	f, err := root.Open(ref)
	if err != nil {
		return "", fmt.Errorf("open secret file %q: %s", ref, reasonOf(err))
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return "", fmt.Errorf("inspect secret file %q: %s", ref, reasonOf(err))
	} else if !info.Mode().IsRegular() {
		return "", fmt.Errorf("secret file %q is no regular file", ref)
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return "", fmt.Errorf("read secret file %q: %s", ref, reasonOf(err))
	}
	if len(raw) > maxSecretBytes {
		return "", fmt.Errorf("secret file %q is larger than 64 KiB", ref)
	}
	secret := bytes.TrimSpace(raw)
	if len(secret) == 0 {
		return "", fmt.Errorf("secret file %q is empty", ref)
	}
	if bytes.ContainsRune(secret, 0) {
		return "", errors.New("secret file " + ref + " holds a NUL byte")
	}
	return string(secret), nil
}
