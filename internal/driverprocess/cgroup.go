//go:build linux

package driverprocess

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/procfs"
)

var limitedBy = []string{"cpu", "memory", "pids"}

// hierarchy is one tree of control groups that the driver can use.
type hierarchy struct {
	// group is the driver's own group in it, parent of one group a sandbox.
	group   string
	unified bool
	// controllers are those of cpu, memory and pids that work here.
	controllers []string
}

// groups knows the machine's control groups, of either version or both.
type groups struct {
	hierarchies []hierarchy
	// why says for a controller why it does not work, and for all that a hierarchy cannot be used.
	why map[string]string
	// mu keeps one sandbox's parent from being removed while another is created below it.
	mu sync.Mutex
}

// openGroups finds the hierarchies and keeps those in which a group can be made. name tells this driver's
// groups from those of others.
func openGroups(mountinfo, self []byte, name string) *groups {
	g := noGroups("the machine offers no such control group here")
	for _, h := range findHierarchies(mountinfo, self) {
		h.group = filepath.Join(h.group, name)
		if err := h.prepare(); err != nil {
			for _, c := range limitedBy {
				if h.unified || slices.Contains(h.controllers, c) {
					g.why[c] = err.Error()
				}
			}
			continue
		}
		g.hierarchies = append(g.hierarchies, h)
	}
	g.tidy()
	return g
}

func noGroups(why string) *groups {
	g := &groups{why: make(map[string]string)}
	for _, c := range limitedBy {
		g.why[c] = why
	}
	return g
}

// missing says why controllers do not work; empty if all of them do.
func (g *groups) missing(controllers []string) string {
	var reasons []string
	for _, c := range controllers {
		if !g.has(c) && !slices.Contains(reasons, g.why[c]) {
			reasons = append(reasons, g.why[c])
		}
	}
	return strings.Join(reasons, "; ")
}

// groupName is this driver's: one state directory, one name.
func groupName(stateDir string) string {
	sum := sha256.Sum256([]byte(stateDir))
	return "sallyport-" + hex.EncodeToString(sum[:4])
}

// findHierarchies returns the trees with the group that this process is in, as seen through the mounts of
// proc_pid_mountinfo(5); self is /proc/self/cgroup. Version 2 may be mounted below a version 1 tree.
func findHierarchies(mountinfo, self []byte) []hierarchy {
	own := make(map[string]string)
	for line := range strings.Lines(string(self)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(fields) != 3 {
			continue
		}
		for name := range strings.SplitSeq(fields[1], ",") {
			own[name] = fields[2]
		}
	}
	var found []hierarchy
	scan := bufio.NewScanner(bytes.NewReader(mountinfo))
	for scan.Scan() {
		before, after, ok := strings.Cut(scan.Text(), " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(kind) < 3 {
			continue
		}
		root, point := fields[3], fields[4]
		switch kind[0] {
		case "cgroup2":
			found = append(found, hierarchy{group: below(point, root, own[""]), unified: true})
		case "cgroup":
			var controllers []string
			for option := range strings.SplitSeq(kind[2], ",") {
				if slices.Contains(limitedBy, option) {
					controllers = append(controllers, option)
				}
			}
			if len(controllers) > 0 {
				found = append(found, hierarchy{group: below(point, root, own[controllers[0]]), controllers: controllers})
			}
		}
	}
	return found
}

// below is where group is found under a mount that shows root of the hierarchy at point.
func below(point, root, group string) string {
	rel, err := filepath.Rel(root, path.Clean("/"+group))
	if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
		return point
	}
	return filepath.Join(point, rel)
}

// prepare makes the driver's own group and finds which controllers work in it.
func (h *hierarchy) prepare() error {
	if h.unified {
		h.controllers = nil
	}
	if err := os.Mkdir(h.group, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		// Without the path: it says nothing to those who read a sandbox's status.
		if errno, ok := errors.AsType[unix.Errno](err); ok {
			err = errno
		}
		return fmt.Errorf("make a control group: %w", err)
	}
	if !h.unified {
		return nil
	}
	for _, c := range limitedBy {
		// A controller that the tree lacks, or that may not be handed down from a group which holds
		// processes, is left out: its absence is reported.
		for _, dir := range []string{filepath.Dir(h.group), h.group} {
			_ = writeControl(dir, "cgroup.subtree_control", "+"+c)
		}
		b, err := os.ReadFile(filepath.Join(h.group, "cgroup.subtree_control"))
		if err == nil && slices.Contains(strings.Fields(string(b)), c) {
			h.controllers = append(h.controllers, c)
		}
	}
	return nil
}

