// Package service owns the services of sandboxes: ports inside them that have a host name at the gateway. It says who
// may expose, see and take away which, how a service is named and where it is found, and that it ends with its sandbox.
// It moves no bytes and must know no transport and no wire message.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/storefault"
)

// Limits of services.
const (
	// MaxPerSandbox is how many services one sandbox may have.
	MaxPerSandbox = 64
	// DefaultPage and MaxPage are the sizes of a page of a list.
	DefaultPage = 100
	MaxPage     = 1000
)

// Stable reasons of this package's errors.
const (
	ReasonNotFound   = "SERVICE_NOT_FOUND"
	ReasonName       = "SERVICE_NAME"
	ReasonPort       = "SERVICE_PORT"
	ReasonMode       = "SERVICE_AUTHORIZATION_MODE"
	ReasonTooMany    = "TOO_MANY_SERVICES"
	ReasonConflict   = "CONCURRENT_MODIFICATION"
	ReasonUnreadable = "SERVICE_UNREADABLE"
	// ReasonFilter is given for a list whose conditions exclude each other.
	ReasonFilter = "WORKSPACE_CONFLICT"
)

// Access decides what a caller may do in a workspace and with the sandboxes in it. *authz.Current implements it.
type Access interface {
	Workspace(p *principal.Principal, workspace string, need authz.Role) error
	PlatformAdmin(p *principal.Principal) error
	Sees(p *principal.Principal, workspace, owner string) bool
	Limit(p *principal.Principal, workspace string) (owner string, limited bool)
}

// Sandboxes finds sandboxes. *sandbox.Service implements it.
type Sandboxes interface {
	// ByName returns a sandbox to a caller who may know of it.
	ByName(ctx context.Context, workspace, name string) (*sandbox.Sandbox, error)
	// ByID returns a sandbox to the gateway itself.
	ByID(id string) (*sandbox.Sandbox, error)
	Exists(id string) error
}

// Config is what a Service is made of. Store, Access and Sandboxes are required.
type Config struct {
	Store     *store.Store
	Access    Access
	Sandboxes Sandboxes
	// Address is where services are found.
	Address Address
	// Logger is told what no caller can be told; nil discards.
	Logger *slog.Logger
}

// Service is the rules of services. It is safe for concurrent use; its errors are *fault.Error.
type Service struct {
	store     *store.Store
	access    Access
	sandboxes Sandboxes
	address   Address
	log       *slog.Logger
}

