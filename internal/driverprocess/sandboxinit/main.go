//go:build linux

package sandboxinit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// Requested tells whether a command line asks for Main.
func Requested(args []string) bool {
	return len(args) > 1 && (args[1] == Command || args[1] == quitCommand)
}

// Main is the whole program of a sandbox's first process and returns its exit code: 0 if the supervisor ran
// and ended, 1 if it could not be started. The details are in init.json.
func Main() int {
	if os.Args[1] == quitCommand {
		return 0
	}
	// Some settings belong to a thread and pass to the processes that it starts.
	runtime.LockOSThread()
	config := os.NewFile(ConfigFD, "configuration")
	cfg, err := readConfig(config)
	config.Close()
	if err != nil {
		// The driver died before it was committed to this sandbox: nobody is there to be told.
		return 1
	}
	root, err := os.OpenRoot(cfg.Dir)
	if err != nil {
		return 1
	}
	defer root.Close()
	log, err := openLog(root, cfg.LogBytes)
	if err != nil {
		return 1
	}
	state := run(cfg, root, log)
	if state.Error != "" {
		fmt.Fprintln(log, "sandbox setup failed:", state.Error)
	}
	if err := errors.Join(writeState(root, state), log.Close()); err != nil || state.Error != "" {
		return 1
	}
	return 0
}

// run starts the supervisor and returns when no process of the sandbox but this one is left.
func run(cfg Config, root *os.Root, log io.Writer) State {
	failed := func(err error) State { return State{Phase: PhaseExited, Error: err.Error()} }
	status := os.NewFile(StatusFD, "status")
	defer status.Close()
	unix.CloseOnExec(StatusFD)
	if err := restrict(cfg); err != nil {
		return failed(err)
	}
	var supervisor supervisor
	stop := supervisor.handleSignals()
	defer stop()
	output, input, err := os.Pipe()
	if err != nil {
		return failed(fmt.Errorf("create log pipe: %w", err))
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(log, output)
		output.Close()
		copied <- err
	}()
	err = supervisor.start(cfg, input)
	input.Close()
	if err != nil {
		return failed(errors.Join(err, <-copied))
	}
	if err := writeState(root, State{Phase: PhaseRunning}); err != nil {
		fmt.Fprintln(log, "sandbox:", err)
	}
	// A driver that died meanwhile does not read this; it will read init.json.
	if _, err := io.WriteString(status, Started); err != nil && !errors.Is(err, unix.EPIPE) {
		fmt.Fprintln(log, "sandbox: report start:", err)
	}
	status.Close()

	state := supervisor.wait()
	if err := endAll(cfg.Mounts); err != nil {
		fmt.Fprintln(log, "sandbox:", err)
	}
	// Nobody is left to hold the pipe open, so the copy ends.
	if err := <-copied; err != nil {
		fmt.Fprintln(log, "sandbox: copy log:", err)
	}
	return state
}

// restrict sets up what the supervisor inherits.
func restrict(cfg Config) error {
	// Orphans come to this process, so that every process of the sandbox is below it.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid new privileges: %w", err)
	}
	if cfg.UTS && cfg.Hostname != "" {
		if err := unix.Sethostname([]byte(cfg.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if cfg.Mounts {
		if err := setMounts(cfg); err != nil {
			return err
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
	}
	if cfg.MaxProcesses > 0 {
		limit := &unix.Rlimit{Cur: cfg.MaxProcesses, Max: cfg.MaxProcesses}
		if err := unix.Setrlimit(unix.RLIMIT_NPROC, limit); err != nil {
			return fmt.Errorf("limit processes: %w", err)
		}
	}
	return nil
}

// supervisor is the one process started here.
type supervisor struct {
	// pid is 0 before the start and negative once the process was reaped, when a signal could hit another.
	pid atomic.Int64
	// early is the last signal that came before the start.
	early atomic.Int64
}

func (s *supervisor) start(cfg Config, output *os.File) error {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return fmt.Errorf("open input for supervisor: %w", err)
	}
	defer null.Close()
	paths := PathsFor(cfg.Dir, cfg.Supervisor, cfg.Mounts)
	attr := &syscall.SysProcAttr{Setsid: true}
	if u := cfg.User; u != nil {
		attr.Cloneflags = unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: u.First, Size: u.Size}}
		attr.GidMappings = attr.UidMappings
		attr.GidMappingsEnableSetgroups = u.Size > 1
		attr.Credential = &syscall.Credential{NoSetGroups: u.Size == 1}
	}
	p, err := os.StartProcess(paths.Supervisor, append([]string{paths.Supervisor}, cfg.Args...), &os.ProcAttr{
		Dir:   paths.Work,
		Env:   cfg.Env,
		Files: []*os.File{null, output, output},
		Sys:   attr,
	})
	if err != nil {
		return fmt.Errorf("start supervisor: %w", err)
	}
	s.pid.Store(int64(p.Pid))
	if sig := s.early.Load(); sig != 0 {
		s.signal(syscall.Signal(sig))
	}
	// This process waits for any child itself.
	if err := p.Release(); err != nil {
		s.signal(unix.SIGKILL)
		return fmt.Errorf("release supervisor: %w", err)
	}
	return nil
}

func (s *supervisor) signal(sig syscall.Signal) {
	if pid := s.pid.Load(); pid > 0 {
		// It may be gone already, which is what the signal is for.
		_ = unix.Kill(int(pid), sig)
	}
}

// handleSignals passes SIGTERM on and turns KillSignal into the supervisor's end, after which all others go.
func (s *supervisor) handleSignals() (stop func()) {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, unix.SIGTERM, KillSignal)
	signal.Ignore(unix.SIGHUP, unix.SIGINT, unix.SIGPIPE)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case sig := <-signals:
				deliver := unix.SIGTERM
				if sig == KillSignal {
					deliver = unix.SIGKILL
				}
				s.early.Store(int64(deliver))
				s.signal(deliver)
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(signals)
		close(done)
	}
}

// wait reaps children until the supervisor is among them.
func (s *supervisor) wait() State {
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return State{Phase: PhaseExited, Error: fmt.Sprintf("wait for supervisor: %v", err)}
		case int64(pid) != s.pid.Load():
			continue
		}
		s.pid.Store(-1)
		state := State{Phase: PhaseExited, Code: ws.ExitStatus()}
		if ws.Signaled() {
			state.Signal = unix.SignalName(ws.Signal())
		}
		return state
	}
}
