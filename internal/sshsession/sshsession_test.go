package sshsession_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/sandbox"
	"sallyport.dev/sallyport/internal/sshsession"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

var (
	_ sshsession.Sandboxes = (*sandbox.Service)(nil)
	_ sshsession.Users     = (*revocation.Registry)(nil)
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("database/sql.(*DB).connectionOpener"))
}

const (
	idp  = "https://idp.example"
	away = "00000000-0000-4000-8000-000000000000"
)

func user(subject string) *principal.Principal {
	return &principal.Principal{
		Kind: principal.User, Issuer: idp, Subject: subject, Roles: []string{"user"}, SessionID: "sid-" + subject,
		Issued: time.Now().Add(-time.Second), Expires: time.Now().Add(time.Minute),
	}
}

func as(ctx context.Context, subject string) context.Context {
	return principal.With(ctx, user(subject))
}

// boxes are sandboxes that all users know of but those in hidden.
type boxes struct {
	mu     sync.Mutex
	phases map[string]sandbox.Phase
	driver map[string]sandbox.Phase
	hidden map[string]bool
}

func (b *boxes) set(id string, p sandbox.Phase) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.phases[id] = p
}

func (b *boxes) hide(subject string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.hidden[subject] = true
}

func (b *boxes) Exists(id string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.phases[id]; !ok {
		return sandbox.NotFound()
	}
	return nil
}

func (b *boxes) Lookup(ctx context.Context, id string) (*sandbox.Sandbox, error) {
	if err := b.Exists(id); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.hidden[principal.From(ctx).Subject] {
		return nil, sandbox.NotFound()
	}
	return &sandbox.Sandbox{
		Object: &store.Object{Kind: sandbox.Kind, ID: id, Workspace: "default"},
		Record: &sandbox.Record{DriverPhase: b.driver[id]}, Phase: b.phases[id],
	}, nil
}

type world struct {
	*sshsession.Service
	store *store.Store
	boxes *boxes
	users *revocation.Registry
}

func newWorld(tb testing.TB, c sshsession.Config) *world {
	tb.Helper()
	db, err := sqlite.Open(tb.Context(), "sqlite::memory:")
	if err != nil {
		tb.Fatal(err)
	}
	return newWorldOf(tb, db, c)
}

func newWorldOf(tb testing.TB, db store.Backend, c sshsession.Config) *world {
	tb.Helper()
	w := &world{boxes: &boxes{
		phases: map[string]sandbox.Phase{"one": sandbox.PhaseReady, "two": sandbox.PhaseReady},
		driver: map[string]sandbox.Phase{}, hidden: map[string]bool{},
	}}
	var err error
	if w.store, err = store.Open(tb.Context(), db, store.Options{}); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { w.store.Close() })
	if w.users, err = revocation.Open(revocation.Options{Store: w.store, Expired: door.ErrCredentialExpired}); err != nil {
		tb.Fatal(err)
	}
	c.Store, c.Sandboxes, c.Users = w.store, w.boxes, w.users
	if w.Service, err = sshsession.New(c); err != nil {
		tb.Fatal(err)
	}
	return w
}

func (w *world) create(tb testing.TB, subject, id string) (*sshsession.Session, string) {
	tb.Helper()
	s, token, err := w.Create(as(tb.Context(), subject), id)
	if err != nil {
		tb.Fatal(err)
	}
	return s, token
}

func (w *world) enter(tb testing.TB, id, token string) *sshsession.Connection {
	tb.Helper()
	c, err := w.Enter(tb.Context(), nil, id, token)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(c.Leave)
	return c
}

func want(t *testing.T, what string, err error, kind fault.Kind, reason string) {
	t.Helper()
	f, ok := errors.AsType[*fault.Error](err)
	if !ok || f.Kind != kind || f.Reason != reason {
		t.Errorf("%s: %v, want %s", what, err, reason)
	}
}

