package audit

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// disk makes the files of a log fail on demand.
type disk struct {
	mu sync.Mutex
	// write, sync and create are the errors of these operations; nil for none. half writes half before it fails.
	write, sync, create error
	half                bool
}

func (d *disk) set(f func(d *disk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f(d)
}

func (d *disk) open(path string, flag int) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.create != nil {
		return nil, d.create
	}
	f, err := openFile(path, flag)
	if err != nil {
		return nil, err
	}
	return &flaky{file: f, d: d}, nil
}

type flaky struct {
	file
	d *disk
}

func (f *flaky) Write(b []byte) (int, error) {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.write == nil {
		return f.file.Write(b)
	}
	if f.d.half {
		n, err := f.file.Write(b[:len(b)/2])
		return n, errors.Join(f.d.write, err)
	}
	return 0, f.d.write
}

func (f *flaky) Sync() error {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	if f.d.sync != nil {
		return f.d.sync
	}
	return f.file.Sync()
}

func testKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, ed25519.SeedSize))
}

func openFlaky(t testing.TB, dir string, d *disk, change func(*Options)) *Log {
	t.Helper()
	o := Options{Dir: dir, Key: testKey(t), Queue: 4, MaxWait: time.Second, open: d.open}
	if change != nil {
		change(&o)
	}
	l, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func mustVerify(t testing.TB, dir string) *Report {
	t.Helper()
	public, _ := testKey(t).Public().(ed25519.PublicKey)
	report, err := Verify([]string{dir}, public)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func mustFlush(t testing.TB, l *Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func mustFind(t testing.TB, l *Log, action string) []Record {
	t.Helper()
	page, err := l.Search(t.Context(), Filter{Action: action})
	if err != nil {
		t.Fatal(err)
	}
	return page.Records
}

// TestAFailingDisk fails in each way for a while; nothing that found a place in the queue is lost, and what did not is
// counted.
func TestAFailingDisk(t *testing.T) {
	t.Parallel()
	failure := errors.New("no space left on device")
	for name, fail := range map[string]func(*disk){
		"write":      func(d *disk) { d.write = failure },
		"half write": func(d *disk) { d.write, d.half = failure, true },
		"sync":       func(d *disk) { d.sync = failure },
		"reopen":     func(d *disk) { d.sync, d.create = failure, failure },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				d := &disk{}
				l := openFlaky(t, dir, d, nil)
				l.Record(Record{Action: "before", Verdict: Allowed})
				mustFlush(t, l)
				if err := l.Err(); err != nil {
					t.Error(err)
				}
				d.set(fail)
				l.Record(Record{Action: "held", Verdict: Allowed})
				time.Sleep(10 * time.Second)
				if err := l.Err(); err == nil || !errors.Is(err, failure) {
					t.Errorf("the log says %v of a failing disk", err)
				}
				if found := mustFind(t, l, "held"); len(found) != 0 {
					t.Errorf("found what is not durable: %v", found)
				}
				// Four find a place, six wait and are given up.
				began := time.Now()
				for range 10 {
					l.Record(Record{Action: "held", Verdict: Allowed})
				}
				if waited := time.Since(began); waited != 6*time.Second {
					t.Errorf("callers were held up for %s", waited)
				}
				d.set(func(d *disk) { d.write, d.sync, d.create, d.half = nil, nil, nil, false })
				time.Sleep(10 * time.Second)
				mustFlush(t, l)
				if err := l.Err(); err != nil {
					t.Error(err)
				}
				if found := mustFind(t, l, "held"); len(found) != 5 {
					t.Errorf("%d records were kept", len(found))
				}
				if found := mustFind(t, l, ActionLost); len(found) != 1 || found[0].Details["records"] != "6" {
					t.Errorf("lost: %v", found)
				}
				if err := l.Close(); err != nil {
					t.Error(err)
				}
			})
			if report := mustVerify(t, dir); !report.OK() || report.Records != 7 {
				t.Errorf("%+v", report)
			}
		})
	}
}

