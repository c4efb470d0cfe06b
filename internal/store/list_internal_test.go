package store

import (
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestSortedList compares a list with a plain sorted slice, and keeps old lists to see that none ever changes.
func TestSortedList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type kept struct {
			list *sortedList
			want []*Object
		}
		var old []kept
		var want []*Object
		next := 0
		add := func() *Object {
			next++
			o := &Object{ID: strconv.Itoa(next), CreatedAt: time.UnixMilli(int64(rapid.IntRange(next, next+300).Draw(t, "time")))}
			at, _ := slices.BinarySearchFunc(want, o, compare)
			want = slices.Insert(slices.Clone(want), at, o)
			return o
		}
		for range rapid.IntRange(0, 600).Draw(t, "loaded") {
			add()
		}
		l := newSortedList(slices.Clone(want))
		for range rapid.IntRange(1, 20).Draw(t, "batches") {
			old = append(old, kept{l, want})
			l = l.clone()
			verb := rapid.SampledFrom([]string{"insert", "insert", "remove", "replace"}).Draw(t, "verb")
			for range rapid.IntRange(1, 300).Draw(t, "changes") {
				if verb == "insert" {
					l.insert(add())
					continue
				}
				if len(want) == 0 {
					break
				}
				at := rapid.IntRange(0, len(want)-1).Draw(t, "at")
				o := want[at]
				want = slices.Clone(want)
				if verb == "remove" {
					want = slices.Delete(want, at, at+1)
					l.remove(o)
				} else {
					want[at] = o.Edit()
					l.replace(o, want[at])
				}
			}
		}
		for i, k := range append(old, kept{l, want}) {
			if got := k.list.page(0, 0, nil); !slices.Equal(got, k.want) {
				t.Fatalf("list %d of %d has %d objects, want %d", i, len(old), len(got), len(k.want))
			}
			if k.list.n != len(k.want) {
				t.Fatalf("list %d counts %d, want %d", i, k.list.n, len(k.want))
			}
		}
		if most := 2 + 4*l.n/chunkSize; len(l.chunks) > most {
			t.Fatalf("%d objects in %d chunks, want at most %d", l.n, len(l.chunks), most)
		}
	})
}
