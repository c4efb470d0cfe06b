package audit_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"sallyport.dev/sallyport/internal/audit"
)

// open opens a log in dir with a key beside it.
func open(t testing.TB, dir string, change func(*audit.Options)) *audit.Log {
	t.Helper()
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	o := audit.Options{Dir: filepath.Join(dir, "log"), Key: key}
	if change != nil {
		change(&o)
	}
	l, err := audit.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func publicKey(t testing.TB, dir string) ed25519.PublicKey {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "audit.key.pub"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := audit.ParsePublicKey(raw)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func verify(t testing.TB, dir string) *audit.Report {
	t.Helper()
	report, err := audit.Verify([]string{filepath.Join(dir, "log")}, publicKey(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func change(n int) audit.Record {
	return audit.Record{
		Time: time.Date(2026, 11, 25, 12, 0, n, 5, time.UTC), Actor: "https://idp|alice", ActorKind: "user", Tenant: "t",
		Action: "/openshell.v1.OpenShell/CreateSandbox", Target: fmt.Sprintf("sandbox/default/s%d", n), Verdict: audit.Allowed,
		RequestID: fmt.Sprintf("r-%d", n), Remote: "192.0.2.1", Details: map[string]string{"k": "v", "a": "b"},
	}
}

func flush(t testing.TB, l *audit.Log) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

func closeLog(t testing.TB, l *audit.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

// all reads every record, page by page.
func all(t testing.TB, l *audit.Log, f audit.Filter) []audit.Record {
	t.Helper()
	var out []audit.Record
	for {
		page, err := l.Search(t.Context(), f)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Records...)
		if page.Next == 0 {
			return out
		}
		if page.Next <= f.After {
			t.Fatalf("page after %d goes on at %d", f.After, page.Next)
		}
		f.After = page.Next
	}
}

func TestRecordsComeBackInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	for n := range 10 {
		l.Record(change(n))
	}
	flush(t, l)
	got := all(t, l, audit.Filter{Limit: 3})
	if len(got) != 10 {
		t.Fatalf("%d records", len(got))
	}
	for i, r := range got {
		want := change(i)
		if r.Sequence != uint64(i+1) || !r.Time.Equal(want.Time) || r.Target != want.Target || r.Details["k"] != "v" ||
			i > 0 && r.Prev != got[i-1].Hash {
			t.Errorf("record %d: %+v", i, r)
		}
	}
	closeLog(t, l)
	l.Record(change(11))
	report := verify(t, dir)
	if !report.OK() || report.Records != 10 || report.Signed != 10 || report.First != 1 || report.Last != 10 || report.Head != got[9].Hash {
		t.Errorf("%+v", report)
	}
	for path, mode := range map[string]os.FileMode{
		"log": 0o700, "log/audit-00000000000000000001.jsonl": 0o600, "audit.key": 0o600, "audit.key.pub": 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}

func TestOnlyOneProcessWrites(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	open(t, dir, nil)
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.Open(audit.Options{Dir: filepath.Join(dir, "log"), Key: key}); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second log: %v", err)
	}
	if _, err := audit.Open(audit.Options{Dir: t.TempDir()}); err == nil {
		t.Error("a log without a key was opened")
	}
}

func TestTextIsCleaned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	long := strings.Repeat("é", 500)
	details := map[string]string{}
	for i := range 20 {
		details[fmt.Sprintf("k%02d", i)] = long
	}
	l.Record(audit.Record{Actor: "a\x00\n\"\\\u0085b\xff", Target: long, Verdict: audit.Allowed, Details: details})
	l.Record(audit.Record{Target: long + "x", Verdict: audit.Allowed, Time: time.Date(20000, 1, 1, 0, 0, 0, 0, time.UTC)})
	flush(t, l)
	got := all(t, l, audit.Filter{})
	if got[0].Actor != "a\"\\b\uFFFD" || len(got[0].Details) != 16 || len(got[0].Target) > 512 || got[0].Target == got[1].Target ||
		got[1].Time.Year() > 9999 {
		t.Errorf("%+v", got)
	}
	if found := all(t, l, audit.Filter{Target: long}); len(found) != 1 {
		t.Errorf("%d records of the long name", len(found))
	}
	if found := all(t, l, audit.Filter{Actor: "a\"\\b\uFFFD"}); len(found) != 1 {
		t.Errorf("%d records of the odd name", len(found))
	}
	closeLog(t, l)
	if report := verify(t, dir); !report.OK() {
		t.Errorf("%+v", report)
	}
}

func TestFilesRotateAndArePruned(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	small := func(o *audit.Options) { o.MaxBytes, o.KeepFiles = 4<<10, 3 }
	l := open(t, dir, small)
	for n := range 200 {
		l.Record(change(n))
		if n%3 == 0 {
			flush(t, l)
		}
		if n == 120 {
			closeLog(t, l)
			l = open(t, dir, small)
		}
	}
	closeLog(t, l)
	files, err := filepath.Glob(filepath.Join(dir, "log", "*.jsonl"))
	if err != nil || len(files) != 4 {
		t.Fatalf("files %v, %v", files, err)
	}
	report := verify(t, dir)
	if !report.OK() || report.Last != 200 || report.Signed != 200 || report.Pruned == 0 || report.First != report.Pruned+1 {
		t.Errorf("%+v", report)
	}
	l = open(t, dir, small)
	<-l.Checked()
	got := all(t, l, audit.Filter{Limit: 7})
	if len(got) != report.Records || got[0].Sequence != report.First || got[len(got)-1].Sequence != 200 {
		t.Errorf("%d records of %d", len(got), report.Records)
	}
}

// TestEveryAlteredByteIsFound changes each byte of a log in turn.
func TestEveryAlteredByteIsFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, nil)
	for n := range 3 {
		l.Record(change(n))
	}
	closeLog(t, l)
	path := filepath.Join(dir, "log", "audit-00000000000000000001.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		altered := slices.Clone(whole)
		altered[i] ^= 1
		if err := os.WriteFile(path, altered, 0o600); err != nil {
			t.Fatal(err)
		}
		if report := verify(t, dir); report.OK() && report.Torn == 0 {
			t.Fatalf("byte %d (%q) altered: %+v", i, whole[max(0, i-20):i+1], report)
		}
	}
}

func TestRemovedLinesAreFound(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, func(o *audit.Options) { o.MaxBytes = 4 << 10 })
	for n := range 60 {
		l.Record(change(n))
		flush(t, l)
	}
	closeLog(t, l)
	files, err := filepath.Glob(filepath.Join(dir, "log", "*.jsonl"))
	if err != nil || len(files) < 4 {
		t.Fatalf("files %v, %v", files, err)
	}
	for _, tc := range []struct {
		name string
		want string
		do   func(lines [][]byte) [][]byte
	}{
		{"a record", "follows record", func(l [][]byte) [][]byte { return slices.Delete(l, 2, 3) }},
		{"the first line", "does not begin with a checkpoint", func(l [][]byte) [][]byte { return l[1:] }},
		{"the last line", "does not end with a checkpoint", func(l [][]byte) [][]byte { return append(l[:len(l)-2], nil) }},
		{"the newline", "not whole", func(l [][]byte) [][]byte { return l[:len(l)-1] }},
		{"swapped records", "follows record", func(l [][]byte) [][]byte { l[2], l[3] = l[3], l[2]; return l }},
		{"everything", "does not end with a checkpoint", func([][]byte) [][]byte { return nil }},
		{"nothing readable", "the line is too long", func(l [][]byte) [][]byte {
			return slices.Insert(l, 2, bytes.Repeat([]byte("x"), 100<<10))
		}},
	} {
		whole, err := os.ReadFile(files[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[1], bytes.Join(tc.do(bytes.Split(whole, []byte("\n"))), []byte("\n")), 0o600); err != nil {
			t.Fatal(err)
		}
		report := verify(t, dir)
		if !slices.ContainsFunc(report.Problems, func(p audit.Problem) bool { return strings.Contains(p.Text, tc.want) && p.File == files[1] }) {
			t.Errorf("%s: %+v", tc.name, report.Problems)
		}
		if err := os.WriteFile(files[1], whole, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Rename(files[2], files[2]+".gone"); err != nil {
		t.Fatal(err)
	}
	if report := verify(t, dir); report.OK() {
		t.Error("a missing file was not found")
	}
}

// TestARewrittenLogIsFound has somebody with the files, but not the key, write a log anew.
func TestARewrittenLogIsFound(t *testing.T) {
	t.Parallel()
	dir, forged := t.TempDir(), t.TempDir()
	l := open(t, dir, nil)
	for n := range 5 {
		l.Record(change(n))
	}
	closeLog(t, l)
	f := open(t, forged, nil)
	for n := range 4 {
		f.Record(change(n))
	}
	closeLog(t, f)
	report, err := audit.Verify([]string{filepath.Join(forged, "log")}, publicKey(t, dir))
	if err != nil || report.OK() || report.Signed != 0 {
		t.Errorf("with the true key: %+v, %v", report, err)
	}
	report, err = audit.Verify([]string{filepath.Join(forged, "log")})
	if err != nil || !report.OK() {
		t.Errorf("without a key: %+v, %v", report, err)
	}
	// With all checkpoints but the first taken out, too many records are without one.
	l = open(t, dir, nil)
	for n := range 3000 {
		l.Record(change(n % 60))
	}
	closeLog(t, l)
	path := filepath.Join(dir, "log", "audit-00000000000000000001.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if report := verify(t, dir); !report.OK() || report.Checkpoints < 4 {
		t.Errorf("the true log: %+v", report)
	}
	lines := bytes.Split(whole, []byte("\n"))
	kept := slices.DeleteFunc(lines[1:], func(l []byte) bool { return bytes.HasPrefix(l, []byte(`{"checkpoint"`)) })
	if err := os.WriteFile(path, bytes.Join(append(lines[:1], kept...), []byte("\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	if report := verify(t, dir); report.OK() {
		t.Error("the missing checkpoints were not found")
	}
}

// fastDir is a folder in memory where there is one: what a test cuts need not survive a power cut.
func fastDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "audit")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// written is a log's only file with its records, cut into what was durable and the last batch.
type written struct {
	dir, path string
	whole     []byte
	durable   int
	from      int
}

func write(t testing.TB, durable, last []audit.Record) written {
	t.Helper()
	w := written{dir: fastDir(t), durable: len(durable)}
	w.path = filepath.Join(w.dir, "log", "audit-00000000000000000001.jsonl")
	l := open(t, w.dir, nil)
	for _, r := range durable {
		l.Record(r)
	}
	flush(t, l)
	info, err := os.Stat(w.path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range last {
		l.Record(r)
	}
	flush(t, l)
	if w.whole, err = os.ReadFile(w.path); err != nil {
		t.Fatal(err)
	}
	closeLog(t, l)
	if w.from = int(info.Size()); len(durable) == 0 {
		// The first line belongs to the batch as well.
		w.from = 0
	}
	return w
}

// cut leaves the file as a kill at that byte does, has the log go on, and says what is wrong then.
func (w written) cut(t testing.TB, at int) string {
	t.Helper()
	if err := os.WriteFile(w.path, w.whole[:at], 0o600); err != nil {
		t.Fatal(err)
	}
	l := open(t, w.dir, nil)
	<-l.Checked()
	l.Record(change(1))
	flush(t, l)
	got := all(t, l, audit.Filter{})
	closeLog(t, l)
	report := verify(t, w.dir)
	lines := bytes.Count(w.whole[:at], []byte("\n{\"seq\":"))
	if !bytes.HasSuffix(w.whole[:at], []byte("\n")) && bytes.Contains(w.whole[:at], []byte("\n{")) && lines > 0 {
		// The last of them is not whole.
		lines--
	}
	if !report.OK() || report.Torn != 0 || len(got) < w.durable+1 || len(got) < lines+1 || report.Records != len(got) ||
		got[len(got)-1].Target != change(1).Target {
		return fmt.Sprintf("cut at %d of %d: %d records, %d durable, %d whole, %+v", at, len(w.whole), len(got), w.durable, lines, report)
	}
	return ""
}

func TestKilledAtEveryByte(t *testing.T) {
	t.Parallel()
	w := write(t, []audit.Record{change(0)}, []audit.Record{change(1), {Verdict: audit.Failed, Actor: "é\"\\"}})
	for at := w.from; at <= len(w.whole); at++ {
		if wrong := w.cut(t, at); wrong != "" {
			t.Fatal(wrong)
		}
	}
	w = write(t, nil, nil)
	for at := 0; at <= len(w.whole); at += 7 {
		if wrong := w.cut(t, at); wrong != "" {
			t.Fatal(wrong)
		}
	}
}

func TestKilledAnywhereInAnyRecords(t *testing.T) {
	t.Parallel()
	record := rapid.Custom(func(rt *rapid.T) audit.Record {
		return audit.Record{
			Actor: rapid.String().Draw(rt, "actor"), Target: rapid.String().Draw(rt, "target"), Action: "a",
			Verdict: rapid.SampledFrom([]string{audit.Allowed, audit.Failed}).Draw(rt, "verdict"),
			Details: rapid.MapOfN(rapid.String(), rapid.String(), 0, 3).Draw(rt, "details"),
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		w := write(t, rapid.SliceOfN(record, 0, 4).Draw(rt, "durable"), rapid.SliceOfN(record, 1, 4).Draw(rt, "last"))
		for _, at := range rapid.SliceOfN(rapid.IntRange(w.from, len(w.whole)), 1, 4).Draw(rt, "cuts") {
			if wrong := w.cut(t, at); wrong != "" {
				rt.Fatal(wrong)
			}
		}
	})
}

func TestADamagedEndBeginsANewFile(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"altered record": func(b []byte) []byte {
			return bytes.Replace(b, []byte("sandbox/default/s2"), []byte("sandbox/default/s3"), 1)
		},
		"zeros":        func(b []byte) []byte { return append(b, append(make([]byte, 5000), '\n')...) },
		"rubbish":      func([]byte) []byte { return []byte("what is this?\n") },
		"long rubbish": func([]byte) []byte { return bytes.Repeat([]byte("x"), 3<<20) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			l := open(t, dir, nil)
			for n := range 3 {
				l.Record(change(n))
			}
			flush(t, l)
			path := filepath.Join(dir, "log", "audit-00000000000000000001.jsonl")
			whole, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			closeLog(t, l)
			damaged := damage(whole)
			if err := os.WriteFile(path, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			l = open(t, dir, nil)
			<-l.Checked()
			l.Record(change(4))
			flush(t, l)
			if broken := all(t, l, audit.Filter{Action: audit.ActionChainBroken}); len(broken) == 0 ||
				broken[0].Target != "audit/audit-00000000000000000001.jsonl" || broken[0].Verdict != audit.Failed {
				t.Errorf("recorded: %+v", broken)
			}
			if got := all(t, l, audit.Filter{Target: "sandbox/default/s4"}); len(got) != 1 {
				t.Errorf("the log did not go on: %v", got)
			}
			closeLog(t, l)
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, damaged) {
				t.Errorf("the damaged file was changed, %v", err)
			}
			report := verify(t, dir)
			if report.OK() || slices.ContainsFunc(report.Problems[1:], func(p audit.Problem) bool { return p.File != path && p.Line > 1 }) {
				t.Errorf("%+v", report)
			}
		})
	}
}

// An altered record far from the end does not keep the log from going on, but is recorded.
func TestAnAlteredRecordIsRecordedAtTheNextStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, func(o *audit.Options) { o.MaxBytes = 4 << 10 })
	for n := range 60 {
		l.Record(change(n))
		flush(t, l)
	}
	closeLog(t, l)
	path := filepath.Join(dir, "log", "audit-00000000000000000001.jsonl")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Replace(whole, []byte("192.0.2.1"), []byte("192.0.2.2"), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	l = open(t, dir, nil)
	<-l.Checked()
	flush(t, l)
	if broken := all(t, l, audit.Filter{Action: audit.ActionChainBroken}); len(broken) != 1 || broken[0].Details["line"] != "2" {
		t.Errorf("recorded: %+v", broken)
	}
}

func TestConcurrentRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	l := open(t, dir, func(o *audit.Options) { o.Queue, o.MaxBytes, o.Durable, o.MaxWait = 8, 64<<10, true, 20*time.Second })
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			for n := range 100 {
				r := change(n % 60)
				r.RequestID = fmt.Sprintf("%d-%d", g, n)
				l.Record(r)
				if n%20 == 0 {
					if got := all(t, l, audit.Filter{RequestID: r.RequestID}); len(got) != 1 {
						t.Errorf("record %s is not there at once", r.RequestID)
					}
				}
			}
		})
	}
	wg.Wait()
	closeLog(t, l)
	if report := verify(t, dir); !report.OK() || report.Records != 800 {
		t.Errorf("%+v", report)
	}
}

func TestWait(t *testing.T) {
	t.Parallel()
	l := open(t, t.TempDir(), nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- l.Wait(t.Context(), 1) }()
	go func() { done <- l.Wait(ctx, 5) }()
	l.Record(change(1))
	l.Record(change(2))
	if err := <-done; err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err == nil {
		t.Error("waited for a record that never came")
	}
}