// The store does not have the token, and what is told of a session opens nothing.
func TestTheStoreHasNoToken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sshsession.Config{})
	s, token := w.create(t, "alice", "one")
	rows := w.store.List(sshsession.Kind, store.Query{AllWorkspaces: true})
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, text := range []string{rows[0].ID, rows[0].Name, rows[0].Owner, string(rows[0].Payload), s.ID} {
		if strings.Contains(text, token) {
			t.Errorf("%q holds the token", text)
		}
	}
	var stored string
	for _, text := range strings.Split(string(rows[0].Payload), `"`) {
		if len(text) == len(token) {
			stored = text
		}
	}
	for name, guess := range map[string]string{"the hash": stored, "the id": s.ID, "upper case": strings.ToUpper(token), "a part": token[1:]} {
		_, err := w.Enter(t.Context(), nil, "one", guess)
		want(t, name, err, fault.Unauthenticated, sshsession.ReasonTokenUnknown)
	}
	if len(token) != 64 || strings.Trim(token, "0123456789abcdef") != "" {
		t.Errorf("clients do not accept the token %q", token)
	}
	if _, other := w.create(t, "alice", "one"); other == token {
		t.Error("two sessions have one token")
	}
}

func TestWhoMayHaveASession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sshsession.Config{})
	_, _, err := w.Create(t.Context(), "one")
	want(t, "nobody", err, fault.PermissionDenied, sshsession.ReasonUsersOnly)
	_, _, err = w.Create(principal.With(t.Context(), &principal.Principal{Kind: principal.Sandbox, SandboxID: "one"}), "one")
	want(t, "a sandbox", err, fault.PermissionDenied, sshsession.ReasonUsersOnly)
	_, _, err = w.Create(as(t.Context(), "alice"), away)
	want(t, "no sandbox", err, fault.NotFound, "SANDBOX_NOT_FOUND")
	w.boxes.set("two", sandbox.PhaseProvisioning)
	_, _, err = w.Create(as(t.Context(), "alice"), "two")
	want(t, "not ready", err, fault.FailedPrecondition, "SANDBOX_NOT_READY")
	w.boxes.hide("bob")
	_, _, err = w.Create(as(t.Context(), "bob"), "one")
	want(t, "not bob's", err, fault.NotFound, "SANDBOX_NOT_FOUND")
}

func TestEnter(t *testing.T) {
	t.Parallel()
	now := time.Now()
	var ahead time.Duration
	w := newWorld(t, sshsession.Config{TTL: time.Hour, Now: func() time.Time { return now.Add(ahead) }})
	s, token := w.create(t, "alice", "one")
	enter := func(caller *principal.Principal, id string) error {
		c, err := w.Enter(t.Context(), caller, id, token)
		if err == nil {
			c.Leave()
			c.Leave()
		}
		return err
	}
	want(t, "another sandbox", enter(nil, "two"), fault.Unauthenticated, sshsession.ReasonTokenInvalid)
	want(t, "another user", enter(user("bob"), "one"), fault.Unauthenticated, sshsession.ReasonTokenInvalid)
	other := user("alice")
	other.Issuer += "/elsewhere"
	want(t, "another issuer", enter(other, "one"), fault.Unauthenticated, sshsession.ReasonTokenInvalid)
	for _, caller := range []*principal.Principal{nil, user("alice")} {
		if err := enter(caller, "one"); err != nil {
			t.Error(err)
		}
	}
	ahead = s.Expires.Sub(now) - time.Millisecond
	if err := enter(nil, "one"); err != nil {
		t.Errorf("in the last moment: %v", err)
	}
	ahead += time.Millisecond
	want(t, "expired", enter(nil, "one"), fault.Unauthenticated, sshsession.ReasonTokenExpired)
	ahead = 0
	w.boxes.set("one", sandbox.PhaseProvisioning)
	want(t, "not ready", enter(nil, "one"), fault.FailedPrecondition, "SANDBOX_NOT_READY")
	w.boxes.mu.Lock()
	w.boxes.driver["one"] = sandbox.PhaseReady
	w.boxes.mu.Unlock()
	if err := enter(nil, "one"); err != nil {
		t.Errorf("the supervisor is away for a moment: %v", err)
	}
	w.boxes.hide("alice")
	want(t, "no longer alice's", enter(nil, "one"), fault.NotFound, "SANDBOX_NOT_FOUND")
	if n := w.Connections(); n != 0 {
		t.Errorf("%d connections are counted", n)
	}
}

