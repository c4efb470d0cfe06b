//go:build linux

package driverprocess

import (
	"context"
	"fmt"
	"time"
)

// How often a supervisor that crashes is started again, and how long it must run to be trusted again.
const (
	maxRestarts  = 5
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 10 * time.Second
	trustedAfter = time.Minute
)

// keep puts a keeper in charge of the running process.
func (s *sandbox) keep() { s.keepFrom("") }

// keepFrom puts a keeper in charge; lost says how the process was lost if there is none.
func (s *sandbox) keepFrom(lost string) {
	ctx, cancel := context.WithCancel(s.d.life)
	s.stopKeeper, s.kept = cancel, make(chan struct{})
	kept := s.kept
	s.d.keepers.Go(func() {
		defer close(kept)
		defer cancel()
		s.run(ctx, lost)
	})
}

// keeping tells whether a keeper is in charge and has not given up.
func (s *sandbox) keeping() bool {
	if s.kept == nil {
		return false
	}
	select {
	case <-s.kept:
		return false
	default:
		return true
	}
}

// endKeeper takes the sandbox back from its keeper.
func (s *sandbox) endKeeper() {
	if s.stopKeeper == nil {
		return
	}
	s.stopKeeper()
	<-s.kept
	s.stopKeeper, s.kept = nil, nil
}

// run keeps the supervisor running until ctx ends, the supervisor ends of its own will, or it crashed too often.
func (s *sandbox) run(ctx context.Context, lost string) {
	restarts := 0
	for {
		if s.proc != nil {
			began := time.Now()
			if !s.awaitEnd(ctx) {
				return
			}
			if time.Since(began) >= trustedAfter {
				restarts = 0
			}
			lost = s.howEnded()
			if s.finished() {
				s.giveUp(ctx, lost)
				return
			}
		}
		if restarts >= maxRestarts {
			s.giveUp(ctx, fmt.Sprintf("%s; gave up after %d restarts", lost, restarts))
			return
		}
		if !s.restart(ctx, lost, restarts) {
			return
		}
		restarts++
	}
}

// awaitEnd reports the supervisor as running once it does and returns when it has ended; false if ctx ended.
func (s *sandbox) awaitEnd(ctx context.Context) bool {
	p := s.proc
	for started := p.started; ; {
		select {
		case <-started:
			started = nil
			s.d.publish(s, func(v *view) { v.set(true, reasonRunning, "the supervisor runs") })
		case <-p.done:
			return true
		case <-ctx.Done():
			return false
		}
	}
}

// restart clears up after a lost process, waits and starts another; false if ctx ended. A start that fails
// counts like one that crashed.
func (s *sandbox) restart(ctx context.Context, lost string, restarts int) bool {
	wait := min(firstBackoff<<restarts, maxBackoff)
	message := fmt.Sprintf("%s; starting it again in %s", lost, wait)
	s.d.logger.Warn("supervisor lost", "sandbox", s.id, "why", lost, "restart_in", wait, "restarts", restarts)
	s.d.publish(s, func(v *view) { v.set(false, reasonStarting, message) })
	s.d.warn(s.id, "SupervisorRestarting", message)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	err := s.sweep(ctx)
	select {
	case <-timer.C:
	case <-ctx.Done():
		return false
	}
	if err == nil {
		err = s.startProcess()
	}
	if err != nil {
		s.d.logger.Error("start supervisor again", "sandbox", s.id, "error", err)
	}
	return true
}

func (s *sandbox) giveUp(ctx context.Context, why string) {
	if err := s.sweep(ctx); err != nil {
		s.d.logger.Error("clear up after supervisor", "sandbox", s.id, "error", err)
	}
	s.d.logger.Warn("supervisor ended", "sandbox", s.id, "why", why)
	s.d.publish(s, func(v *view) { v.set(false, reasonExited, why) })
	s.d.warn(s.id, reasonExited, why)
}
