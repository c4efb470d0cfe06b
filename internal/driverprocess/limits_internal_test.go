//go:build linux

package driverprocess

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseQuantity(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{
		"1": 1000, "500m": 500, "0.5": 500, "1.0001": 1001, "2k": 2_000_000, "1Ki": 1_024_000, "1.5Gi": 1_610_612_736_000,
		"512M": 512_000_000_000, "8P": 8_000_000_000_000_000_000, "0": 0,
	} {
		if got, err := parseQuantity(text); err != nil || got != want {
			t.Errorf("%q: got %d %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "x", "-1", "1e3", "1 Gi", "Gi", "1.", "10P", "1Ei", "9999999999999999999"} {
		if got, err := parseQuantity(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}

func FuzzParseQuantity(f *testing.F) {
	for _, s := range []string{"1", "500m", "1.5Gi", "99999999P"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if n, err := parseQuantity(s); err == nil && n < 0 {
			t.Errorf("%q is negative: %d", s, n)
		}
	})
}

func TestLimitSettings(t *testing.T) {
	t.Parallel()
	l := limits{CPUMillis: 1500, MemoryBytes: 1 << 20}
	for unified, want := range map[bool][]setting{
		true:  {{"cpu", "cpu.max", "150000 100000"}, {"memory", "memory.max", "1048576"}, {"pids", "pids.max", ""}},
		false: {{"cpu", "cpu.cfs_quota_us", "150000"}, {"memory", "memory.limit_in_bytes", "1048576"}, {"pids", "pids.max", ""}},
	} {
		got := l.settings(unified)
		if d := cmp.Diff(want, got, cmp.AllowUnexported(setting{})); d != "" {
			t.Errorf("unified %v (-want +got):\n%s", unified, d)
		}
	}
}

func TestFindHierarchies(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		mounts, self string
		want         []hierarchy
	}{
		"hybrid": {
			"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct\n" +
				"36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices\n" +
				"41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
			"3:cpu,cpuacct:/a/b\n2:devices:/\n0::/c\n",
			[]hierarchy{
				{group: "/sys/fs/cgroup/cpu/a/b", controllers: []string{"cpu"}},
				{group: "/sys/fs/cgroup/unified/c", unified: true},
			},
		},
		"container": {
			"41 31 0:38 /docker/x /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/docker/x/y\n",
			[]hierarchy{{group: "/sys/fs/cgroup/y", unified: true}},
		},
		"outside the mount": {
			"41 31 0:38 /docker/x /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw\n", "0::/other\n",
			[]hierarchy{{group: "/sys/fs/cgroup", unified: true}},
		},
		"nothing": {"22 1 8:1 / / rw - ext4 /dev/sda1 rw\nbroken\n", "", nil},
	} {
		got := findHierarchies([]byte(c.mounts), []byte(c.self))
		if d := cmp.Diff(c.want, got, cmp.AllowUnexported(hierarchy{})); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

func TestHideable(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]bool{
		"/": false, "/usr": false, "/var": false, "/etc": false, "/home": false, "relative": false, "/run": false, "/tmp": false,
		"/root": true, "/home/user": true, "/var/lib/sallyport": true, "/srv": true, "/tmp/x": true, "/user": true,
	} {
		if got := hideable(path); got != want {
			t.Errorf("%s: got %v, want %v", path, got, want)
		}
	}
}
