package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"sallyport.dev/sallyport/internal/store"
)

// The statements of a batch. The first one of every transaction is the fence: it takes the row of store_meta, which any
// other owner takes too, and changes nothing unless this process still owns the database and nobody wrote since.
const (
	beginSQL = `BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE`
	fenceSQL = `UPDATE store_meta SET revision = $1
		WHERE id = 1 AND epoch = $2 AND owner_id = $3 AND revision = $4 AND pg_backend_pid() = $5`
	insertSQL = `INSERT INTO objects (` + columns + `)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`
	updateSQL = `UPDATE objects SET workspace = $4, name = $5, owner = $6, labels = $7, payload = $8,
		resource_version = $9, revision = $10, created_at_ms = $11, updated_at_ms = $12
		WHERE id = $1 AND object_type = $2 AND resource_version = $3`
	deleteSQL = `DELETE FROM objects WHERE id = $1 AND object_type = $2 AND resource_version = $3`
)

// attempts bounds how often one batch is tried; each time the database said, or made plain, that nothing was written.
const attempts = 4

var (
	// errFenced says that the fence changed nothing.
	errFenced = errors.New("the fence did not hold")
	// errRefused says that a row's condition did not hold, so that each transaction must be asked for itself.
	errRefused = errors.New("a condition did not hold")
	// errCut says that the connection was lost after COMMIT was sent.
	errCut = errors.New("the commit was cut off")
)

// Apply implements store.Backend. The context is not heeded: what bounds a batch are the options.
func (d *DB) Apply(ctx context.Context, revision uint64, batch []store.Tx) ([]error, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), d.opts.CommitTimeout)
	defer cancel()
	return d.write(ctx, revision, func(ctx context.Context, s *session) ([]error, error) {
		results, err := d.applyAll(ctx, s, revision, batch)
		if !errors.Is(err, errRefused) {
			return results, err
		}
		if err = rollback(ctx, s, err); !errors.Is(err, errRefused) {
			return nil, err
		}
		return d.applyEach(ctx, s, revision, batch)
	})
}

// write makes one transaction of what fill sends, BEGIN and fence included, and commits it; fill is called again when
// the connection was lost and nothing was written.
func (d *DB) write(ctx context.Context, revision uint64, fill func(context.Context, *session) ([]error, error)) ([]error, error) {
	if err := d.acquire(ctx); err != nil {
		return nil, fmt.Errorf("wait for the connection: %w (%w)", store.ErrOverloaded, err)
	}
	defer d.release()
	if p := d.pending; p != nil && !p.known {
		return nil, fmt.Errorf("the outcome of an earlier batch is not known yet: %w", store.ErrUnreachable)
	}
	d.pending = nil
	if revision <= d.acked {
		return nil, fmt.Errorf("revision %d was given out before, the last one was %d", revision, d.acked)
	}
	var err error
	for range attempts {
		var s *session
		if s, err = d.current(ctx); err != nil {
			return nil, classify(err)
		}
		var results []error
		results, err = d.attempt(ctx, s, revision, fill)
		if err == nil {
			d.acked = revision
			return results, nil
		}
		if errors.Is(err, errCut) {
			committed, serr := d.settleNow(ctx, err)
			if serr != nil {
				return nil, serr
			}
			if committed {
				return results, nil
			}
			continue
		}
		if !d.again(s, err) {
			break
		}
	}
	return nil, classify(err)
}

// attempt sends a batch once. With errCut it returns the results that hold if the batch was committed.
func (d *DB) attempt(ctx context.Context, s *session, revision uint64, fill func(context.Context, *session) ([]error, error)) ([]error, error) {
	results, err := fill(ctx, s)
	if err != nil {
		return nil, rollback(ctx, s, err)
	}
	d.pending = &pending{revision: revision, results: results}
	tag, err := s.conn.Exec(ctx, `COMMIT`)
	switch {
	case err == nil && tag.String() == "COMMIT":
		d.pending = nil
		return results, nil
	case err == nil:
		d.pending = nil
		return nil, fmt.Errorf("the server answered COMMIT with %s", tag)
	case codeOf(err) != "" && !broken(err):
		d.pending = nil // The server refused, and says so.
		return nil, rollback(ctx, s, err)
	}
	return results, fmt.Errorf("%w: %w", errCut, err)
}

// again prepares another attempt after a failure that wrote nothing, and reports whether one makes sense.
func (d *DB) again(s *session, err error) bool {
	code := codeOf(err)
	switch {
	case errors.Is(err, errFenced), s.conn.IsClosed(), broken(err):
		d.drop(err) // The next session finds out.
		return true
	case code == codeSerialization, code == codeDeadlock:
		return true
	}
	return false
}

// rollback ends the transaction after a failure, which it returns.
func rollback(ctx context.Context, s *session, cause error) error {
	if s.conn.IsClosed() || broken(cause) && codeOf(cause) != "" {
		return cause
	}
	if _, err := s.conn.Exec(ctx, `ROLLBACK`); err != nil {
		return errors.Join(cause, fmt.Errorf("roll back: %w", err))
	}
	return cause
}

// settleNow finds out, while there is time, whether the pending batch was committed. If that cannot be known it fails
// with store.ErrUnsettled, unless it is known that the database is lost for this process.
func (d *DB) settleNow(ctx context.Context, cause error) (committed bool, err error) {
	d.drop(cause)
	_, err = d.current(ctx)
	p := d.pending
	if p.known {
		d.pending = nil
		if p.committed || err == nil {
			return p.committed, nil
		}
		return false, err
	}
	if lost := d.Err(); lost != nil {
		// Nobody will ever know: the next owner went on from there.
		return false, fmt.Errorf("%w (%w)", store.ErrUnsettled, lost)
	}
	return false, fmt.Errorf("%w (%w)", store.ErrUnsettled, cause)
}

