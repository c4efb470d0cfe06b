//go:build linux

package driverprocess

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/procfs"
	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

// killTimeout bounds how long the end of a sandbox's processes is waited for. Longer than that only a process
// stuck in the kernel takes.
const killTimeout = 15 * time.Second

// endProcesses ends every process of a sandbox and returns when none is left. p is its first process if one
// is known; pidNamespace tells whether all others die with it.
//
// Without a PID namespace three nets catch what is left: the first process kills all that descend from it,
// where orphans come to as well; the control group holds what was ever started in it; and what carries the
// sandbox's mark is found with all that descends from it or shares its sessions.
func (d *Driver) endProcesses(ctx context.Context, p *process, pidNamespace bool, rec *record) error {
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, errors.New("processes did not end in time"))
	defer cancel()
	if p != nil {
		if err := p.end(ctx, pidNamespace); err != nil {
			return err
		}
		if pidNamespace {
			return nil
		}
	}
	if err := d.groups.kill(ctx, rec.Groups); err != nil {
		return err
	}
	return killMarked(ctx, rec.mark())
}

func (p *process) end(ctx context.Context, pidNamespace bool) error {
	if !pidNamespace {
		if ended, err := p.endBelow(ctx); ended || err != nil {
			return err
		}
	}
	if err := p.signal(unix.SIGKILL); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// endBelow has the first process kill all others and end itself. It is told more than once, as it does not
// listen in its first moments.
func (p *process) endBelow(ctx context.Context) (bool, error) {
	patience := time.NewTimer(2 * time.Second)
	defer patience.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		if err := p.signal(sandboxinit.KillSignal); err != nil {
			return false, err
		}
		select {
		case <-p.done:
			return true, nil
		case <-again.C:
		case <-patience.C:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// killMarked kills the processes that were started with the mark, what descends from them, and what shares a
// session with any of these, until a scan finds none.
func killMarked(ctx context.Context, mark string) error {
	sessions := make(map[int]bool)
	return poll(ctx, func() (bool, error) {
		table, err := procfs.Read()
		if err != nil {
			return false, err
		}
		found := marked(table, mark, sessions)
		for _, p := range found {
			if err := killProcess(p); err != nil {
				return false, err
			}
		}
		return len(found) == 0, nil
	})
}

func marked(table procfs.Table, mark string, sessions map[int]bool) map[int]procfs.Process {
	found := make(map[int]procfs.Process)
	add := func(p procfs.Process) {
		if p.Zombie || p.PID <= 1 || p.PID == os.Getpid() {
			return
		}
		found[p.PID] = p
		// Every session of a sandbox was opened in it; ours and init's are never among them.
		if p.Session > 1 && p.Session != table[os.Getpid()].Session {
			sessions[p.Session] = true
		}
	}
	for _, p := range table {
		if procfs.HasEnv(p.PID, mark) {
			add(p)
			for _, below := range table.Below(p.PID) {
				add(below)
			}
		}
	}
	for _, p := range table {
		if sessions[p.Session] {
			add(p)
			for _, below := range table.Below(p.PID) {
				add(below)
			}
		}
	}
	return found
}

// killProcess kills exactly the process that was seen, never a later one with its number.
func killProcess(seen procfs.Process) error {
	fd, err := unix.PidfdOpen(seen.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open process %d: %w", seen.PID, err)
	}
	defer unix.Close(fd)
	now, err := procfs.Stat(seen.PID)
	if procfs.Gone(err) || (err == nil && now.Start != seen.Start) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill process %d: %w", seen.PID, err)
	}
	return nil
}
