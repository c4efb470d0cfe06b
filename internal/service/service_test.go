package service_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/service"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const idp = "https://idp.example"

// boxes are sandboxes that are nothing but rows.
type boxes struct {
	store *store.Store
	rules *authz.Current
}

func (b boxes) ByName(ctx context.Context, workspace, name string) (*sandbox.Sandbox, error) {
	o, err := b.store.ByName(sandbox.Kind, workspace, name)
	if err != nil || !b.rules.Sees(principal.From(ctx), workspace, o.Owner) {
		return nil, sandbox.NotFound()
	}
	return &sandbox.Sandbox{Object: o}, nil
}

func (b boxes) ByID(id string) (*sandbox.Sandbox, error) {
	o, err := b.store.Get(sandbox.Kind, id)
	if err != nil {
		return nil, sandbox.NotFound()
	}
	return &sandbox.Sandbox{Object: o}, nil
}

func (b boxes) Exists(id string) error {
	_, err := b.ByID(id)
	return err
}

type fixture struct {
	*service.Service
	t     *testing.T
	store *store.Store
}

func newFixture(t *testing.T, private bool) *fixture {
	t.Helper()
	f := &fixture{t: t}
	db, err := sqlite.Open(t.Context(), "sqlite::memory:")
	f.must(err)
	f.store, err = store.Open(t.Context(), db, store.Options{})
	f.must(err)
	t.Cleanup(func() { f.store.Close() })
	table, err := authz.NewTable()
	f.must(err)
	rules, err := authz.New(table, authz.Policy{Scheme: authz.Roles, AdminRole: "admin", UserRole: "user", PrivateSandboxes: private})
	f.must(err)
	current := &authz.Current{}
	current.Store(rules)
	f.Service, err = service.New(service.Config{
		Store: f.store, Access: current, Sandboxes: boxes{f.store, current}, Address: service.Address{Domains: []string{service.DefaultDomain}},
	})
	f.must(err)
	return f
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func as(subject string, roles ...string) context.Context {
	return principal.With(context.Background(), &principal.Principal{
		Kind: principal.User, Issuer: idp, Subject: subject, Roles: append(roles, "user"),
	})
}

func root() context.Context { return as("root", "admin") }

// box stores a sandbox of a user.
func (f *fixture) box(workspace, name, owner, id string) {
	f.t.Helper()
	_, err := f.store.Write(f.t.Context(), store.Create(&store.Object{Kind: sandbox.Kind, ID: id, Workspace: workspace, Name: name, Owner: idp + "|" + owner}))
	f.must(err)
}

func (f *fixture) drop(id string) {
	f.t.Helper()
	_, err := f.store.Write(f.t.Context(), store.Delete(sandbox.Kind, id, 0))
	f.must(err)
}

func named(sandbox, name string) service.Name { return service.Name{Sandbox: sandbox, Service: name} }

func (f *fixture) expose(ctx context.Context, n service.Name, port uint32) *service.Endpoint {
	f.t.Helper()
	e, err := f.Expose(ctx, service.ExposeRequest{Name: n, Port: port})
	f.must(err)
	return e
}

func (f *fixture) names(ctx context.Context, q service.Query) string {
	f.t.Helper()
	list, err := f.List(ctx, q)
	f.must(err)
	out := ""
	for _, e := range list {
		out += " " + e.Name.Workspace + "/" + e.Name.Key()
	}
	return out
}

func TestOwnersAlone(t *testing.T) {
	t.Parallel()
	f := newFixture(t, true)
	f.box("default", "hers", "alice", "1")
	f.box("default", "his", "bob", "2")
	f.expose(as("alice"), named("hers", "web"), 80)
	f.expose(as("bob"), named("his", ""), 80)
	if _, err := f.Expose(as("bob"), service.ExposeRequest{Name: named("hers", "x"), Port: 1}); !fault.Is(err, fault.NotFound) {
		t.Errorf("exposed another's port: %v", err)
	}
	if _, err := f.Get(as("bob"), named("hers", "web")); !fault.Is(err, fault.NotFound) {
		t.Errorf("saw another's service: %v", err)
	}
	if deleted, err := f.Delete(as("bob"), named("hers", "web")); deleted || err != nil {
		t.Errorf("deleted another's service: %t %v", deleted, err)
	}
	for who, want := range map[context.Context]string{
		as("alice"): " default/hers--web", as("bob"): " default/his", root(): " default/hers--web default/his",
	} {
		if got := f.names(who, service.Query{}); got != want {
			t.Errorf("%s sees%s, want%s", principal.From(who).Subject, got, want)
		}
	}
	if _, err := f.List(as("alice"), service.Query{AllWorkspaces: true}); !fault.Is(err, fault.PermissionDenied) {
		t.Errorf("all workspaces: %v", err)
	}
	if _, err := f.List(context.Background(), service.Query{}); err == nil {
		t.Error("nobody may list")
	}
	if e, _, err := f.Locate(named("hers", "web")); err != nil || e.Port != 80 {
		t.Errorf("located %+v %v", e, err)
	}
}

func TestPages(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.box("default", "a", "alice", "1")
	f.box("other", "b", "alice", "2")
	for i := range 5 {
		f.expose(as("alice"), named("a", fmt.Sprint("s", i)), 80)
	}
	f.expose(as("alice"), service.Name{Workspace: "other", Sandbox: "b"}, 80)
	f.box("default", "gone", "alice", "3")
	f.expose(as("alice"), named("gone", ""), 80)
	f.drop("3")
	for want, q := range map[string]service.Query{
		" default/a--s0 default/a--s1": {Limit: 2}, " default/a--s3 default/a--s4": {Limit: 2, Offset: 3}, "": {Offset: 5},
		" other/b": {Workspace: "other"}, " default/a--s4 other/b": {AllWorkspaces: true, Offset: 4}, " default/a--s0": {Sandbox: "a", Limit: 1},
	} {
		if got := f.names(root(), q); got != want {
			t.Errorf("%+v:%s, want%s", q, got, want)
		}
	}
}

// TestNameUsedAgain sees that a new sandbox does not get the services of an old one of the same name.
func TestNameUsedAgain(t *testing.T) {
	t.Parallel()
	f := newFixture(t, true)
	f.box("default", "box", "mallory", "1")
	old := f.expose(as("mallory"), named("box", "web"), 80)
	f.drop("1")
	f.box("default", "box", "alice", "2")
	if _, err := f.Get(as("alice"), named("box", "web")); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old one is there: %v", err)
	}
	made := f.expose(as("alice"), named("box", "web"), 81)
	if made.ID == old.ID || made.SandboxID != "2" || made.Version != 1 {
		t.Errorf("%+v after %+v", made, old)
	}
	if _, err := f.Get(as("mallory"), named("box", "web")); !fault.Is(err, fault.NotFound) {
		t.Errorf("the old owner sees the new one: %v", err)
	}
}

