//go:build linux

package driverprocess

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

const logBytes = 512 << 10 // of the current log and as much of the one before

// sandbox is one sandbox. Operations on it hold its lock; its keeper, while one runs, has its process.
type sandbox struct {
	d         *Driver
	id, dir   string
	userRange int

	// locked holds a token while an operation is in progress.
	locked chan struct{}
	rec    record
	proc   *process
	// pidNamespace tells whether proc takes all other processes with it.
	pidNamespace bool
	// stopKeeper and kept belong to the keeper in charge; nil without one.
	stopKeeper context.CancelFunc
	kept       chan struct{}

	// Guarded by the driver's mutex.
	view    view
	visible bool
}

func (d *Driver) newSandbox(rec record) *sandbox {
	s := &sandbox{d: d, id: rec.ID, dir: d.dirOf(rec.ID), userRange: rec.UserRange, locked: make(chan struct{}, 1), rec: rec}
	s.view = view{id: rec.ID, name: rec.Name, namespace: rec.Namespace, workspace: rec.Workspace}
	s.view.set(false, reasonStarting, "the supervisor is being started")
	s.view.setIsolation(processRecord{Isolation: d.isolation, Groups: d.groups.describe(rec.Limits, nil)})
	return s
}

func (s *sandbox) lock(ctx context.Context) error {
	select {
	case s.locked <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for another operation on the sandbox: %w", context.Cause(ctx))
	}
}

func (s *sandbox) unlock() { <-s.locked }

func newKey() string {
	var b [16]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// create stores the intent, then starts the sandbox. token is the sandbox's credential or empty.
func (s *sandbox) create(token string) error {
	// What is there already is not this sandbox's to remove.
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return fmt.Errorf("create sandbox directory: %w", err)
	}
	err := s.store(token)
	if err == nil {
		err = s.launch()
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, s.erase(context.WithoutCancel(s.d.life)))
}

func (s *sandbox) store(token string) error {
	if token != "" {
		path := filepath.Join(s.dir, tokenFile)
		if err := writeFile(path, []byte(token), 0o600, false); err != nil {
			return err
		}
	}
	// At the same time, as each waits for the disk.
	var group errgroup.Group
	group.Go(func() error { return syncDir(filepath.Dir(s.dir)) })
	group.Go(func() error { return s.rec.save(s.dir) })
	return group.Wait()
}

// launch starts the sandbox's first process and a keeper for it.
func (s *sandbox) launch() error {
	if err := s.startProcess(); err != nil {
		return err
	}
	s.keep()
	return nil
}

func (s *sandbox) startProcess() error {
	d := s.d
	iso := d.isolation
	if err := s.prepare(iso); err != nil {
		return err
	}
	if err := s.noteGroups(); err != nil {
		return err
	}
	env, err := d.supervisorEnv(&s.rec, s.dir, iso)
	if err != nil {
		return err
	}
	cfg := sandboxinit.Config{
		Dir: s.dir, Supervisor: d.opts.Supervisor, Env: env, Hostname: hostname(s.rec.Name), Mounts: iso.Namespaces,
		UTS: iso.Namespaces, Hide: d.hide, User: iso.userMap(s.userRange), LogBytes: logBytes,
	}
	if d.limitsByUser("pids") {
		cfg.MaxProcesses = uint64(s.rec.Limits.Processes)
	}
	var told processRecord
	p, err := d.start(cfg, iso, s.rec.mark(), func(p *process) error {
		enforced, err := d.groups.create(s.id, s.rec.Limits, p.pid)
		if err != nil {
			return err
		}
		if cfg.MaxProcesses > 0 {
			enforced = append(enforced, "pids")
		}
		told = processRecord{PID: p.pid, Start: p.start, Boot: d.boot, Isolation: iso, Groups: d.groups.describe(s.rec.Limits, enforced)}
		return writeJSON(filepath.Join(s.dir, processFile), told, false)
	})
	if err != nil {
		return err
	}
	s.proc, s.pidNamespace = p, iso.Namespaces
	d.publish(s, func(v *view) {
		v.pid = p.pid
		v.setIsolation(told)
	})
	return nil
}

// noteGroups stores the control groups of this run beside those of earlier ones: they differ when the driver
// was started in another place.
func (s *sandbox) noteGroups() error {
	next := s.rec
	for _, path := range s.d.groups.paths(s.id) {
		if !slices.Contains(next.Groups, path) {
			next.Groups = append(slices.Clip(next.Groups), path)
		}
	}
	if len(next.Groups) == len(s.rec.Groups) {
		return nil
	}
	if err := next.save(s.dir); err != nil {
		return err
	}
	s.rec = next
	return nil
}

