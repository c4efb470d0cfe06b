package workspace

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"unicode"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
)

// Role returns the role of a user in a workspace, NoRole for one who is no member. It reads memory only.
func (s *Service) Role(workspace string, p *principal.Principal) authz.Role {
	if p == nil || p.Kind != principal.User || p.Subject == "" {
		return authz.NoRole
	}
	o, err := s.store.ByName(MemberKind, workspace, key(p.Issuer, p.Subject))
	if err != nil {
		return authz.NoRole
	}
	// The key alone could be split in another place.
	if r := decode(o); r.Issuer == p.Issuer && r.Subject == p.Subject {
		return r.Role
	}
	return authz.NoRole
}

// Of returns the roles of a user by workspace.
func (s *Service) Of(p *principal.Principal) map[string]authz.Role {
	out := map[string]authz.Role{}
	for _, o := range s.store.List(Kind, store.Query{AllWorkspaces: true}) {
		if role := s.Role(o.Name, p); role != authz.NoRole {
			out[o.Name] = role
		}
	}
	return out
}

// Name returns how the user is called in AddMember.
func (s *Service) Name(p *principal.Principal) string { return s.nameOf(p.Issuer, p.Subject) }

// AddMember gives a user a role in a workspace, empty for the default one. Administrators of the workspace may add
// users, platform administrators also administrators.
func (s *Service) AddMember(ctx context.Context, workspace, name string, role authz.Role) (*Member, error) {
	p := principal.From(ctx)
	workspace = nameOr(workspace)
	if err := s.access.Workspace(p, workspace, authz.Admin); err != nil {
		return nil, err
	}
	issuer, subject, err := s.resolve(name)
	if err != nil {
		return nil, err
	}
	switch role {
	case authz.User:
	case authz.Admin:
		if s.access.PlatformAdmin(p) != nil {
			return nil, fault.New(fault.PermissionDenied, ReasonGrant, "only platform admins can assign the workspace admin role").
				WithNext("add the member as user, or ask an administrator of the gateway")
		}
	default:
		return nil, fault.New(fault.InvalidArgument, ReasonRole, "role must be user or admin").WithNext("name one of the two")
	}
	raw, err := json.Marshal(record{Issuer: issuer, Subject: subject, Role: role})
	if err != nil {
		return nil, fault.Wrap(err, fault.Internal, reasonUnencoded, "member cannot be encoded")
	}
	o := &store.Object{
		Kind: MemberKind, ID: uuid.NewString(), Workspace: workspace, Name: key(issuer, subject), Owner: p.Actor(), Payload: raw,
	}
	if o, err = s.insert(ctx, o); err != nil {
		return nil, err
	}
	s.log.Info("workspace member added", "workspace", workspace, "member", o.Name, "role", role, "actor", p.Actor())
	return s.viewMember(o), nil
}

// insert stores a member while it is certain that the workspace is there and has room.
func (s *Service) insert(ctx context.Context, o *store.Object) (*store.Object, error) {
	var written []*store.Object
	err := s.Use(o.Workspace, func() error {
		s.adding.Lock()
		defer s.adding.Unlock()
		if _, err := s.store.ByName(MemberKind, o.Workspace, o.Name); err == nil {
			return store.ErrExists
		}
		if len(s.store.List(MemberKind, store.Query{Workspace: o.Workspace, Limit: MaxMembers})) >= MaxMembers {
			return fault.New(fault.ResourceExhausted, ReasonMembers, "workspace '%s' has %d members, the most there can be",
				o.Workspace, MaxMembers).WithNext("remove members that do not need it")
		}
		var err error
		written, err = s.store.Write(ctx, store.Create(o))
		return err
	})
	if errors.Is(err, store.ErrExists) {
		return nil, fault.New(fault.AlreadyExists, ReasonMember, "already a member of workspace '%s'", o.Workspace).
			WithNext("remove the member first to change its role")
	}
	if err != nil {
		return nil, storeFault(err)
	}
	return written[0], nil
}

// RemoveMember takes a member's role away; removed is false for one who is no member. Administrators of the workspace
// may.
func (s *Service) RemoveMember(ctx context.Context, workspace, name string) (removed bool, err error) {
	p := principal.From(ctx)
	workspace = nameOr(workspace)
	if err := s.access.Workspace(p, workspace, authz.Admin); err != nil {
		return false, err
	}
	if !s.exists(workspace) {
		return false, notFound(workspace)
	}
	// What a list shows can be removed, also when its issuer is no longer configured.
	o, err := s.store.ByName(MemberKind, workspace, name)
	if err != nil {
		issuer, subject, err := s.resolve(name)
		if err != nil {
			return false, err
		}
		if o, err = s.store.ByName(MemberKind, workspace, key(issuer, subject)); err != nil {
			return false, nil //nolint:nilerr // There is none.
		}
	}
	_, err = s.store.Write(ctx, store.Delete(MemberKind, o.ID, 0))
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, storeFault(err)
	}
	s.left()
	s.log.Info("workspace member removed", "workspace", workspace, "member", o.Name, "actor", p.Actor())
	return true, nil
}

// ListMembers returns a page of a workspace's members to its members, oldest first.
func (s *Service) ListMembers(ctx context.Context, workspace string, q Query) ([]*Member, error) {
	workspace = nameOr(workspace)
	if err := s.access.Workspace(principal.From(ctx), workspace, authz.User); err != nil {
		return nil, err
	}
	if !s.exists(workspace) {
		return nil, notFound(workspace)
	}
	objects := s.store.List(MemberKind, store.Query{Workspace: workspace, Offset: int(q.Offset), Limit: q.limit()})
	out := make([]*Member, len(objects))
	for i, o := range objects {
		out[i] = s.viewMember(o)
	}
	return out, nil
}

func (s *Service) viewMember(o *store.Object) *Member {
	r := decode(o)
	m := &Member{
		ID: o.ID, Workspace: o.Workspace, Issuer: r.Issuer, Subject: r.Subject, Name: o.Name, Role: r.Role,
		Version: o.Version, CreatedAt: o.CreatedAt,
	}
	if r.Subject != "" {
		m.Name = s.nameOf(r.Issuer, r.Subject)
	}
	return m
}

func printable(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0
}
