package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"sallyport.dev/sallyport/internal/privatefile"
)

// Pauses between attempts to write to a disk that fails.
const (
	firstPause = 50 * time.Millisecond
	maxPause   = 5 * time.Second
	// complainEvery bounds how often a failing disk is logged.
	complainEvery = time.Minute
)

// writer is the part of a log that only its goroutine touches: the file that grows and the end of the chain.
type writer struct {
	l     *Log
	file  file
	path  string
	first uint64
	// size is how much of the file is durable.
	size int64

	sequence uint64
	hash     [32]byte
	// unsigned counts the records that no checkpoint covers, the oldest of which was written at since.
	unsigned int
	since    time.Time

	buf []byte
	// marks are the records in buf, for the index.
	marks []mark
	spare []Record
	// err is why the last records were given up.
	err        error
	complained time.Time
}

type mark struct {
	record Record
	offset int
	length int
}

// begin opens the newest file, or makes the first. It returns what was wrong with the end of the log.
func (w *writer) begin() (broken []Problem, err error) {
	segments := w.l.segments
	for len(segments) > 0 {
		newest := segments[len(segments)-1]
		t, err := readTail(newest.path)
		switch {
		case errors.Is(err, errBroken):
			broken = append(broken, Problem{File: newest.path, Text: "the end of the file cannot be read; the log goes on in a new file"})
			w.sequence, w.hash = t.sequence, t.hash
			if nameOf(w.sequence+1) == filepath.Base(newest.path) {
				// Nothing in it can be read, but it stays for whoever looks into it.
				w.sequence++
			}
			return broken, w.create()
		case err != nil:
			return nil, fmt.Errorf("read %s: %w", newest.path, err)
		case t.whole == 0:
			// It was being made when the process was killed: nothing of it was ever used.
			if err := os.Remove(newest.path); err != nil {
				return nil, err
			}
			segments = segments[:len(segments)-1]
			w.l.segments = segments
			if len(segments) == 0 && newest.first > 1 {
				w.sequence = newest.first - 1
				broken = append(broken, Problem{File: newest.path, Text: "the file was empty and the files before it are gone"})
			}
		default:
			w.sequence, w.hash, w.unsigned = t.sequence, t.hash, t.unsigned
			w.since = w.l.o.Now()
			w.l.durable = w.sequence
			return broken, w.resume(newest, t.whole)
		}
	}
	return broken, w.create()
}

// resume goes on with a file after its last whole line.
func (w *writer) resume(s *segment, whole int64) error {
	w.path, w.first = s.path, s.first
	if err := w.reopen(whole); err != nil {
		return err
	}
	s.size, s.base = whole, whole
	return nil
}

// reopen opens the file again and cuts off what follows its durable part.
func (w *writer) reopen(size int64) error {
	f, err := w.l.o.open(w.path, os.O_RDWR)
	if err != nil {
		return err
	}
	err = func() error {
		info, err := f.Stat()
		if err != nil {
			return err
		}
		if info.Size() < size {
			return errShrunk
		}
		if info.Size() > size {
			if err := errors.Join(f.Truncate(size), f.Sync()); err != nil {
				return err
			}
		}
		_, err = f.Seek(size, io.SeekStart)
		return err
	}()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	w.file, w.size = f, size
	return nil
}

var errShrunk = errors.New("the file has become shorter")

