// Package storetest is the one suite that every backend of the store passes. It drives the backend through the
// store, as the gateway does, and knows nothing of any database.
package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"sallyport.dev/sallyport/internal/store"
)

// KindA and KindB are the kinds that the suite uses.
const (
	KindA store.Kind = "alpha"
	KindB store.Kind = "beta"
)

// Run tests a backend. Calls of open with the same t open the same, at first empty, database again; the suite
// closes what it opened before.
func Run(t *testing.T, open func(t *testing.T) store.Backend) {
	t.Helper()
	for _, tc := range []struct {
		name string
		test func(*testing.T, func(*testing.T) store.Backend)
	}{
		{"read what was written", testReadBack},
		{"put and delete", testPutDelete},
		{"create refuses what is there", testCreateExisting},
		{"one of many creates of a name wins", testConcurrentCreates},
		{"compare and swap", testCompareAndSwap},
		{"concurrent updates lose nothing", testConcurrentUpdates},
		{"transactions are all or nothing", testAllOrNothing},
		{"backend results are independent", testApplyResults},
		{"names", testNames},
		{"rename", testRename},
		{"text and bytes survive", testText},
		{"bad operations", testBadOps},
		{"list order", testListOrder},
		{"pages, owners and labels", testPages},
		{"watch in order", testWatch},
		{"watch lags", testWatchLag},
		{"reopen", testReopen},
		{"revisions are never reused", testRevisions},
		{"closed store", testClosed},
		{"model", testModel},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			tc.test(t, open)
		})
	}
}

// fixture is an open store on the test's database.
type fixture struct {
	*store.Store
	t    *testing.T
	open func(*testing.T) store.Backend
}

func newFixture(t *testing.T, open func(*testing.T) store.Backend) *fixture {
	t.Helper()
	f := &fixture{t: t, open: open}
	f.start()
	t.Cleanup(func() { f.must(f.Close()) })
	return f
}

func (f *fixture) start() {
	f.t.Helper()
	s, err := store.Open(f.t.Context(), f.open(f.t), store.Options{})
	f.must(err)
	f.Store = s
}

// reopen closes the store and opens its database again.
func (f *fixture) reopen() {
	f.t.Helper()
	f.must(f.Close())
	f.start()
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// write commits ops, which must work, and returns the objects.
func (f *fixture) write(ops ...store.Op) []*store.Object {
	f.t.Helper()
	objects, err := f.Write(f.t.Context(), ops...)
	f.must(err)
	if len(objects) != len(ops) {
		f.t.Fatalf("Write returned %d objects for %d operations", len(objects), len(ops))
	}
	return objects
}

// wantErr checks that err wraps want.
func (f *fixture) wantErr(err, want error) {
	f.t.Helper()
	if diff := cmp.Diff(want, err, cmpopts.EquateErrors()); diff != "" {
		f.t.Fatalf("error (-want +got):\n%s", diff)
	}
}

// wantSame checks that two objects, or slices of them, are equal in every field.
func (f *fixture) wantSame(want, got any) {
	f.t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(store.Object{})); diff != "" {
		f.t.Fatalf("objects (-want +got):\n%s", diff)
	}
}

func (f *fixture) wantNames(got []*store.Object, want ...string) {
	f.t.Helper()
	names := make([]string, 0, len(got))
	for _, o := range got {
		names = append(names, o.Name)
	}
	if !slices.Equal(names, want) {
		f.t.Fatalf("names = %q, want %q", names, want)
	}
}

// object builds one of KindA in workspace "w"; its id is made from its name.
func object(name string) *store.Object {
	return &store.Object{Kind: KindA, ID: "id-" + name, Workspace: "w", Name: name, Owner: "someone", Payload: []byte(name)}
}

// full builds an object whose every field is different.
func full(name string) *store.Object {
	return &store.Object{
		Kind: KindA, ID: "id-" + name, Workspace: "workspace-" + name, Name: name, Owner: "owner-" + name,
		Labels:    map[string]string{"first": "1-" + name, "second": "2-" + name},
		CreatedAt: time.UnixMilli(1_700_000_000_123).UTC(),
		Payload:   []byte{0, 1, 2, 0xff, 0},
	}
}

// all lists every object of both kinds in list order.
func (f *fixture) all() []*store.Object {
	return append(f.List(KindA, store.Query{AllWorkspaces: true}), f.List(KindB, store.Query{AllWorkspaces: true})...)
}

// expectChange reads the watcher's next change within a time that only a broken store needs.
func (f *fixture) expectChange(w *store.Watcher) store.Change {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), 10*time.Second)
	defer cancel()
	c, err := w.Next(ctx)
	f.must(err)
	return c
}

func numbered(prefix string, n int) string { return fmt.Sprintf("%s-%05d", prefix, n) }