// New returns a Service. Run has to run for services of deleted sandboxes to be forgotten; until then they are there for
// nobody.
func New(c Config) (*Service, error) {
	if c.Store == nil || c.Access == nil || c.Sandboxes == nil {
		return nil, errors.New("set up services of sandboxes: store, access and sandboxes are required")
	}
	if err := c.Address.check(); err != nil {
		return nil, fmt.Errorf("set up services of sandboxes: %w", err)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Service{store: c.Store, access: c.Access, sandboxes: c.Sandboxes, address: c.Address, log: c.Logger}, nil
}

// Address tells where services are found.
func (s *Service) Address() Address { return s.address }

// URL is where a service is found.
func (s *Service) URL(e *Endpoint) string { return s.address.URL(e.Name) }

// NotFound is the answer about a service that does not exist or is not the caller's to know of.
func NotFound() *fault.Error {
	return fault.New(fault.NotFound, ReasonNotFound, "service endpoint not found").
		WithNext("list the services of this workspace")
}

// ExposeRequest is the input of Expose.
type ExposeRequest struct {
	Name Name
	// Port is on the sandbox's loopback, 1 to 65535.
	Port uint32
	// Mode is what becomes of the header Authorization.
	Mode AuthorizationMode
}

// Expose gives a port of a sandbox a name at the gateway. The sandbox need not be ready. A service of that name gets the
// new port and keeps its id.
func (s *Service) Expose(ctx context.Context, req ExposeRequest) (*Endpoint, error) {
	name := req.Name.settled()
	p := principal.From(ctx)
	if err := s.access.Workspace(p, name.Workspace, authz.User); err != nil {
		return nil, err
	}
	if err := req.Check(); err != nil {
		return nil, err
	}
	sb, err := s.sandboxes.ByName(ctx, name.Workspace, name.Sandbox)
	if err != nil {
		return nil, err
	}
	r := record{SandboxID: sb.Object.ID, Service: name.Service, Port: uint16(req.Port), Mode: req.Mode}
	payload, err := r.encode()
	if err != nil {
		return nil, err
	}
	made := &store.Object{
		Kind: Kind, ID: uuid.NewString(), Workspace: name.Workspace, Name: name.Key(), Owner: sb.Object.Owner,
		Labels: map[string]string{labelSandbox: name.Sandbox}, Payload: payload,
	}
	ops, err := s.replacing(made, r)
	if err != nil {
		return nil, err
	}
	written, err := s.store.Write(ctx, ops...)
	if err != nil {
		return nil, storeFault(err)
	}
	// One that the sandbox's deletion has not seen goes with the next look at all.
	s.log.Info("service exposed", "service", name.String(), "sandbox_id", r.SandboxID, "port", r.Port, "actor", p.Actor())
	return decode(written[len(written)-1])
}

// Check refuses what Expose would refuse of any sandbox, so that a sandbox that is created with services is not begun in
// vain.
func (req ExposeRequest) Check() error {
	if err := req.Name.settled().check(); err != nil {
		return err
	}
	if req.Port < 1 || req.Port > maxPort {
		return fault.New(fault.InvalidArgument, ReasonPort, "target_port must be in 1..=65535").
			WithNext("name the port on which the program in the sandbox listens")
	}
	if !req.Mode.valid() {
		return fault.New(fault.InvalidArgument, ReasonMode, "unknown authorization_mode %d", req.Mode)
	}
	return nil
}

// replacing returns the operations that store made: in place of the service of that name, if it is this sandbox's, else
// as a new one. One that an earlier sandbox of the same name left behind goes in the same step.
func (s *Service) replacing(made *store.Object, r record) ([]store.Op, error) {
	old, err := s.store.ByName(Kind, made.Workspace, made.Name)
	if errors.Is(err, store.ErrNotFound) {
		return []store.Op{store.Create(made)}, s.room(made, r.SandboxID)
	}
	if err != nil {
		return nil, storeFault(err)
	}
	if stored, err := decode(old); err != nil || stored.SandboxID != r.SandboxID {
		return []store.Op{store.Delete(Kind, old.ID, old.Version), store.Create(made)}, s.room(made, r.SandboxID)
	}
	made.ID = old.ID
	return []store.Op{store.Put(made, old.Version)}, nil
}

// room refuses one service too many. Some that are exposed at the same moment may exceed the limit by their number.
func (s *Service) room(made *store.Object, sandboxID string) error {
	n := 0
	for _, o := range s.store.List(Kind, store.Query{Workspace: made.Workspace, Labels: made.Labels}) {
		if e, err := decode(o); err == nil && e.SandboxID == sandboxID {
			n++
		}
	}
	if n >= MaxPerSandbox {
		return fault.New(fault.ResourceExhausted, ReasonTooMany, "the sandbox has %d services, the most there can be", n).
			WithNext("delete services that nobody uses")
	}
	return nil
}

// Get returns a service to a caller who may know of its sandbox.
func (s *Service) Get(ctx context.Context, name Name) (*Endpoint, error) {
	e, _, err := s.Find(principal.From(ctx), name)
	return e, err
}

// Find returns a service and its sandbox to a caller who may know of the sandbox. To all others who may act in the
// workspace there is no such service.
func (s *Service) Find(p *principal.Principal, name Name) (*Endpoint, *sandbox.Sandbox, error) {
	name = name.settled()
	if err := s.access.Workspace(p, name.Workspace, authz.User); err != nil {
		return nil, nil, err
	}
	if name.Sandbox == "" {
		return nil, nil, required()
	}
	e, sb, err := s.Locate(name)
	if err != nil {
		return nil, nil, err
	}
	if !s.access.Sees(p, sb.Object.Workspace, sb.Object.Owner) {
		return nil, nil, NotFound()
	}
	return e, sb, nil
}

// Locate returns a service and its sandbox to the gateway itself; for a caller ask Find.
func (s *Service) Locate(name Name) (*Endpoint, *sandbox.Sandbox, error) {
	name = name.settled()
	o, err := s.store.ByName(Kind, name.Workspace, name.Key())
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil, NotFound()
	}
	if err != nil {
		return nil, nil, storeFault(err)
	}
	e, err := decode(o)
	if err != nil {
		return nil, nil, err
	}
	if e.Name != name {
		return nil, nil, NotFound() // The key alone could be split in another place.
	}
	sb, err := s.sandboxes.ByID(e.SandboxID)
	if fault.Is(err, fault.NotFound) {
		return nil, nil, NotFound()
	}
	if err != nil {
		return nil, nil, err
	}
	return e, sb, nil
}

// Query selects services of a list.
type Query struct {
	// Workspace empty means the default one; it excludes AllWorkspaces.
	Workspace     string
	AllWorkspaces bool
	// Sandbox empty means all; it excludes AllWorkspaces.
	Sandbox string
	// Limit 0 means DefaultPage; larger than MaxPage is clamped.
	Limit, Offset uint32
}

