package postgres_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
)

// refusal opens a database that must be refused and returns why.
func refusal(t *testing.T, url string, opts postgres.Options) string {
	t.Helper()
	db, err := postgres.Open(t.Context(), url, opts)
	if err == nil {
		t.Error("not refused")
		return db.Close().Error()
	}
	return err.Error()
}

func wantParts(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}

// TestNewerSchema meets what a newer program left: it may go on as long as that says so.
func TestNewerSchema(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	if err := s.Exec(name, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (7, true)`, `ALTER TABLE objects ADD COLUMN more text`); err != nil {
		t.Fatal(err)
	}
	st, err := store.Open(t.Context(), open(t, s.URL(name), quick()), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	create(t, st, "one")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Exec(name, `UPDATE store_meta SET compatible_from = 5`); err != nil {
		t.Fatal(err)
	}
	wantParts(t, refusal(t, s.URL(name), quick()), `"`+name+`"`, "schema version 7", "version 5 or later", "up to 1", "start the newer program", "restore a backup")
}

// TestTablesOfOthers keeps off schemas that are somebody else's.
func TestTablesOfOthers(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	if err := s.Exec(name, `CREATE SCHEMA theirs`, `CREATE TABLE theirs.objects (a int)`,
		`CREATE SCHEMA migrated`, `CREATE TABLE migrated.goose_db_version (id int, version_id bigint, is_applied boolean)`, `INSERT INTO migrated.goose_db_version VALUES (1, 1, true)`); err != nil {
		t.Fatal(err)
	}
	wantParts(t, refusal(t, s.URL(name, "search_path=theirs"), quick()), "table objects of another program", "search_path=SCHEMA")
	wantParts(t, refusal(t, s.URL(name, "search_path=migrated"), quick()), "migrations of another program", "search_path=SCHEMA")
	// Tables of others that are further down the path are none of its business.
	st := openStore(t, s.URL(name, "search_path=ours,theirs,public"), quick())
	create(t, st, "one")
}

// TestPrivileges starts with a role that may do just enough, and with less.
func TestPrivileges(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	name := s.Database(t)
	if err := s.Exec(name, `CREATE ROLE app LOGIN`, `CREATE SCHEMA app`, `GRANT USAGE ON SCHEMA app TO app`); err != nil {
		t.Fatal(err)
	}
	url := s.UserURL("app", name, "search_path=app")
	wantParts(t, refusal(t, url, quick()), "a privilege is missing", "docs/postgresql.md")
	wantParts(t, refusal(t, s.UserURL("app", name, "search_path=other"), quick()), `create the schema "other"`, "a privilege is missing")
	if err := open(t, s.URL(name, "search_path=app"), quick()).Close(); err != nil { // The superuser migrates.
		t.Fatal(err)
	}
	wantParts(t, refusal(t, url, quick()), "a privilege is missing")
	if err := s.Exec(name, `GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA app TO app`); err != nil {
		t.Fatal(err)
	}
	st := openStore(t, url, quick())
	create(t, st, "one")
	if err := st.Ping(t.Context()); err != nil {
		t.Error(err)
	}
	wantParts(t, refusal(t, s.UserURL("app", "no_such_database"), quick()), "does not exist; create it")
}

// TestPassword takes the password from a file, also when it changes, and never tells it.
func TestPassword(t *testing.T) {
	t.Parallel()
	s := ownServer(t)
	name := s.Database(t)
	if err := s.Exec(name, `CREATE ROLE app LOGIN PASSWORD 'hunter2'`, `ALTER DATABASE `+name+` OWNER TO app`, `ALTER SCHEMA public OWNER TO app`); err != nil {
		t.Fatal(err)
	}
	if err := s.RequirePasswords(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "password")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	opts := patient()
	opts.PasswordFile = file
	opts.Logger = logTo(t)
	url := s.UserURL("app", name)
	wantParts(t, refusal(t, url, opts), "read the database password")
	for _, bad := range []string{"", "\n", strings.Repeat("x", 5000)} {
		write(bad)
		wantParts(t, refusal(t, url, opts), file, "write one line")
	}
	write("wrong-hunter3")
	if text := refusal(t, url, opts); strings.Contains(text, "hunter3") || !strings.Contains(text, "check the role, its password") {
		t.Errorf("wrong password: %s", text)
	}
	write("hunter2\n")
	st := openStore(t, url, opts)
	create(t, st, "one")
	// The password changes, and the next connection needs the new one.
	if err := s.Exec(name, `ALTER ROLE app PASSWORD 'hunter4'`); err != nil {
		t.Fatal(err)
	}
	write("hunter4\n")
	if err := s.Exec(name, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'`); err != nil {
		t.Fatal(err)
	}
	create(t, st, "two")
}

