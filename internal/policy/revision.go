package policy

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/store"
)

// Kind is the store's kind of policy revisions. There is one object a revision, so that a change of a sandbox does not
// write all its policies again.
const Kind store.Kind = "policy_revision"

// GlobalScope is the scope of the policy of all sandboxes; every other scope is a sandbox's id.
const GlobalScope = "__global__"

// How much is kept of a scope's past: so many revisions, and of their policies so many bytes. The newest is always kept.
const (
	MaxRevisions     = 50
	MaxRevisionBytes = 1 << 20
)

// MaxLoadError bounds what is kept of a supervisor's error text, in bytes.
const MaxLoadError = 4096

// State is what supervisors said of a revision.
type State string

// The states. A revision that nobody reported on has none.
const (
	Unreported State = ""
	Loaded     State = "loaded"
	Failed     State = "failed"
)

// Status is how a revision fares. The values are the wire's, see PolicyStatus of openshell.v1.
type Status int32

// The statuses.
const (
	StatusPending    Status = 1
	StatusLoaded     Status = 2
	StatusFailed     Status = 3
	StatusSuperseded Status = 4
)

// Revision is one version of a policy. It is shared between readers and never changed.
type Revision struct {
	// Version counts from 1 in each scope.
	Version uint32 `json:"version"`
	Hash    string `json:"hash"`
	// Policy is an encoded openshell.sandbox.v1.SandboxPolicy.
	Policy []byte `json:"policy"`
	State  State  `json:"state,omitempty"`
	// LoadError is the supervisor's, with Failed only.
	LoadError string `json:"loadError,omitempty"`
	// LoadedAt is zero before the revision was loaded.
	LoadedAt time.Time `json:"loadedAt,omitzero"`
	// Provenance are the annotations of the change that made the revision.
	Provenance map[string]string `json:"provenance,omitempty"`

	// CreatedAt is when the revision was stored.
	CreatedAt time.Time `json:"-"`

	message func() (*sandboxpb.SandboxPolicy, error)
}

// NewRevision returns a revision of a policy that nobody has reported on.
func NewRevision(version uint32, p *sandboxpb.SandboxPolicy, provenance map[string]string) (*Revision, error) {
	hash, err := Hash(p)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, ReasonEncoding, "policy cannot be encoded")
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		return nil, fault.Wrap(err, fault.InvalidArgument, ReasonEncoding, "policy cannot be encoded")
	}
	r := &Revision{Version: version, Hash: hash, Policy: raw, Provenance: maps.Clone(provenance)}
	return r.ready(), nil
}

// DecodeRevision is NewRevision for a policy that is stored encoded, which it keeps byte for byte.
func DecodeRevision(version uint32, raw []byte, created time.Time) (*Revision, error) {
	r := (&Revision{Version: version, Policy: raw, CreatedAt: created}).ready()
	p, err := r.Message()
	if err != nil {
		return nil, err
	}
	if r.Hash, err = Hash(p); err != nil {
		return nil, unreadable(err)
	}
	return r, nil
}

// As returns a copy of the revision with a number.
func (r *Revision) As(version uint32) *Revision {
	c := *r
	c.Version = version
	return c.ready()
}

func (r *Revision) ready() *Revision {
	r.message = sync.OnceValues(func() (*sandboxpb.SandboxPolicy, error) {
		p := &sandboxpb.SandboxPolicy{}
		if err := proto.Unmarshal(r.Policy, p); err != nil {
			return nil, unreadable(err)
		}
		return p, nil
	})
	return r
}

// Message returns the policy, decoded once. Nobody changes it.
func (r *Revision) Message() (*sandboxpb.SandboxPolicy, error) { return r.message() }

// Status tells how the revision fares; in force tells that no newer one took its place. A revision that could not be
// loaded stays failed.
func (r *Revision) Status(inForce bool) Status {
	switch {
	case r.State == Failed:
		return StatusFailed
	case !inForce:
		return StatusSuperseded
	case r.State == Loaded:
		return StatusLoaded
	default:
		return StatusPending
	}
}

// Reported returns the revision with what a supervisor says of it, and whether that is news.
func (r *Revision) Reported(loaded bool, loadError string, now time.Time) (next *Revision, news bool) {
	c := *r
	switch {
	case loaded && r.State == Loaded:
		return r, false
	case loaded:
		c.State, c.LoadError, c.LoadedAt = Loaded, "", now
	default:
		c.State, c.LoadError = Failed, bounded(loadError)
		if r.State == Failed && r.LoadError == c.LoadError {
			return r, false
		}
	}
	return c.ready(), true
}

