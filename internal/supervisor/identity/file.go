package identity

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

func readToken(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return "", err
	}
	token := strings.TrimSpace(string(raw))
	if len(raw) > maxTokenFile || token == "" || strings.ContainsAny(token, " \r\n\t") {
		return "", fmt.Errorf("%s does not hold one token", path)
	}
	return token, nil
}

// errNotOurs reports a token file that somebody else manages, as Kubernetes does with links.
var errNotOurs = errors.New("not a regular file")

// writeToken replaces the token in a file that is there. It is whole at any time, and readable for us alone.
func writeToken(path, token string) (err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errNotOurs
	}
	// os.CreateTemp opens with mode 0600.
	f, err := os.CreateTemp(filepath.Dir(path), ".token-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(f.Name()))
		}
	}()
	_, err = f.WriteString(token + "\n")
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
