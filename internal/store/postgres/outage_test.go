package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
)

// behind opens a store behind a proxy.
func behind(t *testing.T, s *pgtest.Server, opts postgres.Options) (*store.Store, *pgtest.Proxy, string) {
	t.Helper()
	database := s.Database(t)
	p := pgtest.NewProxy(t, s)
	opts.Logger = logTo(t)
	return openStore(t, p.URL(database), opts), p, database
}

// patient waits for the database as long as a test may take.
func patient() postgres.Options {
	o := quick()
	o.OutageWait, o.CommitTimeout = time.Minute, time.Minute
	return o
}

func create(t *testing.T, s *store.Store, id string) {
	t.Helper()
	if _, err := s.Write(t.Context(), store.Create(object(id))); err != nil {
		t.Fatalf("create %q: %v", id, err)
	}
}

// stored reads a database's objects and their versions past any lease.
func stored(t *testing.T, s *pgtest.Server, database string) map[string]uint64 {
	t.Helper()
	found := map[string]uint64{}
	if err := s.Query(t.Context(), database, `SELECT id, resource_version FROM objects`, func(scan func(...any) error) error {
		var id string
		var version int64
		err := scan(&id, &version)
		found[id] = uint64(version)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return found
}

// same checks that memory and rows agree.
func same(t *testing.T, st *store.Store, s *pgtest.Server, database string) {
	t.Helper()
	rows := stored(t, s, database)
	all := st.List("k", store.Query{AllWorkspaces: true})
	if len(rows) != len(all) {
		t.Errorf("%d rows, %d objects in memory", len(rows), len(all))
	}
	for _, o := range all {
		if rows[o.ID] != o.Version {
			t.Errorf("%s: version %d in memory, %d stored", o.ID, o.Version, rows[o.ID])
		}
	}
}

// TestLostConnections cuts the connection at every moment of a commit: callers notice nothing, and each write happens
// once, whether it had been committed already or not.
func TestLostConnections(t *testing.T) {
	t.Parallel()
	s := server(t)
	for name, cut := range map[string]func(p *pgtest.Proxy) <-chan struct{}{
		"idle": func(p *pgtest.Proxy) <-chan struct{} {
			p.Cut()
			done := make(chan struct{})
			close(done)
			return done
		},
		"rows not sent":              func(p *pgtest.Proxy) <-chan struct{} { return p.CutAt("the-one", false) },
		"rows sent":                  func(p *pgtest.Proxy) <-chan struct{} { return p.CutAt("the-one", true) },
		"commit not sent":            func(p *pgtest.Proxy) <-chan struct{} { return p.CutAt("COMMIT\x00", false) },
		"commit done, answer lost":   func(p *pgtest.Proxy) <-chan struct{} { return p.CutAt("COMMIT\x00", true) },
		"heartbeat, or what is next": func(p *pgtest.Proxy) <-chan struct{} { return p.CutAt("\x00", true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, p, database := behind(t, s, patient())
			create(t, st, "before")
			watcher := st.Watch(st.Revision())
			defer watcher.Close()
			done := cut(p)
			create(t, st, "the-one")
			<-done
			if c, err := watcher.Next(t.Context()); err != nil || c.Object.ID != "the-one" {
				t.Errorf("watcher saw %+v, %v", c, err)
			}
			create(t, st, "after")
			same(t, st, s, database)
			if rows := stored(t, s, database); len(rows) != 3 {
				t.Errorf("stored %v", rows)
			}
		})
	}
}

// TestUnsettled loses the connection in the middle of a commit, and the way to the server with it: the caller hears that
// the outcome is not known, nobody writes meanwhile, and then everybody sees what really happened.
func TestUnsettled(t *testing.T) {
	t.Parallel()
	s := server(t)
	for name, committed := range map[string]bool{"committed": true, "not committed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := quick()
			opts.OutageWait = 200 * time.Millisecond
			st, p, database := behind(t, s, opts)
			create(t, st, "before")
			done := p.CutAt("COMMIT\x00", committed)
			p.Point(nil)
			_, err := st.Write(t.Context(), store.Create(object("the-one")))
			if !errors.Is(err, store.ErrUnsettled) {
				t.Fatalf("write: %v", err)
			}
			<-done
			if _, err = st.Write(t.Context(), store.Create(object("meanwhile"))); !errors.Is(err, store.ErrUnreachable) || errors.Is(err, store.ErrUnsettled) {
				t.Errorf("write meanwhile: %v", err)
			}
			if err := st.Ping(t.Context()); err == nil {
				t.Error("the database counts as ready")
			}
			p.Point(s)
			eventually(t, func() bool {
				_, err := st.Write(t.Context(), store.Create(object("after")))
				return err == nil
			})
			if _, err := st.Get("k", "the-one"); (err == nil) != committed {
				t.Errorf("the write whose outcome was not known: %v", err)
			}
			same(t, st, s, database)
			eventually(t, func() bool { return st.Ping(t.Context()) == nil })
		})
	}
}