// bounded cuts a peer's text where a character ends.
func bounded(text string) string {
	if len(text) <= MaxLoadError {
		return text
	}
	n := MaxLoadError
	for n > 0 && text[n]&0xC0 == 0x80 {
		n--
	}
	return text[:n]
}

func unreadable(err error) error {
	return fault.Wrap(err, fault.Internal, ReasonUnreadable, "stored policy cannot be read").
		WithNext("put the policy anew, or restore the database from a backup")
}

// History is the revisions of one scope. It reads committed state only, and makes the operations of writes, which its
// owner commits together with its own object, whose version guards the history too.
type History struct {
	Store *store.Store
	// Scope is GlobalScope or a sandbox's id.
	Scope string
}

// id is the object id of a revision.
func (h History) id(version uint32) string { return fmt.Sprintf("policy/%s/%d", h.Scope, version) }

type revisionKey struct{}

// Get returns a revision, or store.ErrNotFound.
func (h History) Get(version uint32) (*Revision, error) {
	o, err := h.Store.Get(Kind, h.id(version))
	if err != nil {
		return nil, err
	}
	return decodeRow(o)
}

func decodeRow(o *store.Object) (*Revision, error) {
	v, err := o.Memo(revisionKey{}, func() (any, error) {
		r := &Revision{}
		if err := json.Unmarshal(o.Payload, r); err != nil {
			return nil, unreadable(err)
		}
		r.CreatedAt = o.CreatedAt
		return r.ready(), nil
	})
	if err != nil {
		return nil, err
	}
	r, ok := v.(*Revision)
	if !ok {
		return nil, unreadable(fmt.Errorf("memo holds %T", v))
	}
	return r, nil
}

// List returns the kept revisions from newest on, which is the number of the newest, leaving out the first offset ones.
func (h History) List(newest uint32, offset, limit int) ([]*Revision, error) {
	if uint64(offset) >= uint64(newest) {
		return nil, nil
	}
	var out []*Revision
	for v := newest - uint32(offset); v > 0 && len(out) < limit; v-- {
		r, err := h.Get(v)
		if errors.Is(err, store.ErrNotFound) {
			break // Older ones are gone, too.
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}

// Add returns the operations that store a revision, which is newer than all others, and drop what is then too much of
// the past. Workspace is the sandbox's, empty for GlobalScope.
func (h History) Add(r *Revision, workspace string) ([]store.Op, error) {
	o, err := h.row(r, workspace)
	if err != nil {
		return nil, err
	}
	ops := []store.Op{store.Create(o)}
	n, size := 1, len(r.Policy)
	for v := r.Version - 1; v > 0; v-- {
		old, kept := h.kept(v)
		if !kept {
			break
		}
		n++
		size += policySize(old)
		if n > MaxRevisions || size > MaxRevisionBytes {
			ops = append(ops, store.Delete(Kind, old.ID, 0))
		}
	}
	return ops, nil
}

// kept returns the row of a revision, if there is one.
func (h History) kept(version uint32) (o *store.Object, ok bool) {
	o, err := h.Store.Get(Kind, h.id(version))
	return o, err == nil
}

// policySize is what a row counts; one that cannot be read counts with all it has.
func policySize(o *store.Object) int {
	if r, err := decodeRow(o); err == nil {
		return len(r.Policy)
	}
	return len(o.Payload)
}

func (h History) row(r *Revision, workspace string) (*store.Object, error) {
	payload, err := json.Marshal(r)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, ReasonEncoding, "policy revision cannot be encoded")
	}
	return &store.Object{Kind: Kind, ID: h.id(r.Version), Workspace: workspace, CreatedAt: r.CreatedAt, Payload: payload}, nil
}

// Replace returns the operation that stores what Reported made of a revision.
func (h History) Replace(r *Revision) (store.Op, error) {
	o, err := h.Store.Get(Kind, h.id(r.Version))
	if err != nil {
		return store.Op{}, err
	}
	row, err := h.row(r, o.Workspace)
	if err != nil {
		return store.Op{}, err
	}
	return store.Put(row, o.Version), nil
}

// Drop returns the operations that remove all revisions of the scope.
func (h History) Drop(newest uint32) []store.Op {
	var ops []store.Op
	for v := newest; v > 0; v-- {
		o, kept := h.kept(v)
		if !kept {
			break
		}
		ops = append(ops, store.Delete(Kind, o.ID, 0))
	}
	return ops
}
