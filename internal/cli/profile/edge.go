package profile

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"sallyport.dev/sallyport/internal/fault"
)

const (
	// edgeFile holds the token of an authenticating proxy, and nothing else; oldEdgeFile is its name in older clients.
	edgeFile    = "edge_token"
	oldEdgeFile = "cf_token"
)

// SaveEdgeToken stores the token by which an authenticating proxy lets this user through to a gateway.
func (r Root) SaveEdgeToken(name, token string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if err := r.writeFile(r.gateway(name, edgeFile), []byte(token)); err != nil {
		return err
	}
	return remove(r.gateway(name, oldEdgeFile))
}

// LoadEdgeToken reads that token, also where an older client has left it. Kind Unauthenticated when there is none.
func (r Root) LoadEdgeToken(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	data, err := readFile(r.gateway(name, edgeFile))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = readFile(r.gateway(name, oldEdgeFile))
	}
	token := strings.TrimSpace(string(data))
	if err == nil && token == "" {
		err = errors.New("the file is empty")
	}
	if err != nil {
		return "", fault.Wrap(err, fault.Unauthenticated, ReasonNotSignedIn, "you are not signed in to gateway '%s'", name).
			WithNext("run `sallyport gateway login %s`", name)
	}
	return token, nil
}

// DeleteEdgeToken forgets that token, and tells whether there was one.
func (r Root) DeleteEdgeToken(name string) (bool, error) {
	if err := CheckName(name); err != nil {
		return false, err
	}
	had := false
	for _, file := range []string{edgeFile, oldEdgeFile} {
		if _, err := os.Stat(r.gateway(name, file)); err == nil {
			had = true
		}
		if err := remove(r.gateway(name, file)); err != nil {
			return had, err
		}
	}
	return had, nil
}
