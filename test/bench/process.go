package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// process is a child.
type process struct {
	name    string
	address string
	// began is when it was started, ready when it said that it serves.
	began, ready time.Time
	cmd          *exec.Cmd
	log          string
	ended        chan struct{}
	err          error
}

// startTimeout is what a child has to say that it serves.
const startTimeout = 60 * time.Second

// command is a child to start.
type command struct {
	name string
	path string
	args []string
	env  []string
	// log is the file that takes its standard error.
	log string
	// says is part of the line by which it tells that it serves.
	says string
}

// start starts a child and waits until it says that it serves.
func start(ctx context.Context, c command) (*process, error) {
	p := &process{name: c.name, log: c.log, ended: make(chan struct{})}
	p.cmd = exec.Command(c.path, c.args...) //nolint:noctx // reason: stop ends it in order, with its profiles written
	p.cmd.Env = append(os.Environ(), c.env...)
	// Ctrl-C is for the harness, which then stops its children.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	file, err := os.Create(c.log)
	if err != nil {
		return nil, err
	}
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	serving := make(chan string, 1)
	go func() {
		defer close(p.ended)
		lines := bufio.NewScanner(stderr)
		lines.Buffer(nil, 1<<20)
		var failed error
		for lines.Scan() {
			if serving != nil && bytes.Contains(lines.Bytes(), []byte(c.says)) {
				serving <- lines.Text()
				serving = nil
			}
			if _, err := fmt.Fprintln(file, lines.Text()); err != nil {
				failed = err
			}
		}
		p.err = errors.Join(p.cmd.Wait(), lines.Err(), failed, file.Close())
	}()
	timer := time.NewTimer(startTimeout)
	defer timer.Stop()
	wait := serving
	select {
	case text := <-wait:
		p.ready = time.Now()
		p.address = addressOf(text)
		return p, nil
	case <-p.ended:
		return nil, fmt.Errorf("%s ended before it served, see %s: %w", c.name, c.log, p.err)
	case <-timer.C:
		return nil, errors.Join(fmt.Errorf("%s does not serve, see %s", c.name, c.log), p.stop())
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), p.stop())
	}
}

func addressOf(text string) string {
	var entry struct {
		Address string `json:"address"`
	}
	// A child that has no address writes lines of another form.
	if json.Unmarshal([]byte(text), &entry) != nil {
		return ""
	}
	return entry.Address
}

// stopTimeout is what a child has to end after SIGTERM.
const stopTimeout = 20 * time.Second

// stop ends the child and waits for it.
func (p *process) stop() error {
	select {
	case <-p.ended:
		return fmt.Errorf("%s ended by itself, see %s: %w", p.name, p.log, p.err)
	default:
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	timer := time.NewTimer(stopTimeout)
	defer timer.Stop()
	select {
	case <-p.ended:
		return nil
	case <-timer.C:
		err := p.cmd.Process.Kill()
		<-p.ended
		return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM", p.name, stopTimeout), err)
	}
}

// cpu returns the processor time the child has used, all its threads together, from its own clock: the figures in
// /proc come in hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	// The clock of another process: see clock_getcpuclockid(3).
	const scheduling = 2
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^p.cmd.Process.Pid<<3|scheduling), &t); err != nil {
		return 0, fmt.Errorf("read the processor time of %s: %w", p.name, err)
	}
	return time.Duration(t.Nano()), nil
}

// rss returns the child's resident bytes.
func (p *process) rss() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for text := range strings.Lines(string(raw)) {
		value, ok := strings.CutPrefix(text, "VmRSS:")
		if !ok {
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		return kilobytes << 10, err
	}
	return 0, fmt.Errorf("no resident size of %s", p.name)
}

// profileTimeout bounds the wait for a snapshot.
const profileTimeout = 30 * time.Second

// snapshot has a profiled gateway write its memory and goroutines, and waits until they are there.
func (b *bench) snapshot(ctx context.Context, p *process) error {
	if b.profile == "" || p.name != gatewayName {
		return nil
	}
	file := filepath.Join(b.profile, fmt.Sprintf("heap-%d.pprof", p.cmd.Process.Pid))
	if err := p.cmd.Process.Signal(syscall.SIGUSR1); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, profileTimeout)
	defer cancel()
	poll := time.NewTicker(50 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
			return err
		}
		select {
		case <-poll.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", file, context.Cause(ctx))
		}
	}
}
