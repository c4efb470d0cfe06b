// Package process starts the sandbox's child processes and waits for them: each in a session and process group of
// its own, on three pipes or on a pseudo terminal. It owns signals, exit codes and the reaping of orphans when the
// supervisor is the first process of its namespace. It knows nothing of environments, shells, relays or SSH.
package process

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEnded reports a signal for a process that has ended.
var ErrEnded = errors.New("process has ended")

// Size is a terminal's size in cells.
type Size struct{ Cols, Rows uint16 }

// Spec says what to start.
type Spec struct {
	// Path is the program's file; Args its arguments with the program's name in front.
	Path string
	Args []string
	// Dir is the working directory, Env the whole environment.
	Dir string
	Env []string
	// Terminal asks for a pseudo terminal of this size instead of three pipes.
	Terminal *Size
	// Stdio, if set, is used as it is instead of pipes; the process then has no Stdin, Stdout and Stderr.
	Stdio *[3]*os.File
	// Credential is the user to run as; nil means the supervisor's own.
	Credential *syscall.Credential
}

// Process is one child. Its files are the supervisor's ends; with a terminal, Stdin and Stdout are both the
// terminal and Stderr is nil.
type Process struct {
	Stdin, Stdout, Stderr *os.File

	pid      int
	terminal bool
	table    *Table
	done     chan struct{}
	code     int
	ended    atomic.Bool
	endedAt  time.Time

	mu          sync.Mutex
	reaped      bool
	terminating bool
	killed      chan struct{}
	killer      *time.Timer
}

// Start starts a child. Failures to find or run the program carry the system's error.
func (t *Table) Start(s Spec) (*Process, error) {
	p := &Process{table: t, done: make(chan struct{}), killed: make(chan struct{}), terminal: s.Terminal != nil}
	child, err := p.open(s)
	if err != nil {
		p.Close()
		return nil, err
	}
	attr := &syscall.ProcAttr{
		Dir: s.Dir, Env: s.Env,
		Files: []uintptr{uintptr(child[0]), uintptr(child[1]), uintptr(child[2])},
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: p.terminal, Credential: s.Credential},
	}
	t.starting.RLock()
	pid, err := syscall.ForkExec(s.Path, s.Args, attr)
	if err == nil {
		p.pid = pid
		t.add(p)
	}
	t.starting.RUnlock()
	runtime.KeepAlive(s.Stdio)
	if s.Stdio == nil {
		closeFDs(child)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("start program: %w", err)
	}
	go p.wait()
	return p, nil
}

// open makes the ends of both sides and returns the child's.
func (p *Process) open(s Spec) ([3]int, error) {
	switch {
	case s.Stdio != nil:
		return [3]int{int(s.Stdio[0].Fd()), int(s.Stdio[1].Fd()), int(s.Stdio[2].Fd())}, nil
	case s.Terminal != nil:
		master, slave, err := openTerminal(*s.Terminal)
		if err != nil {
			return [3]int{}, err
		}
		p.Stdin, p.Stdout = master, master
		return [3]int{slave, slave, slave}, nil
	}
	var child [3]int
	for i, f := range []**os.File{&p.Stdin, &p.Stdout, &p.Stderr} {
		var fds [2]int
		if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
			closeFDs(child)
			return child, fmt.Errorf("open pipe: %w", err)
		}
		ours, theirs := fds[0], fds[1]
		if i == 0 {
			ours, theirs = theirs, ours
		}
		child[i] = theirs
		if err := unix.SetNonblock(ours, true); err != nil {
			unix.Close(ours)
			closeFDs(child)
			return child, fmt.Errorf("open pipe: %w", err)
		}
		*f = os.NewFile(uintptr(ours), "pipe")
	}
	return child, nil
}

// closeFDs closes the child's ends; 0 marks one that was never opened, equal ones are closed once.
func closeFDs(fds [3]int) {
	for i, fd := range fds {
		if fd > 0 && (i == 0 || fd != fds[i-1]) { //nolint:gosec // i-1 is read only where i is not 0.
			unix.Close(fd)
		}
	}
}

// PID is the process's id, which is also the id of its group and session.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and its exit code is known.
func (p *Process) Done() <-chan struct{} { return p.done }

// ExitCode is the exit code, or 128 plus the number of the signal that ended the process. Valid after Done.
func (p *Process) ExitCode() int { return p.code }

// Close closes the supervisor's ends. A process on a terminal is told by the kernel that its line dropped.
func (p *Process) Close() {
	for _, f := range []*os.File{p.Stdin, p.Stdout, p.Stderr} {
		if f != nil {
			f.Close()
		}
	}
}

// CloseInput ends the process's input: a terminal, which has no half to close, gets the end-of-file character.
func (p *Process) CloseInput() error {
	if p.terminal {
		_, err := p.Stdin.Write([]byte{4})
		return err
	}
	return p.Stdin.Close()
}

// Resize sets the terminal's size; without a terminal it does nothing.
func (p *Process) Resize(s Size) error {
	if !p.terminal {
		return nil
	}
	return setSize(p.Stdout, s)
}

// Signal sends a signal to the whole process group.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return ErrEnded
	}
	if err := syscall.Kill(-p.pid, sig); err != nil {
		return fmt.Errorf("signal process group: %w", err)
	}
	return nil
}

// Terminate asks the process group to end and kills what is left of it after grace. It does not wait.
func (p *Process) Terminate(grace time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped || p.terminating {
		return
	}
	p.terminating = true
	// A stopped process would keep the signal waiting.
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGCONT} {
		_ = syscall.Kill(-p.pid, sig)
	}
	p.killer = time.AfterFunc(grace, func() {
		_ = p.Signal(syscall.SIGKILL)
		close(p.killed)
	})
}

// wait collects the child. While the group is being ended the dead leader is left as it is, so that the group's
// number cannot be given to a stranger before the last signal.
func (p *Process) wait() {
	for {
		if err := unix.Waitid(unix.P_PID, p.pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != unix.EINTR {
			break
		}
	}
	p.mu.Lock()
	if p.terminating {
		p.mu.Unlock()
		p.awaitGroup()
		p.mu.Lock()
	}
	var ws syscall.WaitStatus
	var err error
	for {
		if _, err = syscall.Wait4(p.pid, &ws, 0, nil); err != syscall.EINTR {
			break
		}
	}
	p.reaped = true
	if p.killer != nil {
		p.killer.Stop()
	}
	p.mu.Unlock()
	switch {
	case err != nil:
		// Only a foreign wait for all children can take the status away; it is lost then.
		p.code = 255
	case ws.Signaled():
		p.code = 128 + int(ws.Signal())
	default:
		p.code = ws.ExitStatus()
	}
	p.endedAt = time.Now()
	p.ended.Store(true)
	p.wakeReaders()
	p.table.remove(p)
	close(p.done)
}

// groupPoll is how often a group that is being ended is looked at once its leader is dead.
const groupPoll = 20 * time.Millisecond

func (p *Process) awaitGroup() {
	ticker := time.NewTicker(groupPoll)
	defer ticker.Stop()
	for groupAlive(p.pid) {
		select {
		case <-p.killed:
			return
		case <-ticker.C:
		}
	}
}
