package output

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/mattn/go-runewidth"
	"golang.org/x/term"
)

// spinnerEvery is how often the display of a terminal moves.
const spinnerEvery = 100 * time.Millisecond

// Progress shows the steps of something that takes a while: on a terminal a list of finished steps above a
// moving line, elsewhere one line with the elapsed time for each change. It is safe for concurrent use.
type Progress struct {
	out   io.Writer
	fd    int
	live  bool
	quiet bool
	start time.Time

	mu     sync.Mutex
	active string
	frame  int
	done   chan struct{}
	idle   sync.WaitGroup
}

// NewProgress starts a display on w; a quiet one shows nothing. Call Stop when done.
func NewProgress(w io.Writer, color, quiet bool) *Progress {
	fd, isTerminal := Terminal(w)
	p := &Progress{
		out: w, fd: fd, live: isTerminal && color && !quiet, quiet: quiet, start: time.Now(), done: make(chan struct{}),
	}
	if p.live {
		p.idle.Go(p.spin)
	}
	return p
}

func (p *Progress) spin() {
	tick := time.NewTicker(spinnerEvery)
	defer tick.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-tick.C:
			p.mu.Lock()
			p.frame++
			p.draw()
			p.mu.Unlock()
		}
	}
}

// draw replaces the moving line; the caller holds the lock.
func (p *Progress) draw() {
	if p.active == "" {
		return
	}
	frames := [...]string{"|", "/", "-", "\\"}
	line := fmt.Sprintf("%s %s (%.1fs)", frames[p.frame%len(frames)], p.active, time.Since(p.start).Seconds())
	if width, _, err := term.GetSize(p.fd); err == nil && width > 1 {
		line = runewidth.Truncate(line, width-1, "")
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
}

// Active names what is going on now.
func (p *Progress) Active(step string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	step = Clean(step)
	if step == p.active || p.quiet {
		return
	}
	p.active = step
	if p.live {
		p.draw()
		return
	}
	p.line(step)
}

// Done says that a step is finished.
func (p *Progress) Done(step string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	step = Clean(step)
	switch {
	case p.quiet:
	case p.live:
		fmt.Fprintf(p.out, "\r\x1b[K\u2713 %s\n", step)
		p.draw()
	default:
		p.line(step)
	}
}

func (p *Progress) line(step string) {
	fmt.Fprintf(p.out, "[%.1fs] %s\n", time.Since(p.start).Seconds(), step)
}

// Stop ends the display and clears the moving line. It may be called twice.
func (p *Progress) Stop() {
	p.mu.Lock()
	select {
	case <-p.done:
		p.mu.Unlock()
		return
	default:
		close(p.done)
	}
	p.mu.Unlock()
	p.idle.Wait()
	if p.live {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

// Pause lets say write to the same terminal without the moving line in its way.
func (p *Progress) Pause(say func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.live {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
	say()
	if p.live {
		p.draw()
	}
}
