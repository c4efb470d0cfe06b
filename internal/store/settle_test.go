package store_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/store"
)

// remote is a disk whose commits can be cut off and which can be lost for good.
type remote struct {
	disk
	// settle answers Settle.
	settle func(revision uint64) ([]error, error)
	lost   chan struct{}
	asked  []uint64
}

func (r *remote) Settle(_ context.Context, revision uint64) ([]error, error) {
	r.mu.Lock()
	r.asked = append(r.asked, revision)
	r.mu.Unlock()
	return r.settle(revision)
}

func (r *remote) Lost() <-chan struct{} { return r.lost }

func (r *remote) Err() error { return store.ErrLeaseLost }

func openRemote(t *testing.T, b store.Backend) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), b, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// TestUnsettled leaves a batch's outcome open: its callers hear so, writers are refused until it is known, and then all
// see what was committed, whether somebody writes or not.
func TestUnsettled(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		results []error
		shown   int
	}{
		"committed":                  {[]error{nil, nil}, 2},
		"committed but for one":      {[]error{nil, store.ErrExists}, 1},
		"not committed":              {nil, 0},
		"answer of the wrong length": {[]error{nil}, 0},
	} {
		for _, writes := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, writing %v", name, writes), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) { testUnsettled(t, tc.results, tc.shown, writes) })
			})
		}
	}
}

func testUnsettled(t *testing.T, results []error, shown int, writes bool) {
	var known atomic.Bool
	r := &remote{settle: func(uint64) ([]error, error) {
		if !known.Load() {
			return nil, store.ErrUnreachable
		}
		return results, nil
	}}
	s := openRemote(t, r)
	gate := make(chan error)
	r.set(func() error { return <-gate })
	answers := make(chan error, 3)
	write := func(name string) {
		go func() {
			_, err := s.Write(t.Context(), store.Create(named(name)))
			answers <- err
		}()
		synctest.Wait()
	}
	// Two share a batch behind another one.
	write("first")
	write("a")
	write("b")
	gate <- errDisk
	if err := <-answers; !errors.Is(err, errDisk) {
		t.Fatal(err)
	}
	synctest.Wait()
	gate <- fmt.Errorf("cut: %w", store.ErrUnsettled)
	for range 2 {
		if err := <-answers; !errors.Is(err, store.ErrUnsettled) {
			t.Errorf("write that was cut off: %v", err)
		}
	}
	r.set(nil)
	if _, err := s.Write(t.Context(), store.Create(named("meanwhile"))); !errors.Is(err, store.ErrUnreachable) {
		t.Errorf("write meanwhile: %v", err)
	}
	if s.Count("k") != 0 {
		t.Error("something shows before it is known")
	}
	known.Store(true)
	wrong := results != nil && len(results) != 2
	if writes {
		if _, err := s.Write(t.Context(), store.Create(named("after"))); (err == nil) == wrong {
			t.Errorf("write afterwards: %v", err)
		}
		if !wrong {
			shown++
		}
	} else {
		time.Sleep(2 * time.Second)
		synctest.Wait()
	}
	if s.Count("k") != shown {
		t.Errorf("%d objects show, want %d", s.Count("k"), shown)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, revision := range r.asked {
		if revision != r.asked[0] {
			t.Errorf("asked about revisions %v", r.asked)
		}
	}
}

// TestUnsettledForGood has a backend leave outcomes open that it cannot tell: nobody writes any more.
func TestUnsettledForGood(t *testing.T) {
	t.Parallel()
	d := &disk{}
	s := open(t, d, store.Options{})
	d.set(func() error { return store.ErrUnsettled })
	for range 2 {
		if _, err := s.Write(t.Context(), store.Create(named("one"))); !errors.Is(err, store.ErrUnsettled) {
			t.Errorf("write: %v", err)
		}
		d.set(nil)
	}
}

func TestGuard(t *testing.T) {
	t.Parallel()
	r := &remote{lost: make(chan struct{})}
	s := openRemote(t, r)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Guard(ctx); err != nil {
		t.Errorf("Guard with a context that ended: %v", err)
	}
	close(r.lost)
	if err := s.Guard(t.Context()); !errors.Is(err, store.ErrLeaseLost) {
		t.Errorf("Guard: %v", err)
	}
	if err := open(t, &disk{}, store.Options{}).Guard(ctx); err != nil {
		t.Errorf("Guard of a backend that cannot be lost: %v", err)
	}
}