// List returns a page of the services whose sandboxes the caller may know of, oldest first, then by name.
func (s *Service) List(ctx context.Context, q Query) ([]*Endpoint, error) {
	p := principal.From(ctx)
	if err := s.admit(p, &q); err != nil {
		return nil, err
	}
	query := store.Query{Workspace: q.Workspace, AllWorkspaces: q.AllWorkspaces}
	query.Owner, _ = s.access.Limit(p, q.Workspace)
	if q.Sandbox != "" {
		query.Labels = map[string]string{labelSandbox: q.Sandbox}
	}
	limit := int(min(q.Limit, MaxPage))
	if limit == 0 {
		limit = DefaultPage
	}
	skip := int(q.Offset)
	var page []*Endpoint
	for _, o := range s.store.List(Kind, query) {
		e, err := decode(o)
		if err != nil {
			return nil, err
		}
		if s.sandboxes.Exists(e.SandboxID) != nil {
			continue // It is there for nobody any more.
		}
		if skip > 0 {
			skip--
			continue
		}
		if page = append(page, e); len(page) == limit {
			break
		}
	}
	return page, nil
}

// admit checks that the caller may list what q asks for.
func (s *Service) admit(p *principal.Principal, q *Query) error {
	if !q.AllWorkspaces {
		q.Workspace = workspaceOr(q.Workspace)
		return s.access.Workspace(p, q.Workspace, authz.User)
	}
	for field, value := range map[string]string{"workspace": q.Workspace, "sandbox": q.Sandbox} {
		if value != "" {
			return fault.New(fault.InvalidArgument, ReasonFilter, "all_workspaces and %s are mutually exclusive", field).
				WithNext("leave one of them out")
		}
	}
	return s.access.PlatformAdmin(p)
}

// Delete takes a service's name away; deleted is false where there is none that the caller may know of.
func (s *Service) Delete(ctx context.Context, name Name) (deleted bool, err error) {
	p := principal.From(ctx)
	e, _, err := s.Find(p, name)
	if f, ok := errors.AsType[*fault.Error](err); ok && f.Reason == ReasonNotFound {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_, err = s.store.Write(ctx, store.Delete(Kind, e.ID, 0))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, storeFault(err)
	}
	s.log.Info("service deleted", "service", e.Name.String(), "sandbox_id", e.SandboxID, "actor", p.Actor())
	return true, nil
}

const (
	// pruneEvery is how often services are looked for whose sandbox has gone unnoticed, pruneBatch how many are removed in
	// one transaction.
	pruneEvery = time.Minute
	pruneBatch = 256
)

// Run removes the services of sandboxes that are deleted, until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	ticker := time.NewTicker(pruneEvery)
	defer ticker.Stop()
	gone := make(chan struct{}, 1)
	done := make(chan error, 1)
	go func() { done <- s.follow(ctx, gone) }()
	for {
		if err := s.prune(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("services of deleted sandboxes were not removed", "error", err)
		}
		select {
		case <-ctx.Done():
			return <-done
		case err := <-done:
			return err
		case <-ticker.C:
		case <-gone:
		}
	}
}

// follow tells gone whenever a sandbox has been deleted.
func (s *Service) follow(ctx context.Context, gone chan<- struct{}) error {
	for {
		w := s.store.Watch(s.store.Revision())
		poke(gone) // Some may have been deleted before.
		err := waitDeleted(ctx, w, gone)
		w.Close()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // The end that was asked for.
		}
		if !errors.Is(err, store.ErrLagged) {
			return fmt.Errorf("follow deleted sandboxes: %w", err)
		}
	}
}

func waitDeleted(ctx context.Context, w *store.Watcher, gone chan<- struct{}) error {
	for {
		change, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if change.Deleted && change.Object.Kind == sandbox.Kind {
			poke(gone)
		}
	}
}

func poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// prune removes the services whose sandbox is gone.
func (s *Service) prune(ctx context.Context) error {
	var over []store.Op
	for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true}) {
		e, err := decode(o)
		if err != nil || fault.Is(s.sandboxes.Exists(e.SandboxID), fault.NotFound) {
			over = append(over, store.Delete(Kind, o.ID, o.Version))
		}
	}
	for batch := range slices.Chunk(over, pruneBatch) {
		_, err := s.store.Write(ctx, batch...)
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			continue // Somebody exposed or deleted one meanwhile; the next time does the rest.
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func storeFault(err error) error {
	return storefault.Of(err, fault.New(fault.Aborted, ReasonConflict, "failed due to concurrent modification").
		WithNext("read the service again and retry"), store.ErrNotFound, store.ErrExists)
}
