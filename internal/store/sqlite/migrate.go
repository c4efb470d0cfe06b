package sqlite

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is the newest migration that this program has.
const schemaVersion = 1

// migrate brings the schema up to date. A database that already is costs two small reads.
func migrate(ctx context.Context, db *sql.DB) error {
	stored, err := storedVersion(ctx, db)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	switch {
	case stored == schemaVersion:
		return nil
	case stored > schemaVersion:
		return fmt.Errorf("it has schema version %d, this program knows versions up to %d; "+
			"start the newer program that wrote it, or restore a copy from before that upgrade", stored, schemaVersion)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectSQLite3, db, files)
	if err != nil {
		return fmt.Errorf("read migrations: %w", err)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate schema from version %d to %d: %w", stored, schemaVersion, err)
	}
	return nil
}

// storedVersion returns the newest migration that the database has, 0 for a new file. It refuses a file that
// belongs to another program.
func storedVersion(ctx context.Context, db *sql.DB) (version int64, err error) {
	tables, err := tableNames(ctx, db)
	if err != nil {
		return 0, err
	}
	if !tables[goose.DefaultTablename] {
		if len(tables) > 0 {
			return 0, errors.New("the file holds tables of another program; give this one a database of its own")
		}
		return 0, nil
	}
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(version_id), 0) FROM `+goose.DefaultTablename).Scan(&version)
	return version, err
}

func tableNames(ctx context.Context, db *sql.DB) (names map[string]bool, err error) {
	rows, err := db.QueryContext(ctx, `SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	names = make(map[string]bool)
	for rows.Next() {
		var n string
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		names[n] = true
	}
	return names, rows.Err()
}
