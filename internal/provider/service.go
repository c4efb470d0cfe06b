package provider

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/limits"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

// Pages of List.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// Resolver gives the values of driver credentials.
type Resolver interface {
	// Resolve returns the current value; its errors are *fault.Error that name the credential.
	Resolve(ctx context.Context, name string) (credentials.Token, error)
	// Last returns the last value known, however old, without asking anybody.
	Last(name string) (credentials.Token, bool)
	// Configured tells whether there is a driver at all.
	Configured() bool
}

var _ Resolver = (*credential.Resolver)(nil)

// Access decides what a caller may do in a workspace. *authz.Current implements it.
type Access interface {
	// Workspace refuses a caller who lacks the role in the workspace.
	Workspace(p *principal.Principal, workspace string, need authz.Role) error
	// PlatformAdmin refuses who is no administrator of the platform.
	PlatformAdmin(p *principal.Principal) error
}

// Options are what a Service is made of. Key, Store, Resolver, Logger, InUse and Use are required; without Access no user
// may do anything.
type Options struct {
	Store    *store.Store
	Resolver Resolver
	// Key encrypts literal credentials at rest: KeySize secret bytes that live as long as the database.
	Key []byte
	// OldKeys only decrypt: what they encrypted is read, and encrypted anew by Reseal.
	OldKeys [][]byte
	// AcceptLost lets a Service open although there are literals that no key decrypts.
	AcceptLost bool
	Logger     *slog.Logger
	// InUse returns the names of the sandboxes that use a provider.
	InUse func(workspace, name string) []string
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Access decides who may do what in which workspace.
	Access Access
	// Use runs write while the workspace cannot be deleted, or refuses one that does not exist.
	Use func(workspace string, write func() error) error
}

// Service is the providers' rules. It is safe for concurrent use; its errors are *fault.Error.
type Service struct {
	store    *store.Store
	resolver Resolver
	sealer   *sealer
	log      *slog.Logger
	inUse    func(workspace, name string) []string
	now      func() time.Time
	access   Access
	use      func(workspace string, write func() error) error

	// attaching is held for reading while a sandbox is being given providers and for writing while one is being
	// deleted, so that no provider goes between the check and the write.
	attaching sync.RWMutex
}

