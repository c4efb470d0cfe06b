package cli_test

import (
	"context"
	"slices"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/datamodelpb"
	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// fakeWorkspaces keeps workspaces and members for a gateway of tests.
type fakeWorkspaces struct {
	mu      sync.Mutex
	all     []*datamodelpb.Workspace
	members []*openshellpb.WorkspaceMember
}

func (f *fakeWorkspaces) find(name string) int {
	return slices.IndexFunc(f.all, func(w *datamodelpb.Workspace) bool { return w.GetMetadata().GetName() == name })
}

func (g *gateway) CreateWorkspace(_ context.Context, r *openshellpb.CreateWorkspaceRequest) (*openshellpb.CreateWorkspaceResponse, error) {
	f := &g.workspaces
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.find(r.GetName()) >= 0 {
		return nil, refusal(codes.AlreadyExists, "workspace '"+r.GetName()+"' already exists", "WORKSPACE_EXISTS", "choose another name")
	}
	w := &datamodelpb.Workspace{
		Metadata: &datamodelpb.ObjectMeta{Id: "w-" + r.GetName(), Name: r.GetName(), CreatedAtMs: 1_700_000_000_000, Labels: r.GetLabels(), ResourceVersion: 1},
		Status:   &datamodelpb.WorkspaceStatus{Phase: datamodelpb.WorkspacePhase_WORKSPACE_PHASE_ACTIVE},
	}
	f.all = append(f.all, w)
	return &openshellpb.CreateWorkspaceResponse{Workspace: w}, nil
}

func (g *gateway) GetWorkspace(_ context.Context, r *openshellpb.GetWorkspaceRequest) (*openshellpb.GetWorkspaceResponse, error) {
	f := &g.workspaces
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := f.find(r.GetName()); i >= 0 {
		return &openshellpb.GetWorkspaceResponse{Workspace: f.all[i]}, nil
	}
	return nil, status.Error(codes.NotFound, "workspace '"+r.GetName()+"' not found")
}

func (g *gateway) ListWorkspaces(context.Context, *openshellpb.ListWorkspacesRequest) (*openshellpb.ListWorkspacesResponse, error) {
	g.workspaces.mu.Lock()
	defer g.workspaces.mu.Unlock()
	return &openshellpb.ListWorkspacesResponse{Workspaces: slices.Clone(g.workspaces.all)}, nil
}

func (g *gateway) DeleteWorkspace(_ context.Context, r *openshellpb.DeleteWorkspaceRequest) (*openshellpb.DeleteWorkspaceResponse, error) {
	f := &g.workspaces
	f.mu.Lock()
	defer f.mu.Unlock()
	i := f.find(r.GetName())
	if i < 0 {
		return &openshellpb.DeleteWorkspaceResponse{}, nil
	}
	f.all = slices.Delete(f.all, i, i+1)
	return &openshellpb.DeleteWorkspaceResponse{Deleted: true}, nil
}

func (g *gateway) AddWorkspaceMember(_ context.Context, r *openshellpb.AddWorkspaceMemberRequest) (*openshellpb.AddWorkspaceMemberResponse, error) {
	f := &g.workspaces
	f.mu.Lock()
	defer f.mu.Unlock()
	m := &openshellpb.WorkspaceMember{
		Metadata:         &datamodelpb.ObjectMeta{Name: r.GetPrincipalSubject(), Workspace: r.GetWorkspace()},
		PrincipalSubject: r.GetPrincipalSubject(), Role: r.GetRole(),
	}
	f.members = append(f.members, m)
	return &openshellpb.AddWorkspaceMemberResponse{Member: m}, nil
}

func (g *gateway) RemoveWorkspaceMember(_ context.Context, r *openshellpb.RemoveWorkspaceMemberRequest) (*openshellpb.RemoveWorkspaceMemberResponse, error) {
	f := &g.workspaces
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.members)
	f.members = slices.DeleteFunc(f.members, func(m *openshellpb.WorkspaceMember) bool {
		return m.GetPrincipalSubject() == r.GetPrincipalSubject() && m.GetMetadata().GetWorkspace() == r.GetWorkspace()
	})
	return &openshellpb.RemoveWorkspaceMemberResponse{Removed: len(f.members) < n}, nil
}

func (g *gateway) ListWorkspaceMembers(_ context.Context, r *openshellpb.ListWorkspaceMembersRequest) (*openshellpb.ListWorkspaceMembersResponse, error) {
	f := &g.workspaces
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &openshellpb.ListWorkspaceMembersResponse{}
	for _, m := range f.members {
		if m.GetMetadata().GetWorkspace() == r.GetWorkspace() {
			out.Members = append(out.Members, m)
		}
	}
	return out, nil
}
