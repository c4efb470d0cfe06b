//go:build linux

package driverprocess

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/procfs"
	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

// process is the first process of a sandbox, held by a descriptor that names it for good.
type process struct {
	pid   int
	start uint64
	fd    *os.File
	// status is the pipe on which a process that we started says that its supervisor runs; else nil.
	status *os.File
	// done is closed when the process has ended, started when its supervisor runs.
	done, started chan struct{}
	watchers      sync.WaitGroup
}

// start runs a sandbox's first process. It waits for its configuration, which it gets only after commit has
// returned: what commit stores about it is true of every process that ever does anything.
func (d *Driver) start(cfg sandboxinit.Config, iso isolation, mark string, commit func(*process) error) (*process, error) {
	message, err := cfg.Encode()
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	defer null.Close()
	configOut, configIn, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create configuration pipe: %w", err)
	}
	defer configIn.Close()
	defer configOut.Close()
	statusOut, statusIn, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("create status pipe: %w", err)
	}
	defer statusIn.Close()

	pidfd := -1
	attr := iso.attributes()
	attr.PidFD = &pidfd
	child, err := os.StartProcess("/proc/self/exe", []string{"sallyport-sandbox-init", sandboxinit.Command}, &os.ProcAttr{
		Dir: "/",
		// One thread does all it has to do.
		Env:   []string{"GOMAXPROCS=1", "GOGC=50", mark},
		Files: []*os.File{null, null, null, configOut, statusIn},
		Sys:   attr,
	})
	if err != nil {
		statusOut.Close()
		return nil, fmt.Errorf("start process with %s: %w", iso, err)
	}
	pid := child.Pid
	if err := child.Release(); err != nil {
		d.logger.Warn("release process handle", "error", err)
	}
	p, err := watchProcess(pid, pidfd, statusOut)
	if err != nil {
		return nil, errors.Join(err, unix.Kill(pid, unix.SIGKILL))
	}
	err = commit(p)
	if err == nil {
		err = configIn.SetWriteDeadline(time.Now().Add(10 * time.Second))
	}
	if err == nil {
		_, err = configIn.Write(message)
	}
	if err != nil {
		err = errors.Join(fmt.Errorf("hand over configuration: %w", err), p.signal(unix.SIGKILL))
		<-p.done
		p.Close()
		return nil, err
	}
	return p, nil
}

// adopt takes over a process that an earlier driver started; nil if it is not there any more.
func adopt(rec processRecord, mark, dir string) (*process, error) {
	fd, err := unix.PidfdOpen(rec.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, nil //nolint:nilnil // no process is an answer, not an error
	}
	if err != nil {
		return nil, fmt.Errorf("open process %d: %w", rec.PID, err)
	}
	// Whoever has the number now cannot change under us, as the descriptor pins it.
	now, err := procfs.Stat(rec.PID)
	if err != nil || now.Start != rec.Start || now.Zombie || !procfs.HasEnv(rec.PID, mark) {
		unix.Close(fd)
		if err != nil && !procfs.Gone(err) {
			return nil, err
		}
		return nil, nil //nolint:nilnil // as above
	}
	p, err := watchProcess(rec.PID, fd, nil)
	if err != nil {
		return nil, err
	}
	p.watchers.Go(func() { p.awaitState(dir) })
	return p, nil
}

func watchProcess(pid, pidfd int, status *os.File) (*process, error) {
	if pidfd < 0 {
		return nil, errors.New("the kernel gave no descriptor for a process")
	}
	if err := unix.SetNonblock(pidfd, true); err != nil {
		unix.Close(pidfd)
		return nil, fmt.Errorf("prepare process descriptor: %w", err)
	}
	p := &process{
		pid: pid, fd: os.NewFile(uintptr(pidfd), "process"), status: status,
		done: make(chan struct{}), started: make(chan struct{}),
	}
	if now, err := procfs.Stat(pid); err == nil {
		p.start = now.Start
	}
	p.watchers.Go(p.awaitEnd)
	if status != nil {
		p.watchers.Go(p.awaitStarted)
	}
	return p, nil
}

// awaitEnd lets the runtime's poller wait for the process, which costs no thread.
func (p *process) awaitEnd() {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return
	}
	ended := false
	err = conn.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		ended = err == nil && n == 1
		if ended {
			// Reaps our own child; another's is not ours to reap.
			_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG, nil)
		}
		return ended
	})
	if err == nil && ended {
		close(p.done)
	}
}

func (p *process) awaitStarted() {
	line, err := bufio.NewReader(io.LimitReader(p.status, 64)).ReadString('\n')
	if err == nil && line == sandboxinit.Started {
		close(p.started)
	}
}

// awaitState is awaitStarted for a process whose pipe ended with the driver that started it.
func (p *process) awaitState(dir string) {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := sandboxinit.ReadState(dir); err == nil && s.Phase == sandboxinit.PhaseRunning {
			close(p.started)
			return
		}
		select {
		case <-p.done:
			return
		case <-tick.C:
			if p.signal(0) != nil {
				return
			}
		}
	}
}

// signal sends sig; a process that has ended already is no error.
func (p *process) signal(sig unix.Signal) error {
	conn, err := p.fd.SyscallConn()
	if err != nil {
		return fmt.Errorf("use process descriptor: %w", err)
	}
	var sendErr error
	if err := conn.Control(func(fd uintptr) { sendErr = unix.PidfdSendSignal(int(fd), sig, nil, 0) }); err != nil {
		return fmt.Errorf("use process descriptor: %w", err)
	}
	if sendErr != nil && !errors.Is(sendErr, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.pid, sendErr)
	}
	return nil
}

// Close lets go of the process without touching it.
func (p *process) Close() {
	p.fd.Close()
	if p.status != nil {
		p.status.Close()
	}
	p.watchers.Wait()
}
