package postgres_test

import (
	"sync"
	"testing"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/postgres"
	"sallyport.dev/sallyport/internal/store/storetest"
)

// BenchmarkSuite runs on a server that syncs each commit to disk, as servers do.
func BenchmarkSuite(b *testing.B) {
	s := ownServer(b, "fsync=on", "shared_buffers=128MB")
	var mu sync.Mutex
	databases := map[string]string{}
	storetest.Bench(b, func(b *testing.B, name string) store.Backend {
		b.Helper()
		mu.Lock()
		defer mu.Unlock()
		if databases[name] == "" {
			databases[name] = s.Database(b)
		}
		return open(b, s.URL(databases[name]), postgres.Options{LeaseWait: -1})
	})
}
