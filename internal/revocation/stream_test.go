package revocation_test

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/door"
	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/principal"
	"sallyport.dev/sallyport/internal/revocation"
	"sallyport.dev/sallyport/internal/store"
)

// soon is how late a stream may end.
const soon = 5 * time.Second

// stream is an open stream of a test.
type stream struct {
	ctx  context.Context
	done func()
}

func enter(t *testing.T, r *revocation.Registry, p *principal.Principal) stream {
	t.Helper()
	if err := r.Admit(p); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancelCause(t.Context())
	done := r.Enter(p, end)
	t.Cleanup(func() { done(); end(nil) })
	return stream{ctx, done}
}

func (s stream) open() bool { return s.ctx.Err() == nil }

// lives is a principal whose credential is a minute old and ends after d.
func lives(p *principal.Principal, d time.Duration) *principal.Principal {
	q := *p
	q.Issued, q.Expires = time.Now().Add(-time.Minute), time.Now().Add(d)
	return &q
}

// inBubble runs a test with a running registry on the clock of synctest.
func inBubble(t *testing.T, test func(t *testing.T, s *store.Store, r *revocation.Registry)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := openStore(t, "sqlite::memory:")
		r := open(t, revocation.Options{Store: s})
		defer s.Close()
		defer running(t, r)()
		test(t, s, r)
	})
}

// running runs a registry until the returned function is called.
func running(t *testing.T, r *revocation.Registry) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

func TestAStreamEndsWithItsCredential(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *store.Store, r *revocation.Registry) {
		streams := []stream{
			enter(t, r, lives(user("alice", ""), 5*time.Minute)),
			enter(t, r, lives(user("alice", "one"), 5*time.Minute)),
			enter(t, r, lives(box("b1"), 5*time.Minute)),
		}
		longer := enter(t, r, lives(user("bob", ""), time.Hour))
		endless := []stream{
			enter(t, r, user("carol", "")),
			enter(t, r, box("b2")),
			enter(t, r, lives(&principal.Principal{Kind: principal.Sandbox, Source: principal.SourceSharedSecret}, time.Minute)),
		}
		time.Sleep(5*time.Minute - time.Millisecond)
		for i, s := range streams {
			if !s.open() {
				t.Errorf("stream %d ended before its credential", i)
			}
		}
		time.Sleep(soon)
		for i, s := range streams {
			if cause := context.Cause(s.ctx); cause != error(door.ErrCredentialExpired) { //nolint:errorlint // The very value.
				t.Errorf("stream %d after its credential: %v", i, cause)
			}
		}
		if !longer.open() {
			t.Error("another's stream ended, too")
		}
		time.Sleep(3 * time.Hour)
		for i, s := range endless {
			if !s.open() {
				t.Errorf("stream %d, whose credential does not expire, ended", i)
			}
		}
	})
}

func TestALaterCredentialRenews(t *testing.T) {
	t.Parallel()
	account := box("b1")
	account.Source = principal.SourceServiceAccount
	bob := user("bob", "one")
	for name, c := range map[string]struct {
		stream, call *principal.Principal
		renews       bool
	}{
		"the same user":                        {user("alice", ""), user("alice", ""), true},
		"the same session":                     {user("alice", "one"), user("alice", "one"), true},
		"a token that names no session":        {user("alice", "one"), user("alice", ""), true},
		"a stream that names no session":       {user("alice", ""), user("alice", "one"), true},
		"another session":                      {user("alice", "one"), user("alice", "two"), false},
		"another user":                         {user("alice", "one"), bob, false},
		"the same sandbox":                     {box("b1"), box("b1"), true},
		"another sandbox":                      {box("b1"), box("b2"), false},
		"the service account of the sandbox":   {box("b1"), account, false},
		"a user with the name of a sandbox":    {box("alice"), user("alice", ""), false},
		"a token of the user that never ends":  {user("alice", ""), nil, true},
		"the same user, with an earlier token": {user("alice", ""), lives(user("alice", ""), -time.Minute), false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, _ *store.Store, r *revocation.Registry) {
				s := enter(t, r, lives(c.stream, 5*time.Minute))
				call := user("alice", "")
				if c.call != nil {
					call = lives(c.call, 10*time.Minute)
					if !c.call.Expires.IsZero() {
						call = lives(c.call, time.Minute)
					}
				}
				time.Sleep(4 * time.Minute)
				for range 3 {
					if err := r.Admit(call); err != nil {
						t.Fatal(err)
					}
				}
				time.Sleep(2 * time.Minute)
				if s.open() != c.renews {
					t.Errorf("a minute after the first credential the stream is open: %t", s.open())
				}
				time.Sleep(5 * time.Minute)
				if s.open() && c.call != nil {
					t.Error("it outlived the second credential, too")
				}
			})
		})
	}
}

