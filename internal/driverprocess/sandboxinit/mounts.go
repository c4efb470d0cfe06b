//go:build linux

package sandboxinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const plainMount = unix.MS_NOSUID | unix.MS_NODEV

// setMounts gives the sandbox its view of the machine: the host's files as their owners permit, but its own
// /proc, /tmp, /home, /run and /dev/shm, a read-only /sys, and nothing of the paths to hide. Private places
// need no names on the host that the driver would have to create.
func setMounts(cfg Config) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	binds, err := openBinds(cfg)
	if err != nil {
		return err
	}
	defer func() {
		for _, b := range binds {
			unix.Close(b.tree)
		}
	}()
	if err := coverHost(cfg); err != nil {
		return err
	}
	for _, b := range binds {
		if err := b.place(); err != nil {
			return err
		}
	}
	return nil
}

// bind is a file or directory of the host, taken before it is covered, and its place in the sandbox.
type bind struct {
	tree   int
	target string
	dir    bool
}

func openBinds(cfg Config) ([]bind, error) {
	paths := PathsFor(cfg.Dir, cfg.Supervisor, true)
	wanted := []struct {
		source, target string
		readOnly       bool
	}{
		{filepath.Join(cfg.Dir, WorkDir), paths.Work, false},
		{filepath.Join(cfg.Dir, RunDir), paths.Run, false},
		{filepath.Join(cfg.Dir, TmpDir), "/tmp", false},
		{cfg.Supervisor, paths.Supervisor, true},
	}
	if isDir("/var/tmp") {
		wanted = append(wanted, wanted[2])
		wanted[len(wanted)-1].target = "/var/tmp"
	}
	// Name resolution is often kept below /run.
	if real, err := filepath.EvalSymlinks("/etc/resolv.conf"); err == nil && strings.HasPrefix(real, "/run/") {
		wanted = append(wanted, wanted[3])
		wanted[len(wanted)-1].source, wanted[len(wanted)-1].target = real, real
	}
	var binds []bind
	for _, w := range wanted {
		info, err := os.Stat(w.source)
		if err != nil {
			return binds, fmt.Errorf("inspect mount source: %w", err)
		}
		tree, err := unix.OpenTree(unix.AT_FDCWD, w.source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return binds, fmt.Errorf("take %s: %w", w.target, err)
		}
		binds = append(binds, bind{tree: tree, target: w.target, dir: info.IsDir()})
		attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if w.readOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, attr); err != nil {
			return binds, fmt.Errorf("restrict mount of %s: %w", w.target, err)
		}
	}
	return binds, nil
}

func (b bind) place() error {
	if err := os.MkdirAll(filepath.Dir(b.target), 0o755); err != nil { //nolint:gosec // the sandbox's ids must get through
		return fmt.Errorf("prepare %s: %w", b.target, err)
	}
	if b.dir {
		if err := os.MkdirAll(b.target, 0o755); err != nil { //nolint:gosec // covered by the mount
			return fmt.Errorf("prepare %s: %w", b.target, err)
		}
	} else if err := os.WriteFile(b.target, nil, 0o644); err != nil { //nolint:gosec // covered by the mount
		return fmt.Errorf("prepare %s: %w", b.target, err)
	}
	if err := unix.MoveMount(b.tree, "", unix.AT_FDCWD, b.target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", b.target, err)
	}
	return nil
}

func coverHost(cfg Config) error {
	covers := []struct{ target, options string }{
		{"/run", "mode=0755,size=16m"},
		{"/home", "mode=0755,size=1m"},
		{"/dev/shm", "mode=1777,size=256m"},
	}
	for _, c := range covers {
		if !isDir(c.target) {
			continue
		}
		if err := unix.Mount("sallyport", c.target, "tmpfs", plainMount, c.options); err != nil {
			return fmt.Errorf("cover %s: %w", c.target, err)
		}
	}
	for _, path := range cfg.Hide {
		if err := hide(path); err != nil {
			return err
		}
	}
	readOnly := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/sys", unix.AT_RECURSIVE, readOnly); err != nil {
		return fmt.Errorf("make /sys read-only: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", plainMount|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// hide covers a path that is still there after the private places were mounted.
func hide(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("inspect path to hide: %w", err)
	}
	if info.IsDir() {
		err = unix.Mount("sallyport", path, "tmpfs", plainMount|unix.MS_RDONLY, "mode=0555,size=4k")
	} else {
		err = unix.Mount(os.DevNull, path, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}
