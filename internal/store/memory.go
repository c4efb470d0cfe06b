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

// load takes all objects at once while the store opens, when nobody else looks. The indexes do not depend on each
// other and are built side by side.
func (m *memory) load(objects []*Object, revision uint64) error {
	m.revision = revision
	var building sync.WaitGroup
	building.Go(func() {
		m.byID = make(map[string]*Object, len(objects))
		for _, o := range objects {
			m.byID[o.ID] = o
		}
	})
	building.Go(func() {
		m.byName = make(map[nameKey]*Object, len(objects))
		for _, o := range objects {
			if o.Name != "" {
				m.byName[nameOf(o)] = o
			}
		}
	})
	unsorted := make(map[listKey][]*Object)
	for _, o := range objects {
		for _, k := range listsOf(o) {
			unsorted[k] = append(unsorted[k], o)
		}
	}
	for k, list := range unsorted {
		slices.SortFunc(list, compare)
		m.lists[k] = newSortedList(list)
	}
	building.Wait()
	if n := len(objects) - len(m.byID); n > 0 {
		return fmt.Errorf("%d object ids are stored more than once", n)
	}
	return nil
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
