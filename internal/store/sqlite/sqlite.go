// Package sqlite keeps the store's rows in one SQLite file: it owns the schema, the statements and the file, its
// permissions and the lock that keeps a second process out. It knows nothing of memory, queues or watchers.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/gofrs/flock"
	_ "modernc.org/sqlite" // registers the database/sql driver "sqlite"

	"sallyport.dev/sallyport/internal/store"
)

// lockWait is how long Open waits for another process to let go of the file, as during a restart.
const (
	lockWait  = 5 * time.Second
	lockRetry = 50 * time.Millisecond
)

var _ store.Backend = (*DB)(nil)

// DB is one open database. It has a single connection: reads are served from the store's memory, so that only
// the writer and Ping come here, in turns.
type DB struct {
	path string
	lock *flock.Flock // nil for a database in memory
	pool *sql.DB
	conn *sql.Conn
	turn chan struct{} // holds one token while the connection is free
	stmt statements

	prepared []*sql.Stmt // all of stmt, to close them
}

type statements struct {
	begin, commit, rollback, savepoint, release, undo *sql.Stmt
	insert, update, remove, revision, mark            *sql.Stmt
}

// Open opens the database at a URL of the form sqlite:PATH, creating the file and bringing its schema up to
// date. File, log and index are readable by their owner only. It fails with what to do when another process has
// the file open, and when a newer version of the program wrote it.
func Open(ctx context.Context, rawURL string) (*DB, error) {
	loc, err := parseURL(rawURL)
	if err != nil {
		return nil, err
	}
	d := &DB{path: loc.path, turn: make(chan struct{}, 1)}
	if err := d.open(ctx, loc); err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", d, err), d.Close())
	}
	d.turn <- struct{}{}
	return d, nil
}

// String names the database for people.
func (d *DB) String() string {
	if d.path == "" {
		return "in memory"
	}
	return d.path
}

func (d *DB) open(ctx context.Context, loc location) error {
	if loc.path != "" {
		if err := d.prepareFile(ctx, loc); err != nil {
			return err
		}
	}
	pool, err := sql.Open("sqlite", loc.dsn())
	if err != nil {
		return err
	}
	pool.SetMaxOpenConns(1)
	pool.SetMaxIdleConns(1)
	d.pool = pool
	if err := migrate(ctx, pool); err != nil {
		return err
	}
	if d.conn, err = pool.Conn(ctx); err != nil {
		return err
	}
	return d.prepare(ctx)
}

// prepareFile takes the lock and sees to it that the file exists with its permissions before SQLite opens it,
// which gives its log and index the same ones.
func (d *DB) prepareFile(ctx context.Context, loc location) error {
	if !loc.create {
		if _, err := os.Stat(loc.path); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Dir(loc.path)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("its directory does not exist; create it: %w", err)
	}
	lock := flock.New(loc.path+".lock", flock.SetPermissions(0o600))
	ctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	ok, err := lock.TryLockContext(ctx, lockRetry)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("another process has it open; stop that one or give this one a database of its own (%s is locked)", lock.Path())
	case err != nil:
		return fmt.Errorf("lock it: %w", err)
	case !ok:
		return errors.New("lock it: not granted")
	}
	d.lock = lock
	f, err := os.OpenFile(loc.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Close())
}

// prepare makes the statements that reading needs.
func (d *DB) prepare(ctx context.Context) error {
	return d.prepareEach(ctx, []preparation{{&d.stmt.revision, `SELECT revision FROM store_meta WHERE id = 1`}})
}

// prepareWrites makes the statements that writing needs, once, when the first write comes: they cost a tenth of the start.
func (d *DB) prepareWrites(ctx context.Context) error {
	if d.stmt.begin != nil {
		return nil
	}
	return d.prepareEach(ctx, []preparation{
		{&d.stmt.commit, `COMMIT`},
		{&d.stmt.rollback, `ROLLBACK`},
		{&d.stmt.savepoint, `SAVEPOINT tx`},
		{&d.stmt.release, `RELEASE tx`},
		{&d.stmt.undo, `ROLLBACK TO tx`},
		{&d.stmt.insert, `INSERT INTO objects (id, object_type, workspace, name, owner, labels, payload,
			resource_version, revision, created_at_ms, updated_at_ms)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`},
		{&d.stmt.update, `UPDATE objects SET workspace = $4, name = $5, owner = $6, labels = $7, payload = $8,
			resource_version = $9, revision = $10, created_at_ms = $11, updated_at_ms = $12
			WHERE id = $1 AND object_type = $2 AND resource_version = $3`},
		{&d.stmt.remove, `DELETE FROM objects WHERE id = $1 AND object_type = $2 AND resource_version = $3`},
		{&d.stmt.mark, `UPDATE store_meta SET revision = $1 WHERE id = 1`},
		// The last: with it, all are there.
		{&d.stmt.begin, `BEGIN IMMEDIATE`},
	})
}

type preparation struct {
	to    **sql.Stmt
	query string
}

func (d *DB) prepareEach(ctx context.Context, list []preparation) error {
	for _, s := range list {
		prepared, err := d.conn.PrepareContext(ctx, s.query) //nolint:sqlclosecheck // Close closes it
		if err != nil {
			return fmt.Errorf("prepare statement: %w", err)
		}
		*s.to = prepared
		d.prepared = append(d.prepared, prepared)
	}
	return nil
}

// acquire waits for the connection; the caller puts the token back.
func (d *DB) acquire(ctx context.Context) error {
	select {
	case <-d.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *DB) release() { d.turn <- struct{}{} }

// Ping implements store.Backend.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.acquire(ctx); err != nil {
		return err
	}
	defer d.release()
	var revision uint64
	// The context ends here: an interrupt that comes late would hit the next commit on the same connection.
	return d.stmt.revision.QueryRowContext(context.WithoutCancel(ctx)).Scan(&revision)
}

// Close implements store.Backend. It copies the log back into the file and lets other processes in.
func (d *DB) Close() error {
	var errs []error
	// An open statement would keep SQLite's connection half alive, with its locks and its log.
	for _, s := range d.prepared {
		errs = append(errs, s.Close())
	}
	if d.conn != nil {
		errs = append(errs, d.conn.Close())
	}
	if d.pool != nil {
		errs = append(errs, d.pool.Close())
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Unlock())
	}
	return errors.Join(errs...)
}
