package settings

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"sallyport.dev/sallyport/gen/v00/sandboxpb"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/policy"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

// Kind is the store's kind of the one object that holds the global values.
const Kind store.Kind = "gateway_settings"

// The one object.
const (
	globalID   = "settings/global"
	globalName = "global"
)

// attempts bounds how often a change starts over because another writer came first.
const attempts = 128

// Global is what was decided for all sandboxes. It is shared between readers and never changed.
type Global struct {
	// Revision grows by one with each change of a value or of the policy.
	Revision uint64 `json:"revision"`
	Values   Values `json:"values,omitempty"`
	// Newest is the number of the newest revision of the global policy, also of one that was deleted; 0 for none.
	Newest uint32 `json:"newest,omitempty"`
	// InForce tells that the newest revision holds for all sandboxes.
	InForce bool `json:"inForce,omitempty"`
}

// Access decides who administers the gateway. *authz.Current implements it.
type Access interface {
	PlatformAdmin(p *principal.Principal) error
}

// Service is the rules of what holds for all sandboxes. It is safe for concurrent use; its errors are *fault.Error.
type Service struct {
	store  *store.Store
	access Access
}

// New returns a Service whose state is in the store.
func New(st *store.Store, access Access) *Service { return &Service{store: st, access: access} }

type globalKey struct{}

// Global returns what is decided for all sandboxes now.
func (s *Service) Global() (*Global, error) {
	_, g, err := s.read()
	return g, err
}

// read returns the object, nil if nothing was ever decided, with what it holds.
func (s *Service) read() (*store.Object, *Global, error) {
	o, err := s.store.Get(Kind, globalID)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &Global{}, nil
	}
	if err != nil {
		return nil, nil, err
	}
	v, err := o.Memo(globalKey{}, func() (any, error) {
		g := &Global{}
		return g, json.Unmarshal(o.Payload, g)
	})
	g, ok := v.(*Global)
	if err != nil || !ok {
		return nil, nil, fault.Wrap(err, fault.Internal, "SETTINGS_UNREADABLE", "stored settings cannot be read").
			WithNext("restore the database from a backup")
	}
	return o, g, nil
}

// Policy returns the policy that holds for all sandboxes, nil where there is none.
func (s *Service) Policy() (*policy.Revision, error) {
	// A newer revision may drop the one that was just looked up.
	for range attempts {
		g, err := s.Global()
		if err != nil || !g.InForce {
			return nil, err
		}
		r, err := s.history().Get(g.Newest)
		if !errors.Is(err, store.ErrNotFound) {
			return r, err
		}
	}
	return nil, fault.New(fault.Internal, policy.ReasonUnreadable, "stored policy cannot be read").
		WithNext("put the global policy anew, or restore the database from a backup")
}

func (s *Service) history() policy.History {
	return policy.History{Store: s.store, Scope: policy.GlobalScope}
}

// Revisions returns a page of the global policy's kept revisions, newest first, and the number of the one in force, 0
// for none. Only platform administrators may ask.
func (s *Service) Revisions(ctx context.Context, offset, limit int) (list []*policy.Revision, inForce uint32, err error) {
	if err := s.access.PlatformAdmin(principal.From(ctx)); err != nil {
		return nil, 0, err
	}
	g, err := s.Global()
	if err != nil {
		return nil, 0, err
	}
	list, err = s.history().List(g.Newest, offset, limit)
	return list, g.inForce(), err
}

func (g *Global) inForce() uint32 {
	if !g.InForce {
		return 0
	}
	return g.Newest
}

// RevisionAt returns one revision of the global policy, the newest for version 0, and the number of the one in force.
// Only platform administrators may ask.
func (s *Service) RevisionAt(ctx context.Context, version uint32) (r *policy.Revision, inForce uint32, err error) {
	if err := s.access.PlatformAdmin(principal.From(ctx)); err != nil {
		return nil, 0, err
	}
	g, err := s.Global()
	if err != nil {
		return nil, 0, err
	}
	if version == 0 {
		version = g.Newest
	}
	r, err = s.history().Get(version)
	if errors.Is(err, store.ErrNotFound) {
		return nil, 0, fault.New(fault.NotFound, "POLICY_REVISION_NOT_FOUND", "no global policy revision found").
			WithNext("list the revisions of the global policy")
	}
	return r, g.inForce(), err
}

