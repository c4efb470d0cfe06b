package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/sallyport/internal/store"
)

const columns = `id, object_type, workspace, name, owner, labels, payload, resource_version, revision, created_at_ms, updated_at_ms`

// Load implements store.Backend. It reads in one snapshot, whatever time that takes.
func (d *DB) Load(ctx context.Context, add func(*store.Object) error) (revision uint64, err error) {
	if err := d.acquire(ctx); err != nil {
		return 0, err
	}
	defer d.release()
	s, err := d.current(ctx)
	if err != nil {
		return 0, err
	}
	var stored int64
	err = pgx.BeginTxFunc(ctx, s.conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SET LOCAL statement_timeout = 0`); err != nil {
			return err
		}
		if err := loadObjects(ctx, tx, add); err != nil {
			return fmt.Errorf("load objects: %w", err)
		}
		return tx.QueryRow(ctx, `SELECT revision FROM store_meta WHERE id = 1`).Scan(&stored)
	})
	if err != nil {
		if s.conn.IsClosed() {
			d.drop(err)
		}
		return 0, classify(err)
	}
	return uint64(stored), nil
}

func loadObjects(ctx context.Context, tx pgx.Tx, add func(*store.Object) error) error {
	rows, err := tx.Query(ctx, `SELECT `+columns+` FROM objects`)
	if err != nil {
		return err
	}
	defer rows.Close()
	r := newReader()
	for rows.Next() {
		o, err := r.object(rows)
		if err != nil {
			return err
		}
		if err := add(o); err != nil {
			return err
		}
	}
	return rows.Err()
}

// reader turns rows into objects. The few strings that many rows share are kept once.
type reader struct {
	shared map[string]string
	labels map[string]map[string]string // by their JSON
}

func newReader() *reader {
	return &reader{shared: map[string]string{}, labels: map[string]map[string]string{"{}": nil}}
}

// maxShared bounds the tables of a reader, for stores where every row has an owner or labels of its own.
const maxShared = 10_000

// share returns the text of a column, which the next row overwrites.
func (r *reader) share(text []byte) string {
	if kept, ok := r.shared[string(text)]; ok {
		return kept
	}
	s := string(text)
	if len(r.shared) < maxShared {
		r.shared[s] = s
	}
	return s
}

// object reads one row. Text and bytes come in the binary format, in which text is what it is.
func (r *reader) object(rows pgx.Rows) (*store.Object, error) {
	var number [4]int64
	o := &store.Object{}
	if err := rows.Scan(nil, nil, nil, nil, nil, nil, &o.Payload, &number[0], &number[1], &number[2], &number[3]); err != nil {
		return nil, err
	}
	raw := rows.RawValues()
	o.ID, o.Name = string(raw[0]), string(raw[3])
	o.Kind, o.Workspace, o.Owner = store.Kind(r.share(raw[1])), r.share(raw[2]), r.share(raw[4])
	var err error
	if o.Labels, err = r.labelSet(raw[5]); err != nil {
		return nil, fmt.Errorf("labels of %q: %w", o.ID, err)
	}
	if len(o.Payload) == 0 {
		o.Payload = nil
	}
	o.Version, o.Revision = uint64(number[0]), uint64(number[1])
	o.CreatedAt, o.UpdatedAt = time.UnixMilli(number[2]).UTC(), time.UnixMilli(number[3]).UTC()
	return o, nil
}

// labelSet decodes labels; objects with equal ones share a map, which nobody changes.
func (r *reader) labelSet(encoded []byte) (map[string]string, error) {
	if l, ok := r.labels[string(encoded)]; ok {
		return l, nil
	}
	var l map[string]string
	if err := json.Unmarshal(encoded, &l); err != nil {
		return nil, err
	}
	if len(r.labels) < maxShared {
		r.labels[string(encoded)] = l
	}
	return l, nil
}
