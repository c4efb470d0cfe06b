package store

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// What a caller branches on. They come wrapped with the operation and the object.
var (
	// ErrNotFound says that there is no such object.
	ErrNotFound = errors.New("object not found")
	// ErrExists says that the id, or the name within kind and workspace, is taken.
	ErrExists = errors.New("object already exists")
	// ErrConflict says that the stored version is not the expected one: read again and decide again.
	ErrConflict = errors.New("object was changed by another writer")
	// ErrNoChange is returned by an edit function that leaves the object as it is.
	ErrNoChange = errors.New("no change")
	// ErrLagged says that a watcher fell behind what the store keeps: list again and watch from that revision.
	ErrLagged = errors.New("watcher fell behind the kept changes")
	// ErrClosed says that the store, or the watcher, was closed.
	ErrClosed = errors.New("store is closed")
)

// MaxOps bounds the operations of one Write.
const MaxOps = 1024

// Op is one operation of a transaction; Create, Put and Delete build it.
type Op struct {
	verb   Verb
	object *Object
	kind   Kind
	id     string
	expect uint64
}

// Create adds o, which must not exist by id, nor by name within its kind and workspace when it has a name. The
// store gives it version 1, a revision and the time, keeping CreatedAt when it is set. The store keeps o's
// payload: the caller no longer changes it.
func Create(o *Object) Op { return Op{verb: VerbCreate, object: o} }

// Put replaces the object of o's kind and id, whose stored version must be expect, which is never 0. Version,
// revision and times are the store's: CreatedAt stays what it was. The store keeps o's payload.
func Put(o *Object, expect uint64) Op { return Op{verb: VerbPut, object: o, expect: expect} }

// Delete removes an object, whose stored version must be expect; 0 accepts any version.
func Delete(kind Kind, id string, expect uint64) Op {
	return Op{verb: VerbDelete, kind: kind, id: id, expect: expect}
}

// target returns the kind and id that the operation is about.
func (op Op) target() (Kind, string) {
	if op.object != nil {
		return op.object.Kind, op.object.ID
	}
	return op.kind, op.id
}

// fail describes the operation around one of the sentinels.
func (op Op) fail(cause error) error {
	kind, id := op.target()
	switch {
	case op.verb == VerbDelete:
		return fmt.Errorf("delete %s %q: %w", kind, id, cause)
	case op.verb == VerbPut:
		return fmt.Errorf("update %s %q: %w", kind, id, cause)
	case op.object.Name == "":
		return fmt.Errorf("create %s %q: %w", kind, id, cause)
	default:
		return fmt.Errorf("create %s %q in workspace %q: %w", kind, op.object.Name, op.object.Workspace, cause)
	}
}

// checkOps refuses what no database would take alike: missing keys, text that is not text, one object twice.
func checkOps(ops []Op) error {
	if len(ops) == 0 {
		return errors.New("write: no operation given")
	}
	if len(ops) > MaxOps {
		return fmt.Errorf("write: %d operations, at most %d fit one transaction", len(ops), MaxOps)
	}
	var seen map[string]struct{}
	if len(ops) > 1 {
		seen = make(map[string]struct{}, len(ops))
	}
	for _, op := range ops {
		if err := op.check(); err != nil {
			return err
		}
		if seen == nil {
			continue
		}
		_, id := op.target()
		if _, twice := seen[id]; twice {
			return op.fail(errors.New("object appears twice in one transaction"))
		}
		seen[id] = struct{}{}
	}
	return nil
}

func (op Op) check() error {
	if op.verb == 0 || op.verb != VerbDelete && op.object == nil {
		return errors.New("write: operation without object")
	}
	kind, id := op.target()
	if kind == "" || id == "" {
		return errors.New("write: object without kind or id")
	}
	if !isText(string(kind)) || !isText(id) {
		return op.fail(errNotText)
	}
	if op.object == nil {
		return nil
	}
	o := op.object
	if !isText(o.Workspace) || !isText(o.Name) || !isText(o.Owner) {
		return op.fail(errNotText)
	}
	for k, v := range o.Labels {
		if !isText(k) || !isText(v) {
			return op.fail(errNotText)
		}
	}
	return nil
}

var errNotText = errors.New("text is not valid UTF-8 or holds a NUL byte")

// isText reports whether every database stores s and gives it back unchanged.
func isText(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }
