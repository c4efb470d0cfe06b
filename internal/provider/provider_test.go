package provider_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/authz"
	"sallyport.dev/sallyport/internal/credential"
	"sallyport.dev/sallyport/internal/driver/credentials"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/provider"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canary is a secret that must never be seen outside an environment.
const canary = "canary-secret-4711"

// everybody may do everything, and everywhere is a workspace: who may what is tested where there are roles.
type everybody struct{}

func (everybody) Workspace(*principal.Principal, string, authz.Role) error { return nil }
func (everybody) PlatformAdmin(*principal.Principal) error                 { return nil }

func everywhere(_ string, write func() error) error { return write() }

// fakeDriver answers with what a test put in.
type fakeDriver struct {
	mu     sync.Mutex
	tokens map[string]credentials.Token
}

func (f *fakeDriver) set(name string, t credentials.Token) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[name] = t
}

func (f *fakeDriver) Resolve(_ context.Context, name string) (credentials.Token, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, ok := f.tokens[name]
	if !ok {
		return t, fault.New(fault.Unavailable, "DRIVER_UNAVAILABLE", "credentials driver is unavailable at socket /s").WithNext("start it")
	}
	return t, nil
}
func (f *fakeDriver) List(context.Context) ([]credentials.Info, error) { return nil, nil }

// house is a service on a real database that can be closed and opened again.
type house struct {
	*provider.Service
	t    *testing.T
	path string
	key  []byte
	// old and lost are the options of the same kind.
	old    [][]byte
	lost   bool
	driver *fakeDriver
	users  []string
	logs   *bytes.Buffer
	now    time.Time
	store  *store.Store
	close  func()
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{
		t: t, path: filepath.Join(t.TempDir(), "s.db"), key: bytes.Repeat([]byte{7}, provider.KeySize),
		driver: &fakeDriver{tokens: map[string]credentials.Token{}}, logs: &bytes.Buffer{}, now: time.Now(),
	}
	h.open()
	t.Cleanup(func() { h.close() })
	return h
}

func (h *house) open() {
	h.t.Helper()
	if err := h.tryOpen(); err != nil {
		h.t.Fatal(err)
	}
}