// TestUnsettledShowsByItself has nobody write after the loss: readers see the outcome all the same.
func TestUnsettledShowsByItself(t *testing.T) {
	t.Parallel()
	s := server(t)
	opts := quick()
	opts.OutageWait = 100 * time.Millisecond
	st, p, _ := behind(t, s, opts)
	p.CutAt("COMMIT\x00", true)
	p.Point(nil)
	if _, err := st.Write(t.Context(), store.Create(object("the-one"))); !errors.Is(err, store.ErrUnsettled) {
		t.Fatalf("write: %v", err)
	}
	watcher := st.Watch(0)
	defer watcher.Close()
	p.Point(s)
	if c, err := watcher.Next(t.Context()); err != nil || c.Object.ID != "the-one" {
		t.Errorf("watcher saw %+v, %v", c, err)
	}
}

// eventually tries until it holds; the test's own time limit ends it.
func eventually(t *testing.T, holds func() bool) {
	t.Helper()
	for !holds() {
		select {
		case <-t.Context().Done():
			t.Fatal("the test ended")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// storm is a number of writers.
type storm struct {
	count   atomic.Int64
	writers sync.WaitGroup
}

func (s *storm) wait() { s.writers.Wait() }

// runStorm has writers create pairs and update until stop. The map has the version that each object was last confirmed
// with; it may be read after wait.
func runStorm(t *testing.T, st *store.Store, stop <-chan struct{}, round int) (confirmed map[string]uint64, running *storm) {
	t.Helper()
	confirmed, running = map[string]uint64{}, &storm{}
	var mu sync.Mutex
	note := func(o *store.Object) {
		mu.Lock()
		defer mu.Unlock()
		confirmed[o.ID] = o.Version
		running.count.Add(1)
	}
	for w := range 8 {
		running.writers.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				id := fmt.Sprintf("%d-%d-%d", round, w, i)
				made, err := st.Write(context.Background(), store.Create(object(id)),
					store.Create(&store.Object{Kind: "k", ID: id + "-twin", Payload: []byte(id)}))
				if err != nil {
					t.Errorf("create %s: %v", id, err)
					return
				}
				note(made[0])
				updated, err := st.Update(context.Background(), "k", id, func(*store.Object) error { return nil })
				if err != nil {
					t.Errorf("update %s: %v", id, err)
					return
				}
				note(updated)
			}
		})
	}
	return confirmed, running
}

// TestServerCrash kills the server again and again in a storm of writes. Every confirmed write is there, transactions
// are whole, memory and rows agree, and no caller sees an error since the server is back in time.
func TestServerCrash(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*pgtest.Server) error{"killed": (*pgtest.Server).Kill, "shut down": (*pgtest.Server).Halt} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ownServer(t)
			database := s.Database(t)
			opts := patient()
			opts.Logger = logTo(t)
			st := openStore(t, s.URL(database), opts)
			for round := range 3 {
				stop := make(chan struct{})
				confirmed, done := runStorm(t, st, stop, round)
				for done.count.Load() < int64(100*(round+1)) {
					<-time.After(time.Millisecond)
				}
				if err := end(s); err != nil {
					t.Fatal(err)
				}
				if err := s.Run(); err != nil {
					t.Fatal(err)
				}
				before := done.count.Load()
				for done.count.Load() < before+50 && !t.Failed() {
					<-time.After(time.Millisecond)
				}
				close(stop)
				done.wait()
				rows := stored(t, s, database)
				for id, version := range confirmed {
					if rows[id] < version {
						t.Errorf("round %d: %s was confirmed with version %d, stored is %d", round, id, version, rows[id])
					}
					if rows[id+"-twin"] != 1 {
						t.Errorf("round %d: half a transaction of %s", round, id)
					}
				}
				same(t, st, s, database)
				t.Logf("round %d: %d confirmed", round, len(confirmed))
			}
		})
	}
}

// TestServerComesLater starts before the server does.
func TestServerComesLater(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	name := s.Database(t)
	if err := s.Halt(); err != nil {
		t.Fatal(err)
	}
	if _, err := postgres.Open(t.Context(), s.URL(name), quick()); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("without waiting: %v", err)
	}
	opts := quick()
	opts.LeaseWait = time.Minute
	opts.Logger = logTo(t)
	opened := make(chan *postgres.DB)
	go func() {
		db, err := postgres.Open(context.Background(), s.URL(name), opts)
		if err != nil {
			t.Error(err)
		}
		opened <- db
	}()
	if err := s.Run(); err != nil {
		t.Fatal(err)
	}
	if db := <-opened; db != nil {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
}
