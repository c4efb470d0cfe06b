package sqlite

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"sallyport.dev/sallyport/internal/store"
)

// TestFull fills a database that may not grow: the write that does not fit fails, leaves no trace, and the store
// works on once there is room.
func TestFull(t *testing.T) {
	t.Parallel()
	url := "sqlite:" + filepath.Join(t.TempDir(), "full.db")
	db, err := Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), db, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	limit := func(pages int) {
		t.Helper()
		if _, err := db.conn.ExecContext(t.Context(), fmt.Sprintf("PRAGMA max_page_count = %d", pages)); err != nil {
			t.Fatal(err)
		}
	}
	create := func(id string, size int) error {
		_, err := s.Write(t.Context(), store.Create(&store.Object{Kind: "k", ID: id, Name: id, Payload: make([]byte, size)}))
		return err
	}
	limit(64)
	if err := create("fits", 100); err != nil {
		t.Fatal(err)
	}
	revision := s.Revision()
	for range 3 {
		if err := create("large", 1<<20); err == nil || !strings.Contains(err.Error(), "full") {
			t.Fatalf("write beyond the limit: %v", err)
		}
	}
	if s.Count("k") != 1 || s.Revision() != revision {
		t.Errorf("failed writes show: %d objects, revision %d", s.Count("k"), s.Revision())
	}
	if err := create("small", 100); err != nil {
		t.Errorf("write after a failed one: %v", err)
	}
	limit(1 << 20)
	if err := create("large", 1<<20); err != nil {
		t.Errorf("write with room again: %v", err)
	}
	stored := 0
	if _, err := db.Load(t.Context(), func(*store.Object) error { stored++; return nil }); err != nil || stored != 3 {
		t.Errorf("%d rows stored, error %v, want 3", stored, err)
	}
}

// TestDurable checks the settings that an answered write relies on.
func TestDurable(t *testing.T) {
	t.Parallel()
	db, err := Open(t.Context(), "sqlite:"+filepath.Join(t.TempDir(), "durable.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}()
	for pragma, want := range map[string]string{
		"journal_mode": "wal",
		"synchronous":  "2",
		"busy_timeout": "5000",
	} {
		var got string
		if err := db.conn.QueryRowContext(t.Context(), "PRAGMA "+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", pragma, got, err, want)
		}
	}
}

// TestSchemaVersion keeps the constant in step with the files.
func TestSchemaVersion(t *testing.T) {
	t.Parallel()
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != schemaVersion || !strings.HasPrefix(files[len(files)-1].Name(), fmt.Sprintf("%05d_", schemaVersion)) {
		t.Errorf("%d migrations, newest %s, schemaVersion %d", len(files), files[len(files)-1].Name(), schemaVersion)
	}
}
