package audit

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// blockSize is how much of a file one entry of its index stands for.
const blockSize = 128 << 10

// file is what the log needs of an open file; tests put a failing one in its place.
type file interface {
	io.Writer
	io.Seeker
	Sync() error
	Truncate(size int64) error
	Stat() (fs.FileInfo, error)
	Close() error
}

func openFile(path string, flag int) (file, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return f, nil
}

// block is what the index knows of a piece of a file: where it is, and what lies in it.
type block struct {
	offset, end      int64
	first, last      uint64
	earliest, newest int64
}

// segment is one file of the log as searches see it. It is guarded by the log's index lock.
type segment struct {
	path  string
	first uint64
	// size is how much of the file is durable.
	size int64
	// base is the size that the file had when it was opened; live describes what came after, old what was there before
	// once the check has passed over it.
	base   int64
	live   []block
	old    []block
	oldEnd int64
}

// note adds a record to an index.
func note(blocks []block, r *Record, offset int64, length int) []block {
	at := r.Time.UnixNano()
	n := len(blocks)
	if n == 0 || blocks[n-1].end-blocks[n-1].offset >= blockSize {
		return append(blocks, block{
			offset: offset, end: offset + int64(length), first: r.Sequence, last: r.Sequence, earliest: at, newest: at,
		})
	}
	b := &blocks[n-1]
	b.end, b.last = offset+int64(length), r.Sequence
	b.earliest, b.newest = min(b.earliest, at), max(b.newest, at)
	return blocks
}

// tail is where a log goes on.
type tail struct {
	sequence uint64
	hash     [32]byte
	// whole is the size of the file up to the end of its last whole line.
	whole int64
	// unsigned is how many records at the end no checkpoint covers.
	unsigned int
}

var errBroken = errors.New("its end cannot be read")

// readTail finds where the file ends. A last line without its newline is what a killed process leaves; anything else
// that cannot be read is errBroken, with the last record that could.
func readTail(path string) (tail, error) {
	f, err := os.Open(path)
	if err != nil {
		return tail{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return tail{}, err
	}
	// Enough for the last line and, so that the count of unsigned records is about right, those before it.
	from := max(0, info.Size()-64*maxLine)
	data := make([]byte, info.Size()-from)
	if _, err := io.ReadFull(io.NewSectionReader(f, from, int64(len(data))), data); err != nil {
		return tail{}, err
	}
	end := bytes.LastIndexByte(data, '\n') + 1
	if end == 0 && from > 0 {
		return lastReadable(path, errBroken)
	}
	t := tail{whole: from + int64(end)}
	if end == 0 {
		return t, nil
	}
	lines := bytes.Split(data[:end-1], []byte{'\n'})
	if from > 0 {
		// The first line was probably cut.
		lines = lines[1:]
	}
	if len(lines) == 0 {
		return lastReadable(path, errBroken)
	}
	found := false
	for _, line := range slices.Backward(lines) {
		if bytes.HasPrefix(line, checkpointHead) {
			c, err := parseCheckpoint(line)
			switch {
			case err != nil, found && (c.sequence+uint64(t.unsigned) != t.sequence):
				return lastReadable(path, errBroken)
			case !found:
				t.sequence, t.hash = c.sequence, c.hash
			}
			return t, nil
		}
		r, err := parseRecord(line)
		if err != nil || found && r.Sequence+uint64(t.unsigned) != t.sequence {
			return lastReadable(path, errBroken)
		}
		if !found {
			t.sequence, t.hash, found = r.Sequence, r.Hash, true
		}
		t.unsigned++
	}
	return t, nil
}

// lastReadable reads a whole file for the record after which a new one may go on. It never fails: a file that cannot
// be read at all is left as it is.
func lastReadable(path string, cause error) (tail, error) {
	t := tail{}
	if first, ok := firstOf(filepath.Base(path)); ok {
		t.sequence = first - 1
	}
	f, err := os.Open(path)
	if err != nil {
		return t, errors.Join(cause, err)
	}
	defer f.Close()
	c := &chain{report: &Report{}}
	if err := c.lines(f, true); err != nil {
		cause = errors.Join(cause, err)
	}
	if c.begun && c.sequence >= t.sequence {
		t.sequence, t.hash = c.sequence, c.hash
	}
	return t, cause
}

// list returns the log's files in dir, oldest first.
func list(dir string) ([]*segment, error) {
	paths, err := logFiles(dir)
	if err != nil {
		return nil, fmt.Errorf("list the audit log: %w", err)
	}
	out := make([]*segment, 0, len(paths))
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil {
			return nil, fmt.Errorf("list the audit log: %w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("list the audit log: %s is not a file", path)
		}
		first, _ := firstOf(filepath.Base(path))
		out = append(out, &segment{path: path, first: first, size: info.Size(), base: info.Size()})
	}
	slices.SortFunc(out, func(a, b *segment) int {
		if a.first < b.first {
			return -1
		}
		return 1
	})
	return out, nil
}
