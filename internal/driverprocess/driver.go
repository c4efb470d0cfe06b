//go:build linux

package driverprocess

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/procfs"
)

// DriverName is what the driver calls itself towards gateways.
const DriverName = "process"

const lockTimeout = 3 * time.Second

// Driver runs the sandboxes of one state directory. Open makes one.
type Driver struct {
	opts      Options
	logger    *slog.Logger
	self      string
	boot      string
	hide      []string
	isolation isolation
	groups    *groups
	lock      *os.File

	// life ends when the driver closes; sandboxes' keepers end with it.
	life    context.Context //nolint:containedctx // the driver's life, not a call's
	end     context.CancelFunc
	keepers sync.WaitGroup

	mu        sync.Mutex
	sandboxes map[string]*sandbox
	watchers  map[*watcher]struct{}
}

// Open takes over the state directory, finds what works on this machine, and takes up the sandboxes that an
// earlier driver left: running ones are watched again, lost ones start again, and half-done deletions are
// completed. It fails if another driver uses the directory.
func Open(ctx context.Context, opts Options) (*Driver, error) {
	if err := opts.complete(); err != nil {
		return nil, fmt.Errorf("configure process driver: %w", err)
	}
	d := &Driver{opts: opts, logger: opts.Logger, sandboxes: make(map[string]*sandbox), watchers: make(map[*watcher]struct{})}
	d.life, d.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := d.open(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open process driver: %w", err), d.Close())
	}
	return d, nil
}

func (d *Driver) open(ctx context.Context) error {
	if err := d.takeStateDir(ctx); err != nil {
		return err
	}
	var err error
	if d.self, err = os.Executable(); err != nil {
		return fmt.Errorf("find own executable: %w", err)
	}
	if d.boot, err = procfs.BootID(); err != nil {
		return err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = ""
	}
	d.hide = hidden(d.opts.StateDir, home, d.opts.Hide)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	// Without control groups in the kernel there is no such file, and nothing to find.
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read own control groups: %w", err)
	}
	if d.opts.Isolation == IsolationNone {
		d.groups = noGroups(switchedOff)
	} else {
		d.groups = openGroups(mounts, own, groupName(d.opts.StateDir))
	}
	if d.isolation, err = d.probeIsolation(ctx); err != nil {
		return err
	}
	d.logger.Info("isolation", "namespaces", d.isolation.String(), "missing", d.isolation.Reason,
		"hierarchies", len(d.groups.hierarchies), "limits_missing", d.groups.missing(limitedBy))
	return d.takeUp(ctx)
}

// takeStateDir creates the directory, locks it and removes what earlier drivers left half done in it.
func (d *Driver) takeStateDir(ctx context.Context) error {
	dir := d.opts.StateDir
	if err := os.MkdirAll(filepath.Join(dir, "sandboxes"), 0o700); err != nil {
		return fmt.Errorf("create state directory: %w", err)
	}
	for _, sub := range []string{dir, filepath.Join(dir, "sandboxes")} {
		if err := os.Chmod(sub, 0o700); err != nil { //nolint:gosec // a directory
			return fmt.Errorf("restrict state directory: %w", err)
		}
	}
	real, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return fmt.Errorf("resolve state directory: %w", err)
	}
	d.opts.StateDir, dir = real, real
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("open lock: %w", err)
	}
	if err := lockFile(ctx, lock); err != nil {
		return errors.Join(fmt.Errorf("lock state directory %s: %w", dir, err), lock.Close())
	}
	d.lock = lock
	left, err := filepath.Glob(filepath.Join(dir, "probe-*"))
	if err != nil {
		return fmt.Errorf("find earlier probes: %w", err)
	}
	if err := os.MkdirAll(d.trash(), 0o700); err != nil {
		return fmt.Errorf("create trash: %w", err)
	}
	deleted, err := os.ReadDir(d.trash())
	if err != nil {
		return fmt.Errorf("read trash: %w", err)
	}
	for _, e := range deleted {
		left = append(left, filepath.Join(d.trash(), e.Name()))
	}
	for _, path := range left {
		if err := removeTree(path); err != nil {
			return fmt.Errorf("remove what a deleted sandbox left: %w", err)
		}
	}
	return nil
}

