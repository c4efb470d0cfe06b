package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// schemaVersion is the newest migration that this program has.
//
// A migration only adds, so that the programs of the version before go on working: what they need is dropped by a later
// migration, in a release after the one that stopped using it, and that one sets store_meta.compatible_from to the oldest
// schema version whose programs may still work.
const schemaVersion = 1

// migrate brings the schema up to date. The lease is held, so that nobody else does. A schema that is up to date costs
// one small read, and needs no privilege to change it.
func (d *DB) migrate(ctx context.Context, s *session) error {
	stored, compatible, err := d.storedVersion(ctx, s)
	if err != nil {
		return fmt.Errorf("read the schema version: %w", err)
	}
	switch {
	case stored == schemaVersion:
		return nil
	case stored > schemaVersion && compatible <= schemaVersion:
		d.opts.Logger.Info("the database has a newer schema, which this version can work on", "database", d.name, "stored", stored, "own", schemaVersion)
		return nil
	case stored > schemaVersion:
		return fmt.Errorf("it has schema version %d, for programs that know version %d or later; this program knows versions up to %d: "+
			"start the newer program that wrote it, or restore a backup from before that upgrade", stored, compatible, schemaVersion)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(d.pool)
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return errors.Join(fmt.Errorf("read migrations: %w", err), db.Close())
	}
	if _, err := p.Up(ctx); err != nil {
		return errors.Join(fmt.Errorf("migrate the schema from version %d to %d: %w", stored, schemaVersion, err), db.Close())
	}
	return db.Close()
}

// storedVersion returns the newest migration that the schema has, 0 for an empty one, and the oldest version whose
// programs may work on it. It refuses a schema that holds tables of others.
func (d *DB) storedVersion(ctx context.Context, s *session) (version, compatible int64, err error) {
	rows, err := s.conn.Query(ctx, `SELECT relname::text FROM pg_class WHERE relnamespace = $1 AND relkind IN ('r', 'p')`, d.schema.oid)
	if err != nil {
		return 0, 0, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return 0, 0, err
	}
	tables := map[string]bool{}
	for _, name := range names {
		tables[name] = true
	}
	if !tables[goose.DefaultTablename] {
		for _, own := range []string{"objects", "store_meta"} {
			if tables[own] {
				return 0, 0, fmt.Errorf("the schema %q has a table %s of another program; name another one with search_path=SCHEMA in the URL", d.schema.name, own)
			}
		}
		return 0, 0, nil
	}
	if err := s.conn.QueryRow(ctx, `SELECT coalesce(max(version_id), 0) FROM `+goose.DefaultTablename).Scan(&version); err != nil {
		return 0, 0, err
	}
	switch {
	case version == 0 || !tables["store_meta"] && version <= schemaVersion:
		if version > 0 {
			return 0, 0, fmt.Errorf("the schema %q has the migrations of another program; name another one with search_path=SCHEMA in the URL", d.schema.name)
		}
		return 0, 0, nil
	case !tables["store_meta"]:
		return version, version, nil
	}
	err = s.conn.QueryRow(ctx, `SELECT compatible_from FROM store_meta WHERE id = 1`).Scan(&compatible)
	return version, compatible, err
}

// firstSchema returns the first schema that a search path names, without quotes, or "".
func firstSchema(path string) string {
	first, _, _ := strings.Cut(path, ",")
	first = strings.TrimSpace(first)
	if quoted, ok := strings.CutPrefix(first, `"`); ok {
		first = strings.ReplaceAll(strings.TrimSuffix(quoted, `"`), `""`, `"`)
	} else {
		first = strings.ToLower(first)
	}
	if first == "$user" || strings.HasPrefix(first, "pg_") {
		return ""
	}
	return first
}
