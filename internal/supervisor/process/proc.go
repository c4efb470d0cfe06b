package process

import (
	"bytes"
	"os"
	"strconv"
	"syscall"
)

// stat is what the kernel tells about a process.
type stat struct {
	pid, parent, group int
	state              byte
}

// processes lists what /proc shows; nil if it cannot be read.
func processes() []stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil
	}
	all := make([]stat, 0, len(names))
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile("/proc/" + name + "/stat")
		if err != nil {
			// It ended meanwhile.
			continue
		}
		if s, ok := parseStat(pid, raw); ok {
			all = append(all, s)
		}
	}
	return all
}

// parseStat reads the fields behind the program's name, which may itself hold spaces and parentheses.
func parseStat(pid int, raw []byte) (stat, bool) {
	end := bytes.LastIndexByte(raw, ')')
	if end < 0 {
		return stat{}, false
	}
	f := bytes.Fields(raw[end+1:])
	if len(f) < 3 {
		return stat{}, false
	}
	parent, err1 := strconv.Atoi(string(f[1]))
	group, err2 := strconv.Atoi(string(f[2]))
	return stat{pid: pid, parent: parent, group: group, state: f[0][0]}, err1 == nil && err2 == nil
}

// groupAlive tells whether a process group still has a live member. Where /proc is missing it cannot know, and
// says yes.
func groupAlive(group int) bool {
	all := processes()
	if len(all) == 0 {
		return true
	}
	for _, s := range all {
		if s.group == group && s.state != 'Z' && s.state != 'X' {
			return true
		}
	}
	return false
}

// KillDescendants kills every process below the calling one, however deep, and returns how many it found. Use it
// last, after an orderly shutdown: it leaves no chance to clean up.
func KillDescendants() int {
	self := os.Getpid()
	killed := 0
	// Each round kills one generation of parents at most, whose children then become ours.
	for range 16 {
		found := 0
		below := map[int]bool{self: true}
		all := processes()
		for grew := true; grew; {
			grew = false
			for _, s := range all {
				if below[s.parent] && !below[s.pid] {
					below[s.pid] = true
					grew = true
					if s.state != 'Z' && s.state != 'X' && syscall.Kill(s.pid, syscall.SIGKILL) == nil {
						found++
					}
				}
			}
		}
		if found == 0 {
			break
		}
		killed += found
	}
	return killed
}
