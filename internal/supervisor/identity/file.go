package identity

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"sallyport.dev/sallyport/internal/privatefile"
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
func writeToken(path, token string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errNotOurs
	}
	return privatefile.Replace(path, []byte(token+"\n"))
}
