package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport.dev/sallyport/internal/store"
)

// Load implements store.Backend.
func (d *DB) Load(ctx context.Context, add func(*store.Object) error) (revision uint64, err error) {
	if err := d.acquire(ctx); err != nil {
		return 0, err
	}
	defer d.release()
	rows, err := d.conn.QueryContext(ctx, `SELECT id, object_type, workspace, name, owner, labels, payload,
		resource_version, revision, created_at_ms, updated_at_ms FROM objects`)
	if err != nil {
		return 0, fmt.Errorf("load objects: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	r := newReader()
	for rows.Next() {
		o, err := r.object(rows)
		if err != nil {
			return 0, fmt.Errorf("load object: %w", err)
		}
		if err := add(o); err != nil {
			return 0, err
		}
	}
	if err := rows.Err(); err != nil {
		return 0, fmt.Errorf("load objects: %w", err)
	}
	if err := d.stmt.revision.QueryRowContext(ctx).Scan(&revision); err != nil {
		return 0, fmt.Errorf("load revision: %w", err)
	}
	return revision, nil
}

// reader turns rows into objects. The few strings that many rows share are kept once.
type reader struct {
	shared map[string]string
	labels map[string]map[string]string // by their JSON
	row    [11]any
	into   [11]any // pointers to row: a scan into any copies no text and converts no number
}

func newReader() *reader {
	r := &reader{shared: map[string]string{}, labels: map[string]map[string]string{"{}": nil}}
	for i := range r.row {
		r.into[i] = &r.row[i]
	}
	return r
}

// maxShared bounds the tables of a reader, for stores where every row has an owner or labels of its own.
const maxShared = 10_000

func (r *reader) share(s string) string {
	if kept, ok := r.shared[s]; ok {
		return kept
	}
	if len(r.shared) < maxShared {
		r.shared[s] = s
	}
	return s
}

// object reads one row. The table's strict types are what makes a failing conversion a damaged file.
func (r *reader) object(rows *sql.Rows) (*store.Object, error) {
	if err := rows.Scan(r.into[:]...); err != nil {
		return nil, err
	}
	var text [6]string
	for i := range text {
		s, ok := r.row[i].(string)
		if !ok {
			return nil, fmt.Errorf("column %d holds %T instead of text", i+1, r.row[i])
		}
		text[i] = s
	}
	payload, ok := r.row[6].([]byte)
	if !ok {
		return nil, fmt.Errorf("payload of %q is %T instead of bytes", text[0], r.row[6])
	}
	var number [4]int64
	for i := range number {
		n, ok := r.row[7+i].(int64)
		if !ok {
			return nil, fmt.Errorf("column %d of %q holds %T instead of a number", 8+i, text[0], r.row[7+i])
		}
		number[i] = n
	}
	labels, err := r.labelSet(text[5])
	if err != nil {
		return nil, fmt.Errorf("labels of %q: %w", text[0], err)
	}
	if len(payload) == 0 {
		payload = nil
	}
	return &store.Object{
		ID: text[0], Kind: store.Kind(r.share(text[1])), Workspace: r.share(text[2]), Name: text[3],
		Owner: r.share(text[4]), Labels: labels, Payload: payload,
		Version: uint64(number[0]), Revision: uint64(number[1]),
		CreatedAt: time.UnixMilli(number[2]).UTC(), UpdatedAt: time.UnixMilli(number[3]).UTC(),
	}, nil
}

// labelSet decodes labels; objects with equal ones share a map, which nobody changes.
func (r *reader) labelSet(encoded string) (map[string]string, error) {
	if l, ok := r.labels[encoded]; ok {
		return l, nil
	}
	var l map[string]string
	if err := json.Unmarshal([]byte(encoded), &l); err != nil {
		return nil, err
	}
	if len(r.labels) < maxShared {
		r.labels[encoded] = l
	}
	return l, nil
}
