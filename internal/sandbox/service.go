package sandbox

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/driver/compute"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandboxlog"
	"sallyport.dev/sallyport/internal/settings"
	"sallyport.dev/sallyport/internal/store"
)

// Driver is the compute driver as this service needs it.
type Driver interface {
	Capabilities(ctx context.Context) (compute.Capabilities, error)
	Validate(ctx context.Context, spec compute.Spec) error
	Create(ctx context.Context, spec compute.Spec) error
	Get(ctx context.Context, id, name string) (compute.Snapshot, error)
	Delete(ctx context.Context, id, name string) (deleted bool, err error)
	// Stop has a sandbox's processes ended and keeps what Start needs. Both may be repeated; Unimplemented means that
	// the driver knows neither.
	Stop(ctx context.Context, id, name string) error
	// Start returns NotFound where there is nothing left to start.
	Start(ctx context.Context, id, name string) error
}

// Sessions tells which supervisors are connected.
type Sessions interface {
	Connected(sandboxID string) (instanceID string, ok bool)
	Disconnect(sandboxID, reason string)
}

// Tokens mints sandbox identities.
type Tokens interface {
	Mint(sandboxID string) (token string, expires time.Time, err error)
}

// Providers tells whether a sandbox may use providers: all exist, and no two set one variable.
type Providers interface {
	CheckAttachable(ctx context.Context, workspace string, names []string) error
	// Attach checks again and runs write while no provider can be deleted.
	Attach(ctx context.Context, workspace string, names []string, write func() error) error
}

// Config is what a Service is made of. All fields are required; without Access no user may do anything.
type Config struct {
	Store     *store.Store
	Driver    Driver
	Sessions  Sessions
	Tokens    Tokens
	Providers Providers
	Logs      *sandboxlog.Hub
	Logger    *slog.Logger

	Access     Access
	Workspaces Workspaces
	// Settings are what holds for all sandboxes; nil are those in Store.
	Settings *settings.Service
}

// Service is the sandboxes' rules. It is safe for concurrent use.
type Service struct {
	Config
	notify notifier
	holds  holds
	image  defaultImage
	turns  turns
	// resumed tells that the sandboxes of a driver that leaves that to the gateway have been started with it.
	resumed atomic.Bool
	// room holds a value for each stop or start that is carried out aside.
	room chan struct{}
	// background counts driver calls that outlive the request that began them.
	background sync.WaitGroup
	// bootRevision is the last write of an earlier process.
	bootRevision uint64
}

// NewService returns a Service; Run must be running for watchers and driver reports to be served.
func NewService(c Config) *Service {
	if c.Access == nil {
		c.Access = &authz.Current{}
	}
	if c.Settings == nil {
		c.Settings = settings.New(c.Store, c.Access)
	}
	return &Service{
		Config: c, bootRevision: c.Store.Revision(), notify: notifier{subs: map[string]map[*Subscription]struct{}{}},
		room: make(chan struct{}, redoLimit),
	}
}

// Wait returns when every driver call that outlived its request has ended.
func (s *Service) Wait() { s.background.Wait() }

// NotFound is the answer about a sandbox that does not exist or is not the caller's.
func NotFound() *fault.Error {
	return fault.New(fault.NotFound, "SANDBOX_NOT_FOUND", "sandbox not found").
		WithNext("list the sandboxes of this workspace")
}

// ByID returns a sandbox by its id to the gateway itself and to the sandbox's own supervisor; for a user ask Lookup.
func (s *Service) ByID(id string) (*Sandbox, error) {
	if id == "" {
		return nil, fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "sandbox_id is required")
	}
	o, err := s.Store.Get(Kind, id)
	if err != nil {
		return nil, notFound(err)
	}
	return s.compose(o)
}

// Exists returns nil if there is a sandbox with this id, and what ByID would say if not.
func (s *Service) Exists(id string) error {
	if id == "" {
		return fault.New(fault.InvalidArgument, "SANDBOX_ID_REQUIRED", "sandbox_id is required")
	}
	if _, err := s.Store.Get(Kind, id); err != nil {
		return notFound(err)
	}
	return nil
}

// ByName returns a sandbox by workspace and name to a caller who may know of it.
func (s *Service) ByName(ctx context.Context, workspace, name string) (*Sandbox, error) {
	o, err := s.find(ctx, workspaceOr(workspace), name)
	if err != nil {
		return nil, err
	}
	return s.compose(o)
}

// Query selects sandboxes of a list.
type Query struct {
	Workspace     string
	AllWorkspaces bool
	Labels        map[string]string
	// Limit 0 means DefaultPage; larger than MaxPage is clamped.
	Limit  uint32
	Offset uint32
}

// Page sizes of lists.
const (
	DefaultPage = 100
	MaxPage     = 1000
)

