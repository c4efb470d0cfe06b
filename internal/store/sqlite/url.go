package sqlite

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// location is what a database URL means.
type location struct {
	path   string // empty for a database in memory
	create bool
}

// parseURL understands sqlite:path, sqlite://path and sqlite:///abs/path, each with ?mode=rwc (create when
// missing, the default), rw (must exist) or memory, and sqlite::memory:. cache=shared and cache=private are
// accepted and mean nothing here, where one connection does all work.
func parseURL(raw string) (location, error) {
	rest, ok := strings.CutPrefix(raw, "sqlite:")
	if !ok {
		scheme, _, found := strings.Cut(raw, ":")
		if !found {
			return location{}, errors.New("unsupported database URL scheme: none given; use sqlite:PATH")
		}
		return location{}, fmt.Errorf("unsupported database URL scheme %q; use sqlite:PATH", scheme)
	}
	rest, query, _ := strings.Cut(rest, "?")
	path, err := url.PathUnescape(strings.TrimPrefix(rest, "//"))
	if err != nil {
		return location{}, fmt.Errorf("parse database URL: %w", err)
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return location{}, fmt.Errorf("parse database URL: %w", err)
	}
	loc := location{path: path, create: true}
	memory := path == ":memory:"
	for key, values := range params {
		value := values[len(values)-1]
		switch {
		case key == "cache" && (value == "shared" || value == "private"):
		case key == "mode" && value == "memory":
			memory = true
		case key == "mode" && value == "rwc":
			loc.create = true
		case key == "mode" && value == "rw":
			loc.create = false
		default:
			return location{}, fmt.Errorf("database URL: unsupported parameter %s=%s; mode may be rwc, rw or memory", key, value)
		}
	}
	if memory {
		return location{}, nil
	}
	if path == "" {
		return location{}, errors.New("database URL names no file; use sqlite::memory: or sqlite:PATH")
	}
	return loc, nil
}

// dsn is the same in the driver's terms. Every commit is synced before it is answered (synchronous FULL, which
// in WAL mode is one sync of the log), and a transaction takes the write lock at once.
func (l location) dsn() string {
	q := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {
			"busy_timeout(5000)",
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"trusted_schema(OFF)",
		},
	}
	if l.path == "" {
		return "file::memory:?" + q.Encode()
	}
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: l.path}).EscapedPath(), RawQuery: q.Encode()}
	return u.String()
}