// Set gives a setting a value for all sandboxes. It returns the revision of the settings.
func (s *Service) Set(ctx context.Context, key string, v Value) (revision uint64, err error) {
	if err := s.access.PlatformAdmin(principal.From(ctx)); err != nil {
		return 0, err
	}
	if key == Reserved {
		return 0, fault.New(fault.InvalidArgument, ReasonReserved, "reserved key 'policy' must be set via the policy field").
			WithNext("send the policy in the field policy")
	}
	if err := Check(key, v); err != nil {
		return 0, err
	}
	g, err := s.change(ctx, func(g *Global) ([]store.Op, error) {
		var changed bool
		if g.Values, changed = g.Values.With(key, v); !changed {
			return nil, store.ErrNoChange
		}
		return nil, nil
	})
	if err != nil {
		return 0, err
	}
	return g.Revision, nil
}

// Delete takes a setting's global value away, or the global policy for the key Reserved; deleted tells whether there was
// one.
func (s *Service) Delete(ctx context.Context, key string) (revision uint64, deleted bool, err error) {
	if err := s.access.PlatformAdmin(principal.From(ctx)); err != nil {
		return 0, false, err
	}
	g, err := s.change(ctx, func(g *Global) ([]store.Op, error) {
		if key == Reserved {
			deleted, g.InForce = g.InForce, false
		} else {
			g.Values, deleted = g.Values.Without(key)
		}
		if !deleted {
			return nil, store.ErrNoChange
		}
		return nil, nil
	})
	if err != nil {
		return 0, false, err
	}
	return g.Revision, deleted, nil
}

// SetPolicy puts a policy in the place of those of all sandboxes. It returns the revision that is in force then, which
// is the present one where the policy is the same.
func (s *Service) SetPolicy(ctx context.Context, p *sandboxpb.SandboxPolicy) (*policy.Revision, error) {
	if err := s.access.PlatformAdmin(principal.From(ctx)); err != nil {
		return nil, err
	}
	p, err := policy.Submitted(p, false)
	if err != nil {
		return nil, err
	}
	r, err := policy.NewRevision(0, p, nil)
	if err != nil {
		return nil, err
	}
	// No supervisor reports on it; it holds as soon as it is stored.
	var inForce *policy.Revision
	_, err = s.change(ctx, func(g *Global) ([]store.Op, error) {
		if g.InForce {
			now, err := s.history().Get(g.Newest)
			if err == nil && now.Hash == r.Hash {
				inForce = now
				return nil, store.ErrNoChange
			}
		}
		g.Newest, g.InForce = g.Newest+1, true
		inForce, _ = r.As(g.Newest).Reported(true, "", time.Now())
		return s.history().Add(inForce, "")
	})
	if err != nil {
		return nil, err
	}
	return inForce, nil
}

// change edits the global values by compare-and-swap, together with further operations, and counts the change. Edit may
// run several times.
func (s *Service) change(ctx context.Context, edit func(*Global) ([]store.Op, error)) (*Global, error) {
	for attempt := 1; ; attempt++ {
		o, old, err := s.read()
		if err != nil {
			return nil, err
		}
		g := *old
		more, err := edit(&g)
		if errors.Is(err, store.ErrNoChange) {
			return old, nil
		}
		if err != nil {
			return nil, err
		}
		g.Revision++
		op, err := put(o, &g)
		if err != nil {
			return nil, err
		}
		_, err = s.store.Write(ctx, append([]store.Op{op}, more...)...)
		switch {
		case err == nil:
			return &g, nil
		case attempt == attempts || !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrExists) && !errors.Is(err, store.ErrNotFound):
			return nil, storefault.Of(err, fault.New(fault.Aborted, "CONCURRENT_MODIFICATION", "failed due to concurrent modification").
				WithNext("read the settings again and retry"), store.ErrExists, store.ErrNotFound)
		}
	}
}

func put(o *store.Object, g *Global) (store.Op, error) {
	payload, err := json.Marshal(g)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode settings: %w", err)
	}
	if o == nil {
		return store.Create(&store.Object{Kind: Kind, ID: globalID, Name: globalName, Payload: payload}), nil
	}
	edited := o.Edit()
	edited.Payload = payload
	return store.Put(edited, o.Version), nil
}
