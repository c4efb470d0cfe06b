package revocation_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

var _ door.Sessions = (*revocation.Registry)(nil)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const idp = "https://idp.example/realms/one"

var admin = &principal.Principal{Kind: principal.User, Issuer: idp, Subject: "admin"}

func openStore(t testing.TB, url string) *store.Store {
	t.Helper()
	db, err := sqlite.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// memory is a store that the test closes.
func memory(t testing.TB) *store.Store {
	t.Helper()
	s := openStore(t, "sqlite::memory:")
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func open(t testing.TB, o revocation.Options) *revocation.Registry {
	t.Helper()
	if o.Store == nil {
		o.Store = memory(t)
	}
	o.Expired = door.ErrCredentialExpired
	r, err := revocation.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func revoke(t testing.TB, r *revocation.Registry, want revocation.Revocation) (stored revocation.Revocation, ended int) {
	t.Helper()
	stored, ended, err := r.Revoke(t.Context(), admin, want)
	if err != nil {
		t.Fatal(err)
	}
	return stored, ended
}

func user(subject, sid string) *principal.Principal {
	return &principal.Principal{Kind: principal.User, Issuer: idp, Subject: subject, SessionID: sid, Issued: time.Now().Add(-time.Minute)}
}

func box(id string) *principal.Principal {
	return &principal.Principal{Kind: principal.Sandbox, SandboxID: id, Source: principal.SourceToken, Issued: time.Now().Add(-time.Minute)}
}

func TestWhoIsRefused(t *testing.T) {
	t.Parallel()
	later := func(p *principal.Principal) *principal.Principal {
		p.Issued = time.Now().Add(time.Minute)
		return p
	}
	silent := user("alice", "one")
	silent.Issued = time.Time{}
	expired := box("b1")
	expired.Source = principal.SourceExpiredToken
	stranger := user("alice", "one")
	stranger.Issuer = "https://other"
	for name, c := range map[string]struct {
		revoked revocation.Revocation
		refused []*principal.Principal
		others  []*principal.Principal
	}{
		"a user": {
			revocation.Revocation{Issuer: idp, Subject: "alice"},
			[]*principal.Principal{user("alice", ""), user("alice", "one"), later(user("alice", "")), silent},
			[]*principal.Principal{user("bob", "one"), stranger, box("alice"), {}},
		},
		"a session": {
			revocation.Revocation{Issuer: idp, SessionID: "one"},
			[]*principal.Principal{user("alice", "one"), later(user("alice", "one"))},
			[]*principal.Principal{user("alice", ""), user("alice", "two"), user("one", ""), stranger},
		},
		"a sandbox": {
			revocation.Revocation{SandboxID: "b1"},
			[]*principal.Principal{box("b1"), later(box("b1")), expired},
			[]*principal.Principal{box("b2"), user("b1", "b1"), {Kind: principal.Sandbox, Source: principal.SourceSharedSecret}},
		},
		"what a user had": {
			revocation.Revocation{Issuer: idp, Subject: "alice", IssuedBefore: true},
			[]*principal.Principal{user("alice", ""), user("alice", "one"), silent},
			[]*principal.Principal{later(user("alice", "")), user("bob", "")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := open(t, revocation.Options{})
			for _, p := range append(c.refused, c.others...) {
				if err := r.Admit(p); err != nil {
					t.Fatalf("%s before: %v", p.Actor(), err)
				}
			}
			stored, _ := revoke(t, r, c.revoked)
			for _, p := range c.refused {
				f := fault.From(r.Admit(p))
				if f.Kind != fault.Unauthenticated || f.Reason != revocation.ReasonRevoked || f.Next == "" {
					t.Errorf("%+v is not refused: %+v", p, f)
				}
			}
			for _, p := range c.others {
				if err := r.Admit(p); err != nil {
					t.Errorf("%+v: %v", p, err)
				}
			}
			if err := r.Restore(t.Context(), stored.ID); err != nil {
				t.Fatal(err)
			}
			for _, p := range c.refused {
				if err := r.Admit(p); err != nil {
					t.Errorf("%s after it was restored: %v", p.Actor(), err)
				}
			}
			if err := r.Restore(t.Context(), stored.ID); fault.From(err).Reason != revocation.ReasonNotFound {
				t.Errorf("restored twice: %v", err)
			}
		})
	}
}

func TestARevocationEnds(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := open(t, revocation.Options{Now: func() time.Time { return now }})
	revoke(t, r, revocation.Revocation{SandboxID: "b1", Expires: now.Add(time.Hour)})
	if r.Admit(box("b1")) == nil {
		t.Error("not refused")
	}
	now = now.Add(time.Hour)
	if err := r.Admit(box("b1")); err != nil {
		t.Errorf("refused after its end: %v", err)
	}
	if all, _, err := r.List(0, ""); err != nil || len(all) != 0 {
		t.Errorf("listed after its end: %v, %v", all, err)
	}
}

func TestWhatCannotBeRevoked(t *testing.T) {
	t.Parallel()
	r := open(t, revocation.Options{})
	long := strings.Repeat("x", revocation.MaxIdentity+1)
	for name, want := range map[string]revocation.Revocation{
		"nobody":                {Reason: "why"},
		"an issuer":             {Issuer: idp},
		"a subject of nobody":   {Subject: "alice"},
		"a session of nobody":   {SessionID: "one"},
		"user and session":      {Issuer: idp, Subject: "alice", SessionID: "one"},
		"user and sandbox":      {Issuer: idp, Subject: "alice", SandboxID: "b1"},
		"a sandbox's issuer":    {Issuer: idp, SandboxID: "b1"},
		"a long issuer":         {Issuer: long, Subject: "alice"},
		"a long subject":        {Issuer: idp, Subject: long},
		"a long sandbox":        {SandboxID: long},
		"a long session":        {Issuer: idp, SessionID: long},
		"a long reason":         {SandboxID: "b1", Reason: strings.Repeat("x", revocation.MaxReason+1)},
		"no text":               {SandboxID: "b1\xff"},
		"a NUL byte":            {Issuer: idp, Subject: "a\x00b"},
		"what ended yesterday":  {SandboxID: "b1", Expires: time.Now().Add(-24 * time.Hour)},
		"what ends immediately": {SandboxID: "b1", Expires: time.UnixMilli(1)},
	} {
		if _, _, err := r.Revoke(t.Context(), admin, want); fault.From(err).Reason != revocation.ReasonInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, _, err := r.Revoke(t.Context(), admin, revocation.Revocation{Issuer: idp, Subject: "admin"}); fault.From(err).Reason != revocation.ReasonSelf {
		t.Errorf("oneself: %v", err)
	}
	revoke(t, r, revocation.Revocation{Issuer: idp, Subject: "admin", IssuedBefore: true})
	if all, _, err := r.List(0, ""); err != nil || len(all) != 1 {
		t.Errorf("stored: %v, %v", all, err)
	}
}

// Revoking again replaces: one revocation for each target, with the reason, end and moment of the last time.
func TestRevokingAgain(t *testing.T) {
	t.Parallel()
	now := time.Now().Truncate(time.Second)
	r := open(t, revocation.Options{Now: func() time.Time { return now }})
	first, _ := revoke(t, r, revocation.Revocation{Issuer: idp, Subject: "alice", IssuedBefore: true, Reason: "lost laptop"})
	fresh := user("alice", "")
	fresh.Issued = now.Add(time.Minute)
	if err := r.Admit(fresh); err != nil {
		t.Fatal(err)
	}
	now = now.Add(time.Hour)
	second, _ := revoke(t, r, revocation.Revocation{Issuer: idp, Subject: "alice", IssuedBefore: true, Reason: "again", Expires: now.Add(time.Hour)})
	if second.ID != first.ID || second.Reason != "again" || !second.Created.Equal(now) || second.CreatedBy != admin.Actor() ||
		!second.Expires.Equal(now.Add(time.Hour).Truncate(time.Millisecond)) {
		t.Errorf("stored %+v", second)
	}
	if r.Admit(fresh) == nil {
		t.Error("what was issued between the two must be refused now")
	}
	if all, _, err := r.List(0, ""); err != nil || len(all) != 1 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestThereIsAMost(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := open(t, revocation.Options{Max: 2, Now: func() time.Time { return now }})
	revoke(t, r, revocation.Revocation{SandboxID: "b1"})
	revoke(t, r, revocation.Revocation{SandboxID: "b2", Expires: now.Add(time.Minute)})
	_, _, err := r.Revoke(t.Context(), admin, revocation.Revocation{SandboxID: "b3"})
	if f := fault.From(err); f.Kind != fault.ResourceExhausted || f.Reason != revocation.ReasonTooMany {
		t.Errorf("the third of two: %v", err)
	}
	revoke(t, r, revocation.Revocation{SandboxID: "b1", Reason: "still possible"})
	now = now.Add(time.Hour)
	revoke(t, r, revocation.Revocation{SandboxID: "b3"}) // In the place of the one that is over.
}

func TestPages(t *testing.T) {
	t.Parallel()
	now := time.Now()
	r := open(t, revocation.Options{Now: func() time.Time { return now }})
	for i := range 7 {
		revoke(t, r, revocation.Revocation{SandboxID: fmt.Sprintf("b%d", i)})
		if i%2 == 0 {
			now = now.Add(time.Second) // Some share a moment.
		}
	}
	var seen []revocation.Revocation
	for token, pages := "", 0; ; pages++ {
		page, next, err := r.List(3, token)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, page...)
		if token = next; next == "" {
			if pages != 2 {
				t.Errorf("%d pages", pages+1)
			}
			break
		}
	}
	if len(seen) != 7 {
		t.Fatalf("%d seen", len(seen))
	}
	ids := map[string]bool{}
	for i, s := range seen {
		ids[s.ID] = true
		if i > 0 && s.Created.After(seen[i-1].Created) {
			t.Errorf("%d is newer than the one before", i)
		}
	}
	if len(ids) != 7 {
		t.Errorf("%d different", len(ids))
	}
	for _, size := range []int{-1, revocation.MaxPage + 1} {
		if _, _, err := r.List(size, ""); !fault.Is(err, fault.InvalidArgument) {
			t.Errorf("page size %d: %v", size, err)
		}
	}
}

func TestRevocationsOutliveTheGateway(t *testing.T) {
	t.Parallel()
	url := "sqlite:" + filepath.Join(t.TempDir(), "openshell.db")
	s := openStore(t, url)
	r := open(t, revocation.Options{Store: s})
	stored, _ := revoke(t, r, revocation.Revocation{Issuer: idp, SessionID: "one", Reason: "why", Expires: time.Now().Add(time.Hour)})
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = openStore(t, url)
	defer s.Close()
	r = open(t, revocation.Options{Store: s})
	if r.Admit(user("alice", "one")) == nil {
		t.Error("not refused by the next gateway")
	}
	all, _, err := r.List(0, "")
	if err != nil || len(all) != 1 || all[0] != stored {
		t.Errorf("%+v, %v; want %+v", all, err, stored)
	}
}

// A gateway that cannot read who is revoked must not start.
func TestAnUnreadableRevocation(t *testing.T) {
	t.Parallel()
	for name, payload := range map[string]string{"no JSON": "{", "nobody": "{}"} {
		s := memory(t)
		_, err := s.Write(t.Context(), store.Create(&store.Object{Kind: revocation.Kind, ID: "x", Payload: []byte(payload)}))
		if err != nil {
			t.Fatal(err)
		}
		_, err = revocation.Open(revocation.Options{Store: s, Expired: errors.New("expired")})
		if f := fault.From(err); f.Reason != revocation.ReasonUnreadable {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := revocation.Open(revocation.Options{}); err == nil {
		t.Error("opened without a store")
	}
}

func TestWithoutAStore(t *testing.T) {
	t.Parallel()
	s := openStore(t, "sqlite::memory:")
	r := open(t, revocation.Options{Store: s})
	stored, _ := revoke(t, r, revocation.Revocation{SandboxID: "b1"})
	s.Close()
	if _, _, err := r.Revoke(t.Context(), admin, revocation.Revocation{SandboxID: "b2"}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("revoke: %v", err)
	}
	if err := r.Restore(t.Context(), stored.ID); !fault.Is(err, fault.Unavailable) {
		t.Errorf("restore: %v", err)
	}
	if r.Admit(box("b1")) == nil || r.Admit(box("b2")) != nil {
		t.Error("what was not stored must not count, what was must")
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := r.Run(ctx); !errors.Is(err, store.ErrClosed) {
		t.Errorf("a loop that can follow nothing ended with %v", err)
	}
}

func FuzzPageToken(f *testing.F) {
	for _, seed := range []string{"", "MTcwMDAwMDAwMDAwMC9hYmM", "LzE", "MS8", "%%%", "OTk5OTk5OTk5OTk5OTk5OTk5OS8x"} {
		f.Add(seed)
	}
	r := open(f, revocation.Options{})
	for i := range 3 {
		revoke(f, r, revocation.Revocation{SandboxID: fmt.Sprint(i)})
	}
	f.Fuzz(func(t *testing.T, token string) {
		page, _, err := r.List(1, token)
		if err == nil && len(page) > 1 || err != nil && fault.From(err).Reason != revocation.ReasonPageToken {
			t.Errorf("%q: %v, %v", token, page, err)
		}
	})
}
