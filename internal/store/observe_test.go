package store_test

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func TestCommitsAreObservedAndWritesTraced(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	type traceKey struct{}
	var mu sync.Mutex
	writes, commits := 0, 0
	var ended []error
	s, err := store.Open(t.Context(), db, store.Options{
		Observe: func(c store.Commit) {
			mu.Lock()
			defer mu.Unlock()
			writes += c.Transactions
			commits++
			if c.Err != nil || c.Took <= 0 {
				t.Errorf("%+v", c)
			}
		},
		Trace: func(ctx context.Context) func(error) {
			if ctx.Value(traceKey{}) == nil {
				return nil
			}
			return func(err error) {
				mu.Lock()
				defer mu.Unlock()
				ended = append(ended, err)
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	followed := context.WithValue(t.Context(), traceKey{}, true)
	o := &store.Object{Kind: "k", ID: "a", Name: "a"}
	var all sync.WaitGroup
	for _, ctx := range []context.Context{followed, t.Context()} {
		id := "b"
		if ctx == followed {
			id = "a"
		}
		all.Go(func() {
			if _, err := s.Write(ctx, store.Create(&store.Object{Kind: "k", ID: id, Name: id})); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if _, err := s.Write(followed, store.Create(o)); !errors.Is(err, store.ErrExists) {
		t.Errorf("got %v", err)
	}
	if m, ok := s.Measure(); !ok || m.DataBytes == 0 || m.MaxConnections != 1 || s.Queued() != 0 {
		t.Errorf("measure %+v %v", m, ok)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Measure(); ok {
		t.Error("a closed store measures")
	}
	// What memory refuses never becomes a commit.
	if writes != 2 || commits < 1 || commits > 2 || len(ended) != 2 || ended[0] != nil || !errors.Is(ended[1], store.ErrExists) {
		t.Errorf("%d writes in %d commits, ended %v", writes, commits, ended)
	}
}