// List returns a page of the sandboxes that the caller may know of, oldest first, then by name. The page is cut after
// all others are left out.
func (s *Service) List(ctx context.Context, q Query) ([]*Sandbox, error) {
	if q.AllWorkspaces && q.Workspace != "" {
		return nil, fault.New(fault.InvalidArgument, "WORKSPACE_CONFLICT", "all_workspaces and workspace are mutually exclusive")
	}
	owner, err := s.admit(principal.From(ctx), &q)
	if err != nil {
		return nil, err
	}
	limit := int(q.Limit)
	if limit == 0 {
		limit = DefaultPage
	}
	objects := s.Store.List(Kind, store.Query{
		Workspace: q.Workspace, AllWorkspaces: q.AllWorkspaces, Labels: q.Labels, Owner: owner,
		Offset: int(q.Offset), Limit: min(limit, MaxPage),
	})
	out := make([]*Sandbox, len(objects))
	for i, o := range objects {
		var err error
		if out[i], err = s.compose(o); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// admit checks that the caller may list, and returns the owner to whose sandboxes the list is limited, empty for none.
func (s *Service) admit(p *principal.Principal, q *Query) (owner string, err error) {
	if q.AllWorkspaces {
		err = s.Access.PlatformAdmin(p)
	} else {
		q.Workspace = workspaceOr(q.Workspace)
		err = s.Access.Workspace(p, q.Workspace, authz.User)
	}
	if err != nil {
		return "", err
	}
	owner, _ = s.Access.Limit(p, q.Workspace)
	return owner, nil
}

// UsersOf returns the names of the sandboxes that use a provider; those being deleted no longer do.
func (s *Service) UsersOf(workspace, provider string) []string {
	var names []string
	for _, o := range s.Store.List(Kind, store.Query{Workspace: workspaceOr(workspace)}) {
		r, err := decode(o)
		if err != nil {
			// Nobody knows what it uses, so it counts.
			s.Logger.Error("read a stored sandbox", "sandbox_id", o.ID, "error", err)
			names = append(names, o.Name)
			continue
		}
		if r.DeletionTimestamp.IsZero() && slices.Contains(r.Spec.Providers, provider) {
			names = append(names, o.Name)
		}
	}
	return names
}

// compose puts a stored row and its session together. The last composition is kept with the row, since reads by
// far outnumber changes.
func (s *Service) compose(o *store.Object) (*Sandbox, error) {
	last, err := memo(o, composedKey{}, func() (*atomic.Pointer[Sandbox], error) { return new(atomic.Pointer[Sandbox]), nil })
	if err != nil {
		return nil, err
	}
	instance, connected := s.Sessions.Connected(o.ID)
	if sb := last.Load(); sb != nil && sb.Connected == connected && sb.MainInstanceID == instance {
		return sb, nil
	}
	r, err := decode(o)
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, "SANDBOX_UNREADABLE", "stored sandbox cannot be read").
			WithNext("restore the database from a backup, or delete this sandbox")
	}
	sb := &Sandbox{Object: o, Record: r, Connected: connected, MainInstanceID: instance}
	// A supervisor of another instance has started the main process anew.
	if r.ExitCode != nil && (!connected || instance == r.ExitInstance) {
		sb.Exited = r.ExitCode
	}
	sb.Phase, sb.Status = compose(r, connected && !r.left(instance), sb.Exited != nil)
	last.Store(sb)
	return sb, nil
}

type composedKey struct{}

func workspaceOr(w string) string {
	if w == "" {
		return DefaultWorkspace
	}
	return w
}

func notFound(err error) error {
	if errors.Is(err, store.ErrNotFound) {
		return NotFound()
	}
	return err
}

// Connected tells watchers that a supervisor has come, and ends the start that waited for it. It implements
// relay.Observer.
func (s *Service) Connected(ctx context.Context, sandboxID, sessionID, instance string) {
	s.Logs.Append(sandboxID, gatewayLine("INFO", "supervisor session connected", "session_id", sessionID))
	s.arrived(ctx, sandboxID, instance)
	s.notify.poke(sandboxID)
}

// Disconnected tells watchers that a supervisor has gone. It implements relay.Observer.
func (s *Service) Disconnected(_ context.Context, sandboxID, sessionID, reason string) {
	if _, err := s.Store.Get(Kind, sandboxID); err != nil {
		return
	}
	s.Logs.Append(sandboxID, gatewayLine("WARN", "supervisor session ended: "+reason, "session_id", sessionID))
	s.notify.poke(sandboxID)
}

func gatewayLine(level, message string, fields ...string) *sandboxlog.Line {
	l := &sandboxlog.Line{Time: time.Now(), Level: level, Target: "sallyport", Message: message, Source: sandboxlog.SourceGateway}
	if len(fields) > 0 {
		l.Fields = make(map[string]string, len(fields)/2)
		for i := 0; i+1 < len(fields); i += 2 {
			l.Fields[fields[i]] = fields[i+1]
		}
	}
	return l
}
