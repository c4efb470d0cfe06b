package store

import (
	"fmt"
	"slices"
	"sync"
)

type nameKey struct {
	kind            Kind
	workspace, name string
}

// listKey names a list: the objects of a kind in one workspace, or in all.
type listKey struct {
	kind      Kind
	workspace string
	all       bool
}

// change is one committed or about to be committed step: old is nil for a create, new for a delete.
type change struct {
	old, new *Object
	revision uint64
}

// memory is what readers see: the committed objects and their indexes. One goroutine changes it, which reads it
// without the lock; all others hold mu to read.
type memory struct {
	mu       sync.RWMutex
	byID     map[string]*Object
	byName   map[nameKey]*Object
	lists    map[listKey]*sortedList
	revision uint64
}

func newMemory() *memory {
	return &memory{
		byID:   make(map[string]*Object),
		byName: make(map[nameKey]*Object),
		lists:  make(map[listKey]*sortedList),
	}
}

func nameOf(o *Object) nameKey { return nameKey{kind: o.Kind, workspace: o.Workspace, name: o.Name} }

// listsOf returns the lists that an object belongs to.
func listsOf(o *Object) [2]listKey {
	return [2]listKey{{kind: o.Kind, workspace: o.Workspace}, {kind: o.Kind, all: true}}
}

// get returns the object with this id if it is of this kind. The caller holds mu or is the writer.
func (m *memory) get(kind Kind, id string) *Object {
	if o := m.byID[id]; o != nil && o.Kind == kind {
		return o
	}
	return nil
}

// load takes one object while the store opens; finish comes after the last.
func (m *memory) load(o *Object, unsorted map[listKey][]*Object) error {
	if m.byID[o.ID] != nil {
		return fmt.Errorf("object id %q is stored twice", o.ID)
	}
	m.byID[o.ID] = o
	if o.Name != "" {
		m.byName[nameOf(o)] = o
	}
	for _, k := range listsOf(o) {
		unsorted[k] = append(unsorted[k], o)
	}
	return nil
}

func (m *memory) finish(unsorted map[listKey][]*Object, revision uint64) {
	for k, objects := range unsorted {
		slices.SortFunc(objects, compare)
		m.lists[k] = newSortedList(objects)
	}
	m.revision = revision
}

// apply makes changes visible to readers, all at once. New lists are built before the lock is taken.
func (m *memory) apply(changes []change) {
	touched := make(map[listKey]*sortedList, 4)
	list := func(k listKey) *sortedList {
		if l := touched[k]; l != nil {
			return l
		}
		l := &sortedList{}
		if old := m.lists[k]; old != nil {
			l = old.clone()
		}
		touched[k] = l
		return l
	}
	for _, c := range changes {
		relist(list, c)
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		m.rename(c)
		m.revision = c.revision
	}
	for k, l := range touched {
		if l.n == 0 {
			delete(m.lists, k)
			continue
		}
		m.lists[k] = l
	}
}

// relist brings one change into the lists it concerns.
func relist(list func(listKey) *sortedList, c change) {
	if c.old != nil && c.new != nil && c.old.Workspace == c.new.Workspace && compare(c.old, c.new) == 0 {
		for _, k := range listsOf(c.new) {
			list(k).replace(c.old, c.new)
		}
		return
	}
	if c.old != nil {
		for _, k := range listsOf(c.old) {
			list(k).remove(c.old)
		}
	}
	if c.new != nil {
		for _, k := range listsOf(c.new) {
			list(k).insert(c.new)
		}
	}
}

// rename brings one change into the maps. Within a transaction a name may already have gone to another object,
// which then keeps it.
func (m *memory) rename(c change) {
	if c.old != nil {
		if k := nameOf(c.old); m.byName[k] == c.old {
			delete(m.byName, k)
		}
		if c.new == nil {
			delete(m.byID, c.old.ID)
		}
	}
	if c.new != nil {
		m.byID[c.new.ID] = c.new
		if c.new.Name != "" {
			m.byName[nameOf(c.new)] = c.new
		}
	}
}
