package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// report is the whole result.
type report struct {
	Date string `json:"date"`
	// Revision is what was built; it ends in "-dirty" if the sources were not those of a commit.
	Revision string `json:"revision"`
	CPUs     int    `json:"cpus"`
	Go       string `json:"go"`
	Quick    bool   `json:"quick"`
	Lines    []line `json:"lines"`
}

func newReport(o options, revision string) *report {
	return &report{Revision: revision, Date: time.Now().UTC().Format(time.DateOnly), CPUs: runtime.NumCPU(), Go: runtime.Version(), Quick: o.quick}
}

// line is one figure of both sides.
type line struct {
	Row  string `json:"row"`
	Work string `json:"work"`
	Unit string `json:"unit"`
	// Limit is NaN where there is none.
	Limit  number `json:"limit"`
	Ours   number `json:"ours"`
	Ratio  number `json:"ratio"`
	Design string `json:"design_for"`
	OK     bool   `json:"ok"`
	// What both sides did to get there.
	LimitDetail detail `json:"limit_detail"`
	OursDetail  detail `json:"ours_detail"`
}

// detail is what there is to know about a side beyond the line's own figure; NaN where it has no meaning.
type detail struct {
	CPUPerOp number `json:"cpu_us_per_op"`
	Rate     number `json:"ops_per_second"`
	P50      number `json:"p50_ms"`
	P99      number `json:"p99_ms"`
	RSS      number `json:"rss_mib"`
}

// number is a figure; one that is not there is null in JSON and a dash in the table.
type number float64

func missing() number { return number(math.NaN()) }

func noDetail() detail {
	return detail{CPUPerOp: missing(), Rate: missing(), P50: missing(), P99: missing(), RSS: missing()}
}

// MarshalJSON implements json.Marshaler.
func (n number) MarshalJSON() ([]byte, error) {
	if math.IsNaN(float64(n)) || math.IsInf(float64(n), 0) {
		return []byte("null"), nil
	}
	return json.Marshal(json.Number(strconv.FormatFloat(float64(n), 'g', 5, 64)))
}

// String implements fmt.Stringer.
func (n number) String() string {
	v := float64(n)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0):
		return "-"
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// design is what a line shall reach.
type design struct {
	text string
	met  func(limit, ours float64) bool
}

func ratioAtMost(r float64) design {
	return design{fmt.Sprintf("<= %g x limit", r), func(limit, ours float64) bool { return ours <= r*limit }}
}

func ratioAtLeast(r float64) design {
	return design{fmt.Sprintf(">= %g x limit", r), func(limit, ours float64) bool { return ours >= r*limit }}
}

func atMost(v float64) design {
	return design{fmt.Sprintf("<= %g", v), func(_, ours float64) bool { return ours <= v }}
}

func atLeast(v float64) design {
	return design{fmt.Sprintf(">= %g", v), func(_, ours float64) bool { return ours >= v }}
}

func recorded() design { return design{"recorded", func(_, _ float64) bool { return true }} }

func newLine(work, unit string, limit, ours float64, d design) line {
	return line{
		Work: work, Unit: unit, Limit: number(limit), Ours: number(ours), Ratio: number(ours / limit),
		Design: d.text, OK: d.met(limit, ours), LimitDetail: noDetail(), OursDetail: noDetail(),
	}
}

// print writes the table in Markdown, which is also readable as it is. The columns behind "ok" are the gateway's.
func (r *report) print(out io.Writer) error {
	fmt.Fprintf(out, "%s, %s, %d processors, %s\n\n", r.Date, r.Revision, r.CPUs, r.Go)
	w := tabwriter.NewWriter(out, 0, 0, 1, ' ', 0)
	cells := func(c ...string) { fmt.Fprintln(w, "| "+strings.Join(c, "\t| ")+"\t|") }
	cells("row", "work", "unit", "limit", "ours", "ratio", "design for", "ok", "CPU us/op", "op/s", "p50 ms", "p99 ms", "RSS MiB")
	cells("---", "---", "---", "--:", "--:", "--:", "---", "---", "--:", "--:", "--:", "--:", "--:")
	for _, l := range r.Lines {
		ok := "yes"
		if !l.OK {
			ok = "**no**"
		}
		d := l.OursDetail
		cells(l.Row, l.Work, l.Unit, l.Limit.String(), l.Ours.String(), l.Ratio.String(), l.Design, ok,
			d.CPUPerOp.String(), d.Rate.String(), d.P50.String(), d.P99.String(), d.RSS.String())
	}
	return w.Flush()
}
