package v00

import (
	"context"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/workspace"
)

type workspaceHandler struct {
	workspaces *workspace.Service
}

// on returns the service.
func (h workspaceHandler) on() (*workspace.Service, error) {
	if h.workspaces == nil {
		return nil, fault.New(fault.FailedPrecondition, "WORKSPACES_OFF", "this gateway keeps no workspaces").
			WithNext("ask the gateway's operator")
	}
	return h.workspaces, nil
}

func (h workspaceHandler) CreateWorkspace(ctx context.Context, req *openshellpb.CreateWorkspaceRequest) (*openshellpb.CreateWorkspaceResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	w, err := s.Create(ctx, req.Name, req.Labels)
	if err != nil {
		return nil, err
	}
	return &openshellpb.CreateWorkspaceResponse{Workspace: workspaceToWire(w)}, nil
}

func (h workspaceHandler) GetWorkspace(ctx context.Context, req *openshellpb.GetWorkspaceRequest) (*openshellpb.GetWorkspaceResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	w, err := s.Get(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	return &openshellpb.GetWorkspaceResponse{Workspace: workspaceToWire(w)}, nil
}

func (h workspaceHandler) ListWorkspaces(ctx context.Context, req *openshellpb.ListWorkspacesRequest) (*openshellpb.ListWorkspacesResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	labels, err := parseSelector(req.LabelSelector)
	if err != nil {
		return nil, err
	}
	list, err := s.List(ctx, workspace.Query{Labels: labels, Limit: req.Limit, Offset: req.Offset})
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.ListWorkspacesResponse{Workspaces: make([]*datamodelpb.Workspace, len(list))}
	for i, w := range list {
		resp.Workspaces[i] = workspaceToWire(w)
	}
	return resp, nil
}

func (h workspaceHandler) DeleteWorkspace(ctx context.Context, req *openshellpb.DeleteWorkspaceRequest) (*openshellpb.DeleteWorkspaceResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	deleted, err := s.Delete(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	return &openshellpb.DeleteWorkspaceResponse{Deleted: deleted}, nil
}

func (h workspaceHandler) AddWorkspaceMember(ctx context.Context, req *openshellpb.AddWorkspaceMemberRequest) (*openshellpb.AddWorkspaceMemberResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	m, err := s.AddMember(ctx, req.Workspace, req.PrincipalSubject, memberRoles[req.Role])
	if err != nil {
		return nil, err
	}
	return &openshellpb.AddWorkspaceMemberResponse{Member: memberToWire(m)}, nil
}

func (h workspaceHandler) RemoveWorkspaceMember(ctx context.Context, req *openshellpb.RemoveWorkspaceMemberRequest) (*openshellpb.RemoveWorkspaceMemberResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	removed, err := s.RemoveMember(ctx, req.Workspace, req.PrincipalSubject)
	if err != nil {
		return nil, err
	}
	return &openshellpb.RemoveWorkspaceMemberResponse{Removed: removed}, nil
}

func (h workspaceHandler) ListWorkspaceMembers(ctx context.Context, req *openshellpb.ListWorkspaceMembersRequest) (*openshellpb.ListWorkspaceMembersResponse, error) {
	s, err := h.on()
	if err != nil {
		return nil, err
	}
	list, err := s.ListMembers(ctx, req.Workspace, workspace.Query{Limit: req.Limit, Offset: req.Offset})
	if err != nil {
		return nil, err
	}
	resp := &openshellpb.ListWorkspaceMembersResponse{Members: make([]*openshellpb.WorkspaceMember, len(list))}
	for i, m := range list {
		resp.Members[i] = memberToWire(m)
	}
	return resp, nil
}

// memberRoles are the roles of the wire that a member can have; all others, of later generations too, have none.
var memberRoles = map[openshellpb.WorkspaceRole]authz.Role{
	openshellpb.WorkspaceRole_WORKSPACE_ROLE_USER:  authz.User,
	openshellpb.WorkspaceRole_WORKSPACE_ROLE_ADMIN: authz.Admin,
}

func workspaceToWire(w *workspace.Workspace) *datamodelpb.Workspace {
	return &datamodelpb.Workspace{
		Metadata: &datamodelpb.ObjectMeta{
			Id: w.ID, Name: w.Name, CreatedAtMs: millis(w.CreatedAt), Labels: w.Labels, ResourceVersion: w.Version,
		},
		Status: &datamodelpb.WorkspaceStatus{Phase: datamodelpb.WorkspacePhase_WORKSPACE_PHASE_ACTIVE},
	}
}

func memberToWire(m *workspace.Member) *openshellpb.WorkspaceMember {
	out := &openshellpb.WorkspaceMember{
		Metadata: &datamodelpb.ObjectMeta{
			Id: m.ID, Name: m.Name, Workspace: m.Workspace, CreatedAtMs: millis(m.CreatedAt), ResourceVersion: m.Version,
		},
		PrincipalSubject: m.Name,
	}
	for wire, role := range memberRoles {
		if role == m.Role {
			out.Role = wire
		}
	}
	return out
}
