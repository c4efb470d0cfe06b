package postgres_test

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
	"sallyport.dev/sallyport/internal/store/storetest"
)

// shared is the server of all tests that do no harm to it, nil with startErr where there is none.
var (
	shared   *pgtest.Server
	startErr error
)

func TestMain(m *testing.M) {
	if runWriter() {
		return
	}
	if shared, startErr = pgtest.Start(); startErr == nil {
		startErr = shared.Prepare(func(url string) error {
			db, err := postgres.Open(context.Background(), url, postgres.Options{})
			if err != nil {
				return err
			}
			return db.Close()
		})
	}
	code := m.Run()
	if shared != nil {
		if err := shared.Stop(); err != nil {
			println("stop PostgreSQL:", err.Error())
			code = 1
		}
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			println(err.Error())
			code = 1
		}
	}
	os.Exit(code)
}

// server returns the shared server.
func server(tb testing.TB) *pgtest.Server {
	tb.Helper()
	pgtest.Require(tb, shared, startErr)
	return shared
}

// ownServer starts a server that one test may harm.
func ownServer(tb testing.TB, options ...string) *pgtest.Server {
	tb.Helper()
	s, err := pgtest.Start(options...)
	pgtest.Require(tb, s, err)
	tb.Cleanup(func() {
		if err := s.Stop(); err != nil {
			tb.Error(err)
		}
	})
	return s
}

// quick are options with which tests need not wait.
func quick() postgres.Options {
	return postgres.Options{Name: "test", LeaseWait: -1, Heartbeat: 50 * time.Millisecond}
}

// open returns a database that is the caller's to close.
func open(tb testing.TB, url string, opts postgres.Options) *postgres.DB {
	tb.Helper()
	db, err := postgres.Open(tb.Context(), url, opts)
	if err != nil {
		tb.Fatal(err)
	}
	return db
}

// openStore returns a store on a database that closes with the test.
func openStore(tb testing.TB, url string, opts postgres.Options) *store.Store {
	tb.Helper()
	s, err := store.Open(tb.Context(), open(tb, url, opts), store.Options{Logger: opts.Logger})
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

// logTo returns a logger into the test's log.
func logTo(tb testing.TB) *slog.Logger { return slog.New(slog.NewTextHandler(tb.Output(), nil)) }

func TestSuite(t *testing.T) {
	t.Parallel()
	s := server(t)
	var mu sync.Mutex
	databases := map[string]string{}
	storetest.Run(t, func(t *testing.T) store.Backend {
		mu.Lock()
		name, ok := databases[t.Name()]
		if !ok {
			name = s.Database(t)
			databases[t.Name()] = name
		}
		mu.Unlock()
		return open(t, s.URL(name), postgres.Options{LeaseWait: -1})
	})
}

// object is a small one with a name.
func object(id string) *store.Object {
	return &store.Object{Kind: "k", ID: id, Workspace: "w", Name: id, Payload: []byte(filepath.Base(id))}
}
