package tokencache_test

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/authn/tokencache"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestEntryEndsWithItsTokenAndItsKeys(t *testing.T) {
	t.Parallel()
	c := tokencache.New[string](100)
	mortal, eternal := tokencache.KeyOf("mortal"), tokencache.KeyOf("eternal")
	c.Put(mortal, 1, "m", start.Add(time.Minute))
	c.Put(eternal, 1, "e", time.Time{})
	for _, tc := range []struct {
		name       string
		key        tokencache.Key
		generation uint64
		at         time.Duration
		want       bool
	}{
		{"fresh", mortal, 1, 0, true},
		{"just before the end", mortal, 1, time.Minute - 1, true},
		{"at the end", mortal, 1, time.Minute, false},
		{"other keys", mortal, 2, 0, false},
		{"without end", eternal, 1, 1e6 * time.Hour, true},
		{"never seen", tokencache.KeyOf("other"), 1, 0, false},
	} {
		if _, _, ok := c.Get(tc.key, tc.generation, start.Add(tc.at)); ok != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, ok, tc.want)
		}
	}
	c.Clear()
	if c.Len() != 0 {
		t.Errorf("%d entries after Clear", c.Len())
	}
}

func TestSizeIsBounded(t *testing.T) {
	t.Parallel()
	const capacity = 320
	c := tokencache.New[int](capacity)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 5_000 {
				c.Put(tokencache.KeyOf(strconv.Itoa(g*5_000+i)), 1, i, start.Add(time.Hour))
				if n := c.Len(); n > capacity {
					t.Errorf("%d entries, want at most %d", n, capacity)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := c.Len(); n != capacity {
		t.Errorf("%d entries, want it full with %d", n, capacity)
	}
}

func BenchmarkHit(b *testing.B) {
	c := tokencache.New[int](20_000)
	token := string(make([]byte, 1_000))
	c.Put(tokencache.KeyOf(token), 1, 7, time.Time{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, _, ok := c.Get(tokencache.KeyOf(token), 1, start); !ok {
				b.Error("missed")
				return
			}
		}
	})
}