// A supervisor of another make opens its stream once and refreshes its token with the old one.
func TestARefreshRenewsTheSandbox(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *store.Store, r *revocation.Registry) {
		old := lives(box("b1"), time.Hour)
		s, other := enter(t, r, old), enter(t, r, lives(box("b2"), time.Hour))
		for range 5 {
			time.Sleep(48 * time.Minute)
			r.Renewed("b1", time.Now().Add(time.Hour))
		}
		if !s.open() || other.open() {
			t.Errorf("after five refreshes: %t, %t", s.open(), other.open())
		}
		r.Renewed("b1", time.Time{})
		time.Sleep(3 * time.Hour)
		if !s.open() {
			t.Error("the last token never ends, but the stream did")
		}
	})
}

// A credential that is accepted although it has just expired opens no endless stream, and does not prolong others.
func TestTheLeewayOfClocks(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, _ *store.Store, r *revocation.Registry) {
		p := lives(user("alice", ""), 10*time.Second)
		first := enter(t, r, p)
		time.Sleep(10*time.Second + 500*time.Millisecond)
		late := enter(t, r, p)
		time.Sleep(soon)
		if first.open() || !late.open() {
			t.Errorf("five seconds later: %t, %t", first.open(), late.open())
		}
		time.Sleep(time.Minute)
		if late.open() {
			t.Error("the late stream outlived the leeway")
		}
	})
}

func TestRevocationReachesOpenStreams(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		revoked revocation.Revocation
		ends    []*principal.Principal
		stays   []*principal.Principal
	}{
		"a user": {
			revocation.Revocation{Issuer: idp, Subject: "alice"},
			[]*principal.Principal{user("alice", ""), user("alice", "one"), user("alice", "two")},
			[]*principal.Principal{user("bob", "one"), box("alice")},
		},
		"a session": {
			revocation.Revocation{Issuer: idp, SessionID: "one"},
			[]*principal.Principal{user("alice", "one"), user("alice", "one")},
			[]*principal.Principal{user("alice", "two"), user("alice", "")},
		},
		"a sandbox": {
			revocation.Revocation{SandboxID: "b1"},
			[]*principal.Principal{box("b1"), box("b1")},
			[]*principal.Principal{box("b2"), user("b1", "")},
		},
		"all a user has": {
			revocation.Revocation{Issuer: idp, Subject: "alice", IssuedBefore: true},
			[]*principal.Principal{user("alice", ""), user("alice", "one")},
			[]*principal.Principal{user("bob", "")},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, s *store.Store, r *revocation.Registry) {
				replica := open(t, revocation.Options{Store: s})
				defer running(t, replica)()
				var ends, stays []stream
				for _, at := range []*revocation.Registry{r, replica} {
					for _, p := range c.ends {
						ends = append(ends, enter(t, at, lives(p, time.Hour)))
					}
					for _, p := range c.stays {
						stays = append(stays, enter(t, at, lives(p, time.Hour)))
					}
				}
				began := time.Now()
				if _, ended := revoke(t, r, c.revoked); ended != len(c.ends) {
					t.Errorf("%d streams were ended, want %d", ended, len(c.ends))
				}
				for _, s := range ends {
					<-s.ctx.Done()
					if f := fault.From(context.Cause(s.ctx)); f.Reason != revocation.ReasonRevoked {
						t.Errorf("ended with %v", f)
					}
				}
				if took := time.Since(began); took > soon {
					t.Errorf("the last stream ended after %v", took)
				}
				for _, s := range stays {
					if !s.open() {
						t.Error("a stream of somebody else ended")
					}
				}
				if replica.Admit(lives(c.ends[0], time.Hour)) == nil {
					t.Error("the other replica lets the revoked in")
				}
			})
		})
	}
}

func TestWhatIsOverIsRemoved(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *store.Store, r *revocation.Registry) {
		for i := range 600 {
			revoke(t, r, revocation.Revocation{SandboxID: fmt.Sprint(i), Expires: time.Now().Add(time.Hour)})
		}
		revoke(t, r, revocation.Revocation{SandboxID: "kept"})
		time.Sleep(62 * time.Minute)
		synctest.Wait()
		if n := s.Count(revocation.Kind); n != 1 {
			t.Errorf("%d are stored", n)
		}
		if err := r.Admit(box("0")); err != nil || r.Admit(box("kept")) == nil {
			t.Errorf("admitted: %v", err)
		}
	})
}

