//go:build unix

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"

	"sallyport.dev/sallyport/internal/cli/forward"
)

const (
	// asideTimeout is how long a forward in the background may take to begin.
	asideTimeout = 30 * time.Second
	// maxReport bounds what it says then, in bytes.
	maxReport = 64 << 10
	// reportFD is the descriptor of the first extra file of a process.
	reportFD = 3
)

// asideReport is what a process in the background says once: that it works, or why not.
type asideReport struct {
	Error string `json:"error,omitempty"`
	Hint  string `json:"hint,omitempty"`
}

// reporter returns what tells, once, the process that waits on a descriptor.
func reporter(fd uint, explain func(error) (message, next string)) func(error) {
	pipe := os.NewFile(uintptr(fd), "report")
	var once sync.Once
	return func(err error) {
		once.Do(func() {
			if pipe == nil {
				return
			}
			defer pipe.Close()
			var r asideReport
			if err != nil {
				r.Error, r.Hint = explain(err)
			}
			// Who waits may have been interrupted.
			_ = json.NewEncoder(pipe).Encode(r)
		})
	}
}

// forwardAside starts this program once more, away from the terminal, and waits until it listens.
func (a *app) forwardAside(ctx context.Context, ref gatewayRef, e forward.Entry) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("prepare a forward in the background: %w", err)
	}
	defer read.Close()
	if err := os.MkdirAll(a.forwards().Dir, 0o700); err != nil {
		return errors.Join(err, write.Close())
	}
	log, err := os.OpenFile(a.forwards().LogPath(e.Bind, e.Port), os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return errors.Join(err, write.Close())
	}
	args := append([]string{"forward", "service", e.Sandbox}, a.globalWords(ref)...)
	args = append(args, "--target-host", e.TargetHost, "--target-port", strconv.Itoa(int(e.TargetPort)),
		"--local", net.JoinHostPort(e.Bind, strconv.Itoa(int(e.Port))), "--report-fd", strconv.Itoa(reportFD))
	// It outlives this process, and the terminal.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), self, args...)
	cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = log, log, []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = errors.Join(cmd.Start(), write.Close(), log.Close())
	if err != nil {
		return fmt.Errorf("start a forward in the background: %w", err)
	}
	pid := cmd.Process.Pid
	if err := a.awaitReport(ctx, read); err != nil {
		// It has said that it cannot go on, or nothing at all.
		return errors.Join(err, ignoreGone(cmd.Process.Signal(syscall.SIGTERM)), ignoreGone(ignoreExit(cmd.Wait())))
	}
	if err := cmd.Process.Release(); err != nil {
		return fmt.Errorf("leave the forward in the background: %w", err)
	}
	return a.showAside(e, pid)
}

// awaitReport reads what the process in the background says.
func (a *app) awaitReport(ctx context.Context, read *os.File) error {
	stop := context.AfterFunc(ctx, func() { _ = read.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := read.SetReadDeadline(time.Now().Add(asideTimeout)); err != nil {
		return fmt.Errorf("wait for the forward in the background: %w", err)
	}
	data, err := io.ReadAll(io.LimitReader(read, maxReport))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	var r asideReport
	if err == nil {
		err = json.Unmarshal(bytes.TrimSpace(data), &r)
	}
	switch {
	case err != nil:
		return failure("start it without --background to see what it says", "the forward in the background did not begin: %v", err)
	case r.Error != "":
		return failure(r.Hint, "%s", r.Error)
	}
	return nil
}

// showAside tells what runs in the background now.
func (a *app) showAside(e forward.Entry, pid int) error {
	all, err := a.forwards().List()
	if err != nil {
		return err
	}
	for _, found := range all {
		if found.PID != pid {
			continue
		}
		if a.out.Structured() {
			return a.out.Value(viewForward(found))
		}
		a.announceForward(found, fmt.Sprintf("Stop with: sallyport forward stop %d", found.Port))
		return nil
	}
	return failure("start it without --background to see what it says", "the forward to sandbox '%s' ended at once", e.Sandbox)
}

func ignoreGone(err error) error {
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func ignoreExit(err error) error {
	if _, ok := errors.AsType[*exec.ExitError](err); ok {
		return nil
	}
	return err
}

// endProcess asks a process to end.
func endProcess(pid int) error {
	p, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	return ignoreGone(p.Signal(syscall.SIGTERM))
}
