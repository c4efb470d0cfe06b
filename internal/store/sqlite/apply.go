package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"

	"sallyport.dev/sallyport/internal/store"
)

// Apply implements store.Backend. The context only bounds the wait for the connection.
func (d *DB) Apply(ctx context.Context, revision uint64, batch []store.Tx) (results []error, err error) {
	if err := d.acquire(ctx); err != nil {
		return nil, err
	}
	defer d.release()
	// A context that cannot end spares the driver a goroutine for each statement.
	ctx = context.Background()
	if err := d.prepareWrites(ctx); err != nil {
		return nil, err
	}
	if _, err := d.stmt.begin.ExecContext(ctx); err != nil {
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	if results, err = d.applyAll(ctx, revision, batch); err == nil {
		if _, err = d.stmt.commit.ExecContext(ctx); err == nil {
			return results, nil
		}
		err = fmt.Errorf("commit: %w", err)
	}
	// After some errors SQLite has rolled back by itself and there is no transaction left to end.
	if _, rerr := d.stmt.rollback.ExecContext(ctx); rerr != nil && !hasCode(rerr, codes.SQLITE_ERROR) {
		err = errors.Join(err, fmt.Errorf("roll back: %w", rerr))
	}
	return nil, err
}

func (d *DB) applyAll(ctx context.Context, revision uint64, batch []store.Tx) ([]error, error) {
	results := make([]error, len(batch))
	for i, tx := range batch {
		var err error
		if len(tx.Rows) == 1 {
			err = d.applyRow(ctx, tx.Rows[0]) // a statement is atomic by itself
		} else {
			err = d.applyRows(ctx, tx.Rows)
		}
		if hasCode(err, codes.SQLITE_FULL) {
			return nil, fmt.Errorf("%w (%w)", store.ErrFull, err)
		}
		if err != nil && !isOwn(err) {
			return nil, err
		}
		results[i] = err
	}
	if _, err := d.stmt.mark.ExecContext(ctx, int64(revision)); err != nil {
		return nil, fmt.Errorf("store revision: %w", err)
	}
	return results, nil
}

// applyRows runs several rows under a savepoint, so that a failing one takes back those before it and nothing
// of the neighbours.
func (d *DB) applyRows(ctx context.Context, rows []store.Row) error {
	if _, err := d.stmt.savepoint.ExecContext(ctx); err != nil {
		return fmt.Errorf("set savepoint: %w", err)
	}
	for _, row := range rows {
		err := d.applyRow(ctx, row)
		if err == nil {
			continue
		}
		if isOwn(err) {
			if _, uerr := d.stmt.undo.ExecContext(ctx); uerr != nil {
				return fmt.Errorf("roll back to savepoint: %w", uerr)
			}
			if _, rerr := d.stmt.release.ExecContext(ctx); rerr != nil {
				return fmt.Errorf("release savepoint: %w", rerr)
			}
		}
		return err
	}
	if _, err := d.stmt.release.ExecContext(ctx); err != nil {
		return fmt.Errorf("release savepoint: %w", err)
	}
	return nil
}

func (d *DB) applyRow(ctx context.Context, row store.Row) error {
	o := row.Object
	switch row.Verb {
	case store.VerbDelete:
		return check(d.stmt.remove.ExecContext(ctx, o.ID, string(o.Kind), int64(row.Expect)))(store.ErrConflict)
	case store.VerbCreate, store.VerbPut:
	default:
		return fmt.Errorf("unknown verb %d", row.Verb)
	}
	labels, err := store.EncodeLabels(o.Labels)
	if err != nil {
		return err
	}
	payload := o.Payload
	if payload == nil {
		payload = []byte{}
	}
	if row.Verb == store.VerbCreate {
		return check(d.stmt.insert.ExecContext(ctx, o.ID, string(o.Kind), o.Workspace, o.Name, o.Owner, labels, payload,
			int64(o.Version), int64(o.Revision), o.CreatedAt.UnixMilli(), o.UpdatedAt.UnixMilli()))(store.ErrExists)
	}
	return check(d.stmt.update.ExecContext(ctx, o.ID, string(o.Kind), int64(row.Expect), o.Workspace, o.Name, o.Owner,
		labels, payload, int64(o.Version), int64(o.Revision), o.CreatedAt.UnixMilli(), o.UpdatedAt.UnixMilli()))(store.ErrConflict)
}

// check turns the outcome of a statement that must change one row into an error: the given one when it changed
// none, ErrExists when it hit a unique index.
func check(r sql.Result, err error) func(none error) error {
	return func(none error) error {
		if hasCode(err, codes.SQLITE_CONSTRAINT) {
			return fmt.Errorf("%w (%w)", store.ErrExists, err)
		}
		if err != nil {
			return err
		}
		n, err := r.RowsAffected()
		if err != nil {
			return err
		}
		if n == 0 {
			return none
		}
		return nil
	}
}

// isOwn reports whether an error concerns the transaction alone and left the connection's one going.
func isOwn(err error) bool {
	return errors.Is(err, store.ErrExists) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) ||
		hasCode(err, codes.SQLITE_TOOBIG)
}

// hasCode reports whether err is SQLite's with this primary result code.
func hasCode(err error, code int) bool {
	var se *driver.Error
	return errors.As(err, &se) && se.Code()&0xff == code
}