// Settle implements store.Settler.
func (d *DB) Settle(ctx context.Context, revision uint64) ([]error, error) {
	if err := d.acquire(ctx); err != nil {
		return nil, fmt.Errorf("wait for the connection: %w", store.ErrUnreachable)
	}
	defer d.release()
	p := d.pending
	if p == nil || p.revision != revision {
		return nil, fmt.Errorf("revision %d is not pending", revision)
	}
	if !p.known {
		// Making a session finds out.
		_, err := d.current(ctx)
		if !p.known && err == nil {
			err = store.ErrUnsettled
		}
		if !p.known {
			return nil, err
		}
	}
	d.pending = nil
	if !p.committed {
		return nil, nil
	}
	return p.results, nil
}

// applyAll sends the fence and all rows of all transactions at once. It fails with errRefused when any row's condition
// did not hold: then nothing is kept.
func (d *DB) applyAll(ctx context.Context, s *session, revision uint64, batch []store.Tx) ([]error, error) {
	b := &pgx.Batch{}
	b.Queue(beginSQL)
	b.Queue(fenceSQL, d.fence(s, revision)...)
	rows := 0
	for _, tx := range batch {
		for _, row := range tx.Rows {
			sql, args, err := statement(row)
			if err != nil {
				return nil, err
			}
			b.Queue(sql, args...)
			rows++
		}
	}
	answers := s.conn.SendBatch(ctx, b)
	err := readAnswers(answers, rows)
	if cerr := answers.Close(); err == nil {
		err = cerr
	}
	switch {
	case err == nil:
		return make([]error, len(batch)), nil
	case ownFailure(err):
		return nil, fmt.Errorf("%w: %w", errRefused, err)
	default:
		return nil, err
	}
}

func readAnswers(answers pgx.BatchResults, rows int) error {
	if _, err := answers.Exec(); err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	if err := heldFence(answers.Exec()); err != nil {
		return err
	}
	refused := false
	for range rows {
		tag, err := answers.Exec()
		if err != nil {
			return err
		}
		refused = refused || tag.RowsAffected() != 1
	}
	if refused {
		return errRefused
	}
	return nil
}

func (d *DB) fence(s *session, revision uint64) []any {
	return []any{int64(revision), d.epoch, d.instance, int64(d.acked), s.pid}
}

// applyEach asks for one transaction after the other, each under a savepoint, so that one that fails leaves its
// neighbours alone. It runs only when somebody changed rows behind the store's back, or a row cannot be stored.
func (d *DB) applyEach(ctx context.Context, s *session, revision uint64, batch []store.Tx) ([]error, error) {
	if _, err := s.conn.Exec(ctx, beginSQL); err != nil {
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	if err := heldFence(s.conn.Exec(ctx, fenceSQL, d.fence(s, revision)...)); err != nil {
		return nil, err
	}
	results := make([]error, len(batch))
	for i, tx := range batch {
		if _, err := s.conn.Exec(ctx, `SAVEPOINT tx`); err != nil {
			return nil, fmt.Errorf("set savepoint: %w", err)
		}
		err := applyRows(ctx, s, tx.Rows)
		if err != nil && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrConflict) && !ownFailure(err) {
			return nil, err
		}
		if err != nil {
			if _, uerr := s.conn.Exec(ctx, `ROLLBACK TO SAVEPOINT tx`); uerr != nil {
				return nil, fmt.Errorf("roll back to savepoint: %w", uerr)
			}
		}
		results[i] = err
		if _, err := s.conn.Exec(ctx, `RELEASE SAVEPOINT tx`); err != nil {
			return nil, fmt.Errorf("release savepoint: %w", err)
		}
	}
	return results, nil
}

func applyRows(ctx context.Context, s *session, rows []store.Row) error {
	for _, row := range rows {
		sql, args, err := statement(row)
		if err != nil {
			return err
		}
		tag, err := s.conn.Exec(ctx, sql, args...)
		switch {
		case codeOf(err) == codeUnique:
			return fmt.Errorf("%w (%w)", store.ErrExists, err)
		case err != nil:
			return err
		case tag.RowsAffected() == 1:
		case row.Verb == store.VerbCreate:
			return store.ErrExists
		default:
			return store.ErrConflict
		}
	}
	return nil
}

// heldFence is called with what the fence's statement returned.
func heldFence(tag pgconn.CommandTag, err error) error {
	if err != nil {
		return fmt.Errorf("check the lease: %w", err)
	}
	if tag.RowsAffected() != 1 {
		return errFenced
	}
	return nil
}

// statement is one row's, with its arguments.
func statement(row store.Row) (string, []any, error) {
	o := row.Object
	switch row.Verb {
	case store.VerbDelete:
		return deleteSQL, []any{o.ID, string(o.Kind), int64(row.Expect)}, nil
	case store.VerbCreate, store.VerbPut:
	default:
		return "", nil, fmt.Errorf("unknown verb %d", row.Verb)
	}
	labels, err := store.EncodeLabels(o.Labels)
	if err != nil {
		return "", nil, err
	}
	payload := o.Payload
	if payload == nil {
		payload = []byte{}
	}
	args := make([]any, 0, 12)
	args = append(args, o.ID, string(o.Kind))
	sql := insertSQL
	if row.Verb == store.VerbPut {
		sql = updateSQL
		args = append(args, int64(row.Expect))
	}
	return sql, append(args, o.Workspace, o.Name, o.Owner, labels, payload,
		int64(o.Version), int64(o.Revision), o.CreatedAt.UnixMilli(), o.UpdatedAt.UnixMilli()), nil
}
