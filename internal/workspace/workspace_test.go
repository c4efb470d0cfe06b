package workspace_test

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
	"sallyport.dev/sallyport/internal/workspace"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const (
	idp   = "https://idp.example"
	other = "https://other.example"
	// thing is a kind of objects that live in workspaces.
	thing store.Kind = "thing"
)

type fixture struct {
	*workspace.Service
	store   *store.Store
	issuers *atomic.Pointer[workspace.Issuers]
	left    *atomic.Int32
	// platform is what the compute driver answers when a workspace is deleted, and how often it was asked.
	platform *platform
}

type platform struct {
	mu    sync.Mutex
	err   error
	asked []string
}

func (p *platform) delete(_ context.Context, name string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, name)
	return p.err
}

func (p *platform) answer(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func open(t *testing.T, path string, scheme authz.Scheme) *fixture {
	t.Helper()
	db, err := sqlite.Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	f := &fixture{store: st, issuers: &atomic.Pointer[workspace.Issuers]{}, left: &atomic.Int32{}, platform: &platform{}}
	f.issuers.Store(&workspace.Issuers{Known: []string{idp}})
	current := &authz.Current{}
	f.Service, err = workspace.Open(t.Context(), workspace.Options{
		Store: st, Access: current, Issuers: func() workspace.Issuers { return *f.issuers.Load() },
		Contents: []store.Kind{thing}, Logger: slog.New(slog.DiscardHandler), Left: func() { f.left.Add(1) },
		Platform: f.platform.delete,
	})
	if err != nil {
		t.Fatal(err)
	}
	table, err := authz.NewTable()
	if err != nil {
		t.Fatal(err)
	}
	a, err := authz.New(table, authz.Policy{Scheme: scheme, AdminRole: "admin", UserRole: "user"})
	if err != nil {
		t.Fatal(err)
	}
	current.Store(a.WithMembers(f.Service))
	return f
}

func memory(t *testing.T) *fixture {
	t.Helper()
	return open(t, "sqlite::memory:", authz.Workspaces)
}

func as(issuer, subject, role string) context.Context {
	return principal.With(context.Background(), &principal.Principal{
		Kind: principal.User, Issuer: issuer, Subject: subject, Roles: []string{role},
	})
}

func root() context.Context { return as(idp, "root", "admin") }

// put stores an object in a workspace.
func (f *fixture) put(t *testing.T, name, id string) {
	t.Helper()
	err := f.Use(name, func() error {
		_, err := f.store.Write(t.Context(), store.Create(&store.Object{Kind: thing, ID: id, Workspace: name}))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	f := memory(t)
	for name, kind := range map[string]fault.Kind{
		"a": 0, "0": 0, "team-one": 0, strings.Repeat("a", 19): 0,
		"": fault.InvalidArgument, strings.Repeat("a", 20): fault.InvalidArgument, "a--b": fault.InvalidArgument, "-a": fault.InvalidArgument,
		"a-": fault.InvalidArgument, "A": fault.InvalidArgument, "a.b": fault.InvalidArgument, "a_b": fault.InvalidArgument,
		"ä": fault.InvalidArgument, "a/b": fault.InvalidArgument, "default": fault.AlreadyExists,
	} {
		_, err := f.Create(root(), name, nil)
		if kind == 0 && err != nil || kind != 0 && !fault.Is(err, kind) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := f.Create(root(), "a", nil); !fault.Is(err, fault.AlreadyExists) {
		t.Errorf("again: %v", err)
	}
	if _, err := f.Create(root(), "labels", map[string]string{"k": "not a value"}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("labels: %v", err)
	}
}

func TestOnlyPlatformAdminsMakeWorkspaces(t *testing.T) {
	t.Parallel()
	f := memory(t)
	if _, err := f.AddMember(root(), "", "boss", authz.Admin); err != nil {
		t.Fatal(err)
	}
	boss := as(idp, "boss", "user")
	if _, err := f.Create(boss, "x", nil); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("create: %v", err)
	}
	if _, err := f.Delete(boss, "default"); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("delete: %v", err)
	}
	if _, err := f.Create(context.Background(), "x", nil); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("without a door: %v", err)
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	f := memory(t)
	if _, err := f.Delete(root(), "default"); !fault.Is(err, fault.FailedPrecondition) {
		t.Errorf("the default workspace: %v", err)
	}
	if deleted, err := f.Delete(root(), "absent"); deleted || err != nil {
		t.Errorf("one that is not there: %t, %v", deleted, err)
	}
	if _, err := f.Create(root(), "w", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := f.AddMember(root(), "w", "alice", authz.User); err != nil {
		t.Fatal(err)
	}
	f.put(t, "w", "1")
	if _, err := f.Delete(root(), "w"); !fault.Is(err, fault.FailedPrecondition) || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("one that is not empty: %v", err)
	}
	if _, err := f.store.Write(t.Context(), store.Delete(thing, "1", 0)); err != nil {
		t.Fatal(err)
	}
	if deleted, err := f.Delete(root(), "w"); !deleted || err != nil || f.left.Load() != 1 {
		t.Errorf("%t, %v, told %d times", deleted, err, f.left.Load())
	}
	if err := f.Check("w"); !fault.Is(err, fault.NotFound) {
		t.Errorf("used after its end: %v", err)
	}
	// Whoever makes it anew gets no members of old.
	if _, err := f.Create(root(), "w", nil); err != nil {
		t.Fatal(err)
	}
	if list, err := f.ListMembers(root(), "w", workspace.Query{}); err != nil || len(list) != 0 {
		t.Errorf("members of a new workspace: %v, %v", list, err)
	}
}

func TestMembers(t *testing.T) {
	t.Parallel()
	f := memory(t)
	for _, tc := range []struct {
		by        context.Context
		workspace string
		subject   string
		role      authz.Role
		kind      fault.Kind
		text      string
	}{
		{root(), "", "boss", authz.Admin, 0, ""},
		{as(idp, "boss", "user"), "default", "alice", authz.User, 0, ""},
		{as(idp, "boss", "user"), "default", "bob", authz.Admin, fault.PermissionDenied, "only platform admins can assign the workspace admin role"},
		{as(idp, "alice", "user"), "default", "bob", authz.User, fault.PermissionDenied, "workspace role 'admin' required in workspace 'default'"},
		{as(idp, "eve", "user"), "default", "eve", authz.User, fault.PermissionDenied, "not a member of workspace 'default'"},
		{as(idp, "eve", "user"), "absent", "eve", authz.User, fault.PermissionDenied, "not a member of workspace 'absent'"},
		{root(), "default", "alice", authz.User, fault.AlreadyExists, ""},
		{root(), "default", "alice", authz.Admin, fault.AlreadyExists, ""},
		{root(), "default", "bob", authz.NoRole, fault.InvalidArgument, "role"},
		{root(), "default", "bob", authz.PlatformAdmin, fault.InvalidArgument, "role"},
		{root(), "default", "", authz.User, fault.InvalidArgument, "principal_subject is required"},
		{root(), "default", strings.Repeat("x", 1025), authz.User, fault.InvalidArgument, ""},
		{root(), "default", "a\x00b", authz.User, fault.InvalidArgument, "printable"},
		{root(), "default", "a\xffb", authz.User, fault.InvalidArgument, "printable"},
		{root(), "absent", "bob", authz.User, fault.NotFound, "workspace 'absent' not found"},
		{root(), "default", "auth0|5f7c", authz.User, 0, ""},
		{root(), "default", "repo:org/repo:ref:refs/heads/main", authz.User, 0, ""},
	} {
		_, err := f.AddMember(tc.by, tc.workspace, tc.subject, tc.role)
		if tc.kind == 0 && err != nil || tc.kind != 0 && (!fault.Is(err, tc.kind) || !strings.Contains(err.Error(), tc.text)) {
			t.Errorf("%.30q as %q in %q: %v", tc.subject, tc.role, tc.workspace, err)
		}
	}
	list, err := f.ListMembers(as(idp, "alice", "user"), "", workspace.Query{})
	found := map[string]authz.Role{}
	for _, m := range list {
		found[m.Name] = m.Role
	}
	if err != nil || len(list) != 4 || found["boss"] != authz.Admin || found["alice"] != authz.User || found["auth0|5f7c"] != authz.User {
		t.Errorf("%v, %v", found, err)
	}
	if page, err := f.ListMembers(root(), "", workspace.Query{Limit: 3, Offset: 1}); err != nil || len(page) != 3 || page[0].Name != list[1].Name {
		t.Errorf("second page: %v, %v", page, err)
	}
	if _, err := f.ListMembers(as(idp, "eve", "user"), "", workspace.Query{}); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("listed by a stranger: %v", err)
	}
	if removed, err := f.RemoveMember(as(idp, "boss", "user"), "", "alice"); !removed || err != nil || f.left.Load() != 1 {
		t.Errorf("removed: %t, %v", removed, err)
	}
	if removed, err := f.RemoveMember(root(), "", "alice"); removed || err != nil {
		t.Errorf("removed twice: %t, %v", removed, err)
	}
	if _, err := f.Get(as(idp, "alice", "user"), "default"); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("a former member got it: %v", err)
	}
}

