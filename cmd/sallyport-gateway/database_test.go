package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
	"sallyport.dev/sallyport/internal/store/sqlite"
)

// fillDatabase makes an SQLite file with objects of two kinds, some of them changed and deleted.
func fillDatabase(t *testing.T, url string) {
	t.Helper()
	db, err := sqlite.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		kind := store.Kind([]string{"sandbox", "provider"}[i%2])
		o := &store.Object{Kind: kind, ID: fmt.Sprint(i), Workspace: "w", Name: fmt.Sprint("n", i), Owner: "o", Payload: []byte{0, 1, 255, byte(i)}}
		if i%3 == 0 {
			o.Labels = map[string]string{"a": fmt.Sprint(i), "<&>": "\u2028\"\\"}
		}
		if _, err := s.Write(t.Context(), store.Create(o)); err != nil {
			t.Fatal(err)
		}
		if i%5 == 0 {
			if _, err := s.Update(t.Context(), kind, o.ID, func(o *store.Object) error { o.Payload = nil; return nil }); err != nil {
				t.Fatal(err)
			}
		}
		if i%50 == 49 {
			if _, err := s.Write(t.Context(), store.Delete(kind, o.ID, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestDatabaseCopy moves a store to PostgreSQL and back.
func TestDatabaseCopy(t *testing.T) {
	t.Parallel()
	server, err := pgtest.Start()
	pgtest.Require(t, server, err)
	t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	origin, back := "sqlite:"+filepath.Join(dir, "origin.db"), "sqlite://"+filepath.Join(dir, "back.db")
	fillDatabase(t, origin)
	pg := server.URL(server.Database(t), "search_path=tenant")
	want := "provider             240\nsandbox              250\n490 objects at revision 610 copied and compared\n"
	for _, way := range [][2]string{{origin, pg}, {pg, back}, {origin, server.URL(server.Database(t))}} {
		code, out, errs := call(t, nil, "database", "copy", "--from", way[0], "--to", way[1])
		if code != 0 || !strings.HasPrefix(out, want) || errs != "" {
			t.Errorf("%s to %s: %d\n%s%s", way[0], way[1], code, out, errs)
		}
	}
	for name, tc := range map[string]struct {
		from, to string
		want     string
	}{
		"target is not empty":    {origin, pg, "the target is not empty: it has 490 objects and is at revision 610"},
		"target file is not":     {origin, back, "the target is not empty"},
		"source is not there":    {"sqlite:" + filepath.Join(dir, "absent.db"), "sqlite::memory:", "the source: "},
		"target cannot be had":   {origin, server.URL("absent"), "the target: "},
		"scheme":                 {"mysql://u:hunter2@h/d", pg, "unsupported database URL scheme"},
		"source and target same": {pg, pg, "database copy"},
	} {
		if code, out, errs := call(t, nil, "database", "copy", "--from", tc.from, "--to", tc.to); code != 1 || out != "" || !strings.Contains(errs, tc.want) || strings.Contains(errs, "hunter2") {
			t.Errorf("%s: %d %q %q", name, code, out, errs)
		}
	}
	// A gateway works on it.
	db, err := postgres.Open(t.Context(), pg, postgres.Options{Name: "pod-a"})
	if err != nil {
		t.Fatal(err)
	}
	if code, _, errs := call(t, nil, "database", "copy", "--from", pg, "--to", "sqlite::memory:"); code != 1 || !strings.Contains(errs, `the gateway "pod-a"`) {
		t.Errorf("of a database in use: %d %s", code, errs)
	}
	env := map[string]string{"HOME": "/nonexistent", "OPENSHELL_DB_URL": pg}
	code, out, errs := call(t, env, "database", "check")
	for _, part := range []string{
		"schema      tenant\n", "server      PostgreSQL ", "version     1, up to date\n", `owner       the gateway "pod-a"`,
		"holds       490 objects, revision 610\n", "problem     the server has fsync = off",
	} {
		if code != 1 || !strings.Contains(out, part) {
			t.Errorf("check: %d, %q is not in\n%s%s", code, part, out, errs)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	code, out, _ = call(t, nil, "database", "check", "--db-url", server.URL(server.Database(t)))
	if code != 1 || !strings.Contains(out, "no tables yet") || !strings.Contains(out, "owner       nobody") {
		t.Errorf("check of an empty one: %d\n%s", code, out)
	}
}

func TestDatabaseUsage(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--help"}, {"copy", "--help"}, {"check", "--help"}} {
		if code, out, _ := call(t, nil, append([]string{"database"}, args...)...); code != 0 || !strings.Contains(out, "database copy --from URL") {
			t.Errorf("%q: %d %q", args, code, out)
		}
	}
	for _, args := range [][]string{{}, {"move"}, {"copy"}, {"copy", "--from", "sqlite:/x"}, {"copy", "--from", "a", "--to", "b", "c"}, {"copy", "--form", "a"}, {"check", "--db-url", "sqlite:/x"}, {"check", "--no-such-flag"}} {
		if code, _, errs := call(t, nil, append([]string{"database"}, args...)...); code != exitUsage || errs == "" {
			t.Errorf("%q: %d %q", args, code, errs)
		}
	}
	if code, _, errs := call(t, nil, "database", "check", "--db-url", "postgres://u:hunter2@127.0.0.1:1/d?connect_timeout=1"); code != 1 || strings.Contains(errs, "hunter2") || !strings.Contains(errs, "cannot be reached") {
		t.Errorf("no server: %d %s", code, errs)
	}
}
