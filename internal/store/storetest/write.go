package storetest

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
)

type opener = func(*testing.T) store.Backend

func testReadBack(t *testing.T, open opener) {
	f := newFixture(t, open)
	in := full("one")
	before := time.Now().Truncate(time.Millisecond)
	out := f.write(store.Create(in))[0]
	if in.Version != 0 || in.Revision != 0 {
		t.Error("Create changed the caller's object")
	}
	if out.Version != 1 || out.Revision != 1 || out.UpdatedAt.Before(before) {
		t.Errorf("version %d, revision %d, updated %v", out.Version, out.Revision, out.UpdatedAt)
	}
	want := full("one")
	want.Version, want.Revision, want.UpdatedAt = 1, 1, out.UpdatedAt
	f.wantSame(want, out)
	for range 2 {
		got, err := f.Get(KindA, "id-one")
		f.must(err)
		f.wantSame(want, got)
		got, err = f.ByName(KindA, "workspace-one", "one")
		f.must(err)
		f.wantSame(want, got)
		f.wantSame([]*store.Object{want}, f.List(KindA, store.Query{Workspace: "workspace-one"}))
		f.reopen()
	}
	now := f.write(store.Create(object("now")))[0]
	if now.CreatedAt.Before(before) || !now.CreatedAt.Equal(now.UpdatedAt) {
		t.Errorf("created %v, updated %v", now.CreatedAt, now.UpdatedAt)
	}
	_, err := f.Get(KindB, "id-one")
	f.wantErr(err, store.ErrNotFound)
	_, err = f.ByName(KindA, "other", "one")
	f.wantErr(err, store.ErrNotFound)
}

func testPutDelete(t *testing.T, open opener) {
	f := newFixture(t, open)
	first := f.write(store.Create(full("one")), store.Create(full("other")))[0]
	edited := first.Edit()
	edited.Owner, edited.Payload = "new owner", []byte("new payload")
	edited.Labels["second"] = "changed"
	edited.CreatedAt = time.UnixMilli(5)
	second := f.write(store.Put(edited, 1))[0]
	if second.Version != 2 || second.Revision != 3 {
		t.Errorf("version %d, revision %d, want 2 and 3", second.Version, second.Revision)
	}
	if first.Labels["second"] != "2-one" {
		t.Error("Put changed the version before")
	}
	want := full("one")
	want.Owner, want.Payload, want.Version, want.Revision, want.UpdatedAt = "new owner", []byte("new payload"), 2, 3, second.UpdatedAt
	want.Labels = map[string]string{"first": "1-one", "second": "changed"}
	f.wantSame(want, second)
	f.reopen()
	got, err := f.Get(KindA, "id-one")
	f.must(err)
	f.wantSame(want, got)

	if gone := f.write(store.Delete(KindA, "id-one", 2))[0]; gone != nil {
		t.Errorf("Delete returned %v", gone)
	}
	for range 2 {
		_, err = f.Get(KindA, "id-one")
		f.wantErr(err, store.ErrNotFound)
		_, err = f.ByName(KindA, "workspace-one", "one")
		f.wantErr(err, store.ErrNotFound)
		f.wantNames(f.all(), "other")
		if n := f.Count(KindA); n != 1 {
			t.Errorf("Count = %d, want 1", n)
		}
		f.reopen()
	}
	_, err = f.Write(t.Context(), store.Delete(KindA, "id-one", 0))
	f.wantErr(err, store.ErrNotFound)
	_, err = f.Write(t.Context(), store.Put(edited, 2))
	f.wantErr(err, store.ErrNotFound)
	_, err = f.Write(t.Context(), store.Delete(KindB, "id-other", 0))
	f.wantErr(err, store.ErrNotFound)
}

