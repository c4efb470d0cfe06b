//go:build linux

// Package procfs reads which processes there are, how they descend from each other and whether one is still
// the process it was. It knows nothing of sandboxes.
package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is one line of the process table.
type Process struct {
	PID, Parent, Group, Session int
	// Start is when it started, in clock ticks since the machine did; with PID it names one process for good
	// until the machine restarts.
	Start uint64
	// Zombie is set when it has ended and waits to be reaped.
	Zombie bool
}

// Table is the processes that a scan saw, by PID.
type Table map[int]Process

// Read scans /proc. Processes that come or go meanwhile may be missed.
func Read() (Table, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("open process table: %w", err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("read process table: %w", err)
	}
	table := make(Table, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		p, err := Stat(pid)
		switch {
		case err == nil:
			table[pid] = p
		case !Gone(err):
			return nil, err
		}
	}
	return table, nil
}

// Gone tells whether err means that the process has ended.
func Gone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// Stat reads one process; the error satisfies Gone when there is none of that PID.
func Stat(pid int) (Process, error) {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, fmt.Errorf("read process %d: %w", pid, err)
	}
	p, err := parseStat(b)
	if err != nil {
		return Process{}, fmt.Errorf("parse process %d: %w", pid, err)
	}
	return p, nil
}

// parseStat parses proc_pid_stat(5). The name in parentheses may hold spaces and parentheses itself.
func parseStat(b []byte) (Process, error) {
	open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if open < 0 || end < open {
		return Process{}, errors.New("no name")
	}
	fields := strings.Fields(string(b[end+1:]))
	const state, parent, group, session, start = 0, 1, 2, 3, 19
	if len(fields) <= start {
		return Process{}, errors.New("too few fields")
	}
	p := Process{Zombie: fields[state] == "Z" || fields[state] == "X"}
	for _, f := range []struct {
		text string
		to   *int
	}{{strings.TrimSpace(string(b[:open])), &p.PID}, {fields[parent], &p.Parent}, {fields[group], &p.Group}, {fields[session], &p.Session}} {
		n, err := strconv.Atoi(f.text)
		if err != nil {
			return Process{}, fmt.Errorf("parse field: %w", err)
		}
		*f.to = n
	}
	var err error
	if p.Start, err = strconv.ParseUint(fields[start], 10, 64); err != nil {
		return Process{}, fmt.Errorf("parse start time: %w", err)
	}
	return p, nil
}

// Below returns the descendants of pid, without pid itself and without zombies.
func (t Table) Below(pid int) []Process {
	children := make(map[int][]int, len(t))
	for _, p := range t {
		children[p.Parent] = append(children[p.Parent], p.PID)
	}
	var found []Process
	seen := map[int]bool{pid: true}
	for queue := children[pid]; len(queue) > 0; queue = queue[1:] {
		p := t[queue[0]]
		if seen[p.PID] {
			continue
		}
		seen[p.PID] = true
		if !p.Zombie {
			found = append(found, p)
		}
		queue = append(queue, children[p.PID]...)
	}
	return found
}

// HasEnv tells whether the process was started with the setting "NAME=value" in its environment. A process
// whose environment may not be read is taken not to have it.
func HasEnv(pid int, setting string) bool {
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	for entry := range bytes.SplitSeq(b, []byte{0}) {
		if string(entry) == setting {
			return true
		}
	}
	return false
}

// BootID names the machine's current run; start times of processes are comparable within one.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}