// TestBadURLs are refused without telling the password that is in them.
func TestBadURLs(t *testing.T) {
	t.Parallel()
	for _, url := range []string{
		"mysql://u:hunter2@h/d", "postgres://u:hunter2@h:port/d", "postgres://u:hunter2%zz@h/d", "postgres://u:hunter2@h/d?sslmode=hunter",
		"postgres://u:hun@ter2@h:1:2/d", "postgres://u:hunter2@h/d?pool_max_conns=x", "postgres://u:hunter2@h/d?connect_timeout=x",
		"host=h password=hunter2",
	} {
		text := refusal(t, url, quick())
		if strings.Contains(text, "hunter2") || strings.Contains(text, "ter2") || !strings.Contains(text, "database URL") {
			t.Errorf("%s: %s", url, text)
		}
	}
}

// TestUnsuitableServers are refused with what to do.
func TestUnsuitableServers(t *testing.T) {
	t.Parallel()
	s := server(t)
	if err := s.Exec("postgres", `DROP DATABASE IF EXISTS latin`, `DROP DATABASE IF EXISTS empty`, `CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0`, `CREATE DATABASE empty`); err != nil {
		t.Fatal(err)
	}
	wantParts(t, refusal(t, s.URL("latin"), quick()), "encoding LATIN1", "ENCODING 'UTF8'")
	if err := s.Exec("empty", `DROP SCHEMA public`); err != nil {
		t.Fatal(err)
	}
	wantParts(t, refusal(t, s.URL("empty"), quick()), "no schema", "search_path=SCHEMA")
	st := openStore(t, s.URL("empty", "search_path=made"), quick())
	create(t, st, "one")
}

// TestCommitsAreSynced sees to it that a server whose default is to answer before the disk is asked does it for others
// only.
func TestCommitsAreSynced(t *testing.T) {
	t.Parallel()
	s := server(t)
	name := s.Database(t)
	if err := s.Exec("postgres", `ALTER DATABASE `+name+` SET synchronous_commit = off`); err != nil {
		t.Fatal(err)
	}
	st := openStore(t, s.URL(name), quick())
	if err := s.Exec(name, `CREATE TABLE seen (setting text)`,
		`CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (current_setting('synchronous_commit')); RETURN new; END $$`,
		`CREATE TRIGGER see BEFORE INSERT ON objects FOR EACH ROW EXECUTE FUNCTION see()`); err != nil {
		t.Fatal(err)
	}
	create(t, st, "one")
	if err := s.Query(t.Context(), name, `SELECT setting FROM seen`, func(scan func(...any) error) error {
		var setting string
		if err := scan(&setting); err != nil || setting != "on" {
			t.Errorf("synchronous_commit = %s, %v", setting, err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// TestPooler stands behind a real PgBouncer. In transaction mode no session can hold the lock, and the gateway says so;
// in session mode it works.
func TestPooler(t *testing.T) {
	t.Parallel()
	s := server(t)
	for mode, works := range map[string]bool{"transaction": false, "statement": false, "session": true} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			url := pgtest.Pooler(t, s, s.Database(t), mode)
			db, err := postgres.Open(t.Context(), url, quick())
			if works {
				if err != nil {
					t.Fatal(err)
				}
				st, err := store.Open(t.Context(), db, store.Options{})
				if err != nil {
					t.Fatal(err)
				}
				create(t, st, "one")
				if _, err := postgres.Open(t.Context(), url, quick()); !errors.Is(err, store.ErrLeaseLost) {
					t.Errorf("second owner: %v", err)
				}
				if err := st.Close(); err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil {
				t.Fatal(db.Close(), "not refused")
			}
			wantParts(t, err.Error(), "connect to the server itself, or to a pool in session mode")
		})
	}
}