// Equal subjects of two issuers are two people.
func TestSeveralIssuers(t *testing.T) {
	t.Parallel()
	f := memory(t)
	if _, err := f.AddMember(root(), "", "alice", authz.User); err != nil {
		t.Fatal(err)
	}
	role := func(issuer string) authz.Role {
		return f.Role("default", &principal.Principal{Kind: principal.User, Issuer: issuer, Subject: "alice"})
	}
	if role(idp) != authz.User || role(other) != authz.NoRole {
		t.Error("a member by subject alone is not the one of the only issuer")
	}
	f.issuers.Store(&workspace.Issuers{Known: []string{idp, other}})
	if role(idp) != authz.User || role(other) != authz.NoRole {
		t.Error("another issuer changed who is a member")
	}
	for name, kind := range map[string]fault.Kind{
		"alice": fault.InvalidArgument, "unknown|alice": fault.InvalidArgument, other + "|": fault.InvalidArgument, other + "|alice": 0,
		idp + "|alice": fault.AlreadyExists, idp + "|auth0|x": 0,
	} {
		_, err := f.AddMember(root(), "", name, authz.User)
		if kind == 0 && err != nil || kind != 0 && !fault.Is(err, kind) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if role(other) != authz.User {
		t.Error("the other alice is no member")
	}
	if list, err := f.ListMembers(root(), "", workspace.Query{}); err != nil || len(list) != 3 || list[0].Name != list[0].Issuer+"|"+list[0].Subject {
		t.Errorf("%v, %v", list, err)
	}
	// The remedy names whom it would add.
	if _, err := f.Get(as(other, "it's", "user"), ""); err == nil || !strings.Contains(err.Error(), `--subject '`+other+`|it'"'"'s' --role user`) {
		t.Errorf("%v", err)
	}
	// An issuer that is no longer configured leaves members that can be removed.
	f.issuers.Store(&workspace.Issuers{Known: []string{idp}})
	if removed, err := f.RemoveMember(root(), "", other+"|alice"); !removed || err != nil {
		t.Errorf("%t, %v", removed, err)
	}
}

func TestIssuersThatNobodyLists(t *testing.T) {
	t.Parallel()
	f := memory(t)
	f.issuers.Store(&workspace.Issuers{Known: []string{idp}, Others: true})
	if _, err := f.AddMember(root(), "", "alice", authz.User); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("a subject alone: %v", err)
	}
	const ca = "CN=ca,O=org"
	if _, err := f.AddMember(root(), "", ca+"|alice", authz.User); err != nil {
		t.Error(err)
	}
	if _, err := f.Get(as(ca, "alice", "user"), ""); err != nil {
		t.Errorf("the certificate's alice: %v", err)
	}
	if _, err := f.Get(as(idp, "alice", "user"), ""); err == nil {
		t.Error("the identity provider's alice got in")
	}
	f.issuers.Store(&workspace.Issuers{})
	if _, err := f.AddMember(root(), "", "alice", authz.User); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("without any issuer: %v", err)
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	f := memory(t)
	for i := range 5 {
		if _, err := f.Create(root(), fmt.Sprintf("w%d", i), map[string]string{"odd": fmt.Sprint(i % 2)}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"w1", "w4"} {
		if _, err := f.AddMember(root(), name, "alice", authz.User); err != nil {
			t.Fatal(err)
		}
	}
	alice := as(idp, "alice", "user")
	for name, tc := range map[string]struct {
		by   context.Context
		q    workspace.Query
		want string
	}{
		"all":            {root(), workspace.Query{}, "default w0 w1 w2 w3 w4"},
		"page":           {root(), workspace.Query{Limit: 2, Offset: 3}, "w2 w3"},
		"labels":         {root(), workspace.Query{Labels: map[string]string{"odd": "1"}}, "w1 w3"},
		"memberships":    {alice, workspace.Query{}, "w1 w4"},
		"second of them": {alice, workspace.Query{Limit: 1, Offset: 1}, "w4"},
		"stranger":       {as(idp, "eve", "user"), workspace.Query{}, ""},
		"nobody":         {context.Background(), workspace.Query{}, ""},
	} {
		list, err := f.List(tc.by, tc.q)
		var names []string
		for _, w := range list {
			names = append(names, w.Name)
		}
		if got := strings.Join(names, " "); err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
	if of := f.Of(principal.From(alice)); len(of) != 2 || of["w1"] != authz.User {
		t.Errorf("%v", of)
	}
	roles := open(t, "sqlite::memory:", authz.Roles)
	if list, err := roles.List(alice, workspace.Query{}); err != nil || len(list) != 1 {
		t.Errorf("where memberships have no effect: %v, %v", list, err)
	}
}

func TestMembersHaveABound(t *testing.T) {
	t.Parallel()
	f := memory(t)
	var adding sync.WaitGroup
	var added, refused atomic.Int32
	for i := range workspace.MaxMembers + 10 {
		adding.Go(func() {
			switch _, err := f.AddMember(root(), "", fmt.Sprint("s", i), authz.User); {
			case err == nil:
				added.Add(1)
			case fault.Is(err, fault.ResourceExhausted):
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	adding.Wait()
	if added.Load() != workspace.MaxMembers || refused.Load() != 10 {
		t.Errorf("%d added, %d refused", added.Load(), refused.Load())
	}
}

// A full workspace can be deleted: workspace and members fit one transaction.
func TestDeleteWithAllMembers(t *testing.T) {
	t.Parallel()
	f := memory(t)
	if _, err := f.Create(root(), "w", nil); err != nil {
		t.Fatal(err)
	}
	for i := range workspace.MaxMembers {
		if _, err := f.AddMember(root(), "w", fmt.Sprint("s", i), authz.User); err != nil {
			t.Fatal(err)
		}
	}
	if deleted, err := f.Delete(root(), "w"); !deleted || err != nil {
		t.Errorf("%t, %v", deleted, err)
	}
	if n := f.store.Count(workspace.MemberKind); n != 0 {
		t.Errorf("%d members are left", n)
	}
}

// TestNothingIsPutIntoADeletedWorkspace races uses with deletes: no object may be in a workspace that is gone.
func TestNothingIsPutIntoADeletedWorkspace(t *testing.T) {
	t.Parallel()
	f := memory(t)
	for round := range 50 {
		name := fmt.Sprint("w", round)
		if _, err := f.Create(root(), name, nil); err != nil {
			t.Fatal(err)
		}
		var racing sync.WaitGroup
		racing.Go(func() {
			err := f.Use(name, func() error {
				_, err := f.store.Write(t.Context(), store.Create(&store.Object{Kind: thing, ID: name, Workspace: name}))
				return err
			})
			if err != nil && !fault.Is(err, fault.NotFound) && fault.From(err).Reason != workspace.ReasonLeaving {
				t.Error(err)
			}
		})
		racing.Go(func() {
			if _, err := f.Delete(root(), name); err != nil && !fault.Is(err, fault.FailedPrecondition) {
				t.Error(err)
			}
		})
		racing.Wait()
		_, err := f.store.Get(thing, name)
		if there := f.Check(name) == nil; (err == nil) != there {
			t.Fatalf("the workspace is there: %t, its object: %v", there, err)
		}
	}
}

func TestRestart(t *testing.T) {
	t.Parallel()
	path := "sqlite:" + filepath.Join(t.TempDir(), "s.db")
	f := open(t, path, authz.Workspaces)
	if _, err := f.AddMember(root(), "", "alice", authz.Admin); err != nil {
		t.Fatal(err)
	}
	// An object of a version that knew no workspaces but names.
	if _, err := f.store.Write(t.Context(), store.Create(&store.Object{Kind: thing, ID: "1", Workspace: "An_Old_Name"})); err != nil {
		t.Fatal(err)
	}
	if err := f.store.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, path, authz.Workspaces)
	if _, err := f.Get(as(idp, "alice", "user"), "default"); err != nil {
		t.Errorf("a member after the restart: %v", err)
	}
	if n := f.store.Count(workspace.Kind); n != 2 {
		t.Errorf("%d workspaces, want the default one and the adopted one", n)
	}
	if err := f.Check("An_Old_Name"); err != nil {
		t.Error(err)
	}
}

func BenchmarkRole(b *testing.B) {
	db, err := sqlite.Open(b.Context(), "sqlite::memory:")
	if err != nil {
		b.Fatal(err)
	}
	st, err := store.Open(b.Context(), db, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	current := &authz.Current{}
	s, err := workspace.Open(b.Context(), workspace.Options{
		Store: st, Access: current, Logger: slog.New(slog.DiscardHandler),
		Issuers: func() workspace.Issuers { return workspace.Issuers{Known: []string{idp}} },
	})
	if err != nil {
		b.Fatal(err)
	}
	table, err := authz.NewTable()
	if err != nil {
		b.Fatal(err)
	}
	a, err := authz.New(table, authz.Policy{AdminRole: "admin", UserRole: "user"})
	if err != nil {
		b.Fatal(err)
	}
	current.Store(a)
	if _, err := s.AddMember(root(), "", "alice", authz.User); err != nil {
		b.Fatal(err)
	}
	p := &principal.Principal{Kind: principal.User, Issuer: idp, Subject: "alice"}
	b.ReportAllocs()
	for b.Loop() {
		if s.Role("default", p) != authz.User {
			b.Fatal("no member")
		}
	}
}
