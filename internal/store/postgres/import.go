package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/sallyport/internal/store"
)

// Import stores objects as they are, with their versions and revisions, in a database that has none, all or none of them,
// and makes revision the highest one used.
func (d *DB) Import(ctx context.Context, revision uint64, objects []*store.Object) error {
	_, err := d.write(ctx, revision, func(ctx context.Context, s *session) ([]error, error) {
		if _, err := s.conn.Exec(ctx, beginSQL+`; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0`); err != nil {
			return nil, fmt.Errorf("begin transaction: %w", err)
		}
		if err := heldFence(s.conn.Exec(ctx, fenceSQL, d.fence(s, revision)...)); err != nil {
			return nil, err
		}
		var there bool
		if err := s.conn.QueryRow(ctx, `SELECT EXISTS (SELECT 1 FROM objects)`).Scan(&there); err != nil {
			return nil, err
		}
		if there {
			return nil, errors.New("the database is not empty")
		}
		n, err := s.conn.CopyFrom(ctx, pgx.Identifier{"objects"}, columnNames(), pgx.CopyFromSlice(len(objects), func(i int) ([]any, error) {
			_, args, err := statement(store.Row{Verb: store.VerbCreate, Object: objects[i]})
			return args, err
		}))
		if err != nil {
			return nil, fmt.Errorf("copy objects: %w", err)
		}
		if n != int64(len(objects)) {
			return nil, fmt.Errorf("%d of %d objects were copied", n, len(objects))
		}
		return []error{nil}, nil
	})
	return err
}

func columnNames() []string {
	return []string{
		"id", "object_type", "workspace", "name", "owner", "labels", "payload",
		"resource_version", "revision", "created_at_ms", "updated_at_ms",
	}
}
