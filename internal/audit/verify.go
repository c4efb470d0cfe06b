package audit

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// checkpointEvery is the number of records after which a checkpoint is written. More records than these at the end
// without one mean that checkpoints were taken out.
const checkpointEvery = 1024

// maxProblems bounds a report.
const maxProblems = 100

// Problem is one place where a log is not what was written.
type Problem struct {
	File string
	// Line counts from 1; 0 where the problem is with the file as a whole.
	Line int
	Text string
}

// Report is what Verify found.
type Report struct {
	Files, Records, Checkpoints int
	// First and Last are the sequences of the oldest and newest record; both 0 without any.
	First, Last uint64
	// Pruned is how many older records are gone because only so many files are kept.
	Pruned uint64
	// Head is the hash of the newest record. Kept elsewhere, it proves later that nothing before it has changed.
	Head [32]byte
	// Signed is the newest record that a checkpoint of a known key covers; 0 without a key.
	Signed uint64
	// Torn is the size of an unfinished line at the very end, as a process that was killed leaves it.
	Torn int
	// Problems are at most 100, in the order of the log; More counts those beyond.
	Problems []Problem
	More     int
}

// OK tells whether the log is what was written.
func (r *Report) OK() bool { return len(r.Problems) == 0 }

// Verify reads a log, given as its folder or as its files, and checks every record and the order of all. Without keys
// the checkpoints' signatures are not checked: then a log that was rewritten from some record to its end passes. The
// error is about reading only; what is wrong with the log is in the report.
func Verify(paths []string, keys ...ed25519.PublicKey) (*Report, error) {
	var files []string
	for _, path := range paths {
		found, err := logFiles(path)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s holds no audit log", strings.Join(paths, ", "))
	}
	slices.SortFunc(files, func(a, b string) int { return strings.Compare(filepath.Base(a), filepath.Base(b)) })
	report := &Report{Files: len(files)}
	c := &chain{report: report}
	if len(keys) > 0 {
		c.keys = map[string]ed25519.PublicKey{}
		for _, k := range keys {
			c.keys[KeyID(k)] = k
		}
	}
	for i, path := range files {
		if err := c.file(path, i == len(files)-1); err != nil {
			return nil, err
		}
	}
	report.Last, report.Head = c.sequence, c.hash
	if unsigned := c.sequence - min(c.sequence, c.covered); c.keys != nil && unsigned > checkpointEvery {
		c.problem("the last %d records have no checkpoint, of which there is one every %d records", unsigned, checkpointEvery)
	}
	return report, nil
}

// logFiles returns path itself, or the log's files in it if it is a folder.
func logFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if _, ok := firstOf(e.Name()); ok {
			out = append(out, filepath.Join(path, e.Name()))
		}
	}
	return out, nil
}

// nameOf is the name of the file whose first record has the sequence; names sort like sequences.
func nameOf(first uint64) string { return fmt.Sprintf("audit-%020d.jsonl", first) }

func firstOf(name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, "audit-")
	if !ok {
		return 0, false
	}
	digits, ok = strings.CutSuffix(digits, ".jsonl")
	if !ok || len(digits) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	return n, err == nil && n > 0
}

// chain follows a log line by line. After a problem it goes on with what the line says of itself, so that one altered
// record is one problem.
type chain struct {
	// keys are those that may sign; nil means that signatures are not checked.
	keys map[string]ed25519.PublicKey
	// own is one key whose signatures are checked while those of others are passed over; nil for none.
	own    ed25519.PublicKey
	ownID  string
	report *Report
	// begun tells that sequence and hash are those of the last record; before, any opening checkpoint will do.
	begun    bool
	sequence uint64
	hash     [32]byte
	// covered is the record of the last checkpoint that passed.
	covered uint64
	name    string
	number  int
	// last tells whether the last line was a checkpoint.
	last bool
	// seen is told each record with its offset and the length of its line; nil for nobody.
	seen func(r *Record, offset int64, length int)
}