func TestRevokedUsers(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]revocation.Revocation{
		"user": {Issuer: idp, Subject: "alice"}, "sign-in": {Issuer: idp, SessionID: "sid-alice"},
		"credentials until now": {Issuer: idp, Subject: "alice", IssuedBefore: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, sshsession.Config{})
			_, token := w.create(t, "alice", "one")
			_, others := w.create(t, "bob", "one")
			open, other := w.enter(t, "one", token), w.enter(t, "one", others)
			if _, _, err := w.users.Revoke(t.Context(), user("root"), r); err != nil {
				t.Fatal(err)
			}
			<-open.Context().Done()
			want(t, "open", context.Cause(open.Context()), fault.Unauthenticated, revocation.ReasonRevoked)
			if err := other.Context().Err(); err != nil {
				t.Errorf("another's connection: %v", err)
			}
			_, err := w.Enter(t.Context(), nil, "one", token)
			want(t, "another connection", err, fault.Unauthenticated, revocation.ReasonRevoked)
		})
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sshsession.Config{})
	_, token := w.create(t, "alice", "one")
	_, second := w.create(t, "alice", "one")
	open, other := w.enter(t, "one", token), w.enter(t, "one", second)
	_, err := w.Revoke(as(t.Context(), "alice"), "")
	want(t, "no token", err, fault.InvalidArgument, "TOKEN_REQUIRED")
	_, err = w.Revoke(as(t.Context(), "bob"), token)
	want(t, "another's", err, fault.NotFound, sshsession.ReasonNotFound)
	_, err = w.Revoke(t.Context(), token)
	want(t, "nobody", err, fault.NotFound, sshsession.ReasonNotFound)
	if err := open.Context().Err(); err != nil {
		t.Fatalf("the connection ended: %v", err)
	}
	for i, wanted := range []bool{true, false} {
		if revoked, err := w.Revoke(as(t.Context(), "alice"), token); revoked != wanted || err != nil {
			t.Errorf("time %d: %t, %v", i, revoked, err)
		}
	}
	want(t, "open", context.Cause(open.Context()), fault.Unauthenticated, sshsession.ReasonTokenRevoked)
	if err := other.Context().Err(); err != nil {
		t.Errorf("the other session's connection: %v", err)
	}
	if revoked, err := w.Revoke(as(t.Context(), "alice"), strings.Repeat("x", sshsession.MaxToken+1)); revoked || err != nil {
		t.Errorf("too long: %t, %v", revoked, err)
	}
}

func TestLimitsOfConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sshsession.Config{})
	_, token := w.create(t, "alice", "one")
	var open []*sshsession.Connection
	for range sshsession.MaxPerToken {
		open = append(open, w.enter(t, "one", token))
	}
	_, err := w.Enter(t.Context(), nil, "one", token)
	want(t, "4th of a token", err, fault.ResourceExhausted, sshsession.ReasonTokenLimit)
	for len(open) < sshsession.MaxPerSandbox {
		c, err := w.EnterUser(as(t.Context(), "alice"), "one")
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	_, more := w.create(t, "bob", "one")
	_, err = w.Enter(t.Context(), nil, "one", more)
	want(t, "21st of a sandbox", err, fault.ResourceExhausted, sshsession.ReasonSandboxLimit)
	_, elsewhere := w.create(t, "alice", "two")
	w.enter(t, "two", elsewhere)
	for _, c := range open {
		c.Leave()
	}
	if n := w.Connections(); n != 1 {
		t.Errorf("%d connections are left", n)
	}
	w.enter(t, "one", token)
}

// Who creates more and more loses the oldest that is not in use.
func TestLimitOfSessions(t *testing.T) {
	t.Parallel()
	now := time.Now()
	w := newWorld(t, sshsession.Config{MaxPerUser: 3, Now: func() time.Time { now = now.Add(time.Millisecond); return now }})
	_, first := w.create(t, "alice", "one")
	used := w.enter(t, "one", first)
	_, second := w.create(t, "alice", "one")
	_, bobs := w.create(t, "bob", "one")
	_, elsewhere := w.create(t, "alice", "two")
	_, third := w.create(t, "alice", "one")
	_, fourth := w.create(t, "alice", "one")
	_, err := w.Enter(t.Context(), nil, "one", second)
	want(t, "the oldest that is not in use", err, fault.Unauthenticated, sshsession.ReasonTokenUnknown)
	if used.Context().Err() != nil {
		t.Error("a session in use is gone")
	}
	w.enter(t, "one", bobs)
	w.enter(t, "two", elsewhere)
	last := w.enter(t, "one", third)
	w.enter(t, "one", fourth)
	_, _, err = w.Create(as(t.Context(), "alice"), "one")
	want(t, "all are in use", err, fault.ResourceExhausted, sshsession.ReasonTooMany)
	last.Leave()
	w.create(t, "alice", "one")
	if n := w.store.Count(sshsession.Kind); n != 5 {
		t.Errorf("%d sessions", n)
	}
}

