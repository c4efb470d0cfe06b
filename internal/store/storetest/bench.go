package storetest

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/store"
)

// BenchKind is the kind of the objects of Bench.
const BenchKind store.Kind = "sandbox"

// Bench measures what depends on the backend, and what must not. Calls of open with the same name open the same, at
// first empty, database again.
func Bench(b *testing.B, open func(b *testing.B, name string) store.Backend) {
	b.Helper()
	b.Run("create", func(b *testing.B) { benchCreate(b, open) })
	for _, n := range []int{10_000, 100_000} {
		b.Run(fmt.Sprintf("open=%d", n), func(b *testing.B) { benchOpen(b, n, open) })
	}
	// What follows reads from memory, and writes from time to time.
	s := benchStore(b, open(b, "stored"))
	b.Cleanup(func() {
		if err := s.Close(); err != nil {
			b.Error(err)
		}
	})
	benchFill(b, s, 10_000)
	b.Run("list-100-of-10000", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if got := s.List(BenchKind, store.Query{Workspace: "default", Offset: i * 100 % 10_000, Limit: 100}); len(got) != 100 {
				b.Fatal(len(got))
			}
		}
	})
	b.Run("list-all-10000", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if got := s.List(BenchKind, store.Query{AllWorkspaces: true}); len(got) < 10_000 {
				b.Fatal(len(got))
			}
		}
	})
	for _, watchers := range []int{1, 100} {
		b.Run(fmt.Sprintf("watch-of-10000-by-%d", watchers), func(b *testing.B) { benchWatch(b, s, watchers) })
	}
}

func benchStore(b *testing.B, backend store.Backend) *store.Store {
	b.Helper()
	s, err := store.Open(b.Context(), backend, store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// benchObject is about as large as a stored sandbox.
func benchObject(i int) *store.Object {
	return &store.Object{
		Kind: BenchKind, ID: uuid.NewString(), Workspace: "default", Name: "sandbox-" + strconv.Itoa(i),
		Owner: "issuer|subject", Labels: map[string]string{"team": "blue"}, Payload: make([]byte, 600),
	}
}

func benchFill(b *testing.B, s *store.Store, n int) {
	b.Helper()
	for s.Count(BenchKind) < n {
		var ops []store.Op
		for i := range min(store.MaxOps, n-s.Count(BenchKind)) {
			ops = append(ops, store.Create(benchObject(s.Count(BenchKind)+i)))
		}
		if _, err := s.Write(b.Context(), ops...); err != nil {
			b.Fatal(err)
		}
	}
}

// benchCreate has 16 writers create one object a transaction, each waiting for the disk, beside 10,000 others.
func benchCreate(b *testing.B, open func(*testing.B, string) store.Backend) {
	s := benchStore(b, open(b, "create"))
	defer s.Close()
	benchFill(b, s, 10_000)
	var next atomic.Int64
	next.Store(int64(s.Count(BenchKind)))
	last := next.Load() + int64(b.N)
	var writers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	for range 16 {
		writers.Go(func() {
			for i := next.Add(1); i <= last; i = next.Add(1) {
				if _, err := s.Write(b.Context(), store.Create(benchObject(int(i)))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	writers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
}

// benchOpen measures a start with n objects, and the memory that they take.
func benchOpen(b *testing.B, n int, open func(*testing.B, string) store.Backend) {
	name := "open" + strconv.Itoa(n)
	filled := benchStore(b, open(b, name))
	benchFill(b, filled, n)
	if err := filled.Close(); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	before := heap()
	for b.Loop() {
		s := benchStore(b, open(b, name))
		b.StopTimer()
		if s.Count(BenchKind) != n {
			b.Fatal(s.Count(BenchKind))
		}
		b.ReportMetric((heap()-before)/(1<<20), "heap-MiB")
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// heap returns the bytes in use after a collection.
func heap() float64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// benchWatch measures from the call of a write until every watcher has seen it.
func benchWatch(b *testing.B, s *store.Store, watchers int) {
	o := s.List(BenchKind, store.Query{AllWorkspaces: true, Limit: 1})[0]
	var seen, running sync.WaitGroup
	all := make([]*store.Watcher, watchers)
	for i := range all {
		w := s.Watch(s.Revision())
		all[i] = w
		running.Go(func() {
			for {
				if _, err := w.Next(b.Context()); err != nil {
					return
				}
				seen.Done()
			}
		})
	}
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		seen.Add(watchers)
		if _, err := s.Update(b.Context(), BenchKind, o.ID, func(*store.Object) error { return nil }); err != nil {
			b.Fatal(err)
		}
		seen.Wait()
	}
	b.StopTimer()
	for _, w := range all {
		w.Close()
	}
	running.Wait()
}
