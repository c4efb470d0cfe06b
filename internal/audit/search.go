package audit

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Bounds of one Search.
const (
	DefaultPage = 100
	MaxPage     = 1000
	// searchBytes is how much of the log one Search reads.
	searchBytes = 16 << 20
)

// Filter selects records. Empty fields select everything; the others have to match exactly.
type Filter struct {
	// Since is included, Until is not.
	Since, Until time.Time
	Actor        string
	Action       string
	Target       string
	Verdict      string
	Reason       string
	RequestID    string
	// After is the sequence after which the page begins.
	After uint64
	// Limit is at most MaxPage; 0 means DefaultPage.
	Limit int
}

// Page is an answer of Search, oldest record first.
type Page struct {
	Records []Record
	// Next is the After of the next page; 0 means that there is none. A search that looked at as much as one call may
	// has a Next with few records, or none.
	Next uint64
}

// Search returns the durable records that match. A record that was damaged on disk is passed over; Verify finds it.
func (l *Log) Search(ctx context.Context, f Filter) (Page, error) {
	if f.Limit <= 0 {
		f.Limit = DefaultPage
	}
	s := &search{f: f, limit: min(f.Limit, MaxPage), left: searchBytes, last: f.After}
	s.prepare()
	ranges := l.ranges(&f)
	for _, r := range ranges {
		if err := ctx.Err(); err != nil {
			return Page{}, context.Cause(ctx)
		}
		if s.over() {
			break
		}
		if err := s.read(r); err != nil {
			return Page{}, err
		}
	}
	page := Page{Records: s.found}
	switch {
	case s.full:
		page.Next = s.found[len(s.found)-1].Sequence
	case s.left <= 0:
		page.Next = s.last
	}
	return page, nil
}

// Last is the sequence of the newest durable record, 0 in an empty log.
func (l *Log) Last() uint64 {
	l.index.RLock()
	defer l.index.RUnlock()
	return l.durable
}

