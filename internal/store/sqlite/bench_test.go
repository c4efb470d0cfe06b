package sqlite_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"sallyport.dev/sallyport/internal/store"
	"sallyport.dev/sallyport/internal/store/sqlite"
	"sallyport.dev/sallyport/internal/store/storetest"
)

const benchKind store.Kind = "sandbox"

// benchObject is about as large as a stored sandbox.
func benchObject(i int) *store.Object {
	return &store.Object{
		Kind: benchKind, ID: uuid.NewString(), Workspace: "default", Name: "sandbox-" + strconv.Itoa(i),
		Owner: "issuer|subject", Labels: map[string]string{"team": "blue"}, Payload: make([]byte, 600),
	}
}

// fill creates n objects and returns them.
func fill(b *testing.B, s *store.Store, n int) []*store.Object {
	b.Helper()
	var all []*store.Object
	for len(all) < n {
		var ops []store.Op
		for i := range min(store.MaxOps, n-len(all)) {
			ops = append(ops, store.Create(benchObject(len(all)+i)))
		}
		made, err := s.Write(b.Context(), ops...)
		if err != nil {
			b.Fatal(err)
		}
		all = append(all, made...)
	}
	return all
}

// cpu returns the processor time that this process used.
func cpu(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func BenchmarkGet(b *testing.B) {
	s := openStore(b, "sqlite::memory:")
	all := fill(b, s, 10_000)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := s.Get(benchKind, all[i%len(all)].ID); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkByName(b *testing.B) {
	s := openStore(b, "sqlite::memory:")
	all := fill(b, s, 10_000)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			if _, err := s.ByName(benchKind, "default", all[i%len(all)].Name); err != nil {
				b.Error(err)
			}
		}
	})
}

func BenchmarkList100(b *testing.B) {
	for _, n := range []int{100, 10_000, 100_000} {
		b.Run(fmt.Sprintf("of=%d", n), func(b *testing.B) {
			s := openStore(b, "sqlite::memory:")
			fill(b, s, n)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				q := store.Query{Workspace: "default", Offset: i * 100 % n, Limit: 100}
				if got := s.List(benchKind, q); len(got) != 100 {
					b.Fatal(len(got))
				}
			}
		})
	}
}

// BenchmarkCreate has 16 writers create one object a transaction, each waiting for its sync to disk.
func BenchmarkCreate(b *testing.B) {
	for _, stored := range []int{0, 10_000, 100_000} {
		b.Run(fmt.Sprintf("stored=%d", stored), func(b *testing.B) {
			benchmarkCreate(b, stored)
		})
	}
}

func benchmarkCreate(b *testing.B, stored int) {
	s := openStore(b, "sqlite:"+filepath.Join(b.TempDir(), "bench.db"))
	fill(b, s, stored)
	var next atomic.Int64
	var writers sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	start := cpu(b)
	for range 16 {
		writers.Go(func() {
			for {
				i := int(next.Add(1))
				if i > b.N {
					return
				}
				if _, err := s.Write(b.Context(), store.Create(benchObject(stored+i))); err != nil {
					b.Error(err)
				}
			}
		})
	}
	writers.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "creates/s")
	b.ReportMetric(float64((cpu(b)-start).Microseconds())/float64(b.N), "cpu-us/op")
}

func BenchmarkOpen(b *testing.B) {
	for _, n := range []int{0, 10_000, 100_000} {
		b.Run(fmt.Sprintf("stored=%d", n), func(b *testing.B) {
			url := "sqlite:" + filepath.Join(b.TempDir(), "bench.db")
			s := openStore(b, url)
			fill(b, s, n)
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				db, err := sqlite.Open(b.Context(), url)
				if err != nil {
					b.Fatal(err)
				}
				s, err := store.Open(b.Context(), db, store.Options{})
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				if s.Count(benchKind) != n {
					b.Fatal(s.Count(benchKind))
				}
				if err := s.Close(); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
	}
}

// BenchmarkSuite is what every backend is measured with.
func BenchmarkSuite(b *testing.B) {
	root := b.TempDir()
	storetest.Bench(b, func(b *testing.B, name string) store.Backend {
		b.Helper()
		return open(b, "sqlite:"+filepath.Join(root, name+".db"))
	})
}
