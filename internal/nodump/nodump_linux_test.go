package nodump_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/nodump"
)

// TestMain plays a process that sets the flags and tells what came of it.
func TestMain(m *testing.M) {
	if os.Getenv("NODUMP_CHILD") == "" {
		os.Exit(m.Run())
	}
	if err := nodump.Set(); err != nil {
		panic(err)
	}
	var core unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &core); err != nil {
		panic(err)
	}
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err != nil {
		panic(err)
	}
	if core.Cur == 0 && core.Max == 0 && dumpable == 0 {
		os.Stdout.WriteString("no dump")
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self)
	cmd.Env = append(os.Environ(), "NODUMP_CHILD=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "no dump") {
		t.Errorf("%v: %s", err, out)
	}
}