func testCreateExisting(t *testing.T, open opener) {
	f := newFixture(t, open)
	f.write(store.Create(object("one")))
	sameID := object("two")
	sameID.ID = "id-one"
	_, err := f.Write(t.Context(), store.Create(sameID))
	f.wantErr(err, store.ErrExists)
	sameID.Kind = KindB
	_, err = f.Write(t.Context(), store.Create(sameID))
	f.wantErr(err, store.ErrExists)
	sameName := object("one")
	sameName.ID = "another"
	_, err = f.Write(t.Context(), store.Create(sameName))
	f.wantErr(err, store.ErrExists)
	if !strings.Contains(err.Error(), `create alpha "one" in workspace "w"`) {
		t.Errorf("error %q does not name the object", err)
	}
	elsewhere := object("one")
	elsewhere.ID, elsewhere.Workspace = "elsewhere", "x"
	otherKind := object("one")
	otherKind.ID, otherKind.Kind = "other kind", KindB
	f.write(store.Create(elsewhere), store.Create(otherKind))
}

func testConcurrentCreates(t *testing.T, open opener) {
	f := newFixture(t, open)
	const names, writers = 5, 16
	for n := range names {
		var won atomic.Int32
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				o := object(numbered("name", n))
				o.ID = fmt.Sprintf("%d by %d", n, w)
				_, err := f.Write(t.Context(), store.Create(o))
				switch {
				case err == nil:
					won.Add(1)
				case !errors.Is(err, store.ErrExists):
					t.Errorf("create: %v", err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d writers created the name, want 1", won.Load())
		}
	}
	if n := f.Count(KindA); n != names {
		t.Errorf("Count = %d, want %d", n, names)
	}
}

func testCompareAndSwap(t *testing.T, open opener) {
	f := newFixture(t, open)
	o := f.write(store.Create(object("one")))[0]
	for _, expect := range []uint64{0, 2} {
		_, err := f.Write(t.Context(), store.Put(o, expect))
		f.wantErr(err, store.ErrConflict)
	}
	_, err := f.Write(t.Context(), store.Delete(KindA, o.ID, 2))
	f.wantErr(err, store.ErrConflict)

	const writers = 16
	var won atomic.Int32
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			_, err := f.Write(t.Context(), store.Put(o, 1))
			switch {
			case err == nil:
				won.Add(1)
			case !errors.Is(err, store.ErrConflict):
				t.Errorf("put: %v", err)
			}
		})
	}
	all.Wait()
	if won.Load() != 1 {
		t.Errorf("%d writers replaced version 1, want 1", won.Load())
	}
	f.write(store.Delete(KindA, o.ID, 2))
}

func testConcurrentUpdates(t *testing.T, open opener) {
	f := newFixture(t, open)
	o := object("counter")
	o.Payload = []byte("0")
	f.write(store.Create(o))
	const writers, each = 8, 5
	var all sync.WaitGroup
	for range writers {
		all.Go(func() {
			for range each {
				_, err := f.Update(t.Context(), KindA, o.ID, func(o *store.Object) error {
					n, err := strconv.Atoi(string(o.Payload))
					o.Payload = []byte(strconv.Itoa(n + 1))
					return err
				})
				if err != nil {
					t.Errorf("update: %v", err)
				}
			}
		})
	}
	all.Wait()
	got, err := f.Get(KindA, o.ID)
	f.must(err)
	if string(got.Payload) != strconv.Itoa(writers*each) || got.Version != writers*each+1 {
		t.Errorf("counter %s at version %d, want %d", got.Payload, got.Version, writers*each)
	}
	same, err := f.Update(t.Context(), KindA, o.ID, func(*store.Object) error { return store.ErrNoChange })
	f.must(err)
	f.wantSame(got, same)
	broken := errors.New("broken")
	_, err = f.Update(t.Context(), KindA, o.ID, func(*store.Object) error { return broken })
	f.wantErr(err, broken)
	_, err = f.Update(t.Context(), KindA, "nothing", func(*store.Object) error { return nil })
	f.wantErr(err, store.ErrNotFound)
}

