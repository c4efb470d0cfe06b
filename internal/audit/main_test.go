package audit_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/audit"
)

// childDir names the folder of a process that does nothing but record.
const childDir = "AUDIT_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(recordForEver(dir))
	}
	goleak.VerifyTestMain(m)
}

// recordForEver prints the number of each record that is durable.
func recordForEver(dir string) int {
	key, err := audit.OpenKey(filepath.Join(dir, "audit.key"))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	l, err := audit.Open(audit.Options{
		Dir: filepath.Join(dir, "log"), Key: key, MaxBytes: 8 << 10, Durable: true, MaxWait: time.Minute,
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	for n := 0; ; n++ {
		l.Record(change(n % 60))
		if _, err := fmt.Println(l.Last()); err != nil {
			return 1
		}
	}
}

// TestAKilledProcess kills a process that records, again and again, and has the next go on.
func TestAKilledProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for round := range 8 {
		cmd := exec.CommandContext(t.Context(), self)
		cmd.Env = append(os.Environ(), childDir+"="+dir)
		var complaint strings.Builder
		cmd.Stderr = &complaint
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		durable, lines := uint64(0), bufio.NewScanner(out)
		for range 20 + 7*round {
			if !lines.Scan() {
				break
			}
			if _, err := fmt.Sscan(lines.Text(), &durable); err != nil {
				t.Fatal(err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			// What came out before the kill is durable too.
			var n uint64
			if _, err := fmt.Sscan(lines.Text(), &n); err == nil {
				durable = max(durable, n)
			}
		}
		_ = cmd.Wait()
		report := verify(t, dir)
		if !report.OK() || report.Last < durable || durable == 0 {
			t.Fatalf("round %d: %d records were durable, %+v, %s", round, durable, report, complaint.String())
		}
	}
	l := open(t, dir, nil)
	<-l.Checked()
	flush(t, l)
	if broken := all(t, l, audit.Filter{Action: audit.ActionChainBroken}); len(broken) != 0 {
		t.Errorf("%+v", broken)
	}
	closeLog(t, l)
	if report := verify(t, dir); !report.OK() || report.Torn != 0 || report.Signed != report.Last {
		t.Errorf("%+v", report)
	}
}
