package gateway

import (
	"bytes"
	"fmt"
	"os"
	"testing"
)

// filePages returns how many KiB of files this process has in its memory.
func filePages(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := bytes.Cut(status, []byte("\nRssFile:"))
	if _, err := fmt.Sscan(string(rest), &kib); !found || err != nil {
		t.Fatalf("no RssFile in %q: %v", status, err)
	}
	return kib
}

// Not parallel: others would touch the program meanwhile.
func TestTheProgramsPagesAreForgotten(t *testing.T) {
	before := filePages(t)
	if err := forgetProgram(); err != nil {
		t.Fatal(err)
	}
	after := filePages(t)
	t.Logf("%d KiB before, %d after", before, after)
	if after > before/2 {
		t.Errorf("%d KiB of the program are still there, of %d", after, before)
	}
}
