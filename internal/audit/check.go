package audit

import (
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	// checkChunk is how much the check reads before it rests for restFactor times what that took, so that a gateway
	// that has just started keeps its processors.
	checkChunk = 1 << 20
	restFactor = 3
)

// check goes over the files that were there at the start: it indexes them for searches and records what is wrong.
func (l *Log) check() {
	defer close(l.checked)
	l.index.RLock()
	segments := append([]*segment(nil), l.segments...)
	l.index.RUnlock()
	report := &Report{}
	c := &chain{report: report}
	if public, ok := l.o.Key.Public().(ed25519.PublicKey); ok {
		// Checkpoints of keys that were used before are only compared with the chain.
		c.own, c.ownID = public, l.keyID
	}
	for i, s := range segments {
		before := len(report.Problems)
		if err := l.checkFile(c, s, i == len(segments)-1); err != nil {
			if !errors.Is(err, errStopped) {
				l.o.Logger.Warn("check the audit log", "file", s.path, "error", err)
			}
			return
		}
		if len(report.Problems) > before {
			// One record a file: the rest is for `audit verify`.
			l.reportBroken(report.Problems[before])
		}
	}
}

var errStopped = errors.New("the log is being closed")

func (l *Log) checkFile(c *chain, s *segment, newest bool) error {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		// It was pruned meanwhile; the next file speaks for itself.
		c.begun = false
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	l.index.RLock()
	base := s.base
	l.index.RUnlock()
	var blocks []block
	c.seen = func(r *Record, offset int64, length int) { blocks = note(blocks, r, offset, length) }
	c.name, c.number, c.last = s.path, 0, false
	if err := c.lines(&gentle{r: io.NewSectionReader(f, 0, base), stop: l.stop}, newest); err != nil {
		return err
	}
	if !newest && !c.last {
		c.problem("the file does not end with a checkpoint, so that records may be missing")
	}
	l.index.Lock()
	s.old, s.oldEnd = blocks, base
	l.index.Unlock()
	return nil
}

// gentle reads with rests.
type gentle struct {
	r     io.Reader
	stop  <-chan struct{}
	left  int
	began time.Time
}

func (g *gentle) Read(p []byte) (int, error) {
	if g.left <= 0 {
		rest := time.Duration(0)
		if !g.began.IsZero() {
			rest = restFactor * time.Since(g.began)
		}
		timer := time.NewTimer(rest)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-g.stop:
			return 0, errStopped
		}
		g.left, g.began = checkChunk, time.Now()
	}
	n, err := g.r.Read(p)
	g.left -= n
	return n, err
}
