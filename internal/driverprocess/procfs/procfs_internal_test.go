//go:build linux

package procfs

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	line := "42 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20\n"
	got, err := parseStat([]byte(line))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(Process{PID: 42, Parent: 1, Group: 2, Session: 3, Start: 99}, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestSelf(t *testing.T) {
	t.Parallel()
	table, err := Read()
	if err != nil {
		t.Fatal(err)
	}
	self := table[os.Getpid()]
	if self.Parent != os.Getppid() || self.Start == 0 {
		t.Errorf("own line is %+v", self)
	}
	if _, err := Stat(1 << 22); !Gone(err) {
		t.Errorf("absent process: %v", err)
	}
}

func TestBelow(t *testing.T) {
	t.Parallel()
	table := Table{1: {PID: 1}, 2: {PID: 2, Parent: 1}, 3: {PID: 3, Parent: 2}, 4: {PID: 4, Parent: 3, Zombie: true}, 5: {PID: 5, Parent: 4}, 6: {PID: 6, Parent: 1}}
	found := map[int]bool{}
	for _, p := range table.Below(2) {
		found[p.PID] = true
	}
	if d := cmp.Diff(map[int]bool{3: true, 5: true}, found); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("42 (a) b) (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 99 20\n"))
	f.Add([]byte("1 ()"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = parseStat(b)
	})
}
