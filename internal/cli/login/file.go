package login

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode"

	"sallyport.dev/sallyport/internal/fault"
)

// TokenFileEnv names a file with a bearer token that somebody else keeps fresh.
const TokenFileEnv = "OPENSHELL_TOKEN_FILE"

const (
	// maxTokenFile bounds such a file, in bytes; gateways take no longer tokens.
	maxTokenFile = 16 << 10
	// rereadAfter is how long a token that was read is taken for current.
	rereadAfter = 10 * time.Second
)

// ReasonTokenFile means that a file with a token cannot be used.
const ReasonTokenFile = "TOKEN_FILE_INVALID"

// File hands out the token of a file, which is read again from time to time, since tokens in files are rotated under their
// readers. It is safe for concurrent use.
type File struct {
	// Path is the file; "-" is standard input, which is read once.
	Path string
	// In is standard input.
	In io.Reader
	// Now is the clock; nil means the real one.
	Now func() time.Time

	mu    sync.Mutex
	token string
	read  time.Time
}

// Token returns the token. The file's content is in no error.
func (f *File) Token(context.Context) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now
	if f.Now != nil {
		now = f.Now
	}
	if f.token != "" && (f.Path == "-" || now().Sub(f.read) < rereadAfter) {
		return f.token, nil
	}
	token, err := f.load()
	if err != nil {
		return "", err
	}
	f.token, f.read = token, now()
	return token, nil
}

func (f *File) load() (string, error) {
	fail := func(cause error, format string, args ...any) error {
		return fault.Wrap(cause, fault.FailedPrecondition, ReasonTokenFile, format, args...).
			WithNext("put an access token of the gateway's identity provider there, and nothing else")
	}
	from, name := f.In, "standard input"
	if f.Path != "-" {
		name = f.Path
		opened, err := os.Open(f.Path)
		if err != nil {
			return "", fail(err, "the token file cannot be read: %v", err)
		}
		defer opened.Close()
		from = opened
	}
	if from == nil {
		return "", fail(nil, "there is no standard input to read a token from")
	}
	data, err := io.ReadAll(io.LimitReader(from, maxTokenFile+1))
	if err != nil {
		return "", fail(err, "read a token from %s: %v", name, err)
	}
	token := strings.TrimSpace(string(data))
	switch {
	case len(data) > maxTokenFile:
		return "", fail(nil, "%s is larger than %d bytes and can be no token", name, maxTokenFile)
	case token == "":
		return "", fail(nil, "%s holds no token", name)
	case strings.ContainsFunc(token, func(r rune) bool { return r > unicode.MaxASCII || !unicode.IsGraphic(r) || r == ' ' }):
		return "", fail(nil, "%s holds more than one word and can be no token", name)
	}
	return token, nil
}

// RenewAt is when the file is read again.
func (f *File) RenewAt() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.token == "" || f.Path == "-" {
		return time.Time{}
	}
	return f.read.Add(time.Minute)
}

var _ fmt.Stringer = (*File)(nil)

// String is the file's name, so that no token is printed with it.
func (f *File) String() string { return f.Path }
