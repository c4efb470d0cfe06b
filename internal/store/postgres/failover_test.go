package postgres_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
)

// replicated starts a primary and a standby that follows it.
func replicated(t *testing.T) (primary, standby *pgtest.Server) {
	t.Helper()
	primary = ownServer(t)
	standby, err := primary.Standby()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := standby.Stop(); err != nil {
			t.Error(err)
		}
	})
	return primary, standby
}

// caughtUp waits until the standby has so many objects.
func caughtUp(t *testing.T, standby *pgtest.Server, database string, objects int) {
	t.Helper()
	eventually(t, func() bool {
		n := 0
		err := standby.Query(t.Context(), database, `SELECT id FROM objects`, func(func(...any) error) error { n++; return nil })
		return err == nil && n == objects
	})
}

// TestFailover promotes a standby that has everything: the gateway goes on where it was.
func TestFailover(t *testing.T) {
	t.Parallel()
	primary, standby := replicated(t)
	st, p, database := behind(t, primary, patient())
	for _, id := range []string{"one", "two", "three"} {
		create(t, st, id)
	}
	caughtUp(t, standby, database, 3)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Point(standby)
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	create(t, st, "four")
	same(t, st, standby, database)
	eventually(t, func() bool { return st.Ping(t.Context()) == nil })
}

// TestFailoverInMidTransaction cuts the commit that the standby has, or has not.
func TestFailoverInMidTransaction(t *testing.T) {
	t.Parallel()
	primary, standby := replicated(t)
	st, p, database := behind(t, primary, patient())
	create(t, st, "before")
	caughtUp(t, standby, database, 1)
	done := p.CutAt("COMMIT\x00", true)
	p.Point(nil)
	result := make(chan error, 1)
	go func() {
		_, err := st.Write(t.Context(), store.Create(object("the-one")))
		result <- err
	}()
	<-done
	caughtUp(t, standby, database, 2)
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	p.Point(standby)
	if err := <-result; err != nil {
		t.Errorf("the write that was cut off: %v", err)
	}
	create(t, st, "after")
	same(t, st, standby, database)
}

// TestFailoverThatLosesWrites promotes a standby that lacks confirmed writes. The gateway must not go on with a memory
// that is ahead of its database: it says so and ends, and the next one has what there is.
func TestFailoverThatLosesWrites(t *testing.T) {
	t.Parallel()
	primary, standby := replicated(t)
	st, p, database := behind(t, primary, patient())
	create(t, st, "one")
	caughtUp(t, standby, database, 1)
	// The standby stops to listen.
	if err := standby.Exec("postgres", `ALTER SYSTEM SET primary_conninfo = ''`, `SELECT pg_reload_conf()`); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		n := 0
		if err := standby.Query(t.Context(), "postgres", `SELECT pid FROM pg_stat_wal_receiver`, func(func(...any) error) error { n++; return nil }); err != nil {
			t.Fatal(err)
		}
		return n == 0
	})
	create(t, st, "lost")
	if err := primary.Kill(); err != nil {
		t.Fatal(err)
	}
	p.Point(standby)
	if err := standby.Promote(); err != nil {
		t.Fatal(err)
	}
	_, err := st.Write(t.Context(), store.Create(object("after")))
	if !errors.Is(err, store.ErrDiverged) || !strings.Contains(err.Error(), "lost writes") {
		t.Errorf("write after the failover: %v", err)
	}
	if err := st.Guard(t.Context()); !errors.Is(err, store.ErrDiverged) {
		t.Errorf("Guard: %v", err)
	}
	if err := st.Close(); err != nil {
		t.Error(err)
	}
	opts := quick()
	opts.LeaseWait = time.Minute
	next := openStore(t, p.URL(database), opts)
	if next.Count("k") != 1 {
		t.Errorf("the next gateway has %d objects", next.Count("k"))
	}
	create(t, next, "after")
	same(t, next, standby, database)
}

// TestStandby refuses a server that takes no writes, and finds the one that does among several.
func TestStandby(t *testing.T) {
	t.Parallel()
	primary, standby := replicated(t)
	database := primary.Database(t)
	eventually(t, func() bool { return standby.Exec(database, `SELECT 1`) == nil })
	if _, err := postgres.Open(t.Context(), standby.URL(database), quick()); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("a standby: %v", err)
	}
	a, b := pgtest.NewProxy(t, standby), pgtest.NewProxy(t, primary)
	both := "postgres://postgres@" + a.Address() + "," + b.Address() + "/" + database + "?sslmode=disable"
	st := openStore(t, both, quick())
	create(t, st, "one")
}

// TestReadOnly sets the database read-only under a gateway that runs.
func TestReadOnly(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	opts := quick()
	opts.OutageWait = 100 * time.Millisecond
	st := openStore(t, s.URL(name), opts)
	create(t, st, "before")
	if err := s.Exec("postgres", `ALTER DATABASE `+name+` SET default_transaction_read_only = on`,
		`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '`+name+`'`); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(t.Context(), store.Create(object("refused"))); !errors.Is(err, store.ErrReadOnly) {
		t.Errorf("write: %v", err)
	}
	if err := s.Exec("postgres", `ALTER DATABASE `+name+` RESET default_transaction_read_only`); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		_, err := st.Write(t.Context(), store.Create(object("after")))
		return err == nil
	})
	same(t, st, s, name)
}
