package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	restartMin = 200 * time.Millisecond
	restartMax = 5 * time.Second
	// steadyAfter is how long a process has to live for its next failure to count as the first.
	steadyAfter = 30 * time.Second
	// maxLogBytes is the size at which a log is set aside at the next start.
	maxLogBytes = 10 << 20
)

// command describes one process of the system.
type command struct {
	name string
	path string
	args []string
	log  string
	// grace is how long it may take to stop before it is killed.
	grace time.Duration
}

// child keeps a command running until it is stopped.
type child struct {
	command
	say    func(format string, args ...any)
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	pid      int
	failures int
}

// startChild runs the command until stop; when it ends by itself it is started again, with growing pauses, and
// say tells so.
func startChild(cmd command, say func(format string, args ...any)) *child {
	ctx, cancel := context.WithCancel(context.Background())
	c := &child{command: cmd, say: say, cancel: cancel, done: make(chan struct{})}
	go c.run(ctx)
	return c
}

func (c *child) run(ctx context.Context) {
	defer close(c.done)
	// The kernel signals a child when the thread that started it ends; this one lives as long as the child.
	runtime.LockOSThread()
	pause := restartMin
	for ctx.Err() == nil {
		began := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > steadyAfter {
			pause = restartMin
		}
		c.mu.Lock()
		c.failures++
		c.mu.Unlock()
		c.say("%s ended (%s); starting it again in %s, its log is %s", c.name, describe(err), pause, c.log)
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			t.Stop()
		case <-t.C:
		}
		pause = min(pause*2, restartMax)
	}
}

func describe(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// once runs the command to its end. When ctx ends it is asked to terminate, and killed after its grace.
func (c *child) once(ctx context.Context) error {
	log, err := os.OpenFile(c.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	defer log.Close()
	cmd := exec.CommandContext(ctx, c.path, c.args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = childEnv(os.Environ())
	// A group of its own keeps the terminal's Ctrl-C from reaching it: this process stops all in order. If this
	// process is killed the kernel asks the child to terminate.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = c.grace
	if err := cmd.Start(); err != nil {
		return err
	}
	c.setPID(cmd.Process.Pid)
	defer c.setPID(0)
	err = cmd.Wait()
	// Whatever the process started and did not put into a group of its own goes with it.
	if killErr := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); killErr != nil && !errors.Is(killErr, syscall.ESRCH) {
		c.say("what %s left behind could not be ended: %s", c.name, killErr)
	}
	return err
}

func (c *child) setPID(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pid = pid
}

// failed tells how often the process has ended by itself.
func (c *child) failed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failures
}

// stop ends the process and waits for it.
func (c *child) stop() {
	c.cancel()
	<-c.done
}

// childEnv is this process's environment without settings of gateways and drivers: what runs here is set by flags
// alone.
func childEnv(environ []string) []string {
	var out []string
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "OPENSHELL_") && !strings.HasPrefix(kv, "SALLYPORT_") && !strings.HasPrefix(kv, "NOTIFY_SOCKET=") {
			out = append(out, kv)
		}
	}
	return out
}

// rotateLog sets a large log aside as NAME.1.
func rotateLog(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || (err == nil && info.Size() < maxLogBytes) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("inspect log: %w", err)
	}
	if err := os.Rename(path, path+".1"); err != nil {
		return fmt.Errorf("set log aside: %w", err)
	}
	return nil
}

// tail returns the last lines of a log, for the message of a failure.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	const window = 8 << 10
	if info, err := f.Stat(); err == nil && info.Size() > window {
		if _, err := f.Seek(-window, io.SeekEnd); err != nil {
			return ""
		}
	}
	raw, err := io.ReadAll(io.LimitReader(f, window))
	if err != nil {
		return ""
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
