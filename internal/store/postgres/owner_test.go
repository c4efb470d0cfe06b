package postgres_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
)

// TestOneOwnerAtATime has a second gateway come while the first one works: it is told who is there, may wait, and takes
// over as soon as the first one ends.
func TestOneOwnerAtATime(t *testing.T) {
	t.Parallel()
	s := server(t)
	url := s.URL(s.Database(t))
	opts := quick()
	opts.Name = "pod-a"
	first, err := store.Open(t.Context(), open(t, url, opts), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	create(t, first, "one")
	opts.Name = "pod-b"
	_, err = postgres.Open(t.Context(), url, opts)
	if !errors.Is(err, store.ErrLeaseLost) {
		t.Fatalf("second owner: %v", err)
	}
	for _, part := range []string{`the gateway "pod-a"`, "stop that one", "search_path=SCHEMA", `schema "public"`} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not say %q", err, part)
		}
	}
	opts.LeaseWait = 50 * time.Millisecond
	if _, err = postgres.Open(t.Context(), url, opts); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("after waiting: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	opts.LeaseWait = time.Minute
	if _, err = postgres.Open(ended, url, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that ended: %v", err)
	}

	opened := make(chan *postgres.DB)
	go func() {
		db, err := postgres.Open(context.Background(), url, opts)
		if err != nil {
			t.Error(err)
		}
		opened <- db
	}()
	create(t, first, "two")
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second, err := store.Open(t.Context(), <-opened, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if n := second.Count("k"); n != 2 {
		t.Errorf("the second owner has %d objects", n)
	}
	create(t, second, "three")
}

// TestSchemasAreDatabasesOfTheirOwn has two gateways in one database.
func TestSchemasAreDatabasesOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	public := openStore(t, s.URL(name), quick())
	one := openStore(t, s.URL(name, "search_path=tenant_one"), quick())
	two := openStore(t, s.URL(name, "search_path=%22Tenant%20%22%22Two%22"), quick())
	create(t, public, "of public")
	create(t, one, "of one")
	create(t, one, "also of one")
	create(t, two, "of two")
	if public.Count("k") != 1 || one.Count("k") != 2 || two.Count("k") != 1 {
		t.Error("the schemas are not apart")
	}
	if n := len(stored(t, s, name)); n != 1 {
		t.Errorf("%d rows in public", n)
	}
	_, err := postgres.Open(t.Context(), s.URL(name, "search_path=tenant_one"), quick())
	if !errors.Is(err, store.ErrLeaseLost) || !strings.Contains(err.Error(), `schema "tenant_one"`) {
		t.Errorf("second owner of a schema: %v", err)
	}
}

// TestFenced takes the database away from a gateway that does not notice, as one whose machine slept: not a row of its
// next write is kept, and it knows that its time is over.
func TestFenced(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	opts := quick()
	opts.Heartbeat = time.Hour // It does not find out by itself.
	db := open(t, s.URL(name), opts)
	st, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	create(t, st, "before")
	if err := s.Exec(name, `UPDATE store_meta SET epoch = epoch + 1, epoch_revision = revision, owner_id = 'other', owner_name = 'pod-b'`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		_, err := st.Write(t.Context(), store.Create(object("late")))
		if !errors.Is(err, store.ErrLeaseLost) || !strings.Contains(err.Error(), "pod-b") {
			t.Errorf("late write: %v", err)
		}
	}
	if rows := stored(t, s, name); len(rows) != 1 {
		t.Errorf("stored %v", rows)
	}
	if err := st.Guard(t.Context()); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("Guard: %v", err)
	}
	if err := st.Ping(t.Context()); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("Ping: %v", err)
	}
	if st.Count("k") != 1 {
		t.Error("the late write shows")
	}
}

// TestIdleOwnerFindsOut has the heartbeat notice another owner.
func TestIdleOwnerFindsOut(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	st := openStore(t, s.URL(name), quick())
	if err := s.Exec(name, `UPDATE store_meta SET epoch = epoch + 1, owner_id = 'other', owner_name = 'pod-b'`); err != nil {
		t.Fatal(err)
	}
	if err := st.Guard(t.Context()); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("Guard: %v", err)
	}
}

// TestTakenDuringTheCommit cuts a commit off and lets another owner in before the first one is back: what it had
// committed is told as committed although its time is over, and what it had not is not.
func TestTakenDuringTheCommit(t *testing.T) {
	t.Parallel()
	s := server(t)
	for name, committed := range map[string]bool{"committed": true, "not committed": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st, p, database := behind(t, s, patient())
			create(t, st, "before")
			done := p.CutAt("COMMIT\x00", committed)
			p.Point(nil)
			result := make(chan error, 1)
			go func() {
				_, err := st.Write(context.Background(), store.Create(object("the-one")))
				result <- err
			}()
			<-done
			opts := quick()
			opts.LeaseWait = time.Minute
			other := openStore(t, s.URL(database), opts)
			create(t, other, "of the other")
			p.Point(s)
			if err := <-result; (err == nil) != committed || !committed && !errors.Is(err, store.ErrLeaseLost) {
				t.Errorf("the write that was cut off: %v", err)
			}
			if _, err := other.Get("k", "the-one"); (err == nil) != committed {
				t.Errorf("the other owner: %v", err)
			}
			if err := st.Guard(t.Context()); !errors.Is(err, store.ErrLeaseLost) {
				t.Errorf("Guard: %v", err)
			}
		})
	}
}

// TestOwnGhost leaves a session behind that the server still believes in, as after a cut cable: the gateway ends it and
// goes on.
func TestOwnGhost(t *testing.T) {
	t.Parallel()
	s := server(t)
	st, p, _ := behind(t, s, patient())
	create(t, st, "before")
	p.Forsake()
	create(t, st, "after")
}

// TestForeignWriter has somebody change rows behind the store's back: the transactions that this concerns fail, their
// neighbours do not.
func TestForeignWriter(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	st := openStore(t, s.URL(name), quick())
	create(t, st, "one")
	create(t, st, "two")
	if err := s.Exec(name, `UPDATE objects SET resource_version = 7 WHERE id = 'one'`,
		`INSERT INTO objects SELECT 'three', object_type, workspace, 'three', owner, labels, payload, 1, 1, 1, 1 FROM objects WHERE id = 'two'`); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(t.Context(), store.Delete("k", "one", 1)); !errors.Is(err, store.ErrConflict) {
		t.Errorf("changed row: %v", err)
	}
	if _, err := st.Write(t.Context(), store.Create(object("three"))); !errors.Is(err, store.ErrExists) {
		t.Errorf("row that was not there: %v", err)
	}
	if _, err := st.Write(t.Context(), store.Delete("k", "two", 1)); err != nil {
		t.Errorf("neighbour: %v", err)
	}
}

// TestTooLong has a name that no index takes: its transaction fails alone.
func TestTooLong(t *testing.T) {
	t.Parallel()
	s := server(t)
	st := openStore(t, s.URL(s.Database(t)), quick())
	random := rand.New(rand.NewPCG(1, 2))
	noise := make([]byte, 20_000)
	for i := range noise {
		noise[i] = byte('!' + random.IntN(90))
	}
	if _, err := st.Write(t.Context(), store.Create(object(string(noise)))); err == nil || errors.Is(err, store.ErrExists) {
		t.Errorf("a name of 20,000 bytes: %v", err)
	}
	create(t, st, "after")
}
