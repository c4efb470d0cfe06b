package audit_test

import (
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"sallyport.dev/sallyport/internal/audit"
)

func denied(actor, kind, remote string) audit.Record {
	return audit.Record{
		Actor: actor, ActorKind: kind, Action: "/openshell.v1.OpenShell/CreateSandbox", Verdict: audit.Denied,
		Reason: "ROLE_MISSING", Remote: remote, RequestID: "r",
	}
}

func TestRepeatedDenialsAreCounted(t *testing.T) {
	t.Parallel()
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := open(t, dir, nil)
		began := time.Now()
		// Ten a second for a hundred seconds, and state changes that look alike.
		for range 1000 {
			l.Record(denied("idp|mallory", "user", "192.0.2.1"))
			time.Sleep(100 * time.Millisecond)
		}
		l.Record(denied("idp|mallory", "user", "192.0.2.2"))
		for range 5 {
			l.Record(change(1))
		}
		time.Sleep(3 * time.Minute)
		flush(t, l)
		got := all(t, l, audit.Filter{Actor: "idp|mallory"})
		total := 0
		for _, r := range got {
			n := 1
			if repeated := r.Details[audit.DetailRepeated]; repeated != "" {
				n, _ = strconv.Atoi(repeated)
				if since, err := time.Parse(time.RFC3339, r.Details[audit.DetailSince]); err != nil || since.Before(began.Add(-time.Second)) {
					t.Errorf("since %q", r.Details[audit.DetailSince])
				}
			}
			total += n
		}
		if total != 1001 || len(got) != 4 {
			t.Errorf("%d records stand for %d denials", len(got), total)
		}
		if changes := all(t, l, audit.Filter{Verdict: audit.Allowed}); len(changes) != 5 {
			t.Errorf("%d state changes", len(changes))
		}
		// After a while without it, a denial is news again.
		l.Record(denied("idp|mallory", "user", "192.0.2.1"))
		flush(t, l)
		if again := all(t, l, audit.Filter{Actor: "idp|mallory"}); len(again) != len(got)+1 {
			t.Errorf("%d records after the pause", len(again))
		}
		closeLog(t, l)
	})
}

// TestAFloodFromEverywhere has each denial come from another address.
func TestAFloodFromEverywhere(t *testing.T) {
	t.Parallel()
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := open(t, dir, nil)
		const each = 20000
		for n := range each {
			l.Record(denied("anonymous", "anonymous", fmt.Sprintf("2001:db8::%x", n)))
			l.Record(denied(fmt.Sprintf("idp|u%d", n), "user", "192.0.2.1"))
		}
		time.Sleep(2 * time.Minute)
		closeLog(t, l)
		l = open(t, dir, nil)
		total, count := map[string]int{}, map[string]int{}
		for _, r := range all(t, l, audit.Filter{Limit: 1000}) {
			n := 1
			if repeated := r.Details[audit.DetailRepeated]; repeated != "" {
				n, _ = strconv.Atoi(repeated)
				if r.Actor != audit.Various || r.Remote != audit.Various || r.RequestID != "" {
					t.Errorf("%+v", r)
				}
			}
			total[r.ActorKind] += n
			count[r.ActorKind]++
		}
		if total["anonymous"] != each || total["user"]+total[audit.Various] != each {
			t.Errorf("denials: %v", total)
		}
		if count["anonymous"] > 300 || count["user"] > 1100 || count[audit.Various] > 3 {
			t.Errorf("records: %v", count)
		}
		closeLog(t, l)
	})
	if report := verify(t, dir); !report.OK() {
		t.Errorf("%+v", report)
	}
}

// What was counted when the log is closed is written.
func TestCountedDenialsSurviveTheEnd(t *testing.T) {
	t.Parallel()
	dir := fastDir(t)
	l := open(t, dir, nil)
	for range 3 {
		l.Record(denied("anonymous", "anonymous", "192.0.2.1"))
	}
	closeLog(t, l)
	l = open(t, dir, nil)
	if got := all(t, l, audit.Filter{Verdict: audit.Denied}); len(got) != 2 || got[1].Details[audit.DetailRepeated] != "2" {
		t.Errorf("%+v", got)
	}
}

// A record is not without a checkpoint for long.
func TestAQuietLogIsSigned(t *testing.T) {
	t.Parallel()
	dir := fastDir(t)
	synctest.Test(t, func(t *testing.T) {
		l := open(t, dir, nil)
		l.Record(change(1))
		flush(t, l)
		if report := verify(t, dir); report.Signed != 0 || !report.OK() {
			t.Errorf("at once: %+v", report)
		}
		time.Sleep(2 * time.Minute)
		flush(t, l)
		if report := verify(t, dir); report.Signed != 1 || !report.OK() {
			t.Errorf("after two minutes: %+v", report)
		}
		closeLog(t, l)
	})
}

func BenchmarkRecord(b *testing.B) {
	for _, bc := range []struct {
		name string
		r    audit.Record
	}{{"change", change(1)}, {"denial", denied("anonymous", "anonymous", "192.0.2.1")}} {
		b.Run(bc.name, func(b *testing.B) {
			l := open(b, b.TempDir(), func(o *audit.Options) { o.MaxWait = time.Minute })
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					l.Record(bc.r)
				}
			})
			flush(b, l)
		})
	}
}

func BenchmarkDurableRecord(b *testing.B) {
	l := open(b, b.TempDir(), func(o *audit.Options) { o.Durable, o.MaxWait = true, time.Minute })
	var n atomic.Int64
	b.ReportAllocs()
	b.SetParallelism(64)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l.Record(change(int(n.Add(1) % 60)))
		}
	})
}

func BenchmarkSearch(b *testing.B) {
	l := open(b, fastDir(b), func(o *audit.Options) { o.MaxWait, o.MaxBytes = time.Minute, 8<<20 })
	const records = 50000
	for n := range records {
		r := change(0)
		r.Time = r.Time.Add(time.Duration(n) * time.Second)
		r.RequestID = fmt.Sprintf("r-%d", n)
		if n%100 == 0 {
			r.Actor = "idp|rare"
		}
		l.Record(r)
	}
	flush(b, l)
	for _, bc := range []struct {
		name string
		f    audit.Filter
		want int
	}{
		{"one-of-50000", audit.Filter{RequestID: "r-20000"}, 1},
		{"rare-actor", audit.Filter{Actor: "idp|rare"}, 100},
		{"page-in-the-middle", audit.Filter{After: records / 2}, 100},
		{"minute", audit.Filter{Since: change(0).Time.Add(30000 * time.Second), Until: change(0).Time.Add(30060 * time.Second)}, 60},
	} {
		b.Run(bc.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				page, err := l.Search(b.Context(), bc.f)
				if err != nil || len(page.Records) != bc.want {
					b.Fatalf("%d records, want %d; %v", len(page.Records), bc.want, err)
				}
			}
		})
	}
}
