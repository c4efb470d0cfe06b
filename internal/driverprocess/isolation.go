//go:build linux

package driverprocess

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

// isolation is which namespaces a sandbox gets. PID, mount, IPC and UTS come together or not at all.
type isolation struct {
	Namespaces bool `json:"namespaces"`
	// User is a user namespace of the supervisor's own, below the one that owns its mounts, so that nothing
	// in the sandbox can undo them.
	User bool `json:"user"`
	// Reason says why something is missing; empty if nothing is.
	Reason string `json:"reason,omitempty"`
}

func (i isolation) complete() bool { return i.Namespaces && i.User }

// String lists each part for a sandbox's status.
func (i isolation) String() string {
	word := func(on bool) string {
		if on {
			return "namespace"
		}
		return "none"
	}
	parts := make([]string, 0, 6)
	for _, part := range []struct {
		name string
		on   bool
	}{{"pid", i.Namespaces}, {"mount", i.Namespaces}, {"user", i.User}, {"ipc", i.Namespaces}, {"uts", i.Namespaces}} {
		parts = append(parts, part.name+"="+word(part.on))
	}
	return strings.Join(append(parts, "network=host"), " ")
}

// Ids of user namespaces when the driver runs as root: each sandbox has a range of its own, in the part of
// the id space that distributions leave to nobody.
const (
	firstUID = 0x70000000
	uidRange = 1 << 16
	maxUIDs  = 4000
)

const switchedOff = "switched off by --isolation none"

// userMap returns the supervisor's user namespace for the nth range of ids. Without privileges there is one
// id only: our own, which the sandbox's first process already sees as 0.
func (i isolation) userMap(n int) *sandboxinit.UserMap {
	switch {
	case !i.User:
		return nil
	case os.Geteuid() == 0:
		return &sandboxinit.UserMap{First: firstUID + n*uidRange, Size: uidRange}
	default:
		return &sandboxinit.UserMap{First: 0, Size: 1}
	}
}

// owner is who the sandbox's own files belong to.
func (i isolation) owner(n int) int {
	if i.User && os.Geteuid() == 0 {
		return firstUID + n*uidRange
	}
	return os.Geteuid()
}

// attributes are those of the sandbox's first process.
func (i isolation) attributes() *syscall.SysProcAttr {
	attr := &syscall.SysProcAttr{Setsid: true}
	if !i.Namespaces {
		return attr
	}
	attr.Cloneflags = unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if os.Geteuid() != 0 {
		attr.Cloneflags |= unix.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
	}
	return attr
}

// probeIsolation starts real sandboxes that end at once, from the strictest kind down, and returns the first
// that works with the reason why no stricter one did.
func (d *Driver) probeIsolation(ctx context.Context) (isolation, error) {
	if d.opts.Isolation == IsolationNone {
		return isolation{Reason: switchedOff}, nil
	}
	candidates := []isolation{{Namespaces: true, User: true}}
	if os.Geteuid() == 0 {
		candidates = append(candidates, isolation{Namespaces: true})
	}
	var reasons []string
	for _, c := range candidates {
		err := d.probe(ctx, c)
		if err == nil {
			c.Reason = strings.Join(reasons, "; ")
			return c, nil
		}
		if ctx.Err() != nil {
			return isolation{}, fmt.Errorf("probe isolation: %w", ctx.Err())
		}
		reasons = append(reasons, err.Error())
	}
	return isolation{Reason: strings.Join(reasons, "; ")}, nil
}

func (d *Driver) probe(ctx context.Context, iso isolation) (err error) {
	dir, err := os.MkdirTemp(d.opts.StateDir, "probe-")
	if err != nil {
		return fmt.Errorf("create probe directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := makeDirs(dir, iso.owner(maxUIDs)); err != nil {
		return err
	}
	cfg := sandboxinit.Config{
		Dir: dir, Supervisor: d.self, Args: sandboxinit.ProbeArgs(), Mounts: iso.Namespaces, UTS: iso.Namespaces,
		Hostname: "probe", Hide: d.hide, User: iso.userMap(maxUIDs), LogBytes: 1 << 16,
	}
	p, err := d.start(cfg, iso, "SALLYPORT_PROBE=1", func(*process) error { return nil })
	if err != nil {
		return err
	}
	defer p.Close()
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	select {
	case <-p.done:
	case <-ctx.Done():
		return errors.Join(ctx.Err(), p.signal(unix.SIGKILL))
	case <-timeout.C:
		return errors.Join(errors.New("probe did not end in time"), p.signal(unix.SIGKILL))
	}
	state, err := sandboxinit.ReadState(dir)
	switch {
	case err != nil:
		return err
	case state.Error != "":
		return errors.New(state.Error)
	case state.Code != 0 || state.Signal != "":
		return fmt.Errorf("probe ended with code %d signal %q", state.Code, state.Signal)
	}
	return nil
}

// makeDirs creates what a sandbox owns inside its directory.
func makeDirs(dir string, owner int) error {
	for _, sub := range []struct {
		name string
		mode fs.FileMode
	}{{sandboxinit.WorkDir, 0o700}, {sandboxinit.RunDir, 0o700}, {sandboxinit.TmpDir, 0o777 | fs.ModeSticky}} {
		path := filepath.Join(dir, sub.name)
		if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("create sandbox directory: %w", err)
		}
		if err := own(path, owner); err != nil {
			return err
		}
		if err := os.Chmod(path, sub.mode); err != nil {
			return fmt.Errorf("set mode of sandbox directory: %w", err)
		}
	}
	return nil
}

// own hands a tree to another owner unless it has that one already, as when a driver's isolation changed
// between two runs of a sandbox.
func own(path string, owner int) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("inspect sandbox directory: %w", err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) == owner {
		return nil
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return fmt.Errorf("open sandbox directory: %w", err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return root.Lchown(p, owner, owner)
	})
	if err != nil {
		return fmt.Errorf("change owner of sandbox directory: %w", err)
	}
	return nil
}

// hidden lists what of the host a sandbox must not see, besides what its private directories cover anyway.
func hidden(stateDir, home string, more []string) []string {
	var paths []string
	for _, p := range append([]string{stateDir, home}, more...) {
		real, err := filepath.EvalSymlinks(p)
		if err != nil || !hideable(real) {
			continue
		}
		paths = append(paths, real)
	}
	return paths
}

// hideable refuses directories that a process cannot do without, and those above them.
func hideable(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	for _, needed := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/dev/null", "/proc", "/sys", "/run", "/home", "/tmp", "/var/tmp"} {
		if needed == path || path == "/" || strings.HasPrefix(needed, path+"/") {
			return false
		}
	}
	return true
}