func TestCloseGivesAFailingDiskUp(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := &disk{}
		l := openFlaky(t, dir, d, func(o *Options) { o.Durable = true })
		d.set(func(d *disk) { d.sync = errors.New("broken") })
		l.Record(Record{Action: "a", Verdict: Allowed})
		began := time.Now()
		err := l.Close()
		if err == nil || !strings.Contains(err.Error(), "records are lost") || time.Since(began) > 2*closeTimeout {
			t.Errorf("closed after %s: %v", time.Since(began), err)
		}
	})
}

func TestARemovedFileIsNoticed(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(path string) error{
		"removed": os.Remove,
		"cut":     func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, []byte("{"), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := openFlaky(t, dir, &disk{}, nil)
			l.Record(Record{Action: "before", Verdict: Allowed})
			mustFlush(t, l)
			if err := remove(filepath.Join(dir, nameOf(1))); err != nil {
				t.Fatal(err)
			}
			l.Record(Record{Action: "after", Verdict: Allowed})
			for len(mustFind(t, l, ActionChainBroken)) == 0 {
				if err := l.Wait(t.Context(), l.Last()); err != nil {
					t.Fatal(err)
				}
			}
			if found := mustFind(t, l, "after"); len(found) != 1 || found[0].Sequence != 2 {
				t.Errorf("after: %v", found)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A log whose next file cannot be made goes on with the one it has.
func TestRotationThatFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := &disk{}
	l := openFlaky(t, dir, d, func(o *Options) { o.MaxBytes = 1 })
	d.set(func(d *disk) { d.create = errors.New("no more files") })
	for range 5 {
		l.Record(Record{Action: "a", Verdict: Allowed})
		mustFlush(t, l)
	}
	d.set(func(d *disk) { d.create = nil })
	l.Record(Record{Action: "a", Verdict: Allowed})
	mustFlush(t, l)
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if report := mustVerify(t, dir); !report.OK() || report.Files != 2 || report.Records != 6 {
		t.Errorf("%+v", report)
	}
}

// TestSearchBeforeTheCheck searches a log of which no index is known yet.
func TestSearchBeforeTheCheck(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := openFlaky(t, dir, &disk{}, func(o *Options) { o.MaxBytes, o.MaxWait = 1<<20, time.Minute })
	const records = 8000
	for range records {
		l.Record(Record{Action: "a", Actor: strings.Repeat("x", 200), Verdict: Allowed})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	segments, err := list(dir)
	if err != nil || len(segments) < 3 {
		t.Fatalf("%d files, %v", len(segments), err)
	}
	blind := &Log{segments: segments}
	for _, after := range []uint64{0, 1, 1000, 4321, records - 1, records} {
		page, err := blind.Search(t.Context(), Filter{After: after, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		if after == records {
			if len(page.Records) != 0 || page.Next != 0 {
				t.Errorf("after the end: %+v", page)
			}
			continue
		}
		if len(page.Records) != 1 || page.Records[0].Sequence != after+1 {
			t.Errorf("after %d: %+v", after, page)
		}
	}
}

func FuzzParseLine(f *testing.F) {
	r := Record{Sequence: 1, Actor: "a\"\\é", Verdict: Denied, Details: map[string]string{"k": "v", "l": ""}, Time: time.Unix(1, 2)}
	clean(&r, time.Unix(3, 4))
	f.Add(appendRecord(nil, &r))
	f.Add(appendCheckpoint(nil, &checkpoint{sequence: 5, time: time.Unix(5, 6).UTC(), key: "k"}, testKey(f)))
	f.Add([]byte(`{"seq":1,"time":"2026-11-25T16:22:56.123456789Z","actor":"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, err := parseRecord(line); err == nil {
			if again := appendRecord(nil, &r); !bytes.Equal(again, append(bytes.Clone(line), '\n')) {
				t.Errorf("%q was read as %q", line, again)
			}
		}
		if c, err := parseCheckpoint(line); err == nil {
			if again := appendSignature(appendUnsigned(nil, c), c); !bytes.Equal(again, append(bytes.Clone(line), '\n')) {
				t.Errorf("%q was read as %q", line, again)
			}
		}
		report := &Report{}
		c := &chain{report: report}
		if err := c.lines(bytes.NewReader(line), true); err != nil {
			t.Errorf("follow: %v", err)
		}
	})
}
