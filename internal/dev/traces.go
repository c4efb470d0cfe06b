package dev

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// sandboxMarker is the variable by which the process driver marks every process of a sandbox.
const sandboxMarker = "SALLYPORT_SANDBOX_ID="

// sandboxProcesses finds the processes of a sandbox. Those of other users cannot be looked into and are not
// counted: the driver runs as this user.
func sandboxProcesses(id string) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err != nil {
			// Ended meanwhile, or another user's.
			continue
		}
		for kv := range bytes.SplitSeq(env, []byte{0}) {
			if string(kv) == sandboxMarker+id {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids, nil
}

// driverGroups returns the names of the control groups that the process driver made for a process and its kind.
func driverGroups(pid int) []string {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		// Ended meanwhile: then another process of the sandbox tells.
		return nil
	}
	var out []string
	for elem := range strings.FieldsFuncSeq(string(raw), func(r rune) bool { return r == '/' || r == '\n' }) {
		if strings.HasPrefix(elem, "sallyport-") {
			out = append(out, elem)
		}
	}
	return out
}

// leftovers lists what a stopped system must not leave: processes of the sandbox, sockets, mounts, and control
// groups with one of the names or that of the sandbox.
func (s *system) leftovers(sandbox string, groups []string) ([]string, error) {
	var out []string
	sockets, err := filepath.Glob(filepath.Join(s.sockets, "*.sock"))
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	for _, path := range sockets {
		out = append(out, "socket "+path)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], s.dir+"/") {
			out = append(out, "mount "+f[4])
		}
	}
	pids, err := sandboxProcesses(sandbox)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		out = append(out, "process "+strconv.Itoa(pid))
	}
	left, err := controlGroups(sandbox, groups)
	return append(out, left...), err
}

func controlGroups(sandbox string, names []string) ([]string, error) {
	var out []string
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil
		}
		if err != nil {
			return err
		}
		if e.IsDir() && (slices.Contains(names, e.Name()) || sandbox != "" && strings.Contains(e.Name(), sandbox)) {
			out = append(out, "cgroup "+path)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list control groups: %w", err)
	}
	return out, nil
}