func TestKeyIsReadInOneWay(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.box("default", "a", "alice", "1")
	f.expose(as("alice"), named("a", "b"), 80)
	if _, err := f.Get(as("alice"), named("a--b", "")); !fault.Is(err, fault.NotFound) {
		t.Errorf("found under another name: %v", err)
	}
}

func TestServicesAreBounded(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.box("default", "box", "alice", "1")
	for i := range service.MaxPerSandbox {
		f.expose(as("alice"), named("box", fmt.Sprint("s", i)), 80)
	}
	if _, err := f.Expose(as("alice"), service.ExposeRequest{Name: named("box", "more"), Port: 80}); !fault.Is(err, fault.ResourceExhausted) {
		t.Errorf("one too many: %v", err)
	}
	f.expose(as("alice"), named("box", "s0"), 81)
}

// TestConcurrentExposes sees that of those who write at once one wins, and that the others are told.
func TestConcurrentExposes(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.box("default", "box", "alice", "1")
	var mu sync.Mutex
	won := 0
	var all sync.WaitGroup
	for port := range 32 {
		all.Go(func() {
			_, err := f.Expose(as("alice"), service.ExposeRequest{Name: named("box", "web"), Port: uint32(port + 1)})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case !fault.Is(err, fault.Aborted):
				t.Errorf("port %d: %v", port, err)
			}
		})
	}
	all.Wait()
	e, err := f.Get(as("alice"), named("box", "web"))
	if err != nil || won == 0 || e.Version != uint64(won) {
		t.Errorf("%d won, %+v %v", won, e, err)
	}
}

func TestServicesEndWithTheirSandbox(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.box("default", "before", "alice", "1")
	f.box("default", "during", "alice", "2")
	f.box("default", "stays", "alice", "3")
	for _, name := range []string{"before", "during", "stays"} {
		f.expose(as("alice"), named(name, ""), 80)
		f.expose(as("alice"), named(name, "web"), 80)
	}
	f.drop("1")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	left := func(want int) {
		t.Helper()
		deadline := time.After(20 * time.Second)
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for f.store.Count(service.Kind) != want {
			select {
			case <-deadline:
				t.Fatalf("%d services are left, want %d", f.store.Count(service.Kind), want)
			case <-tick.C:
			}
		}
	}
	left(4)
	f.drop("2")
	left(2)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestUnreadableServiceIsReplaced(t *testing.T) {
	t.Parallel()
	f := newFixture(t, false)
	f.box("default", "box", "alice", "1")
	_, err := f.store.Write(t.Context(), store.Create(&store.Object{Kind: service.Kind, ID: "x", Workspace: "default", Name: "box", Payload: []byte("{")}))
	f.must(err)
	if _, err := f.Get(as("alice"), named("box", "")); !fault.Is(err, fault.Internal) {
		t.Errorf("read: %v", err)
	}
	f.expose(as("alice"), named("box", ""), 80)
	if e, err := f.Get(as("alice"), named("box", "")); err != nil || e.Port != 80 {
		t.Errorf("%+v %v", e, err)
	}
}
