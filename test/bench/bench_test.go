package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

func TestSampleFigures(t *testing.T) {
	t.Parallel()
	s := sample{ops: 4, bytes: 8_000_000, wall: 2 * time.Second, cpu: 40 * time.Millisecond}
	for i := range 100 {
		s.latencies = append(s.latencies, time.Duration(i+1)*time.Millisecond)
	}
	for name, c := range map[string]struct{ got, want float64 }{
		"CPU us/op": {s.cpuPerOp(), 10_000},
		"op/s":      {s.rate(), 2},
		"MB/s":      {s.perSecond(), 4},
		"CPU ms/MB": {s.cpuPerMB(), 5},
		"p50":       {s.p50(), 50},
		"p99":       {s.p99(), 99},
		"odd":       {median([]float64{3, 1, 2}), 2},
		"even":      {median([]float64{4, 1, 3, 2}), 2.5},
	} {
		if c.got != c.want {
			t.Errorf("%s = %v, want %v", name, c.got, c.want)
		}
	}
}

func TestDesignIsJudgedInItsOwnDirection(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		d           design
		limit, ours float64
		want        bool
	}{
		"cost at the ratio":    {ratioAtMost(1.5), 100, 150, true},
		"cost above the ratio": {ratioAtMost(1.5), 100, 151, false},
		"speed at the ratio":   {ratioAtLeast(0.7), 100, 70, true},
		"speed below it":       {ratioAtLeast(0.7), 100, 69, false},
		"no limit, at most":    {atMost(25), float64(missing()), 25, true},
		"no limit, at least":   {atLeast(1000), float64(missing()), 999, false},
		"ratio without limit":  {ratioAtMost(1), float64(missing()), 1, false},
	} {
		if got := c.d.met(c.limit, c.ours); got != c.want {
			t.Errorf("%s: met = %t, want %t", name, got, c.want)
		}
	}
}

func TestRowsAreChosenByName(t *testing.T) {
	t.Parallel()
	got, err := choose("create,health")
	if err != nil || len(got) != 2 || got[0].name != "create" || got[1].name != "health" {
		t.Errorf("choose = %v, %v", got, err)
	}
	if _, err := choose("no-such-row"); err == nil {
		t.Error("an unknown row was accepted")
	}
	seen := map[string]bool{}
	for _, r := range rows() {
		if seen[r.name] {
			t.Errorf("row %s is there twice", r.name)
		}
		seen[r.name] = true
	}
}

func TestMissingFiguresAreShownAsSuch(t *testing.T) {
	t.Parallel()
	l := newLine("work", "op/s", float64(missing()), 5, atLeast(1))
	raw, err := json.Marshal(l)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(raw), `"limit":null`) || !strings.Contains(string(raw), `"ours":5`) {
		t.Errorf("JSON = %s", raw)
	}
	var table strings.Builder
	if err := (&report{Lines: []line{l}}).print(&table); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(table.String(), "op/s | -") {
		t.Errorf("table:\n%s", table.String())
	}
}