// takeUp continues what an earlier driver had in hand.
func (s *sandbox) takeUp(ctx context.Context) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.unlock()
	lost, err := s.findProcess()
	if err != nil {
		return err
	}
	switch s.rec.Want {
	case wantDeleted:
		if err := s.erase(ctx); err != nil {
			// Still in the books as being deleted: the gateway will ask again.
			s.d.logger.Error("complete deletion", "sandbox", s.id, "error", err)
		}
		return nil
	case wantStopped:
		if err := s.halt(ctx, s.d.opts.Grace); err != nil {
			s.d.logger.Error("complete stop", "sandbox", s.id, "error", err)
		}
		s.d.publish(s, func(v *view) { v.set(false, reasonStopped, "the sandbox is stopped") })
		return nil
	}
	if s.proc != nil {
		s.d.logger.Info("sandbox taken up", "sandbox", s.id, "pid", s.proc.pid)
		s.keep()
		return nil
	}
	s.keepFrom(lost)
	return nil
}

// findProcess adopts the process that an earlier driver started, or says how it was lost.
func (s *sandbox) findProcess() (lost string, err error) {
	var rec processRecord
	err = readJSON(filepath.Join(s.dir, processFile), &rec)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "the driver ended before the supervisor was started", nil
	case err != nil:
		return "", err
	case rec.Boot != s.d.boot:
		return "the machine was restarted", nil
	}
	s.d.publish(s, func(v *view) { v.setIsolation(rec) })
	s.pidNamespace = rec.Isolation.Namespaces
	if s.proc, err = adopt(rec, s.rec.mark(), s.dir); err != nil {
		return "", err
	}
	if s.proc == nil {
		return "while no driver ran, " + s.howEnded(), nil
	}
	s.d.publish(s, func(v *view) { v.pid = rec.PID })
	return "", nil
}

// howEnded tells from what the first process left how the supervisor ended.
func (s *sandbox) howEnded() string {
	state, err := sandboxinit.ReadState(s.dir)
	switch {
	case err != nil || state.Phase != sandboxinit.PhaseExited:
		return "the sandbox's first process was killed"
	case state.Error != "":
		return "the supervisor could not be started: " + state.Error
	case state.Signal != "":
		return "the supervisor was ended by " + state.Signal
	default:
		return fmt.Sprintf("the supervisor ended with exit code %d", state.Code)
	}
}

// finished tells whether the supervisor ended of its own will.
func (s *sandbox) finished() bool {
	state, err := sandboxinit.ReadState(s.dir)
	return err == nil && state.Phase == sandboxinit.PhaseExited && state.Error == "" && state.Signal == "" && state.Code == 0
}

// letGo ends the keeper and forgets the process without touching it.
func (s *sandbox) letGo() {
	s.endKeeper()
	if s.proc != nil {
		s.proc.Close()
		s.proc = nil
	}
}

// halt ends every process of the sandbox and removes its control groups. The supervisor gets grace to end by
// itself; none if that is 0.
func (s *sandbox) halt(ctx context.Context, grace time.Duration) error {
	s.endKeeper()
	if s.proc != nil && grace > 0 {
		if err := s.proc.signal(unix.SIGTERM); err != nil {
			return err
		}
		patience := time.NewTimer(grace)
		defer patience.Stop()
		select {
		case <-s.proc.done:
		case <-patience.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	if err := s.sweep(ctx); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, processFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove process record: %w", err)
	}
	return nil
}

// sweep ends what is left of the sandbox's processes, and its control groups.
func (s *sandbox) sweep(ctx context.Context) error {
	if err := s.d.endProcesses(ctx, s.proc, s.pidNamespace, &s.rec); err != nil {
		return err
	}
	if s.proc != nil {
		s.proc.Close()
		s.proc = nil
	}
	s.d.publish(s, func(v *view) { v.pid = 0 })
	ctx, cancel := context.WithTimeoutCause(ctx, killTimeout, errors.New("control groups were not released in time"))
	defer cancel()
	return s.d.groups.remove(ctx, s.rec.Groups)
}

// erase ends the sandbox for good. What is left of its files after the directory was moved away is removed
// now or, if the driver is killed, at its next start.
func (s *sandbox) erase(ctx context.Context) error {
	s.d.publish(s, func(v *view) {
		v.deleting = true
		v.set(false, reasonDeleting, "the sandbox is being deleted")
	})
	if err := s.halt(ctx, 0); err != nil {
		return err
	}
	away := filepath.Join(s.d.trash(), s.id+"-"+s.rec.Key)
	err := os.Rename(s.dir, away)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove sandbox directory: %w", err)
	}
	s.d.forget(s)
	if err := removeTree(away); err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.d.logger.Warn("files of a deleted sandbox are left for the next start", "sandbox", s.id, "error", err)
	}
	return nil
}

// decide takes the sandbox from its keeper and stores what it is now meant to be. If that cannot be stored,
// all stays as it was.
func (s *sandbox) decide(state string) error {
	keeping := s.keeping()
	s.endKeeper()
	err := s.want(state)
	if err != nil && keeping {
		s.keepFrom("the sandbox's end could not be stored")
	}
	return err
}

// want stores what the sandbox is meant to be; no keeper is in charge meanwhile.
func (s *sandbox) want(state string) error {
	if s.rec.Want == state {
		return nil
	}
	next := s.rec
	next.Want = state
	if err := next.save(s.dir); err != nil {
		return err
	}
	s.rec = next
	return nil
}