func (c *chain) problem(format string, args ...any) {
	if len(c.report.Problems) == maxProblems {
		c.report.More++
		return
	}
	c.report.Problems = append(c.report.Problems, Problem{File: c.name, Line: c.number, Text: fmt.Sprintf(format, args...)})
}

// file follows one file. The newest may end in the middle of a line and without a checkpoint.
func (c *chain) file(path string, newest bool) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	c.name, c.number, c.last = path, 0, false
	if err := c.lines(f, newest); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if !newest && !c.last {
		c.problem("the file does not end with a checkpoint, so that records may be missing")
	}
	return nil
}

// lines follows one file's content.
func (c *chain) lines(r io.Reader, newest bool) error {
	in := bufio.NewReaderSize(r, maxLine)
	var offset int64
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			if len(line) > 0 {
				if newest {
					c.report.Torn = len(line)
				} else {
					c.number++
					c.problem("the last line is not whole")
				}
			}
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
			c.number++
			c.last = false
			c.problem("the line is too long")
			n, err := skipLine(in)
			offset += int64(len(line)) + n
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		}
		c.number++
		if bytes.HasPrefix(line, checkpointHead) {
			c.checkpoint(line[:len(line)-1])
		} else {
			c.record(line[:len(line)-1], offset)
		}
		offset += int64(len(line))
	}
}

func skipLine(in *bufio.Reader) (n int64, err error) {
	for {
		part, err := in.ReadSlice('\n')
		n += int64(len(part))
		if !errors.Is(err, bufio.ErrBufferFull) {
			return n, err
		}
	}
}

func (c *chain) record(line []byte, offset int64) {
	c.last = false
	r, err := parseRecord(line)
	if c.number == 1 {
		c.problem("the file does not begin with a checkpoint")
	}
	if err != nil {
		c.problem("%v", err)
		if r.Sequence == 0 || r.Hash == [32]byte{} {
			return
		}
	}
	switch {
	case !c.begun && c.number == 1:
	case r.Sequence != c.sequence+1:
		c.problem("record %d follows record %d", r.Sequence, c.sequence)
	case r.Prev != c.hash && err == nil:
		c.problem("record %d does not continue the record before it", r.Sequence)
	}
	if c.report.First == 0 {
		c.report.First = r.Sequence
	}
	c.report.Records++
	c.begun, c.sequence, c.hash = true, r.Sequence, r.Hash
	if c.seen != nil {
		c.seen(&r, offset, len(line)+1)
	}
}

func (c *chain) checkpoint(line []byte) {
	c.last = true
	p, err := parseCheckpoint(line)
	if err != nil {
		c.problem("%v", err)
		return
	}
	c.report.Checkpoints++
	signed := c.signed(p)
	switch {
	case !c.begun:
		if p.sequence == 0 && p.hash != [32]byte{} {
			c.problem("the first checkpoint of a log has a hash")
		}
		c.begun, c.sequence, c.hash, c.report.Pruned = true, p.sequence, p.hash, p.sequence
	case p.sequence != c.sequence || p.hash != c.hash:
		c.problem("the checkpoint is for record %d, which is not what precedes it: records were altered, added or removed", p.sequence)
		if c.number == 1 {
			c.sequence, c.hash = p.sequence, p.hash
		}
		return
	}
	c.covered = p.sequence
	if signed {
		c.report.Signed = p.sequence
	}
}

func (c *chain) signed(p *checkpoint) bool {
	if c.keys == nil {
		if c.own != nil && p.key == c.ownID && !p.verify(c.own) {
			c.problem("the signature of the checkpoint is wrong")
		}
		return false
	}
	key, known := c.keys[p.key]
	switch {
	case !known:
		c.problem("the checkpoint is signed with key %s, which was not given", p.key)
	case !p.verify(key):
		c.problem("the signature of the checkpoint is wrong")
	default:
		return true
	}
	return false
}
