package store_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDisk = errors.New("disk full")

// disk is a backend that stores nothing and commits when it is told to.
type disk struct {
	mu      sync.Mutex
	batches []int        // transactions of each commit
	commit  func() error // runs inside each commit
	refuse  error        // the result of each transaction
	load    error
	closed  bool
}

func (d *disk) Load(context.Context, func(*store.Object) error) (uint64, error) { return 0, d.load }

func (d *disk) Apply(_ context.Context, _ uint64, batch []store.Tx) ([]error, error) {
	d.mu.Lock()
	commit, refuse := d.commit, d.refuse
	d.batches = append(d.batches, len(batch))
	d.mu.Unlock()
	if commit != nil {
		if err := commit(); err != nil {
			return nil, err
		}
	}
	results := make([]error, len(batch))
	for i := range results {
		results[i] = refuse
	}
	return results, nil
}

func (d *disk) Ping(context.Context) error { return d.load }

func (d *disk) Close() error {
	d.closed = true
	return nil
}

func (d *disk) set(commit func() error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.commit = commit
}

func open(t *testing.T, d *disk, opts store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), d, opts)
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

func named(name string) *store.Object {
	return &store.Object{Kind: "k", ID: "id-" + name, Name: name}
}

// TestGroupCommit holds one commit back: all that comes meanwhile shares the next one.
func TestGroupCommit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		s := open(t, d, store.Options{})
		gate := make(chan struct{})
		d.set(func() error { <-gate; return nil })
		var writers sync.WaitGroup
		write := func(o *store.Object) {
			writers.Go(func() {
				if _, err := s.Write(t.Context(), store.Create(o)); err != nil {
					t.Error(err)
				}
			})
		}
		write(named("first"))
		synctest.Wait()
		for i := range 100 {
			write(named(fmt.Sprint(i)))
		}
		synctest.Wait()
		if s.Count("k") != 0 {
			t.Error("readers see what is not durable")
		}
		close(gate)
		writers.Wait()
		if fmt.Sprint(d.batches) != "[1 100]" {
			t.Errorf("commits of %v transactions, want 1 and 100", d.batches)
		}
		if s.Count("k") != 101 {
			t.Errorf("Count = %d", s.Count("k"))
		}
	})
}

// TestSameNameWaits has many writers ask for one name while a commit is under way: the second one is answered
// only after the first one's outcome is known, in particular when that was a failure.
func TestSameNameWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		s := open(t, d, store.Options{})
		gate := make(chan error)
		d.set(func() error { return <-gate })
		results := make(chan error, 3)
		write := func(o *store.Object) {
			go func() {
				_, err := s.Write(t.Context(), store.Create(o))
				results <- err
			}()
			synctest.Wait()
		}
		write(named("busy"))
		for i := range 2 {
			o := named("same")
			o.ID = fmt.Sprint(i)
			write(o)
		}
		gate <- nil
		if err := <-results; err != nil {
			t.Error(err)
		}
		gate <- errDisk // takes the first "same"
		if err := <-results; !errors.Is(err, errDisk) {
			t.Errorf("first create: %v, want %v", err, errDisk)
		}
		gate <- nil
		if err := <-results; err != nil {
			t.Errorf("second create: %v", err)
		}
		if o, err := s.ByName("k", "", "same"); err != nil || o.ID != "1" {
			t.Errorf("name belongs to %v, %v", o, err)
		}
		if fmt.Sprint(d.batches) != "[1 1 1]" {
			t.Errorf("commits of %v transactions", d.batches)
		}
	})
}

// TestFailedCommit checks that every waiter hears of it, that nothing shows, and that the store goes on.
func TestFailedCommit(t *testing.T) {
	t.Parallel()
	d := &disk{}
	s := open(t, d, store.Options{})
	watcher := s.Watch(0)
	defer watcher.Close()
	d.set(func() error { return errDisk })
	var writers sync.WaitGroup
	for i := range 20 {
		writers.Go(func() {
			if _, err := s.Write(t.Context(), store.Create(named(fmt.Sprint(i)))); !errors.Is(err, errDisk) {
				t.Errorf("error %v, want %v", err, errDisk)
			}
		})
	}
	writers.Wait()
	if s.Count("k") != 0 || s.Revision() != 0 || len(s.List("k", store.Query{AllWorkspaces: true})) != 0 {
		t.Error("a failed commit shows")
	}
	d.set(nil)
	made, err := s.Write(t.Context(), store.Create(named("after")))
	if err != nil {
		t.Fatal(err)
	}
	if made[0].Revision <= 20 {
		t.Errorf("revision %d was given out before", made[0].Revision)
	}
	if c, err := watcher.Next(t.Context()); err != nil || c.Object != made[0] {
		t.Errorf("watcher saw %+v, %v", c, err)
	}
}

