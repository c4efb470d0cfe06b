package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/transfer"
)

// rows is a backend in memory. After what it was given has passed damage, that is what it has.
type rows struct {
	objects  []*store.Object
	revision uint64
	damage   func(*rows)
	fail     error
}

func (r *rows) Load(_ context.Context, add func(*store.Object) error) (uint64, error) {
	for _, o := range r.objects {
		if err := add(o); err != nil {
			return 0, err
		}
	}
	return r.revision, nil
}

func (r *rows) Apply(_ context.Context, revision uint64, batch []store.Tx) ([]error, error) {
	if r.fail != nil {
		return nil, r.fail
	}
	for _, tx := range batch {
		for _, row := range tx.Rows {
			copied := row.Object.Edit()
			r.objects = append(r.objects, copied)
		}
	}
	r.revision = revision
	if r.damage != nil {
		r.damage(r)
	}
	return make([]error, len(batch)), nil
}

func (r *rows) Ping(context.Context) error { return nil }

func (r *rows) Close() error { return nil }

// source has twenty objects.
func source() *rows {
	r := &rows{revision: 99}
	for i := range 20 {
		r.objects = append(r.objects, &store.Object{
			Kind: "k", ID: fmt.Sprint(i), Workspace: "w", Name: fmt.Sprint("n", i), Owner: "o", Labels: map[string]string{"a": "b"},
			Version: 3, Revision: uint64(i + 1), CreatedAt: time.UnixMilli(5), UpdatedAt: time.UnixMilli(6), Payload: []byte("p"),
		})
	}
	return r
}

func TestCopy(t *testing.T) {
	t.Parallel()
	target := &rows{}
	report, err := transfer.Copy(t.Context(), source(), target)
	if err != nil || report.Total != 20 || report.Objects["k"] != 20 || report.Revision != 99 || len(target.objects) != 20 {
		t.Errorf("%+v, %v", report, err)
	}
	if _, err := transfer.Copy(t.Context(), source(), target); !errors.Is(err, transfer.ErrNotEmpty) {
		t.Errorf("once more: %v", err)
	}
	if _, err := transfer.Copy(t.Context(), source(), &rows{revision: 7}); !errors.Is(err, transfer.ErrNotEmpty) {
		t.Errorf("into one that had objects: %v", err)
	}
	if report, err := transfer.Copy(t.Context(), &rows{}, &rows{fail: errors.New("not called")}); err != nil || report.Total != 0 {
		t.Errorf("of nothing: %+v, %v", report, err)
	}
	full := errors.New("full")
	if _, err := transfer.Copy(t.Context(), source(), &rows{fail: full}); !errors.Is(err, full) {
		t.Errorf("into a full one: %v", err)
	}
	twice := source()
	twice.objects = append(twice.objects, twice.objects[0])
	if _, err := transfer.Copy(t.Context(), twice, &rows{}); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("of a damaged one: %v", err)
	}
}

// TestCopyFindsEveryDifference damages each field of what the target kept.
func TestCopyFindsEveryDifference(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func(*rows){
		"missing":   func(r *rows) { r.objects = r.objects[1:] },
		"another":   func(r *rows) { r.objects[3].ID = "x" },
		"kind":      func(r *rows) { r.objects[3].Kind = "x" },
		"workspace": func(r *rows) { r.objects[3].Workspace = "x" },
		"name":      func(r *rows) { r.objects[3].Name = "x" },
		"owner":     func(r *rows) { r.objects[3].Owner = "x" },
		"labels":    func(r *rows) { r.objects[3].Labels["a"] = "x" },
		"version":   func(r *rows) { r.objects[3].Version++ },
		"revision":  func(r *rows) { r.objects[3].Revision++ },
		"created":   func(r *rows) { r.objects[3].CreatedAt = time.UnixMilli(1) },
		"updated":   func(r *rows) { r.objects[3].UpdatedAt = time.UnixMilli(1) },
		"payload":   func(r *rows) { r.objects[3].Payload = nil },
		"highest":   func(r *rows) { r.revision++ },
	} {
		if _, err := transfer.Copy(t.Context(), source(), &rows{damage: damage}); err == nil || !strings.Contains(err.Error(), "drop the target") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