// create begins the file of the next record. It opens with a checkpoint, so that the file can be verified when those
// before it are gone.
func (w *writer) create() error {
	path := filepath.Join(w.l.o.Dir, nameOf(w.sequence+1))
	f, err := w.l.o.open(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	head := appendCheckpoint(nil, w.checkpoint(), w.l.o.Key)
	_, err = f.Write(head)
	if err = errors.Join(err, f.Sync()); err == nil {
		err = privatefile.SyncDir(w.l.o.Dir)
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	if w.file != nil {
		if err := w.file.Close(); err != nil {
			w.l.o.Logger.Warn("close a file of the audit log", "error", err)
		}
	}
	w.file, w.path, w.first, w.size = f, path, w.sequence+1, int64(len(head))
	w.unsigned = 0
	w.l.index.Lock()
	if n := len(w.l.segments); n > 0 && w.l.segments[n-1].path == path {
		w.l.segments = w.l.segments[:n-1]
	}
	w.l.segments = append(w.l.segments, &segment{path: path, first: w.first, size: w.size, base: w.size, oldEnd: w.size})
	w.l.durable = w.sequence
	w.l.index.Unlock()
	return nil
}

func (w *writer) checkpoint() *checkpoint {
	return &checkpoint{sequence: w.sequence, time: w.l.o.Now().UTC().Round(0), hash: w.hash, key: w.l.keyID}
}

// write puts records, and what checkpoints are due, on disk. It returns when they are there; false if the log was
// closed before the disk took them.
func (w *writer) write(records []Record, stopping bool) bool {
	w.buf, w.marks = w.buf[:0], w.marks[:0]
	for i := range records {
		r := &records[i]
		w.sequence++
		r.Sequence, r.Prev = w.sequence, w.hash
		start := len(w.buf)
		w.buf = appendRecord(w.buf, r)
		w.hash = r.Hash
		w.marks = append(w.marks, mark{Record{Sequence: r.Sequence, Time: r.Time}, start, len(w.buf) - start})
		if w.unsigned++; w.unsigned == 1 {
			w.since = w.l.o.Now()
		}
		if w.unsigned >= checkpointEvery {
			w.sign()
		}
	}
	if w.unsigned > 0 && (stopping || w.l.o.Now().Sub(w.since) >= signAfter) {
		w.sign()
	}
	if len(w.buf) == 0 {
		return true
	}
	if err := w.persist(); err != nil {
		w.err = fmt.Errorf("write the audit log: %d records are lost: %w", len(records), err)
		return false
	}
	w.publish()
	if w.size >= w.l.o.MaxBytes && !stopping {
		w.rotate()
	}
	if cap(w.buf) > 4<<20 {
		w.buf = nil
	}
	return true
}

func (w *writer) sign() {
	w.buf = appendCheckpoint(w.buf, w.checkpoint(), w.l.o.Key)
	w.unsigned = 0
}

// persist makes buf durable, however often that takes.
func (w *writer) persist() error {
	pause := firstPause
	for {
		err := w.attempt()
		if err == nil {
			if pause != firstPause {
				w.l.o.Logger.Info("the audit log can be written again")
			}
			w.l.fail(nil)
			return nil
		}
		w.l.fail(err)
		if now := w.l.o.Now(); now.Sub(w.complained) >= complainEvery {
			w.complained = now
			w.l.o.Logger.Error("the audit log cannot be written; trying again", "file", w.path, "error", err)
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-w.l.abandon:
			timer.Stop()
			return err
		}
		pause = min(2*pause, maxPause)
	}
}

// attempt writes buf once. After a failure nobody knows what of it is on disk, and a second sync would say nothing
// about it; so the next attempt cuts the file back and writes everything again.
func (w *writer) attempt() error {
	if w.file == nil {
		err := w.reopen(w.size)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, errShrunk) {
			err = w.replaceLost(err)
		}
		if err != nil {
			return err
		}
	}
	_, err := w.file.Write(w.buf)
	if err == nil {
		err = w.file.Sync()
	}
	if err == nil {
		err = w.inPlace()
	}
	if err == nil {
		return nil
	}
	if closeErr := w.file.Close(); closeErr != nil {
		err = errors.Join(err, closeErr)
	}
	w.file = nil
	return err
}

// inPlace tells whether the open file is still the one that has its name: what is written into a file that somebody
// removed is gone with the process.
func (w *writer) inPlace() error {
	named, err := os.Stat(w.path)
	if err != nil {
		return err
	}
	opened, err := w.file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(named, opened) {
		return errors.New("the file was replaced by another")
	}
	return nil
}

// replaceLost begins a new file for buf where the one that grew is gone or was cut. What was in that one is lost, and
// a record says so.
func (w *writer) replaceLost(cause error) error {
	lost := w.path
	sequence, hash := w.sequence, w.hash
	if len(w.marks) > 0 {
		first := w.marks[0].record.Sequence
		w.sequence = first - 1
		line := w.buf[w.marks[0].offset : w.marks[0].offset+w.marks[0].length-1]
		if r, err := parseRecord(line); err == nil {
			w.hash = r.Prev
		}
	}
	unsigned := w.unsigned
	err := w.create()
	w.sequence, w.hash, w.unsigned = sequence, hash, unsigned
	if err != nil {
		return err
	}
	// Not from here: the queue may be full and this goroutine is the one that empties it.
	w.l.done.Go(func() { w.l.reportBroken(Problem{File: lost, Text: "the file was removed or cut: " + cause.Error()}) })
	return nil
}

// publish lets searches see what was written.
func (w *writer) publish() {
	w.l.index.Lock()
	s := w.l.segments[len(w.l.segments)-1]
	for i := range w.marks {
		m := &w.marks[i]
		s.live = note(s.live, &m.record, w.size+int64(m.offset), m.length)
	}
	w.size += int64(len(w.buf))
	s.size = w.size
	w.l.durable = w.sequence
	grown := w.l.grown
	w.l.grown = make(chan struct{})
	w.l.index.Unlock()
	close(grown)
}

// rotate closes the file with a checkpoint and begins the next. If that fails the file just grows on: nothing is lost.
func (w *writer) rotate() {
	w.buf, w.marks = w.buf[:0], w.marks[:0]
	unsigned := w.unsigned
	w.sign()
	if err := w.attempt(); err != nil {
		w.unsigned = unsigned
		w.l.o.Logger.Error("close a file of the audit log", "file", w.path, "error", err)
		return
	}
	w.publish()
	if err := w.create(); err != nil {
		w.l.o.Logger.Error("begin a file of the audit log; going on with the one before", "error", err)
		return
	}
	w.prune()
}

// prune removes the oldest files beyond those that are kept.
func (w *writer) prune() {
	if w.l.o.KeepFiles <= 0 {
		return
	}
	w.l.index.Lock()
	var gone []*segment
	if n := len(w.l.segments) - 1 - w.l.o.KeepFiles; n > 0 {
		gone = append(gone, w.l.segments[:n]...)
		w.l.segments = append([]*segment(nil), w.l.segments[n:]...)
	}
	w.l.index.Unlock()
	for _, s := range gone {
		if err := os.Remove(s.path); err != nil && !errors.Is(err, os.ErrNotExist) {
			w.l.o.Logger.Warn("remove an old file of the audit log", "file", s.path, "error", err)
		}
	}
}

func (w *writer) close() error {
	if w.file == nil {
		return nil
	}
	return w.file.Close()
}