// tryOpen is open for keys that may be refused.
func (h *house) tryOpen() error {
	h.t.Helper()
	logger := slog.New(slog.NewTextHandler(h.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	db, err := sqlite.Open(h.t.Context(), "sqlite:"+h.path)
	if err != nil {
		h.t.Fatal(err)
	}
	st, err := store.Open(h.t.Context(), db, store.Options{Logger: logger})
	if err != nil {
		h.t.Fatal(err)
	}
	r := credential.NewResolver(credential.Options{Driver: h.driver, Logger: logger})
	h.close = func() { r.Close(); st.Close() }
	h.Service, err = provider.New(provider.Options{
		Store: st, Resolver: r, Key: h.key, OldKeys: h.old, AcceptLost: h.lost, Logger: logger,
		InUse: func(string, string) []string { return h.users }, Now: func() time.Time { return h.now },
		Access: everybody{}, Use: everywhere,
	})
	h.store = st
	return err
}

func (h *house) create(name string, creds map[string]string) *provider.Provider {
	h.t.Helper()
	p, err := h.Create(h.t.Context(), provider.Provider{Name: name, Type: "generic", Credentials: creds})
	if err != nil {
		h.t.Fatalf("create %s: %v", name, err)
	}
	return p
}

func (h *house) env(names ...string) *provider.Environment {
	h.t.Helper()
	e, err := h.Environment(h.t.Context(), "", names)
	if err != nil {
		h.t.Fatal(err)
	}
	return e
}

func (h *house) revision(names ...string) uint64 {
	h.t.Helper()
	r, err := h.Revision(h.t.Context(), "", names)
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

func wantFault(t *testing.T, err error, kind fault.Kind, message string) {
	t.Helper()
	f := fault.From(err)
	if err == nil || f.Kind != kind || !strings.Contains(f.Message, message) || f.Reason == "" || f.Next == "" {
		t.Errorf("got %v (kind %d, next %q), want kind %d with %q", err, f.Kind, f.Next, kind, message)
	}
}

func TestCreateGetListDelete(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := principal.With(t.Context(), &principal.Principal{Kind: principal.User, Issuer: "i", Subject: "s"})
	p, err := h.Create(ctx, provider.Provider{
		ID: "chosen", Name: "gh", Type: " GitHub", Labels: map[string]string{"a": "b"},
		Credentials: map[string]string{"TOKEN": canary, "REF": "driver://credentials/x"},
		Config:      map[string]string{"url": "u"}, ExpiresAtMS: map[string]int64{"TOKEN": 5, "OTHER": 6, "REF": 0},
	})
	if err != nil {
		t.Fatal(err)
	}
	if p.ID == "chosen" || p.ID == "" || p.Owner != "i|s" || p.Workspace != "default" || p.Version != 1 || p.CreatedAt.IsZero() {
		t.Errorf("%+v", p)
	}
	want := map[string]string{"TOKEN": provider.Redacted, "REF": "driver://credentials/x"}
	if d := cmp.Diff(want, p.Credentials); d != "" || p.Type != " GitHub" {
		t.Errorf("type %q, credentials %s", p.Type, d)
	}
	if d := cmp.Diff(map[string]int64{"TOKEN": 5}, p.ExpiresAtMS); d != "" {
		t.Error(d)
	}
	if r := p.Redacted(); r.Credentials["REF"] != provider.Redacted || p.Credentials["REF"] == provider.Redacted {
		t.Error("Redacted shows a reference, or changes its receiver")
	}
	got, err := h.Get(ctx, "", "gh")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(p, got); d != "" {
		t.Error(d)
	}
	_, err = h.Create(ctx, provider.Provider{Name: "gh", Type: "t", Credentials: map[string]string{"A": "b"}})
	wantFault(t, err, fault.AlreadyExists, "provider already exists")
	unnamed := h.create("", map[string]string{"A": "b"})
	if len(unnamed.Name) != 6 || strings.Trim(unnamed.Name, "abcdefghijklmnopqrstuvwxyz") != "" {
		t.Errorf("made-up name %q", unnamed.Name)
	}
	_, err = h.Get(ctx, "", "")
	wantFault(t, err, fault.InvalidArgument, "name is required")
	_, err = h.Get(ctx, "", "nope")
	wantFault(t, err, fault.NotFound, "provider not found")
	_, err = h.Get(ctx, "other", "gh")
	wantFault(t, err, fault.NotFound, "provider not found")

	all, err := h.List(ctx, provider.Query{})
	if err != nil || len(all) != 2 || all[0].Name != "gh" {
		t.Errorf("list %v %v", all, err)
	}
	if page, err := h.List(ctx, provider.Query{Offset: 1, Limit: 5}); err != nil || len(page) != 1 || page[0].Name != unnamed.Name {
		t.Errorf("page %v %v", page, err)
	}
	if page, err := h.List(ctx, provider.Query{Offset: 9}); err != nil || len(page) != 0 {
		t.Errorf("page past the end %v %v", page, err)
	}
	_, err = h.List(ctx, provider.Query{Workspace: "default", AllWorkspaces: true})
	wantFault(t, err, fault.InvalidArgument, "mutually exclusive")

	_, err = h.Delete(ctx, "", "")
	wantFault(t, err, fault.InvalidArgument, "name is required")
	h.users = []string{"b", "a"}
	_, err = h.Delete(ctx, "", "gh")
	wantFault(t, err, fault.FailedPrecondition, "provider 'gh' is attached to sandbox(es): a, b")
	h.users = nil
	for _, want := range []bool{true, false} {
		if deleted, err := h.Delete(ctx, "", "gh"); deleted != want || err != nil {
			t.Errorf("delete: %v %v, want %v", deleted, err, want)
		}
	}
}

func x(n int) string { return strings.Repeat("x", n) }

func many(n int) map[string]string {
	m := map[string]string{}
	for i := range n {
		m[fmt.Sprintf("K%d", i)] = "v"
	}
	return m
}

func TestCreateLimits(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	one := map[string]string{"A": "b"}
	for name, tc := range map[string]struct {
		p    provider.Provider
		want string // Empty for accepted.
	}{
		"name at":        {provider.Provider{Name: x(253), Type: "t", Credentials: one}, ""},
		"name past":      {provider.Provider{Name: x(254), Type: "t", Credentials: one}, "name exceeds maximum length (254 > 253)"},
		"type at":        {provider.Provider{Type: x(64), Credentials: one}, ""},
		"type past":      {provider.Provider{Type: x(65), Credentials: one}, "provider.type exceeds maximum length (65 > 64)"},
		"type blank":     {provider.Provider{Type: " ", Credentials: one}, "provider.type is required"},
		"none":           {provider.Provider{Type: "t"}, "provider.credentials must not be empty"},
		"credentials at": {provider.Provider{Type: "t", Credentials: many(32)}, ""},
		"credentials past": {
			provider.Provider{Type: "t", Credentials: many(33)},
			"provider.credentials exceeds maximum entries (33 > 32)",
		},
		"key, value at": {provider.Provider{Type: "t", Credentials: map[string]string{x(256): x(8192)}}, ""},
		"key past": {
			provider.Provider{Type: "t", Credentials: map[string]string{x(257): "v"}},
			"provider.credentials key exceeds maximum length (257 > 256)",
		},
		"value past": {
			provider.Provider{Type: "t", Credentials: map[string]string{"A": x(8193)}},
			"provider.credentials value exceeds maximum length (8193 > 8192)",
		},
		"config at":   {provider.Provider{Type: "t", Credentials: one, Config: many(64)}, ""},
		"config past": {provider.Provider{Type: "t", Credentials: one, Config: many(65)}, "provider.config exceeds maximum entries (65 > 64)"},
		"label":       {provider.Provider{Type: "t", Credentials: one, Labels: map[string]string{"a b": ""}}, "labels key name"},
		"no key":      {provider.Provider{Type: "t", Credentials: map[string]string{"": "v"}}, "key is required"},
		"no value":    {provider.Provider{Type: "t", Credentials: map[string]string{"A": ""}}, "must not be empty"},
		"marker":      {provider.Provider{Type: "t", Credentials: map[string]string{"A": "REDACTED"}}, "REDACTED"},
		"odd env key": {provider.Provider{Type: "t", Credentials: map[string]string{"1-A": "v"}}, ""},
		"bad ref": {
			provider.Provider{Type: "t", Credentials: map[string]string{"A": "driver://" + canary}},
			`provider.credentials "A": value begins with driver://`,
		},
	} {
		_, err := h.Create(t.Context(), tc.p)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case tc.want != "":
			wantFault(t, err, fault.InvalidArgument, tc.want)
			if err != nil && strings.Contains(err.Error(), canary) {
				t.Errorf("%s: secret in the error", name)
			}
		}
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ctx := t.Context()
	p := h.create("gh", map[string]string{"A": "1", "B": "2"})
	up := func(u provider.Update) (*provider.Provider, error) { u.Name = "gh"; return h.Update(ctx, u) }

	_, err := h.Update(ctx, provider.Update{})
	wantFault(t, err, fault.InvalidArgument, "provider.name is required")
	_, err = h.Update(ctx, provider.Update{Name: "nope"})
	wantFault(t, err, fault.NotFound, "provider not found")
	_, err = up(provider.Update{Type: "github"})
	wantFault(t, err, fault.InvalidArgument, "provider type cannot be changed; delete and recreate the provider")
	if q, err := up(provider.Update{Type: "GENERIC"}); err != nil || q.Version != 1 {
		t.Errorf("no-op: %v %v", q, err)
	}
	q, err := up(provider.Update{
		Credentials: map[string]string{"A": "", "C": "3"}, Config: map[string]string{"k": "v"},
		ExpiresAtMS: map[string]int64{"C": h.now.Add(time.Hour).UnixMilli()}, ExpectVersion: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if q.Version != 2 || q.ID != p.ID || !q.CreatedAt.Equal(p.CreatedAt) || q.Config["k"] != "v" {
		t.Errorf("%+v", q)
	}
	if d := cmp.Diff(map[string]string{"B": "2", "C": "3"}, h.env("gh").Values); d != "" {
		t.Error(d)
	}
	_, err = up(provider.Update{Credentials: map[string]string{"A": "1"}, ExpectVersion: 1})
	wantFault(t, err, fault.Aborted, "provider was modified concurrently (current resource_version: 2)")
	_, err = up(provider.Update{Credentials: map[string]string{"B": "REDACTED"}})
	wantFault(t, err, fault.InvalidArgument, "REDACTED")
	_, err = up(provider.Update{Credentials: many(31)})
	wantFault(t, err, fault.InvalidArgument, "provider.credentials exceeds maximum entries (33 > 32)")
	if _, err = up(provider.Update{Credentials: many(30)}); err != nil {
		t.Error(err)
	}
	if q, err = up(provider.Update{ExpiresAtMS: map[string]int64{"C": 0}}); err != nil || len(q.ExpiresAtMS) != 0 {
		t.Errorf("%v %v", q, err)
	}
	// Deleting the last credential is accepted.
	gone := map[string]string{"B": "", "C": ""}
	for k := range many(30) {
		gone[k] = ""
	}
	if q, err = up(provider.Update{Credentials: gone}); err != nil || len(q.Credentials) != 0 {
		t.Errorf("%v %v", q, err)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.create("gh", map[string]string{"A": "1"})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			_, err := h.Update(t.Context(), provider.Update{Name: "gh", Credentials: map[string]string{fmt.Sprintf("K%d", i): "v"}})
			if err != nil {
				t.Error(err)
			}
		})
	}
	var mu sync.Mutex
	made := 0
	for range 20 {
		wg.Go(func() {
			if _, err := h.Create(t.Context(), provider.Provider{Name: "same", Type: "t", Credentials: map[string]string{"A": "b"}}); err == nil {
				mu.Lock()
				made++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if n := len(h.env("gh").Values); n != 21 {
		t.Errorf("%d variables, want 21", n)
	}
	if made != 1 {
		t.Errorf("%d creates of one name succeeded", made)
	}
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	ends := h.now.Add(time.Hour).Truncate(time.Millisecond)
	h.driver.set("live", credentials.Token{Value: canary, Expires: ends})
	h.create("one", map[string]string{
		"A": "1", "REF": "driver://credentials/live", "DOWN": "driver://credentials/down",
		"1ABC": "v", "A-B": "v", "OPENSHELL_ENDPOINT": "v", "v12_X": "v", "s" + strings.Repeat("a", 64) + "_X": "v", "vim_X": "ok",
	})
	h.create("two", map[string]string{"A": "2", "B": "3", "OLD": "4"})
	if _, err := h.Update(t.Context(), provider.Update{Name: "two", ExpiresAtMS: map[string]int64{
		"OLD": h.now.UnixMilli(), "B": h.now.UnixMilli() + 1,
	}}); err != nil {
		t.Fatal(err)
	}
	e := h.env("one", "two", "one")
	want := map[string]string{"A": "1", "REF": canary, "vim_X": "ok", "B": "3"}
	if d := cmp.Diff(want, e.Values); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]int64{"REF": ends.UnixMilli(), "B": h.now.UnixMilli() + 1}, e.ExpiresAtMS); d != "" {
		t.Error(d)
	}
	if len(e.Failures) != 1 || e.Failures[0].Key != "DOWN" || e.Failures[0].Provider != "one" || e.Failures[0].Credential != "down" ||
		e.Failures[0].Err.Reason != credential.ReasonDriverUnavailable || !strings.Contains(e.Failures[0].Err.Message, `"down"`) {
		t.Errorf("failures %+v", e.Failures)
	}
	if e.Origins["REF"].Credential != "live" || e.Origins["B"].Provider != "two" {
		t.Errorf("origins %+v", e.Origins)
	}
	if strings.Contains(h.logs.String(), canary) || !strings.Contains(h.logs.String(), "earlier provider") {
		t.Errorf("log: %s", h.logs)
	}
	if got := h.env("two", "one").Values["A"]; got != "2" {
		t.Errorf("first provider does not win: %q", got)
	}
	if e := h.env(); len(e.Values) != 0 || e.Values == nil {
		t.Errorf("no providers: %+v", e)
	}
	_, err := h.Environment(t.Context(), "", []string{"one", "gone"})
	wantFault(t, err, fault.FailedPrecondition, "provider 'gone' not found")
	_, err = h.Revision(t.Context(), "", []string{"gone"})
	wantFault(t, err, fault.FailedPrecondition, "provider 'gone' not found")
}

func TestCheckAttachable(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.create("a", map[string]string{"K": "1", "1X": "v"})
	h.create("b", map[string]string{"K": "2"})
	h.create("c", map[string]string{"L": "3", "1X": "v"})
	check := func(names ...string) error { return h.CheckAttachable(t.Context(), "", names) }
	if err := check("a", "c", "a"); err != nil {
		t.Error(err)
	}
	wantFault(t, check("a", "b"), fault.FailedPrecondition,
		"credential env key 'K' is provided by both provider 'a' and provider 'b'; use provider-specific env names")
	wantFault(t, check("nope"), fault.FailedPrecondition, "provider 'nope' not found")
	wantFault(t, check(slices.Repeat([]string{"a"}, 33)...), fault.InvalidArgument, "providers list exceeds maximum (33 > 32)")
	if err := check(slices.Repeat([]string{"a"}, 32)...); err != nil {
		t.Error(err)
	}
}

func TestAttachHoldsOffDelete(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.create("a", map[string]string{"K": "1"})
	deleted := make(chan error, 1)
	err := h.Attach(t.Context(), "", []string{"a"}, func() error {
		go func() { _, err := h.Delete(context.Background(), "", "a"); deleted <- err }()
		select {
		case <-deleted:
			t.Error("deleted while being attached")
		case <-time.After(50 * time.Millisecond):
		}
		h.users = []string{"box"}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	wantFault(t, <-deleted, fault.FailedPrecondition, "attached to sandbox(es): box")
	wantFault(t, h.Attach(t.Context(), "", []string{"nope"}, func() error { t.Error("ran"); return nil }),
		fault.FailedPrecondition, "not found")
}

func TestRevision(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.driver.set("live", credentials.Token{Value: "t1", Expires: h.now.Add(10 * time.Second)})
	h.create("a", map[string]string{"A": "1", "R": "driver://credentials/live"})
	h.create("b", map[string]string{"B": "1"})
	base := h.revision("a", "b")
	if e := h.env("a", "b"); e.Revision != base {
		t.Error("environment and revision disagree")
	}
	if h.revision("a", "b") != base {
		t.Error("not stable")
	}
	h.close()
	h.open()
	if h.revision("a", "b") != base {
		t.Error("changed by a restart")
	}
	seen := map[uint64]string{base: "base"}
	differs := func(what string, r uint64) {
		t.Helper()
		if other, dup := seen[r]; dup {
			t.Errorf("%s: same revision as %s", what, other)
		}
		seen[r] = what
	}
	differs("order", h.revision("b", "a"))
	differs("detach", h.revision("a"))
	differs("none", h.revision())
	// The token has less than the margin left, so that each look asks the driver.
	h.driver.set("live", credentials.Token{Value: "t2", Expires: h.now.Add(10 * time.Second)})
	differs("new token", h.revision("a", "b"))
	before := h.revision("a", "b")
	h.driver.mu.Lock()
	delete(h.driver.tokens, "live")
	h.driver.mu.Unlock()
	if h.revision("a", "b") != before {
		t.Error("changed by an absent driver")
	}
	if _, err := h.Update(t.Context(), provider.Update{Name: "b", Credentials: map[string]string{"B": "2"}}); err != nil {
		t.Fatal(err)
	}
	differs("value", h.revision("a", "b"))
	if _, err := h.Update(t.Context(), provider.Update{Name: "b", ExpiresAtMS: map[string]int64{"B": h.now.Add(time.Minute).UnixMilli()}}); err != nil {
		t.Fatal(err)
	}
	differs("expiry", h.revision("a", "b"))
	h.now = h.now.Add(2 * time.Minute)
	differs("expired", h.revision("a", "b"))
}

func TestSecretsAtRest(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.driver.set("live", credentials.Token{Value: canary + "-token"})
	h.create("gh", map[string]string{"A": canary, "R": "driver://credentials/live"})
	if _, err := h.Update(t.Context(), provider.Update{Name: "gh", Credentials: map[string]string{"B": canary + "-2"}}); err != nil {
		t.Fatal(err)
	}
	e := h.env("gh")
	if e.Values["B"] != canary+"-2" || e.Values["R"] != canary+"-token" {
		t.Fatalf("%v", e.Values)
	}
	p, err := h.Get(t.Context(), "", "gh")
	if err != nil {
		t.Fatal(err)
	}
	slog.New(slog.NewTextHandler(h.logs, nil)).Info("all", "environment", e, "provider", *p)
	if strings.Contains(h.logs.String(), canary) || strings.Contains(fmt.Sprintf("%+v", p), canary) {
		t.Error("secret shown")
	}
	h.close()
	files, err := filepath.Glob(h.path + "*")
	if err != nil || len(files) == 0 {
		t.Fatalf("no database files: %v", err)
	}
	reference := false
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(b, []byte(canary)) {
			t.Errorf("secret in %s", f)
		}
		reference = reference || bytes.Contains(b, []byte(`"reference":"live"`))
	}
	if !reference {
		t.Error("reference is not stored as such")
	}

	h.key = bytes.Repeat([]byte{8}, provider.KeySize)
	if err := h.tryOpen(); err == nil || !strings.Contains(err.Error(), "2 stored credentials are encrypted with the key") {
		t.Errorf("another key: %v", err)
	}
	h.close()
	h.lost = true
	h.open()
	e = h.env("gh")
	if len(e.Failures) != 2 || e.Failures[0].Err.Reason != "CREDENTIAL_UNREADABLE" || e.Values["R"] == "" {
		t.Errorf("another key: %v %v", e.Failures, e.Values)
	}
}

func TestMovedSecretDoesNotOpen(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	a := h.create("a", map[string]string{"A": canary})
	h.close()
	db, err := sqlite.Open(t.Context(), "sqlite:"+h.path)
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := st.Get(provider.Kind, a.ID)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range []*store.Object{
		{Kind: provider.Kind, ID: "other", Workspace: "default", Name: "thief", Payload: o.Payload},
		{
			Kind: provider.Kind, ID: "third", Workspace: "default", Name: "renamed",
			Payload: bytes.Replace(o.Payload, []byte(`"A"`), []byte(`"B"`), 1),
		},
	} {
		if _, err := st.Write(t.Context(), store.Create(c)); err != nil {
			t.Fatalf("%d: %v", i, err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	h.open()
	if e := h.env("a"); e.Values["A"] != canary {
		t.Error("original does not open")
	}
	for _, name := range []string{"thief", "renamed"} {
		if e := h.env(name); len(e.Values) != 0 || len(e.Failures) != 1 {
			t.Errorf("%s opens: %v", name, e.Values)
		}
	}
}

func TestReferenceNeedsADriver(t *testing.T) {
	t.Parallel()
	db, err := sqlite.Open(t.Context(), "sqlite::memory:")
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	log := slog.New(slog.DiscardHandler)
	r := credential.NewResolver(credential.Options{Logger: log})
	defer r.Close()
	o := provider.Options{Store: st, Resolver: r, Key: make([]byte, 32), Logger: log, InUse: func(string, string) []string { return nil }, Access: everybody{}, Use: everywhere}
	s, err := provider.New(o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Create(t.Context(), provider.Provider{Type: "t", Credentials: map[string]string{"A": "driver://credentials/x"}})
	wantFault(t, err, fault.FailedPrecondition, "has no credentials driver")
	o.Key = make([]byte, 31)
	if _, err := provider.New(o); err == nil {
		t.Error("short key accepted")
	}
}

func BenchmarkRevision(b *testing.B) {
	db, err := sqlite.Open(b.Context(), "sqlite::memory:")
	if err != nil {
		b.Fatal(err)
	}
	st, err := store.Open(b.Context(), db, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer st.Close()
	d := &fakeDriver{tokens: map[string]credentials.Token{"x": {Value: "t", Expires: time.Now().Add(time.Hour)}}}
	log := slog.New(slog.DiscardHandler)
	r := credential.NewResolver(credential.Options{Driver: d, Logger: log})
	defer r.Close()
	s, err := provider.New(provider.Options{Store: st, Resolver: r, Key: make([]byte, 32), Logger: log, InUse: func(string, string) []string { return nil }, Access: everybody{}, Use: everywhere})
	if err != nil {
		b.Fatal(err)
	}
	if _, err := s.Create(b.Context(), provider.Provider{Name: "p", Type: "t", Credentials: map[string]string{"A": "driver://credentials/x", "B": "c"}}); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Revision(b.Context(), "", []string{"p"}); err != nil {
			b.Fatal(err)
		}
	}
}
