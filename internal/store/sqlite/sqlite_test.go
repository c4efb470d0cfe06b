package sqlite_test

import (
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
	"sallyport.dev/sallyport/internal/store/storetest"
)

func TestMain(m *testing.M) {
	if runWriter() {
		return
	}
	goleak.VerifyTestMain(m)
}

// open returns the database at a URL; it is the caller's to close.
func open(tb testing.TB, url string) *sqlite.DB {
	tb.Helper()
	db, err := sqlite.Open(tb.Context(), url)
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

// openStore returns a store on a database that closes with the test.
func openStore(tb testing.TB, url string) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), open(tb, url), store.Options{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := s.Close(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

func TestSuite(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	storetest.Run(t, func(t *testing.T) store.Backend {
		return open(t, "sqlite://"+filepath.Join(root, filepath.Base(t.Name())+".db"))
	})
}
