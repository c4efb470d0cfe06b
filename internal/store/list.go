package store

import (
	"cmp"
	"slices"
	"sort"
)

// chunkSize bounds the pointers that one change copies; a list of n objects has about n/chunkSize chunks.
const chunkSize = 256

// sortedList is an immutable list of objects in list order, cut into chunks. A change makes a new list that
// shares the untouched chunks, so that a reader walks the one it took without any lock.
type sortedList struct {
	chunks [][]*Object
	n      int
}

// compare is the order of List: creation time, then name, then id.
func compare(a, b *Object) int {
	return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID))
}

// newSortedList cuts objects, which are sorted and no longer the caller's, into chunks.
func newSortedList(objects []*Object) *sortedList {
	l := &sortedList{n: len(objects)}
	for c := range slices.Chunk(objects, chunkSize) {
		l.chunks = append(l.chunks, c) // Chunk clips the capacity: an append never reaches the next chunk.
	}
	return l
}

// clone returns a list that insert, replace and remove may change; chunks stay shared.
func (l *sortedList) clone() *sortedList {
	return &sortedList{chunks: slices.Clone(l.chunks), n: l.n}
}

// chunkFor returns the index of the first chunk whose last object is not before o.
func (l *sortedList) chunkFor(o *Object) int {
	return sort.Search(len(l.chunks), func(i int) bool {
		c := l.chunks[i]
		return compare(c[len(c)-1], o) >= 0
	})
}

func (l *sortedList) insert(o *Object) {
	l.n++
	i := l.chunkFor(o)
	if i == len(l.chunks) {
		l.push(o)
		return
	}
	c := l.chunks[i]
	at, _ := slices.BinarySearchFunc(c, o, compare)
	grown := make([]*Object, 0, len(c)+1)
	grown = append(append(append(grown, c[:at]...), o), c[at:]...)
	if len(grown) <= chunkSize {
		l.chunks[i] = grown
		return
	}
	half := len(grown) / 2
	l.chunks[i] = slices.Clip(grown[:half])
	l.chunks = slices.Insert(l.chunks, i+1, slices.Clone(grown[half:]))
}

// push adds o behind all others. It writes into the spare room of the last chunk, which no reader of an older
// list looks at: lists only ever grow from the newest one, and a chunk is never shortened in place.
func (l *sortedList) push(o *Object) {
	if last := len(l.chunks) - 1; last >= 0 && len(l.chunks[last]) < chunkSize {
		l.chunks[last] = append(l.chunks[last], o)
		return
	}
	l.chunks = append(l.chunks, []*Object{o})
}

// replace puts o in the place of old, which has the same sort key.
func (l *sortedList) replace(old, o *Object) {
	i := l.chunkFor(old)
	at, _ := slices.BinarySearchFunc(l.chunks[i], old, compare)
	c := slices.Clone(l.chunks[i])
	c[at] = o
	l.chunks[i] = c
}

func (l *sortedList) remove(old *Object) {
	l.n--
	i := l.chunkFor(old)
	c := l.chunks[i]
	if len(c) == 1 {
		l.chunks = slices.Delete(l.chunks, i, i+1)
		return
	}
	at, _ := slices.BinarySearchFunc(c, old, compare)
	rest := make([]*Object, 0, len(c)-1)
	l.chunks[i] = append(append(rest, c[:at]...), c[at+1:]...)
	l.merge(i)
}

// merge joins chunk i with the next one when both are small, so that deleting leaves no trail of tiny chunks.
func (l *sortedList) merge(i int) {
	if i == len(l.chunks)-1 {
		i--
	}
	if i < 0 || len(l.chunks[i])+len(l.chunks[i+1]) > chunkSize/2 {
		return
	}
	l.chunks[i] = slices.Concat(l.chunks[i], l.chunks[i+1])
	l.chunks = slices.Delete(l.chunks, i+1, i+2)
}

// page returns the objects from offset on that match, at most limit of them; limit 0 is no limit. A nil match
// accepts all and skips the offset without looking at each object.
func (l *sortedList) page(offset, limit int, match func(*Object) bool) []*Object {
	offset = max(offset, 0)
	if limit <= 0 || limit > l.n {
		limit = l.n
	}
	if match == nil {
		return l.slice(offset, limit)
	}
	var out []*Object
	for _, c := range l.chunks {
		for _, o := range c {
			if !match(o) {
				continue
			}
			if offset > 0 {
				offset--
				continue
			}
			if len(out) == limit {
				return out
			}
			out = append(out, o)
		}
	}
	return out
}

func (l *sortedList) slice(offset, limit int) []*Object {
	if offset >= l.n || limit == 0 {
		return nil
	}
	out := make([]*Object, 0, min(limit, l.n-offset))
	for _, c := range l.chunks {
		if offset >= len(c) {
			offset -= len(c)
			continue
		}
		c = c[offset:]
		offset = 0
		if room := cap(out) - len(out); len(c) >= room {
			return append(out, c[:room]...)
		}
		out = append(out, c...)
	}
	return out
}