func testAllOrNothing(t *testing.T, open opener) {
	f := newFixture(t, open)
	f.write(store.Create(object("one")), store.Create(object("two")))
	before := f.all()
	replaced := before[0].Edit()
	replaced.Payload = []byte("replaced")
	clash := object("two")
	clash.ID = "clash"
	for name, tc := range map[string]struct {
		last store.Op
		want error
	}{
		"exists":    {store.Create(clash), store.ErrExists},
		"conflict":  {store.Delete(KindA, "id-two", 7), store.ErrConflict},
		"not found": {store.Delete(KindA, "nothing", 0), store.ErrNotFound},
	} {
		_, err := f.Write(t.Context(), store.Create(object("three")), store.Put(replaced, 1), tc.last)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: error %v, want %v", name, err, tc.want)
		}
		f.wantSame(before, f.all())
	}
	f.reopen()
	f.wantSame(before, f.all())
	got := f.write(store.Create(object("three")), store.Put(replaced, 1), store.Delete(KindA, "id-two", 0))
	if got[0].Revision >= got[1].Revision || got[2] != nil {
		t.Errorf("results out of order: %v", got)
	}
	f.wantNames(f.all(), "one", "three")
}

// testApplyResults gives the backend what memory would never let through: conditions that only rows can refuse.
func testApplyResults(t *testing.T, open opener) {
	b := open(t)
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	row := func(verb store.Verb, name string, version, expect uint64) store.Row {
		o := object(name)
		o.Version, o.Revision = version, version
		o.CreatedAt, o.UpdatedAt = time.UnixMilli(1).UTC(), time.UnixMilli(2).UTC()
		return store.Row{Verb: verb, Object: o, Expect: expect}
	}
	tx := func(rows ...store.Row) store.Tx { return store.Tx{Rows: rows} }
	taken := row(store.VerbCreate, "one", 1, 0)
	taken.Object.ID = "other id"
	renamed := row(store.VerbPut, "three", 2, 1)
	renamed.Object.Name = "one"
	wrongKind := row(store.VerbPut, "one", 2, 1)
	wrongKind.Object.Kind = KindB

	batch := []store.Tx{
		tx(row(store.VerbCreate, "one", 1, 0)),
		tx(row(store.VerbCreate, "one", 1, 0)),
		tx(taken),
		tx(row(store.VerbCreate, "two", 1, 0), row(store.VerbPut, "one", 2, 9)),
		tx(row(store.VerbCreate, "three", 1, 0), row(store.VerbPut, "one", 2, 1)),
		tx(renamed),
		tx(row(store.VerbCreate, "four", 1, 0), renamed),
		tx(wrongKind),
		tx(row(store.VerbDelete, "three", 0, 2)),
		tx(row(store.VerbCreate, "five", 1, 0)),
		tx(row(store.VerbDelete, "five", 0, 1)),
	}
	want := []error{
		nil, store.ErrExists, store.ErrExists, store.ErrConflict, nil, store.ErrExists, store.ErrExists,
		store.ErrConflict, store.ErrConflict, nil, nil,
	}
	results, err := b.Apply(t.Context(), 42, batch)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if !errors.Is(results[i], want[i]) {
			t.Errorf("transaction %d: %v, want %v", i, results[i], want[i])
		}
	}
	stored := map[string]uint64{}
	revision, err := b.Load(t.Context(), func(o *store.Object) error {
		stored[o.Name] = o.Version
		return nil
	})
	if err != nil || revision != 42 {
		t.Errorf("Load = %d, %v, want revision 42", revision, err)
	}
	if len(stored) != 2 || stored["one"] != 2 || stored["three"] != 1 {
		t.Errorf("stored versions %v, want one:2 three:1", stored)
	}
	if err := b.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func testNames(t *testing.T, open opener) {
	f := newFixture(t, open)
	long := strings.Repeat("n", 253)
	names := []string{"case", "Case", "CASE", long, "ünï©ode", "a b'c\"d%_", "n\u0308", "\u0001"}
	for _, n := range names {
		f.write(store.Create(object(n)))
	}
	for i := range 3 {
		o := object("")
		o.ID = numbered("unnamed", i)
		f.write(store.Create(o))
	}
	f.reopen()
	for _, n := range names {
		o, err := f.ByName(KindA, "w", n)
		f.must(err)
		if o.Name != n || o.ID != "id-"+n {
			t.Errorf("name %q gave %q", n, o.Name)
		}
	}
	_, err := f.ByName(KindA, "w", "")
	f.wantErr(err, store.ErrNotFound)
	if n := f.Count(KindA); n != len(names)+3 {
		t.Errorf("Count = %d", n)
	}

	again := object("case")
	again.ID = "second life"
	f.write(store.Delete(KindA, "id-case", 0))
	f.write(store.Create(again))
	third := object("case")
	third.ID = "third life"
	f.write(store.Delete(KindA, "second life", 1), store.Create(third))
	o, err := f.ByName(KindA, "w", "case")
	f.must(err)
	if o.ID != "third life" || o.Version != 1 {
		t.Errorf("name belongs to %q version %d", o.ID, o.Version)
	}
	f.reopen()
	_, err = f.Get(KindA, "second life")
	f.wantErr(err, store.ErrNotFound)
}

