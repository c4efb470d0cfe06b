// Package store keeps the gateway's objects. All state goes through it: writes are compare-and-swap and
// all-or-nothing, concurrent writers share one disk sync, and reads come from memory that only committed writes
// feed. It knows rows, versions and order, and nothing of what a payload means.
package store

import (
	"maps"
	"sync"
	"time"
)

// Kind is the type of an object, for example "sandbox"; stored as objects.object_type.
type Kind string

// Object is one committed version of a stored object. It is immutable and shared between readers: nobody
// changes a field, a map or the payload of an Object it got from the store.
type Object struct {
	Kind Kind
	// ID is unique over all kinds (UUIDv4).
	ID string
	// Workspace and Name are unique together within a kind; Name may be empty for unnamed objects.
	Workspace string
	Name      string
	// Owner is the actor that created the object, as principal.Actor returns it.
	Owner  string
	Labels map[string]string
	// Version counts this object's writes, from 1. It is `resource_version` on the wire.
	Version uint64
	// Revision is the position of this write among all writes of the store; watchers use it as cursor.
	Revision uint64
	// CreatedAt and UpdatedAt have millisecond precision.
	CreatedAt time.Time
	UpdatedAt time.Time
	// Payload is the owner service's own encoding.
	Payload []byte

	memo sync.Map
}

// Memo returns the value that build made for key on this very version, building it at most a few times under
// contention. It is how a decoded form or an encoded wire message is kept once an object version.
func (o *Object) Memo(key any, build func() (any, error)) (any, error) {
	if v, ok := o.memo.Load(key); ok {
		return v, nil
	}
	v, err := build()
	if err != nil {
		return nil, err
	}
	v, _ = o.memo.LoadOrStore(key, v)
	return v, nil
}

// Edit returns a mutable copy of o to hand to Put; maps are cloned, the payload is shared until replaced.
func (o *Object) Edit() *Object {
	return &Object{
		Kind: o.Kind, ID: o.ID, Workspace: o.Workspace, Name: o.Name, Owner: o.Owner,
		Labels: maps.Clone(o.Labels), Version: o.Version, Revision: o.Revision,
		CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt, Payload: o.Payload,
	}
}