// TestForeignWriter has the database refuse what memory allows: the caller hears it, and so does the operator.
func TestForeignWriter(t *testing.T) {
	t.Parallel()
	d := &disk{refuse: store.ErrConflict}
	var log strings.Builder
	s := open(t, d, store.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	_, err := s.Write(t.Context(), store.Create(named("one")))
	if !errors.Is(err, store.ErrConflict) {
		t.Errorf("error %v", err)
	}
	if s.Count("k") != 0 {
		t.Error("refused object shows")
	}
	if !strings.Contains(log.String(), "stored rows differ") {
		t.Errorf("log: %s", log.String())
	}
}

// TestCancel ends contexts before and after a transaction is queued.
func TestCancel(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		s := open(t, d, store.Options{})
		gate := make(chan struct{})
		d.set(func() error { <-gate; return nil })
		results := make(chan error, 3000)
		ctx, cancel := context.WithCancel(t.Context())
		const writers = 3000 // more than the queue and one batch hold
		for i := range writers {
			go func() {
				_, err := s.Write(ctx, store.Create(named(fmt.Sprint(i))))
				results <- err
			}()
		}
		synctest.Wait()
		cancel()
		synctest.Wait()
		aborted := len(results)
		for range aborted {
			if err := <-results; !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		}
		if aborted == 0 || aborted == writers {
			t.Errorf("%d of %d aborted", aborted, writers)
		}
		close(gate)
		for range writers - aborted {
			if err := <-results; err != nil {
				t.Errorf("queued write: %v", err)
			}
		}
		if s.Count("k") != writers-aborted {
			t.Errorf("Count = %d, want %d", s.Count("k"), writers-aborted)
		}
	})
}

func TestOpenFails(t *testing.T) {
	t.Parallel()
	d := &disk{load: errDisk}
	_, err := store.Open(t.Context(), d, store.Options{})
	if !errors.Is(err, errDisk) || !d.closed {
		t.Errorf("Open: %v, closed %v", err, d.closed)
	}
}

// TestCloseCompletesQueued closes the store under queued writes: they are answered, later ones refused.
func TestCloseCompletesQueued(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		s := open(t, d, store.Options{})
		gate := make(chan struct{})
		d.set(func() error { <-gate; return nil })
		results := make(chan error, 10)
		for i := range 10 {
			go func() {
				_, err := s.Write(t.Context(), store.Create(named(fmt.Sprint(i))))
				results <- err
			}()
		}
		synctest.Wait()
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		synctest.Wait()
		if _, err := s.Write(t.Context(), store.Create(named("late"))); !errors.Is(err, store.ErrClosed) {
			t.Errorf("late write: %v", err)
		}
		close(gate)
		for range 10 {
			if err := <-results; err != nil {
				t.Errorf("queued write: %v", err)
			}
		}
		if err := <-closed; err != nil || !d.closed {
			t.Errorf("Close: %v", err)
		}
	})
}

// TestReadersAndWriters runs all kinds of access at once, for the race detector, and checks what each reader may
// rely on: lists are sorted, versions only grow, watchers see every revision once.
func TestReadersAndWriters(t *testing.T) {
	t.Parallel()
	s := open(t, &disk{}, store.Options{})
	const writers, each = 8, 300
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var readers, writing sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			for ctx.Err() == nil {
				all := s.List("k", store.Query{AllWorkspaces: true})
				for i := 1; i < len(all); i++ {
					if all[i].CreatedAt.Before(all[i-1].CreatedAt) {
						t.Error("list out of order")
						return
					}
				}
				if n := s.Count("k"); n > 0 {
					s.List("k", store.Query{Offset: n / 2, Limit: 10})
				}
			}
		})
	}
	const total = writers * each * 3
	watched := make(chan uint64, 2)
	for range 2 {
		w := s.Watch(0)
		readers.Go(func() {
			defer w.Close()
			var last uint64
			for last < total {
				c, err := w.Next(ctx)
				if errors.Is(err, store.ErrLagged) {
					break // a slow machine; the ring's own test demands completeness
				}
				if err != nil || c.Revision != last+1 {
					t.Errorf("change %d after %d: %v", c.Revision, last, err)
					break
				}
				last = c.Revision
			}
			watched <- last
		})
	}
	for w := range writers {
		writing.Go(func() {
			for i := range each {
				name := fmt.Sprintf("%d-%d", w, i)
				if _, err := s.Write(ctx, store.Create(named(name))); err != nil {
					t.Error(err)
				}
				if o, err := s.Update(ctx, "k", "id-"+name, func(*store.Object) error { return nil }); err != nil || o.Version != 2 {
					t.Errorf("update: %v, %v", o, err)
				}
				if _, err := s.Write(ctx, store.Delete("k", "id-"+name, 2)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	<-watched
	<-watched
	cancel()
	readers.Wait()
	if s.Count("k") != 0 || s.Revision() != total {
		t.Errorf("Count %d, Revision %d, want 0 and %d", s.Count("k"), s.Revision(), total)
	}
}