// lockFile waits a little: a process that a killed driver was just starting holds its lock until it has begun.
func lockFile(ctx context.Context, f *os.File) error {
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout, errors.New("another driver uses it"))
	defer cancel()
	return poll(ctx, func() (bool, error) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) {
			return false, nil
		}
		return err == nil, err
	})
}

func (d *Driver) trash() string { return filepath.Join(d.opts.StateDir, "trash") }

func (d *Driver) dirOf(id string) string { return filepath.Join(d.opts.StateDir, "sandboxes", id) }

// takeUp finds the sandboxes of an earlier driver. One that cannot be read is reported and left alone: its
// processes and files are evidence for the operator, not the driver's to guess about.
func (d *Driver) takeUp(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(d.opts.StateDir, "sandboxes"))
	if err != nil {
		return fmt.Errorf("read sandboxes: %w", err)
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(8)
	for _, e := range entries {
		dir := d.dirOf(e.Name())
		rec, err := loadRecord(dir)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// The driver died before the intent was stored, so nothing was started for it.
			if err := removeTree(dir); err != nil {
				return fmt.Errorf("remove unfinished sandbox: %w", err)
			}
			continue
		case err != nil:
			d.logger.Error("sandbox left alone", "sandbox", e.Name(), "error", err)
			continue
		}
		s := d.newSandbox(rec)
		d.mu.Lock()
		d.sandboxes[rec.ID] = s
		s.visible = true
		d.mu.Unlock()
		group.Go(func() error { return s.takeUp(ctx) })
	}
	if err := group.Wait(); err != nil {
		return fmt.Errorf("take up sandboxes: %w", err)
	}
	return nil
}

// Close lets go of the sandboxes, or stops them if so configured; none is deleted.
func (d *Driver) Close() error {
	d.end()
	d.keepers.Wait()
	d.mu.Lock()
	all := make([]*sandbox, 0, len(d.sandboxes))
	for _, s := range d.sandboxes {
		all = append(all, s)
	}
	d.mu.Unlock()
	var group errgroup.Group
	group.SetLimit(16)
	for _, s := range all {
		group.Go(func() error {
			if err := s.lock(context.Background()); err != nil {
				return err
			}
			defer s.unlock()
			defer s.letGo()
			if !d.opts.ShutdownSandboxes {
				return nil
			}
			return s.halt(context.Background(), d.opts.Grace)
		})
	}
	err := group.Wait()
	if d.groups != nil {
		d.groups.tidy()
	}
	if d.lock != nil {
		err = errors.Join(err, d.lock.Close())
	}
	return err
}

// sorted returns the visible sandboxes by id; the caller holds the mutex.
func (d *Driver) sorted() []*sandbox {
	all := make([]*sandbox, 0, len(d.sandboxes))
	for _, s := range d.sandboxes {
		if s.visible {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b *sandbox) int { return cmp.Compare(a.id, b.id) })
	return all
}

// publish changes what is told of a sandbox and tells it to every watcher.
func (d *Driver) publish(s *sandbox, change func(*view)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(&s.view)
	if !s.visible {
		return
	}
	event := snapshotEvent(s.view.snapshot())
	for w := range d.watchers {
		w.put(s.id, event)
	}
}

// reserve claims id, name and a range of user ids for a new sandbox, which is shown once it is stored.
func (d *Driver) reserve(rec record) (*sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	used := make(map[int]bool, len(d.sandboxes))
	for _, s := range d.sandboxes {
		if s.id == rec.ID || (s.view.name == rec.Name && s.view.workspace == rec.Workspace) {
			return nil, errExists(rec.Name)
		}
		used[s.userRange] = true
	}
	for used[rec.UserRange] {
		rec.UserRange++
	}
	if rec.UserRange >= maxUIDs {
		return nil, errFull()
	}
	s := d.newSandbox(rec)
	if err := s.lock(d.life); err != nil {
		return nil, err
	}
	d.sandboxes[rec.ID] = s
	return s, nil
}

// forget removes a sandbox from the books.
func (d *Driver) forget(s *sandbox) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sandboxes[s.id] != s {
		return
	}
	delete(d.sandboxes, s.id)
	if !s.visible {
		return
	}
	event := deletedEvent(s.id)
	for w := range d.watchers {
		w.put(s.id, event)
	}
}