// Another writer of the same database may change thousands of objects while a replica is busy.
func TestAReplicaThatFellBehindReadsAgain(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *store.Store, r *revocation.Registry) {
		replica := open(t, revocation.Options{Store: s})
		revoke(t, r, revocation.Revocation{SandboxID: "early"})
		for range 5 {
			var ops []store.Op
			for range store.MaxOps {
				ops = append(ops, store.Create(&store.Object{Kind: "other", ID: fmt.Sprint(s.Count("other"), len(ops))}))
			}
			if _, err := s.Write(t.Context(), ops...); err != nil {
				t.Fatal(err)
			}
		}
		open := enter(t, replica, lives(box("early"), time.Hour))
		defer running(t, replica)()
		synctest.Wait()
		if open.open() || replica.Admit(box("early")) == nil {
			t.Error("a revocation among the missed changes does not count")
		}
	})
}

func TestLeaving(t *testing.T) {
	t.Parallel()
	r := open(t, revocation.Options{})
	var all []stream
	for i := range 20 {
		all = append(all, enter(t, r, lives(user("alice", ""), time.Hour)), enter(t, r, lives(box(fmt.Sprint(i%3)), time.Hour)))
	}
	if r.Streams() != 40 {
		t.Fatalf("%d streams", r.Streams())
	}
	for _, i := range []int{0, 39, 20, 21, 1, 38} { // First, last and middle of the lists.
		all[i].done()
		all[i].done()
	}
	if r.Streams() != 34 {
		t.Fatalf("%d streams", r.Streams())
	}
	if _, ended := revoke(t, r, revocation.Revocation{Issuer: idp, Subject: "alice"}); ended != 17 {
		t.Errorf("%d ended, want 17", ended)
	}
	for _, s := range all {
		s.done()
	}
	if r.Streams() != 0 {
		t.Errorf("%d streams are left", r.Streams())
	}
}

// A stream that is opened while its caller is being revoked does not slip through.
func TestRevokingWhileStreamsOpen(t *testing.T) {
	t.Parallel()
	r := open(t, revocation.Options{})
	for i := range 50 {
		p := lives(box(fmt.Sprint(i)), time.Hour)
		var group sync.WaitGroup
		open := make(chan context.Context, 8)
		for range cap(open) {
			group.Go(func() {
				if r.Admit(p) != nil {
					return
				}
				ctx, end := context.WithCancelCause(t.Context())
				t.Cleanup(r.Enter(p, end))
				open <- ctx
			})
		}
		revoke(t, r, revocation.Revocation{SandboxID: p.SandboxID})
		group.Wait()
		close(open)
		for ctx := range open {
			if ctx.Err() == nil {
				t.Fatal("a stream of a revoked sandbox is open")
			}
		}
	}
}

// An idle supervisor's stream may cost 200 bytes; the context and the principal are the door's. The test runs before
// the parallel ones, whose memory it would count.
func TestMemoryOfAStream(t *testing.T) {
	const n = 20_000
	r := open(t, revocation.Options{})
	principals := make([]*principal.Principal, n)
	for i := range principals {
		principals[i] = lives(box(fmt.Sprint(i)), time.Hour)
	}
	leave := make([]func(), n)
	end := func(error) {}
	used := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	before := used()
	for i, p := range principals {
		leave[i] = r.Enter(p, end)
	}
	each := (int64(used()) - int64(before)) / n
	if each > 200 {
		t.Errorf("%d bytes a stream", each)
	}
	for _, f := range leave {
		f()
	}
	if r.Streams() != 0 {
		t.Error("streams are left")
	}
}

func BenchmarkAdmit(b *testing.B) {
	for name, c := range map[string]struct{ streams, revoked int }{
		"nothing": {0, 0}, "streams": {10_000, 0}, "revoked": {0, 1000}, "both": {10_000, 1000},
	} {
		b.Run(name, func(b *testing.B) {
			r := open(b, revocation.Options{})
			for i := range c.streams {
				defer r.Enter(lives(box(fmt.Sprint(i)), time.Hour), func(error) {})()
			}
			for i := range c.revoked {
				revoke(b, r, revocation.Revocation{SandboxID: fmt.Sprint("revoked-", i)})
			}
			p := lives(user("5f0c2a1e-8c51-4bd0-9c7a-5f0c2a1e8c51", "2a1e0f2b-3d53-4c9f"), time.Hour)
			defer r.Enter(p, func(error) {})()
			b.ReportAllocs()
			for b.Loop() {
				if err := r.Admit(p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkEnterAndLeave(b *testing.B) {
	r := open(b, revocation.Options{})
	p := lives(box("b1"), time.Hour)
	end := func(error) {}
	b.ReportAllocs()
	for b.Loop() {
		r.Enter(p, end)()
	}
}