func (g *groups) has(controller string) bool {
	return slices.ContainsFunc(g.hierarchies, func(h hierarchy) bool { return slices.Contains(h.controllers, controller) })
}

// paths are the groups a sandbox will have.
func (g *groups) paths(id string) []string {
	paths := make([]string, 0, len(g.hierarchies))
	for _, h := range g.hierarchies {
		paths = append(paths, filepath.Join(h.group, id))
	}
	return paths
}

// create makes a sandbox's groups with its limits and puts its first process in them. It returns which
// controllers enforce a limit.
func (g *groups) create(id string, l limits, pid int) ([]string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	var enforced []string
	for _, h := range g.hierarchies {
		if err := h.prepare(); err != nil {
			return nil, err
		}
		dir := filepath.Join(h.group, id)
		if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make control group: %w", err)
		}
		for _, s := range l.settings(h.unified) {
			if s.value == "" || !slices.Contains(h.controllers, s.controller) {
				continue
			}
			if err := writeControl(dir, s.file, s.value); err != nil {
				return nil, fmt.Errorf("limit %s: %w", s.controller, err)
			}
			if !slices.Contains(enforced, s.controller) {
				enforced = append(enforced, s.controller)
			}
		}
		if err := writeControl(dir, "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return nil, fmt.Errorf("enter control group: %w", err)
		}
	}
	return enforced, nil
}

// describe says, for a sandbox's status, which of its limits are enforced and why others are not.
func (g *groups) describe(l limits, enforced []string) string {
	word := "cgroup=none"
	if len(g.hierarchies) > 0 {
		word = "cgroup=own"
	}
	var unenforced []string
	for i, name := range limitedBy {
		switch {
		case l.values()[i] == 0:
			word += " " + name + "=unlimited"
		case slices.Contains(enforced, name):
			word += " " + name + "=limited"
		default:
			word += " " + name + "=not-enforced"
			unenforced = append(unenforced, name)
		}
	}
	if why := g.missing(unenforced); why != "" {
		word += " (" + why + ")"
	} else if why := g.missing(limitedBy); why != "" && len(g.hierarchies) == 0 {
		word += " (" + why + ")"
	}
	return word
}

// kill ends every process in the groups and returns when they are empty.
func (g *groups) kill(ctx context.Context, paths []string) error {
	for _, dir := range paths {
		if err := writeControl(dir, "cgroup.kill", "1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("kill control group: %w", err)
		}
		err := poll(ctx, func() (bool, error) {
			b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
				return true, nil
			}
			if err != nil {
				return false, fmt.Errorf("read control group: %w", err)
			}
			members := strings.Fields(string(b))
			for _, m := range members {
				pid, err := strconv.Atoi(m)
				if err != nil || pid <= 1 {
					continue // not of this PID namespace
				}
				if p, err := procfs.Stat(pid); err == nil {
					if err := killProcess(p); err != nil {
						return false, err
					}
				}
			}
			return len(members) == 0, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// remove removes a sandbox's groups, which must be empty, and those that it may have made below them.
func (g *groups) remove(ctx context.Context, paths []string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, dir := range paths {
		err := poll(ctx, func() (bool, error) {
			err := removeGroup(dir)
			if errors.Is(err, unix.EBUSY) {
				return false, nil // the kernel has not let go of the last process yet
			}
			return err == nil, err
		})
		if err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
		g.tidyOne(filepath.Dir(dir))
	}
	return nil
}

func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

// tidy removes the driver's own groups unless sandboxes are in them.
func (g *groups) tidy() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, h := range g.hierarchies {
		g.tidyOne(h.group)
	}
}

func (g *groups) tidyOne(dir string) {
	// Refused while another sandbox has a group in it, which is what is wanted.
	_ = unix.Rmdir(dir)
}

// writeControl writes a file that the kernel provides; it is never created.
func writeControl(dir, file, value string) error {
	f, err := os.OpenFile(filepath.Join(dir, file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(value)
	return errors.Join(err, f.Close())
}

// poll calls try until it reports true, an error, or ctx ends.
func poll(ctx context.Context, try func() (bool, error)) error {
	wait := time.Millisecond
	for {
		if ok, err := try(); ok || err != nil {
			return err
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
		wait = min(2*wait, 50*time.Millisecond)
	}
}