func testRename(t *testing.T, open opener) {
	f := newFixture(t, open)
	a := f.write(store.Create(object("a")), store.Create(object("b")))[0]
	taken := a.Edit()
	taken.Name = "b"
	_, err := f.Write(t.Context(), store.Put(taken, 1))
	f.wantErr(err, store.ErrExists)
	moved := a.Edit()
	moved.Name, moved.Workspace = "c", "x"
	heir := object("a")
	heir.ID = "heir"
	f.write(store.Put(moved, 1), store.Create(heir))
	for range 2 {
		o, err := f.ByName(KindA, "w", "a")
		f.must(err)
		if o.ID != "heir" {
			t.Errorf("name a belongs to %q", o.ID)
		}
		o, err = f.ByName(KindA, "x", "c")
		f.must(err)
		if o.ID != "id-a" {
			t.Errorf("name c belongs to %q", o.ID)
		}
		f.wantNames(f.List(KindA, store.Query{Workspace: "x"}), "c")
		f.reopen()
	}
}

func testText(t *testing.T, open opener) {
	f := newFixture(t, open)
	o := full("one")
	o.Labels = map[string]string{"": "", "<&>": "\u2028\"\\", "k\n": "ü"}
	o.Payload = []byte(strings.Repeat("\x00\xff", 300_000))
	empty := &store.Object{Kind: KindB, ID: "empty", Labels: map[string]string{}, Payload: []byte{}}
	written := f.write(store.Create(o), store.Create(empty))
	f.reopen()
	f.wantSame(written, f.all())
}

func testBadOps(t *testing.T, open opener) {
	f := newFixture(t, open)
	many := make([]store.Op, store.MaxOps+1)
	for i := range many {
		many[i] = store.Create(object(numbered("o", i)))
	}
	bad := map[string][]store.Op{
		"none":          nil,
		"zero":          {{}},
		"no object":     {store.Create(nil)},
		"no id":         {store.Delete(KindA, "", 0)},
		"no kind":       {store.Create(&store.Object{ID: "x"})},
		"one too many":  many,
		"twice":         {store.Create(object("x")), store.Delete(KindA, "id-x", 0)},
		"no text":       {store.Create(object("\xff"))},
		"NUL":           {store.Create(object("a\x00b"))},
		"no text label": {store.Create(&store.Object{Kind: KindA, ID: "x", Labels: map[string]string{"a": "\xff"}})},
	}
	for name, ops := range bad {
		if _, err := f.Write(t.Context(), ops...); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if n := f.Count(KindA); n != 0 {
		t.Errorf("Count = %d, want 0", n)
	}
	f.write(many[:store.MaxOps]...)
}
