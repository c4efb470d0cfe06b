package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
)

// Info is what a database file holds.
type Info struct {
	// Schema is the version of its schema, Revision the highest that was ever committed, Objects their number.
	Schema   int64
	Revision uint64
	Objects  int64
}

// Path returns the file of a database URL, empty for a database in memory.
func Path(rawURL string) (string, error) {
	loc, err := parseURL(rawURL)
	return loc.path, err
}

// Snapshot copies the database at path into the file to, which must not be there, as it is at one moment: everything
// that was committed before is in it, nothing in part. A gateway may be using the database meanwhile; it waits for
// nothing. The copy is on disk when Snapshot returns.
func Snapshot(ctx context.Context, path, to string) (Info, error) {
	if _, err := os.Stat(path); err != nil {
		return Info{}, fmt.Errorf("copy the database: %w", err)
	}
	// Made here for its mode; SQLite takes an empty file.
	f, err := os.OpenFile(to, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Info{}, fmt.Errorf("copy the database: %w", err)
	}
	defer f.Close()
	if err := vacuumInto(ctx, path, to); err != nil {
		return Info{}, fmt.Errorf("copy the database %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return Info{}, fmt.Errorf("copy the database: %w", err)
	}
	return Inspect(ctx, to)
}

func vacuumInto(ctx context.Context, path, to string) (err error) {
	db, err := sql.Open("sqlite", fileURL(path, "rw"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	_, err = db.ExecContext(ctx, `VACUUM INTO ?`, to)
	return err
}

// Inspect checks a file that nobody uses, such as a copy, from its first page to its last, and tells what it holds. It
// refuses one that is damaged, and one whose schema is newer than this program's.
func Inspect(ctx context.Context, path string) (info Info, err error) {
	if _, err := os.Stat(path); err != nil {
		return Info{}, fmt.Errorf("read the database: %w", err)
	}
	db, err := sql.Open("sqlite", fileURL(path, "ro")+"&immutable=1")
	if err != nil {
		return Info{}, fmt.Errorf("read the database: %w", err)
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	var verdict string
	if err := db.QueryRowContext(ctx, `PRAGMA integrity_check(1)`).Scan(&verdict); err != nil {
		return Info{}, fmt.Errorf("check the database %s: %w", path, err)
	}
	if verdict != "ok" {
		return Info{}, fmt.Errorf("the database %s is damaged: %s", path, verdict)
	}
	if info.Schema, err = storedVersion(ctx, db); err != nil {
		return Info{}, fmt.Errorf("read the database %s: %w", path, err)
	}
	switch {
	case info.Schema == 0:
		return Info{}, fmt.Errorf("the database %s is empty", path)
	case info.Schema > schemaVersion:
		return Info{}, fmt.Errorf("the database %s has schema version %d, this program knows versions up to %d; use the newer program that wrote it",
			path, info.Schema, schemaVersion)
	}
	row := db.QueryRowContext(ctx, `SELECT (SELECT revision FROM store_meta WHERE id = 1), (SELECT count(*) FROM objects)`)
	if err := row.Scan(&info.Revision, &info.Objects); err != nil {
		return Info{}, fmt.Errorf("read the database %s: %w", path, err)
	}
	return info, nil
}

// fileURL names an existing file in the driver's terms.
func fileURL(path, mode string) string {
	u := url.URL{Scheme: "file", Opaque: (&url.URL{Path: path}).EscapedPath(), RawQuery: url.Values{
		"mode": {mode}, "_pragma": {"busy_timeout(5000)", "trusted_schema(OFF)"},
	}.Encode()}
	return u.String()
}
