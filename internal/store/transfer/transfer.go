// Package transfer copies a whole store from one database to another, which must be empty, and checks that nothing is
// missing or changed. It knows backends and rows, and nothing of any particular database or of what a payload means.
package transfer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	"sallyport.dev/sallyport/internal/store"
)

// ErrNotEmpty says that the target has, or once had, objects.
var ErrNotEmpty = errors.New("the target is not empty")

// Importer is a backend that has a quicker way for many objects than Apply.
type Importer interface {
	// Import stores objects as they are in an empty database, all or none, and makes revision the highest one used.
	Import(ctx context.Context, revision uint64, objects []*store.Object) error
}

// Report is what was copied.
type Report struct {
	Objects  map[store.Kind]int
	Total    int
	Revision uint64
}

// Copy copies all objects, with their versions, revisions and times, and the highest revision. Both databases belong to
// the caller alone meanwhile. It writes all or nothing, reads everything back and compares.
func Copy(ctx context.Context, from, to store.Backend) (*Report, error) {
	source, revision, err := load(ctx, from)
	if err != nil {
		return nil, fmt.Errorf("read the source: %w", err)
	}
	before, used, err := load(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("read the target: %w", err)
	}
	if len(before) > 0 || used > 0 {
		return nil, fmt.Errorf("%w: it has %d objects and is at revision %d; name another one, or drop and create it", ErrNotEmpty, len(before), used)
	}
	report := &Report{Objects: map[store.Kind]int{}, Total: len(source), Revision: revision}
	for _, o := range source {
		report.Objects[o.Kind]++
	}
	if revision == 0 {
		return report, nil
	}
	if err := write(ctx, to, revision, source); err != nil {
		return nil, fmt.Errorf("write the target: %w", err)
	}
	copied, reached, err := load(ctx, to)
	if err != nil {
		return nil, fmt.Errorf("read the target back: %w", err)
	}
	if err := compare(source, copied); err != nil {
		return nil, fmt.Errorf("the copy is not the same, so drop the target: %w", err)
	}
	if reached != revision {
		return nil, fmt.Errorf("the copy is not the same, so drop the target: revision %d instead of %d", reached, revision)
	}
	return report, nil
}

func load(ctx context.Context, b store.Backend) (objects map[string]*store.Object, revision uint64, err error) {
	objects = map[string]*store.Object{}
	revision, err = b.Load(ctx, func(o *store.Object) error {
		if objects[o.ID] != nil {
			return fmt.Errorf("object id %q is stored twice", o.ID)
		}
		objects[o.ID] = o
		return nil
	})
	return objects, revision, err
}

func write(ctx context.Context, to store.Backend, revision uint64, source map[string]*store.Object) error {
	if b, ok := to.(Importer); ok {
		objects := make([]*store.Object, 0, len(source))
		for _, o := range source {
			objects = append(objects, o)
		}
		return b.Import(ctx, revision, objects)
	}
	// One transaction of all rows, so that none stays if one fails.
	rows := make([]store.Row, 0, len(source))
	for _, o := range source {
		rows = append(rows, store.Row{Verb: store.VerbCreate, Object: o})
	}
	results, err := to.Apply(ctx, revision, []store.Tx{{Rows: rows}})
	if err != nil {
		return err
	}
	return errors.Join(results...)
}

func compare(source, copied map[string]*store.Object) error {
	if len(source) != len(copied) {
		return fmt.Errorf("%d objects instead of %d", len(copied), len(source))
	}
	for id, want := range source {
		got := copied[id]
		if got == nil {
			return fmt.Errorf("%s %q is missing", want.Kind, id)
		}
		if got.Kind != want.Kind || got.Workspace != want.Workspace || got.Name != want.Name || got.Owner != want.Owner ||
			got.Version != want.Version || got.Revision != want.Revision || !got.CreatedAt.Equal(want.CreatedAt) ||
			!got.UpdatedAt.Equal(want.UpdatedAt) || !maps.Equal(got.Labels, want.Labels) || !bytes.Equal(got.Payload, want.Payload) {
			return fmt.Errorf("%s %q differs", want.Kind, id)
		}
	}
	return nil
}
