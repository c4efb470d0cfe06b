package sqlite_test

import (
	"context"
	"database/sql"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

func writeOne(tb testing.TB, s *store.Store, id string) {
	tb.Helper()
	if _, err := s.Write(tb.Context(), store.Create(&store.Object{Kind: "k", ID: id, Name: id})); err != nil {
		tb.Fatal(err)
	}
}

// execSQL runs a statement on a database file, past the store.
func execSQL(tb testing.TB, path, statement string) {
	tb.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		tb.Fatal(err)
	}
	_, err = db.ExecContext(tb.Context(), statement)
	if cerr := db.Close(); err != nil || cerr != nil {
		tb.Fatal(err, cerr)
	}
}

func TestFilesAreOwnersOnly(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "mode.db")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	writeOne(t, openStore(t, "sqlite:"+path), "one")
	for _, suffix := range []string{"", "-wal", "-shm", ".lock"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if mode := info.Mode().Perm(); mode != 0o600 {
			t.Errorf("%s has mode %v, want 0600", info.Name(), mode)
		}
	}
}

func TestOddPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a b#c%d")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	url := "sqlite://" + strings.NewReplacer("%", "%25", "#", "%23").Replace(dir) + "/x%3Fy.db"
	writeOne(t, openStore(t, url), "one")
	if _, err := os.Stat(filepath.Join(dir, "x?y.db")); err != nil {
		t.Error(err)
	}
}

func TestMemoryKeepsOneDataSet(t *testing.T) {
	t.Parallel()
	a, b := openStore(t, "sqlite::memory:"), openStore(t, "sqlite::memory:?cache=shared")
	writeOne(t, a, "one")
	writeOne(t, b, "one")
	if err := a.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }

	newer := path("newer.db")
	if err := open(t, "sqlite:"+newer).Close(); err != nil {
		t.Fatal(err)
	}
	execSQL(t, newer, `INSERT INTO goose_db_version (version_id, is_applied) VALUES (7, 1)`)
	foreign := path("foreign.db")
	execSQL(t, foreign, `CREATE TABLE objects (id TEXT PRIMARY KEY)`)
	garbage := path("garbage.db")
	if err := os.WriteFile(garbage, []byte(strings.Repeat("no database ", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	for url, want := range map[string][]string{
		"postgres://db":                  {"unsupported database URL scheme"},
		"sqlite:" + newer:                {newer, "version 7", "up to 1", "start the newer program"},
		"sqlite:" + foreign:              {foreign, "another program"},
		"sqlite:" + garbage:              {garbage, "not a database"},
		"sqlite:" + path("x/y.db"):       {path("x/y.db"), "directory does not exist"},
		"sqlite:" + path("z?mode=rw"):    {path("z"), "no such file"},
		"sqlite:" + dir + "/?mode=rwc":   {dir},
		"sqlite:" + newer + "?mode=junk": {"mode=junk"},
	} {
		db, err := sqlite.Open(t.Context(), url)
		if err == nil {
			t.Errorf("%s was opened: %v", url, db.Close())
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", url, err, w)
			}
		}
	}
	if _, err := os.Stat(path("z")); !os.IsNotExist(err) {
		t.Errorf("mode=rw created the file: %v", err)
	}
}

func TestSecondProcessIsKeptOut(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "busy.db")
	first := openStore(t, "sqlite:"+path)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := sqlite.Open(ctx, "sqlite:"+path)
	if err == nil || !strings.Contains(err.Error(), "another process has it open") {
		t.Fatalf("second open: %v", err)
	}
	// Whoever waits gets in when the first one leaves.
	opened := make(chan error, 1)
	go func() {
		db, err := sqlite.Open(t.Context(), "sqlite:"+path)
		if err == nil {
			err = db.Close()
		}
		opened <- err
	}()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// TestReopenWritesNothing keeps the start on an up-to-date database free of writes and syncs.
func TestReopenWritesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "same.db")
	s := openStore(t, "sqlite:"+path)
	writeOne(t, s, "one")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	again := openStore(t, "sqlite:"+path)
	if info, err := os.Stat(path + "-wal"); err == nil && info.Size() > 0 {
		t.Errorf("opening wrote %d bytes of log", info.Size())
	} else if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Error("opening and closing changed the file")
	}
	if _, err := os.Stat(path + "-wal"); !os.IsNotExist(err) {
		t.Errorf("a log is left after Close: %v", err)
	}
}
