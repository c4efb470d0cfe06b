package storetest

import (
	"errors"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"sallyport.dev/sallyport/internal/store"
)

// modelSteps bounds one random walk; each step may cost a sync to disk.
const modelSteps = 60

// testModel drives the store with random transactions beside a map that does the same, and compares all reads.
// All walks share a database; each one starts by emptying it.
func testModel(t *testing.T, open opener) {
	f := newFixture(t, open)
	rapid.Check(t, func(rt *rapid.T) {
		m := &model{f: f, objects: map[string]*store.Object{}}
		for _, o := range f.all() {
			f.write(store.Delete(o.Kind, o.ID, o.Version))
		}
		m.revision = f.Revision()
		for range rapid.IntRange(1, modelSteps).Draw(rt, "steps") {
			if rapid.IntRange(0, 30).Draw(rt, "reopen") == 0 {
				f.reopen()
			} else {
				m.step(rt)
			}
			m.compare(rt)
		}
	})
}

type model struct {
	f        *fixture
	objects  map[string]*store.Object // by id, as Write returned them
	revision uint64
}

// step draws a transaction over a small space of ids and names, so that most of them collide.
func (m *model) step(rt *rapid.T) {
	ids := rapid.Permutation([]string{"1", "2", "3", "4", "5", "6"}).Draw(rt, "ids")
	n := rapid.IntRange(1, 3).Draw(rt, "ops")
	next := make(map[string]*store.Object, len(m.objects))
	for id, o := range m.objects {
		next[id] = o
	}
	var ops []store.Op
	var want error
	for _, id := range ids[:n] {
		op, err := m.draw(rt, id, next)
		ops = append(ops, op)
		want = cmpErr(want, err)
	}
	got, err := m.f.Write(m.f.t.Context(), ops...)
	if !errors.Is(err, want) {
		rt.Fatalf("Write = %v, want %v", err, want)
	}
	if want != nil {
		return
	}
	for i, id := range ids[:n] {
		if (got[i] == nil) != (next[id] == nil) {
			rt.Fatalf("operation on %q returned %v", id, got[i])
		}
		m.revision++
		if o := got[i]; o != nil {
			if o.Revision != m.revision || o.Version != next[id].Version {
				rt.Fatalf("%q has version %d revision %d, want %d and %d", id, o.Version, o.Revision, next[id].Version, m.revision)
			}
			next[id] = o
		}
	}
	m.objects = next
}

// draw builds an operation on id and brings next to where it leads, or returns the error it leads to.
func (m *model) draw(rt *rapid.T, id string, next map[string]*store.Object) (store.Op, error) {
	old := next[id]
	expect := rapid.SampledFrom([]uint64{0, 1, 1, 2, 3}).Draw(rt, "expect")
	verb := rapid.SampledFrom([]string{"create", "create", "put", "delete"}).Draw(rt, "verb")
	o := &store.Object{
		ID:        id,
		Kind:      rapid.SampledFrom([]store.Kind{KindA, KindA, KindA, KindB}).Draw(rt, "kind"),
		Workspace: rapid.SampledFrom([]string{"", "w"}).Draw(rt, "workspace"),
		Name:      rapid.SampledFrom([]string{"", "a", "A", "b"}).Draw(rt, "name"),
		Payload:   rapid.SliceOfN(rapid.Byte(), 0, 3).Draw(rt, "payload"),
	}
	taken := func() bool {
		for _, other := range next {
			if other.ID != id && o.Name != "" && other.Name == o.Name && other.Workspace == o.Workspace && other.Kind == o.Kind {
				return true
			}
		}
		return false
	}
	switch {
	case verb == "create":
		if old != nil || taken() {
			return store.Create(o), store.ErrExists
		}
		made := o.Edit()
		made.Version = 1
		next[id] = made
		return store.Create(o), nil
	case verb == "delete":
		op := store.Delete(o.Kind, id, expect)
		switch {
		case old == nil || old.Kind != o.Kind:
			return op, store.ErrNotFound
		case expect != 0 && expect != old.Version:
			return op, store.ErrConflict
		}
		delete(next, id)
		return op, nil
	case old == nil || old.Kind != o.Kind:
		return store.Put(o, expect), store.ErrNotFound
	case expect != old.Version:
		return store.Put(o, expect), store.ErrConflict
	case taken():
		return store.Put(o, expect), store.ErrExists
	}
	made := o.Edit()
	made.Version = old.Version + 1
	next[id] = made
	return store.Put(o, expect), nil
}

// compare checks every read against the model.
func (m *model) compare(rt *rapid.T) {
	if got := m.f.Revision(); got != m.revision {
		rt.Fatalf("Revision = %d, want %d", got, m.revision)
	}
	for _, kind := range []store.Kind{KindA, KindB} {
		for _, q := range []store.Query{{AllWorkspaces: true}, {Workspace: ""}, {Workspace: "w"}} {
			var want []*store.Object
			for _, o := range m.objects {
				if o.Kind == kind && (q.AllWorkspaces || o.Workspace == q.Workspace) {
					want = append(want, o)
				}
			}
			slices.SortFunc(want, func(a, b *store.Object) int {
				if c := a.CreatedAt.Compare(b.CreatedAt); c != 0 {
					return c
				}
				if a.Name != b.Name {
					return map[bool]int{true: -1, false: 1}[a.Name < b.Name]
				}
				return map[bool]int{true: -1, false: 1}[a.ID < b.ID]
			})
			m.f.wantSame(want, m.f.List(kind, q))
		}
	}
	for _, o := range m.objects {
		got, err := m.f.Get(o.Kind, o.ID)
		m.f.must(err)
		m.f.wantSame(o, got)
		if o.Name == "" {
			continue
		}
		got, err = m.f.ByName(o.Kind, o.Workspace, o.Name)
		m.f.must(err)
		m.f.wantSame(o, got)
	}
}

// cmpErr returns the first error of a transaction, which is the one that Write reports.
func cmpErr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}
