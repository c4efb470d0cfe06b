package workspace

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

// Access decides what a caller may do. *authz.Current implements it.
type Access interface {
	Workspace(p *principal.Principal, workspace string, need authz.Role) error
	PlatformAdmin(p *principal.Principal) error
	Listed(p *principal.Principal, workspace string) bool
}

// Issuers are those who vouch for users. It decides how a member is named: by the subject alone where all users come
// from one issuer, else by "issuer|subject".
type Issuers struct {
	// Known are the issuers as principals carry them.
	Known []string
	// Others tells that users come from issuers that nobody lists, such as authorities of client certificates.
	Others bool
}

// Options are what a Service is made of. Store, Access and Logger are required.
type Options struct {
	Store  *store.Store
	Access Access
	// Issuers is asked whenever a member is named; nil knows none, so that nobody can be added.
	Issuers func() Issuers
	// Contents are the kinds of objects that keep a workspace from being deleted.
	Contents []store.Kind
	Logger   *slog.Logger
	// Platform removes what the compute driver keeps for a workspace, such as a namespace; it may be called again for one that
	// is gone. nil is for a driver that keeps nothing.
	Platform func(ctx context.Context, name string) error
	// Left is called after somebody ceased to be a member, so that what goes on meanwhile is looked at again; may be nil.
	Left func()
}

// Service is the rules of workspaces. It is safe for concurrent use; its errors are *fault.Error. It implements
// authz.Members.
type Service struct {
	store    *store.Store
	access   Access
	issuers  func() Issuers
	contents []store.Kind
	log      *slog.Logger
	left     func()
	platform func(ctx context.Context, name string) error

	// using is held for reading while something is put into a workspace, and for writing while one is deleted.
	using sync.RWMutex
	// adding is held while there is counted what there may be so many of.
	adding sync.Mutex
}

var _ authz.Members = (*Service)(nil)

// Open returns a Service. It creates the default workspace, and one for each that objects of an older version are in.
func Open(ctx context.Context, o Options) (*Service, error) {
	if o.Store == nil || o.Access == nil || o.Logger == nil {
		return nil, errors.New("set up workspaces: store, access and logger are required")
	}
	if o.Issuers == nil {
		o.Issuers = func() Issuers { return Issuers{} }
	}
	if o.Left == nil {
		o.Left = func() {}
	}
	if o.Platform == nil {
		o.Platform = func(context.Context, string) error { return nil }
	}
	s := &Service{
		store: o.Store, access: o.Access, issuers: o.Issuers, contents: o.Contents, log: o.Logger, left: o.Left, platform: o.Platform,
	}
	names := map[string]bool{Default: true}
	for _, kind := range o.Contents {
		for _, object := range o.Store.List(kind, store.Query{AllWorkspaces: true}) {
			names[object.Workspace] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if name == "" || s.exists(name) {
			continue
		}
		_, err := s.store.Write(ctx, store.Create(&store.Object{Kind: Kind, ID: uuid.NewString(), Name: name}))
		if err != nil && !errors.Is(err, store.ErrExists) {
			return nil, fmt.Errorf("create workspace %q: %w", name, err)
		}
	}
	return s, nil
}

func (s *Service) exists(name string) bool {
	_, err := s.store.ByName(Kind, "", name)
	return err == nil
}

// Use runs write, which puts something into a workspace, while the workspace cannot be deleted. It fails with NotFound
// where there is none of the name. An empty name means the default workspace.
func (s *Service) Use(name string, write func() error) error {
	s.using.RLock()
	defer s.using.RUnlock()
	name = nameOr(name)
	o, err := s.store.ByName(Kind, "", name)
	switch {
	case err != nil:
		return notFound(name)
	case leaving(o):
		return fault.New(fault.FailedPrecondition, ReasonLeaving, "workspace '%s' is being deleted", name).
			WithNext("choose another workspace, or create it again once it is gone")
	}
	return write()
}

// Check returns what Use would refuse right now.
func (s *Service) Check(name string) error { return s.Use(name, func() error { return nil }) }

// Create adds a workspace. Only platform administrators may.
func (s *Service) Create(ctx context.Context, name string, labels map[string]string) (*Workspace, error) {
	p := principal.From(ctx)
	if err := s.access.PlatformAdmin(p); err != nil {
		return nil, err
	}
	if err := checkName(name); err != nil {
		return nil, err
	}
	if err := limits.Labels("labels", labels); err != nil {
		return nil, err
	}
	s.adding.Lock()
	defer s.adding.Unlock()
	if s.store.Count(Kind) >= MaxWorkspaces {
		return nil, fault.New(fault.ResourceExhausted, ReasonTooMany, "there are %d workspaces, the most there can be", MaxWorkspaces).
			WithNext("delete workspaces that nobody uses")
	}
	written, err := s.store.Write(ctx, store.Create(&store.Object{
		Kind: Kind, ID: uuid.NewString(), Name: name, Owner: p.Actor(), Labels: maps.Clone(labels),
	}))
	if errors.Is(err, store.ErrExists) {
		return nil, fault.Wrap(err, fault.AlreadyExists, ReasonExists, "workspace '%s' already exists", name).
			WithNext("choose another name")
	}
	if err != nil {
		return nil, storeFault(err)
	}
	s.log.Info("workspace created", "workspace", name, "actor", p.Actor())
	return view(written[0]), nil
}

// Get returns a workspace to its members. An empty name means the default one.
func (s *Service) Get(ctx context.Context, name string) (*Workspace, error) {
	name = nameOr(name)
	if err := s.access.Workspace(principal.From(ctx), name, authz.User); err != nil {
		return nil, err
	}
	o, err := s.store.ByName(Kind, "", name)
	if err != nil {
		return nil, notFound(name)
	}
	return view(o), nil
}

// Query selects workspaces or members.
type Query struct {
	// Labels must all be there with exactly these values; members have none.
	Labels map[string]string
	// Limit 0 means DefaultPage; more than MaxPage means MaxPage.
	Limit, Offset uint32
}

func (q Query) limit() int {
	if q.Limit == 0 {
		return DefaultPage
	}
	return int(min(q.Limit, MaxPage))
}

// List returns a page of the workspaces that the caller may know of, oldest first.
func (s *Service) List(ctx context.Context, q Query) ([]*Workspace, error) {
	p := principal.From(ctx)
	skip, limit := int(q.Offset), q.limit()
	var out []*Workspace
	for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true, Labels: q.Labels}) {
		if !s.access.Listed(p, o.Name) {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if out = append(out, view(o)); len(out) == limit {
			break
		}
	}
	return out, nil
}