// New returns a Service. It writes nothing, and fails where stored literals were encrypted with none of the keys.
func New(o Options) (*Service, error) {
	if o.Store == nil || o.Resolver == nil || o.Logger == nil || o.InUse == nil || o.Use == nil {
		return nil, errors.New("set up providers: store, resolver, logger, the users of providers and workspaces are required")
	}
	sealer, err := newSealer(o.Key, o.OldKeys)
	if err != nil {
		return nil, fmt.Errorf("set up providers: %w", err)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Access == nil {
		o.Access = &authz.Current{}
	}
	s := &Service{
		store: o.Store, resolver: o.Resolver, sealer: sealer, log: o.Logger, inUse: o.InUse, now: o.Now,
		access: o.Access, use: o.Use,
	}
	if err := s.checkKeys(); err != nil && !o.AcceptLost {
		return nil, fmt.Errorf("set up providers: %w", err)
	}
	return s, nil
}

// Create stores a new provider for an administrator of the workspace. ID, version and times of p are ignored; an empty
// name is replaced by a made-up one.
func (s *Service) Create(ctx context.Context, p Provider) (*Provider, error) {
	if err := s.admit(ctx, p.Workspace, authz.Admin); err != nil {
		return nil, err
	}
	if p.Name == "" {
		p.Name = randomName()
	}
	if err := validateCreate(&p); err != nil {
		return nil, err
	}
	o := &store.Object{
		Kind: Kind, ID: uuid.NewString(), Workspace: workspaceOr(p.Workspace), Name: p.Name,
		Owner: principal.From(ctx).Actor(), Labels: maps.Clone(p.Labels),
	}
	r := &record{Type: p.Type, Config: cloned(p.Config), Credentials: map[string]secretRow{}, ExpiresAtMS: map[string]int64{}}
	for k, v := range r.Config {
		if v == "" {
			delete(r.Config, k)
		}
	}
	if err := s.setCredentials(o, r, p.Credentials); err != nil {
		return nil, err
	}
	setExpiries(r, p.ExpiresAtMS)
	var err error
	if o.Payload, err = json.Marshal(r); err != nil {
		return nil, fault.Wrap(err, fault.Internal, "PROVIDER_ENCODING", "provider cannot be encoded")
	}
	var written []*store.Object
	err = s.use(o.Workspace, func() error {
		var err error
		written, err = s.store.Write(ctx, store.Create(o))
		return err
	})
	if errors.Is(err, store.ErrExists) {
		return nil, fault.Wrap(err, fault.AlreadyExists, "PROVIDER_EXISTS", "provider already exists").
			WithNext("choose another name than '%s', or update the provider", p.Name)
	}
	if err != nil {
		return nil, storeFault(err)
	}
	s.log.Info("provider created", "provider", p.Name, "workspace", o.Workspace, "id", o.ID, "actor", o.Owner)
	return s.view(written[0])
}

// admit refuses a caller who lacks the role in the workspace. It comes before anything that would tell what is there.
func (s *Service) admit(ctx context.Context, workspace string, need authz.Role) error {
	return s.access.Workspace(principal.From(ctx), workspaceOr(workspace), need)
}

// Get returns the provider of a name to a user of the workspace.
func (s *Service) Get(ctx context.Context, workspace, name string) (*Provider, error) {
	if err := s.admit(ctx, workspace, authz.User); err != nil {
		return nil, err
	}
	if err := limits.Required("name", name); err != nil {
		return nil, err
	}
	o, err := s.store.ByName(Kind, workspaceOr(workspace), name)
	if err != nil {
		return nil, notFound(err, name)
	}
	return s.view(o)
}

// Query selects providers.
type Query struct {
	Workspace     string
	AllWorkspaces bool
	Labels        map[string]string
	// Limit 0 means DefaultPage; more than MaxPage means MaxPage.
	Offset, Limit uint32
}

// List returns providers by creation time, then name, to a user of the workspace; those of all workspaces to an
// administrator of the platform.
func (s *Service) List(ctx context.Context, q Query) ([]*Provider, error) {
	if q.AllWorkspaces && q.Workspace != "" {
		return nil, fault.New(fault.InvalidArgument, "WORKSPACE_CONFLICT", "all_workspaces and workspace are mutually exclusive").
			WithNext("send one of the two")
	}
	var err error
	if q.AllWorkspaces {
		err = s.access.PlatformAdmin(principal.From(ctx))
	} else {
		err = s.admit(ctx, q.Workspace, authz.User)
	}
	if err != nil {
		return nil, err
	}
	if q.Limit == 0 {
		q.Limit = DefaultPage
	}
	objects := s.store.List(Kind, store.Query{
		Workspace: workspaceOr(q.Workspace), AllWorkspaces: q.AllWorkspaces, Labels: q.Labels,
		Offset: int(q.Offset), Limit: int(min(q.Limit, MaxPage)),
	})
	out := make([]*Provider, len(objects))
	for i, o := range objects {
		var err error
		if out[i], err = s.view(o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Update is a change of one provider. In the maps a key with a value is set, a key with an empty value (an expiry
// of 0 or less) is removed, and a key that is not there stays.
type Update struct {
	Workspace string
	Name      string
	// Type may be empty or the stored one in any case: a type cannot be changed.
	Type        string
	Credentials map[string]string
	Config      map[string]string
	ExpiresAtMS map[string]int64
	// ExpectVersion is the version that the caller has seen; 0 accepts any.
	ExpectVersion uint64
}

// Update changes a provider for an administrator of the workspace. It fails with Aborted where ExpectVersion is not the
// current version.
func (s *Service) Update(ctx context.Context, u Update) (*Provider, error) {
	if err := s.admit(ctx, u.Workspace, authz.Admin); err != nil {
		return nil, err
	}
	if err := limits.Required("provider.name", u.Name); err != nil {
		return nil, err
	}
	if err := validateMaps(u.Credentials, u.Config, u.ExpiresAtMS); err != nil {
		return nil, err
	}
	found, err := s.store.ByName(Kind, workspaceOr(u.Workspace), u.Name)
	if err != nil {
		return nil, notFound(err, u.Name)
	}
	o, err := s.store.Update(ctx, Kind, found.ID, func(o *store.Object) error { return s.merge(o, &u) })
	switch {
	case errors.Is(err, store.ErrNotFound):
		return nil, notFound(err, u.Name)
	case err != nil:
		return nil, storeFault(err)
	}
	if o.Version != found.Version {
		s.log.Info("provider updated", "provider", o.Name, "workspace", o.Workspace, "id", o.ID, "version", o.Version,
			"actor", principal.From(ctx).Actor())
	}
	return s.view(o)
}

// merge applies u to a copy of the stored object.
func (s *Service) merge(o *store.Object, u *Update) error {
	if u.ExpectVersion != 0 && u.ExpectVersion != o.Version {
		return fault.New(fault.Aborted, "PROVIDER_MODIFIED", "provider was modified concurrently (current resource_version: %d)", o.Version).
			WithNext("read the provider again and retry")
	}
	old, err := decode(o)
	if err != nil {
		return err
	}
	if u.Type != "" && !strings.EqualFold(u.Type, old.Type) {
		return fault.New(fault.InvalidArgument, "PROVIDER_TYPE_IMMUTABLE",
			"provider type cannot be changed; delete and recreate the provider").WithNext("leave the type out to keep '%s'", old.Type)
	}
	if len(u.Credentials) == 0 && len(u.Config) == 0 && len(u.ExpiresAtMS) == 0 {
		return store.ErrNoChange
	}
	r := old.clone()
	if err := s.setCredentials(o, r, u.Credentials); err != nil {
		return err
	}
	for k, v := range u.Config {
		if v == "" {
			delete(r.Config, k)
		} else {
			r.Config[k] = v
		}
	}
	setExpiries(r, u.ExpiresAtMS)
	if err := limits.Entries("provider.credentials", len(r.Credentials), MaxCredentials); err != nil {
		return err
	}
	if err := limits.Entries("provider.config", len(r.Config), MaxConfig); err != nil {
		return err
	}
	if o.Payload, err = json.Marshal(r); err != nil {
		return fault.Wrap(err, fault.Internal, "PROVIDER_ENCODING", "provider cannot be encoded")
	}
	return nil
}

// setCredentials puts values into r as they are kept at rest.
func (s *Service) setCredentials(o *store.Object, r *record, values map[string]string) error {
	for _, k := range slices.Sorted(maps.Keys(values)) {
		v := values[k]
		if v == "" {
			delete(r.Credentials, k)
			delete(r.ExpiresAtMS, k)
			continue
		}
		ref, is, err := parseValue(k, v)
		switch {
		case err != nil:
			return err
		case is && !s.resolver.Configured():
			return fault.New(fault.FailedPrecondition, credential.ReasonNotConfigured,
				"provider.credentials %q names driver credential %q, and the gateway has no credentials driver", k, ref.Name).
				WithNext("start the gateway with --credentials-driver-socket")
		case is:
			r.Credentials[k] = secretRow{Reference: ref.Name}
		default:
			r.Credentials[k] = s.sealer.seal(o.ID, o.Workspace, k, v)
		}
	}
	return nil
}

// setExpiries merges expiries. Those of credentials that are not there are kept out.
func setExpiries(r *record, expires map[string]int64) {
	for k, ms := range expires {
		if _, ok := r.Credentials[k]; !ok || ms <= 0 {
			delete(r.ExpiresAtMS, k)
			continue
		}
		r.ExpiresAtMS[k] = ms
	}
}

// Delete removes a provider that no sandbox uses for an administrator of the workspace; deleted is false where there
// was none.
func (s *Service) Delete(ctx context.Context, workspace, name string) (deleted bool, err error) {
	if err := s.admit(ctx, workspace, authz.Admin); err != nil {
		return false, err
	}
	if err := limits.Required("name", name); err != nil {
		return false, err
	}
	s.attaching.Lock()
	defer s.attaching.Unlock()
	o, err := s.store.ByName(Kind, workspaceOr(workspace), name)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, storeFault(err)
	}
	if users := slices.Sorted(slices.Values(s.inUse(o.Workspace, o.Name))); len(users) > 0 {
		return false, fault.New(fault.FailedPrecondition, "PROVIDER_IN_USE", "provider '%s' is attached to sandbox(es): %s",
			name, strings.Join(users, ", ")).WithNext("delete these sandboxes or detach the provider first")
	}
	_, err = s.store.Write(ctx, store.Delete(Kind, o.ID, 0))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, storeFault(err)
	}
	s.log.Info("provider deleted", "provider", name, "workspace", o.Workspace, "id", o.ID, "actor", principal.From(ctx).Actor())
	return true, nil
}

// view is the stored provider without its secrets.
func (s *Service) view(o *store.Object) (*Provider, error) {
	r, err := decode(o)
	if err != nil {
		return nil, err
	}
	p := &Provider{
		ID: o.ID, Name: o.Name, Workspace: o.Workspace, Owner: o.Owner, Type: r.Type, Labels: maps.Clone(o.Labels),
		Credentials: make(map[string]string, len(r.Credentials)), Config: cloned(r.Config), ExpiresAtMS: cloned(r.ExpiresAtMS),
		Version: o.Version, CreatedAt: o.CreatedAt, UpdatedAt: o.UpdatedAt,
	}
	for k, c := range r.Credentials {
		p.Credentials[k] = Redacted
		if c.Reference != "" {
			p.Credentials[k] = credential.Reference{Name: c.Reference}.String()
		}
	}
	return p, nil
}

func workspaceOr(name string) string {
	if name == "" {
		return DefaultWorkspace
	}
	return name
}

func notFound(err error, name string) error {
	if !errors.Is(err, store.ErrNotFound) {
		return storeFault(err)
	}
	return fault.Wrap(err, fault.NotFound, "PROVIDER_NOT_FOUND", "provider not found").
		WithNext("check the name '%s' with 'sallyport provider list'", name)
}

func storeFault(err error) error {
	return storefault.Of(err, fault.New(fault.Aborted, "PROVIDER_MODIFIED", "provider was modified concurrently").
		WithNext("read the provider again and retry"))
}

// randomName makes up a name of six lower-case letters.
func randomName() string {
	const letters = "abcdefghijklmnopqrstuvwxyz"
	b := make([]byte, 6)
	// Never fails: a system without randomness ends the process.
	_, _ = rand.Read(b)
	for i := range b {
		b[i] = letters[int(b[i])%len(letters)]
	}
	return string(b)
}
