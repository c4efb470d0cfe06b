package postgres_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
)

// TestTimeLimits has another client lock the table: the write fails at the server's or at the gateway's own limit,
// nothing of it is kept, and the next one succeeds.
func TestTimeLimits(t *testing.T) {
	t.Parallel()
	s := server(t)
	for name, tc := range map[string]struct {
		parameters []string
		timeout    time.Duration
	}{
		"statement_timeout": {[]string{"statement_timeout=100"}, time.Minute},
		"lock_timeout":      {[]string{"lock_timeout=100"}, time.Minute},
		"commit timeout":    {nil, 300 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			database := s.Database(t)
			opts := quick()
			opts.CommitTimeout = tc.timeout
			st := openStore(t, s.URL(database, tc.parameters...), opts)
			create(t, st, "before")
			conn, err := pgx.Connect(t.Context(), s.URL(database))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			tx, err := conn.Begin(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tx.Exec(t.Context(), `LOCK TABLE objects IN ACCESS EXCLUSIVE MODE`); err != nil {
				t.Fatal(err)
			}
			_, err = st.Write(t.Context(), store.Create(object("late")))
			if !errors.Is(err, store.ErrOverloaded) && !errors.Is(err, store.ErrUnreachable) {
				t.Errorf("write: %v", err)
			}
			if err := tx.Rollback(t.Context()); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() bool {
				_, err := st.Write(t.Context(), store.Create(object("after")))
				return err == nil
			})
			if rows := stored(t, s, database); len(rows) != 2 || rows["late"] != 0 {
				t.Errorf("stored %v", rows)
			}
			same(t, st, s, database)
		})
	}
}

// TestNoConnectionToSpare fills the server's connections: a gateway that starts says why it cannot, one that runs goes on
// to write, and is ready again when there is room.
func TestNoConnectionToSpare(t *testing.T) {
	t.Parallel()
	s := ownServer(t, "max_connections=8", "superuser_reserved_connections=3", "max_wal_senders=0")
	name := s.Database(t)
	if err := s.Exec("postgres", `CREATE ROLE app LOGIN`, `ALTER DATABASE `+name+` OWNER TO app`); err != nil {
		t.Fatal(err)
	}
	url := s.UserURL("app", name)
	st := openStore(t, url, quick())
	var others []*pgx.Conn
	for {
		conn, err := pgx.Connect(t.Context(), url)
		if err != nil {
			break
		}
		others = append(others, conn)
	}
	if _, err := postgres.Open(t.Context(), url, quick()); !errors.Is(err, store.ErrOverloaded) || !strings.Contains(err.Error(), "max_connections") {
		t.Errorf("another gateway: %v", err)
	}
	create(t, st, "one")
	// One connection may have been open already.
	if err := st.Ping(t.Context()); err != nil && !errors.Is(err, store.ErrOverloaded) {
		t.Errorf("Ping: %v", err)
	}
	for _, conn := range others {
		if err := conn.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
	eventually(t, func() bool { return st.Ping(t.Context()) == nil })
	m, ok := st.Measure()
	if !ok || m.Connections < 1 || m.MaxConnections != 3 {
		t.Errorf("measured %+v", m)
	}
}

// TestDiskFull has the server answer as it does when its disk is full.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	st := openStore(t, s.URL(name), quick())
	create(t, st, "before")
	if err := s.Exec(name, `CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
		$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$`,
		`CREATE TRIGGER full_disk BEFORE INSERT ON objects FOR EACH ROW WHEN (length(new.payload) > 1000) EXECUTE FUNCTION full_disk()`); err != nil {
		t.Fatal(err)
	}
	large := object("large")
	large.Payload = make([]byte, 2000)
	for range 3 {
		if _, err := st.Write(t.Context(), store.Create(large)); !errors.Is(err, store.ErrFull) {
			t.Errorf("write: %v", err)
		}
	}
	create(t, st, "small")
	if err := s.Exec(name, `DROP TRIGGER full_disk ON objects`); err != nil {
		t.Fatal(err)
	}
	if _, err := st.Write(t.Context(), store.Create(large)); err != nil {
		t.Errorf("with room again: %v", err)
	}
	same(t, st, s, name)
}
