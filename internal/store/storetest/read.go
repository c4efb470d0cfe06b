package storetest

import (
	"context"
	"errors"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
)

func testListOrder(t *testing.T, open opener) {
	f := newFixture(t, open)
	create := func(id, name string, millis int64) {
		f.write(store.Create(&store.Object{
			Kind: KindA, ID: id, Workspace: "w-" + id, Name: name, CreatedAt: time.UnixMilli(millis),
		}))
	}
	create("5", "late", 2000)
	create("4", "b", 1000)
	create("3", "a", 1000)
	create("2", "", 1000)
	create("1", "", 1000)
	create("0", "early", 1)
	ids := func() (got string) {
		for _, o := range f.List(KindA, store.Query{AllWorkspaces: true}) {
			got += o.ID
		}
		return got
	}
	for range 2 {
		if got := ids(); got != "012345" {
			t.Errorf("order %q, want 012345", got)
		}
		f.reopen()
	}
	if _, err := f.Update(t.Context(), KindA, "3", func(o *store.Object) error {
		o.Name = "z"
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if got := ids(); got != "012435" {
			t.Errorf("order after rename %q, want 012435", got)
		}
		f.reopen()
	}
}

func testPages(t *testing.T, open opener) {
	f := newFixture(t, open)
	const n = 700
	var ops []store.Op
	for i := range n {
		o := object(numbered("o", i))
		o.Owner = []string{"even", "odd"}[i%2]
		o.Labels = map[string]string{"third": []string{"0", "1", "2"}[i%3], "all": "yes"}
		ops = append(ops, store.Create(o))
	}
	elsewhere := object("elsewhere")
	elsewhere.Workspace = "x"
	f.write(append(ops, store.Create(elsewhere))...)
	f.reopen()

	w := store.Query{Workspace: "w"}
	page := func(offset, limit int) []*store.Object {
		q := w
		q.Offset, q.Limit = offset, limit
		return f.List(KindA, q)
	}
	whole := page(0, 0)
	if len(whole) != n {
		t.Fatalf("listed %d, want %d", len(whole), n)
	}
	for _, tc := range []struct{ offset, limit int }{
		{0, 1}, {0, 256}, {255, 2}, {256, 256}, {250, 300}, {699, 1}, {699, 100}, {600, 0}, {1, n}, {0, 10 * n}, {-3, 2},
	} {
		from := max(tc.offset, 0)
		to := n
		if tc.limit > 0 {
			to = min(n, from+tc.limit)
		}
		f.wantSame(whole[from:to], page(tc.offset, tc.limit))
	}
	for _, offset := range []int{n, n + 1, 1 << 40} {
		if got := page(offset, 5); len(got) != 0 {
			t.Errorf("page from %d has %d objects", offset, len(got))
		}
	}
	count := func(q store.Query) int { return len(f.List(KindA, q)) }
	for _, tc := range []struct {
		q    store.Query
		want int
	}{
		{store.Query{AllWorkspaces: true}, n + 1},
		{store.Query{}, 0},
		{store.Query{Workspace: "x"}, 1},
		{store.Query{Workspace: "w", Owner: "odd"}, n / 2},
		{store.Query{Workspace: "w", Owner: "nobody"}, 0},
		{store.Query{AllWorkspaces: true, Labels: map[string]string{"all": "yes"}}, n},
		{store.Query{AllWorkspaces: true, Labels: map[string]string{"all": "no"}}, 0},
		{store.Query{AllWorkspaces: true, Labels: map[string]string{"all": "yes", "missing": ""}}, 0},
	} {
		if got := count(tc.q); got != tc.want {
			t.Errorf("%+v: %d objects, want %d", tc.q, got, tc.want)
		}
	}
	third := store.Query{Workspace: "w", Owner: "odd", Labels: map[string]string{"third": "1"}, Offset: 2, Limit: 3}
	f.wantNames(f.List(KindA, third), "o-00013", "o-00019", "o-00025")
	third.Offset = 115
	f.wantNames(f.List(KindA, third), "o-00691", "o-00697")
}

func testWatch(t *testing.T, open opener) {
	f := newFixture(t, open)
	w := f.Watch(0)
	defer w.Close()
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := w.Next(short)
	f.wantErr(err, context.DeadlineExceeded)

	o := f.write(store.Create(object("one")), store.Create(object("two")))
	put := f.write(store.Put(o[0].Edit(), 1))[0]
	f.write(store.Delete(KindA, o[1].ID, 0))
	for i, want := range []store.Change{
		{Revision: 1, Object: o[0]},
		{Revision: 2, Object: o[1]},
		{Revision: 3, Object: put},
		{Revision: 4, Object: o[1], Deleted: true},
	} {
		got := f.expectChange(w)
		if got.Revision != want.Revision || got.Object != want.Object || got.Deleted != want.Deleted {
			t.Errorf("change %d = %+v, want %+v", i, got, want)
		}
	}
	from := f.Watch(3)
	if c := f.expectChange(from); c.Revision != 4 {
		t.Errorf("watch after 3 began with %d", c.Revision)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := from.Next(t.Context())
		ended <- err
	}()
	from.Close()
	from.Close()
	f.wantErr(<-ended, store.ErrClosed)
	if f.Revision() != 4 {
		t.Errorf("Revision = %d, want 4", f.Revision())
	}
}

func testWatchLag(t *testing.T, open opener) {
	f := newFixture(t, open)
	slow := f.Watch(0)
	defer slow.Close()
	const each = 1000
	for i := range 6 {
		var ops []store.Op
		for j := range each {
			ops = append(ops, store.Create(object(numbered("o", i*each+j))))
		}
		f.write(ops...)
	}
	for range 2 {
		_, err := slow.Next(t.Context())
		f.wantErr(err, store.ErrLagged)
	}
	last := f.Revision()
	recent := f.Watch(last - 4000)
	defer recent.Close()
	for want := last - 3999; want <= last; want++ {
		if c := f.expectChange(recent); c.Revision != want {
			t.Fatalf("change %d, want %d", c.Revision, want)
		}
	}
	f.reopen()
	_, err := f.Watch(last - 1).Next(t.Context())
	f.wantErr(err, store.ErrLagged)
	current := f.Watch(last)
	defer current.Close()
	f.write(store.Create(object("new")))
	if c := f.expectChange(current); c.Object.Name != "new" {
		t.Errorf("change of %q", c.Object.Name)
	}

	// Payloads count as well: a few large ones push the small ones out.
	for i := range 5 {
		o := object(numbered("large", i))
		o.Payload = make([]byte, 8<<20)
		f.write(store.Create(o))
	}
	_, err = f.Watch(last).Next(t.Context())
	f.wantErr(err, store.ErrLagged)
}

func testReopen(t *testing.T, open opener) {
	f := newFixture(t, open)
	for i := range 20 {
		o := full(numbered("o", i))
		if i%2 == 1 {
			o.Kind = KindB
		}
		f.write(store.Create(o))
	}
	for i := 0; i < 20; i += 4 {
		_, err := f.Update(t.Context(), KindA, "id-"+numbered("o", i), func(o *store.Object) error {
			o.Payload = []byte("updated")
			return nil
		})
		f.must(err)
	}
	f.write(store.Delete(KindB, "id-"+numbered("o", 3), 0))
	want, revision := f.all(), f.Revision()
	f.reopen()
	f.wantSame(want, f.all())
	if f.Revision() != revision {
		t.Errorf("revision %d became %d", revision, f.Revision())
	}
	f.must(f.Ping(t.Context()))
}

func testRevisions(t *testing.T, open opener) {
	f := newFixture(t, open)
	var last uint64
	for i := range 5 {
		o := f.write(store.Create(object("one")))[0]
		if o.Revision <= last {
			t.Errorf("round %d: revision %d after %d", i, o.Revision, last)
		}
		f.write(store.Delete(KindA, o.ID, 0))
		if f.Revision() <= o.Revision {
			t.Errorf("round %d: deleting left revision at %d", i, f.Revision())
		}
		last = f.Revision()
		f.reopen()
		if f.Revision() < last {
			t.Errorf("round %d: reopening lowered revision %d to %d", i, last, f.Revision())
		}
	}
}

func testClosed(t *testing.T, open opener) {
	f := newFixture(t, open)
	f.write(store.Create(object("one")))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := f.Write(done, store.Create(object("two")))
	f.wantErr(err, context.Canceled)

	w := f.Watch(f.Revision())
	ended := make(chan error, 1)
	go func() {
		_, err := w.Next(t.Context())
		ended <- err
	}()
	f.must(f.Close())
	f.must(f.Close())
	if err := <-ended; !errors.Is(err, store.ErrClosed) {
		t.Errorf("watcher ended with %v", err)
	}
	_, err = f.Write(t.Context(), store.Create(object("two")))
	f.wantErr(err, store.ErrClosed)
	f.wantErr(f.Ping(t.Context()), store.ErrClosed)
	if _, err := f.Get(KindA, "id-one"); err != nil {
		t.Errorf("read after Close: %v", err)
	}
}