// Sessions outlive the gateway.
func TestReopen(t *testing.T) {
	t.Parallel()
	url := "sqlite:" + filepath.Join(t.TempDir(), "x.db")
	open := func(c sshsession.Config) *world {
		db, err := sqlite.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		return newWorldOf(t, db, c)
	}
	w := open(sshsession.Config{TTL: -1})
	s, token := w.create(t, "alice", "one")
	if !s.Expires.IsZero() {
		t.Errorf("a session without an end ends at %s", s.Expires)
	}
	if err := w.store.Close(); err != nil {
		t.Fatal(err)
	}
	w = open(sshsession.Config{Now: func() time.Time { return time.Now().AddDate(50, 0, 0) }})
	c := w.enter(t, "one", token)
	if c.Caller.Actor() != idp+"|alice" || c.Session.ID != s.ID {
		t.Errorf("caller %s, session %s", c.Caller.Actor(), c.Session.ID)
	}
}

// A row that nobody can read opens nothing, and goes.
func TestUnreadable(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sshsession.Config{})
	s, token := w.create(t, "alice", "one")
	for _, payload := range []string{"", "{", `{"hash":"00"}`, `{"hash":"zz"}`} {
		_, err := w.store.Update(t.Context(), sshsession.Kind, s.ID, func(o *store.Object) error {
			o.Payload = []byte(payload)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		_, err = w.Enter(t.Context(), nil, "one", token)
		want(t, payload, err, fault.Internal, sshsession.ReasonUnreadable)
	}
	w.create(t, "alice", "one")
	if n := w.store.Count(sshsession.Kind); n != 1 {
		t.Errorf("%d sessions", n)
	}
}

// Run ends what has nothing to live on within a few seconds, and removes what opens nothing.
func TestRun(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, sshsession.Config{TTL: time.Hour})
		w.boxes.set("three", sandbox.PhaseReady)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()
		s, token := w.create(t, "alice", "one")
		_, gone := w.create(t, "alice", "two")
		_, hidden := w.create(t, "bob", "three")
		stands, cut, lost := w.enter(t, "one", token), w.enter(t, "two", gone), w.enter(t, "three", hidden)
		w.boxes.mu.Lock()
		delete(w.boxes.phases, "two")
		w.boxes.mu.Unlock()
		w.boxes.hide("bob")
		began := time.Now()
		<-cut.Context().Done()
		<-lost.Context().Done()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("connections ended after %s", took)
		}
		want(t, "sandbox is gone", context.Cause(cut.Context()), fault.NotFound, "SANDBOX_NOT_FOUND")
		want(t, "no longer bob's", context.Cause(lost.Context()), fault.NotFound, "SANDBOX_NOT_FOUND")
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := w.store.Count(sshsession.Kind); n != 2 {
			t.Errorf("%d sessions after a minute", n)
		}
		if err := stands.Context().Err(); err != nil {
			t.Errorf("a good connection: %v", err)
		}
		<-stands.Context().Done()
		want(t, "expired", context.Cause(stands.Context()), fault.Unauthenticated, sshsession.ReasonTokenExpired)
		if late := time.Since(s.Expires); late < 0 || late > 5*time.Second {
			t.Errorf("ended %s after the expiry", late)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := w.store.Count(sshsession.Kind); n != 0 {
			t.Errorf("%d sessions after their end", n)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		w.store.Close()
	})
}

func BenchmarkEnter(b *testing.B) {
	w := newWorld(b, sshsession.Config{})
	_, token := w.create(b, "alice", "one")
	b.ReportAllocs()
	for b.Loop() {
		c, err := w.Enter(b.Context(), nil, "one", token)
		if err != nil {
			b.Fatal(err)
		}
		c.Leave()
	}
}