func view(o *store.Object) *Workspace {
	return &Workspace{ID: o.ID, Name: o.Name, Labels: o.Labels, Version: o.Version, CreatedAt: o.CreatedAt}
}

func storeFault(err error) error {
	return storefault.Of(err, fault.New(fault.Aborted, "CONCURRENT_MODIFICATION", "failed due to concurrent modification").
		WithNext("read the workspace again and retry"), store.ErrNotFound)
}

// resolve finds out whom a member's name means: "issuer|subject", or a subject alone where that names one user only.
func (s *Service) resolve(name string) (issuer, subject string, err error) {
	if err := limits.Required("principal_subject", name); err != nil {
		return "", "", err
	}
	if err := limits.Length("principal_subject", name, MaxSubject); err != nil {
		return "", "", err
	}
	if !printable(name) {
		return "", "", fault.New(fault.InvalidArgument, ReasonSubject, "principal_subject must be printable text").
			WithNext("give the claim 'sub' of the user's tokens")
	}
	from := s.issuers()
	for _, known := range from.Known {
		if rest, ok := strings.CutPrefix(name, known+"|"); ok && known != "" && rest != "" {
			return known, rest, nil
		}
	}
	if len(from.Known) == 1 && !from.Others {
		return from.Known[0], name, nil
	}
	if before, after, ok := strings.Cut(name, "|"); ok && from.Others && before != "" && after != "" {
		return before, after, nil
	}
	return "", "", fault.New(fault.InvalidArgument, ReasonIssuer,
		"principal_subject '%s' names no issuer, and users of this gateway do not all come from one", name).
		WithNext("write it as 'issuer|subject'; `sallyport whoami` and the audit log have both")
}

// nameOf is the shortest name that resolve understands.
func (s *Service) nameOf(issuer, subject string) string {
	if from := s.issuers(); len(from.Known) == 1 && !from.Others && from.Known[0] == issuer {
		return subject
	}
	return key(issuer, subject)
}
