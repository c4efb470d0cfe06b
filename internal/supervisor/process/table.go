package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Table knows the supervisor's own children, so that the reaping of orphans never takes the exit code of one of
// them away. The zero value is ready to use.
type Table struct {
	// starting is held shared from the fork of a child until the table knows it.
	starting sync.RWMutex

	mu    sync.Mutex
	own   map[int]*Process
	ended chan struct{}
}

func (t *Table) add(p *Process) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own == nil {
		t.own = map[int]*Process{}
	}
	t.own[p.pid] = p
}

func (t *Table) remove(p *Process) {
	t.mu.Lock()
	// The number may belong to a younger child already.
	if t.own[p.pid] == p {
		delete(t.own, p.pid)
	}
	ended := t.ended
	t.mu.Unlock()
	if ended != nil {
		select {
		case ended <- struct{}{}:
		default:
		}
	}
}

// Len returns the number of children that have not ended.
func (t *Table) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.own)
}

func (t *Table) owns(pid int) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.own[pid] != nil
}

// Shutdown ends all children and returns when they are gone or ctx ends.
func (t *Table) Shutdown(ctx context.Context, grace time.Duration) error {
	t.mu.Lock()
	all := make([]*Process, 0, len(t.own))
	for _, p := range t.own {
		all = append(all, p)
	}
	t.mu.Unlock()
	for _, p := range all {
		p.Terminate(grace)
	}
	for _, p := range all {
		select {
		case <-p.Done():
		case <-ctx.Done():
			return fmt.Errorf("end child processes: %w", context.Cause(ctx))
		}
	}
	return nil
}

// Adopt makes the calling process the parent of its descendants' orphans. The first process of a PID namespace
// is that already.
func Adopt() error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("adopt orphans: %w", err)
	}
	return nil
}

// Reap collects dead orphans until ctx ends. Run it once, in a process that has adopted them.
func (t *Table) Reap(ctx context.Context) error {
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	defer signal.Stop(children)
	ended := make(chan struct{}, 1)
	t.mu.Lock()
	t.ended = ended
	t.mu.Unlock()
	for {
		if err := t.reapOrphans(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-children:
		case <-ended:
			// The kernel names dead children in order, and one of ours may have hidden an orphan.
		}
	}
}

func (t *Table) reapOrphans() error {
	for {
		pid, err := firstChild()
		if err != nil || pid == 0 || t.owns(pid) {
			return err
		}
		// An unknown child may be one of ours that died before it was entered.
		t.starting.Lock()
		if !t.owns(pid) {
			_, err = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
		t.starting.Unlock()
		if err != nil && !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.ECHILD) {
			return fmt.Errorf("collect orphan: %w", err)
		}
	}
}