// Wait returns when the log holds a durable record after the given sequence.
func (l *Log) Wait(ctx context.Context, after uint64) error {
	for {
		l.index.RLock()
		durable, grown := l.durable, l.grown
		l.index.RUnlock()
		if durable > after {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// extent is a piece of a file that may hold what a search looks for.
type extent struct {
	path      string
	from, end int64
}

// ranges returns where the records of a filter may be, in order, neighbours joined.
func (l *Log) ranges(f *Filter) []extent {
	l.index.RLock()
	defer l.index.RUnlock()
	var out []extent
	add := func(s *segment, from, end int64) {
		if n := len(out); n > 0 && out[n-1].path == s.path && out[n-1].end == from {
			out[n-1].end = end
			return
		}
		if from < end {
			out = append(out, extent{s.path, from, end})
		}
	}
	for i, s := range l.segments {
		if i+1 < len(l.segments) && l.segments[i+1].first <= f.After+1 {
			continue
		}
		for _, b := range s.old {
			if b.matches(f) {
				add(s, b.offset, b.end)
			}
		}
		// What the check has not reached yet has to be read.
		add(s, s.oldEnd, s.base)
		for _, b := range s.live {
			if b.matches(f) {
				add(s, b.offset, b.end)
			}
		}
	}
	return out
}

func (b *block) matches(f *Filter) bool {
	return b.last > f.After && (f.Since.IsZero() || b.newest >= f.Since.UnixNano()) &&
		(f.Until.IsZero() || b.earliest < f.Until.UnixNano())
}

// search is one search on its way.
type search struct {
	f     Filter
	limit int
	left  int64
	// last is the last record that was looked at.
	last uint64
	// full tells that there is at least one more match than the page holds.
	full  bool
	found []Record
	// needles must all be in a line that matches, so that most lines need not be parsed.
	needles      [][]byte
	since, until []byte
}

func (s *search) prepare() {
	f := &s.f
	f.Actor, f.Action, f.Target = text(f.Actor, maxActor), text(f.Action, maxAction), text(f.Target, maxTarget)
	f.Verdict, f.Reason, f.RequestID = text(f.Verdict, maxText), text(f.Reason, maxText), text(f.RequestID, maxText)
	for _, n := range []struct{ name, value string }{
		{`,"request_id":`, f.RequestID},
		{`,"actor":`, f.Actor},
		{`,"target":`, f.Target},
		{`,"action":`, f.Action},
		{`,"reason":`, f.Reason},
		{`,"verdict":`, f.Verdict},
	} {
		if n.value != "" {
			s.needles = append(s.needles, appendField(nil, n.name, n.value))
		}
	}
	if !f.Since.IsZero() {
		s.since = f.Since.UTC().AppendFormat(nil, timeLayout)
	}
	if !f.Until.IsZero() {
		s.until = f.Until.UTC().AppendFormat(nil, timeLayout)
	}
}

// read looks through one piece of a file. A file that was pruned meanwhile has nothing to find.
func (s *search) read(e extent) error {
	file, err := os.Open(e.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer file.Close()
	from := skip(file, e, s.last)
	in := bufio.NewReaderSize(io.NewSectionReader(file, from, e.end-from), maxLine)
	if from > e.from {
		// The first line is probably cut. Where it has no end there is nothing to find.
		if _, err := skipLine(in); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	for !s.over() {
		line, err := in.ReadSlice('\n')
		s.left -= int64(len(line))
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			n, err := skipLine(in)
			s.left -= n
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			continue
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		s.line(line[:len(line)-1])
	}
	return nil
}

// over tells whether the search has found or read enough. Each page gets further than the one before.
func (s *search) over() bool { return s.full || s.left <= 0 && s.last > s.f.After }

// skip returns where in e, of which nothing is known, the record after the one with the sequence may begin at the
// earliest.
func skip(file io.ReaderAt, e extent, after uint64) int64 {
	lo, hi := e.from, e.end
	line := make([]byte, 2*maxLine)
	for hi-lo > blockSize {
		mid := lo + (hi-lo)/2
		n, err := file.ReadAt(line[:min(int64(len(line)), e.end-mid)], mid)
		if err != nil && !errors.Is(err, io.EOF) {
			return lo
		}
		sequence, ok := uint64(0), false
		for rest := line[:n]; !ok; {
			_, next, more := bytes.Cut(rest, []byte{'\n'})
			if !more {
				return lo
			}
			if bytes.HasPrefix(next, recordHead) {
				p := parser{rest: next[len(recordHead):]}
				sequence, ok = p.number(), !p.failed
			}
			rest = next
		}
		if sequence <= after {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

func (s *search) line(line []byte) {
	if !bytes.HasPrefix(line, recordHead) {
		return
	}
	p := parser{rest: line[len(recordHead):]}
	sequence := p.number()
	p.expect(`,"time":"`)
	if p.failed || sequence <= s.last || len(p.rest) < len(timeLayout) {
		return
	}
	s.last = sequence
	at := p.rest[:len(timeLayout)]
	if s.since != nil && bytes.Compare(at, s.since) < 0 || s.until != nil && bytes.Compare(at, s.until) >= 0 {
		return
	}
	for _, needle := range s.needles {
		if !bytes.Contains(line, needle) {
			return
		}
	}
	r, err := parseRecord(line)
	if err != nil || !s.matches(&r) {
		return
	}
	if len(s.found) == s.limit {
		s.full = true
		return
	}
	s.found = append(s.found, r)
}

func (s *search) matches(r *Record) bool {
	f := &s.f
	return !slices.ContainsFunc([]struct{ want, have string }{
		{f.Actor, r.Actor},
		{f.Action, r.Action},
		{f.Target, r.Target},
		{f.Verdict, r.Verdict},
		{f.Reason, r.Reason},
		{f.RequestID, r.RequestID},
	}, func(p struct{ want, have string }) bool { return p.want != "" && p.want != p.have })
}
