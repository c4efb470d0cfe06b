package process_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/supervisor/process"
)

const initFlag = "run-as-init"

// TestMain lets the test binary stand in for a supervisor that has adopted orphans: reaping concerns the whole
// process, so it gets one of its own.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == initFlag {
		if err := runAsInit(); err != nil {
			fmt.Println("failed:", err)
			os.Exit(1)
		}
		fmt.Println("ok")
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func sh(table *process.Table, line string) (*process.Process, error) {
	return table.Start(process.Spec{
		Path: "/bin/sh", Args: []string{"sh", "-c", line}, Dir: "/", Env: []string{"PATH=/usr/bin:/bin"},
	})
}

// runAsInit makes orphans while children of our own end, and wants the first reaped and the exit codes of the
// second untouched.
func runAsInit() error {
	if err := process.Adopt(); err != nil {
		return err
	}
	table := &process.Table{}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	reaper := make(chan error, 1)
	go func() { reaper <- table.Reap(ctx) }()
	var group sync.WaitGroup
	failed := make(chan error, 200)
	for i := range 200 {
		group.Go(func() {
			// The grandchild is ours as soon as its parent is gone, and dies later.
			p, err := sh(table, fmt.Sprintf("(sleep 0.0%d; exit 1) >/dev/null 2>&1 & exit %d", i%10, i))
			if err != nil {
				failed <- err
				return
			}
			defer p.Close()
			<-p.Done()
			if p.ExitCode() != i {
				failed <- fmt.Errorf("exit code %d, want %d", p.ExitCode(), i)
			}
		})
	}
	group.Wait()
	close(failed)
	for err := range failed {
		return err
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, err := children()
		if err != nil || n == 0 {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d children are left", n)
		}
	}
	// Daemons that left their group end too.
	p, err := sh(table, "setsid sleep 300 >/dev/null 2>&1 & setsid sh -c 'sleep 300 & sleep 300' >/dev/null 2>&1 & sleep 0.2")
	if err != nil {
		return err
	}
	<-p.Done()
	p.Close()
	if n := process.KillDescendants(); n < 3 {
		return fmt.Errorf("killed %d descendants", n)
	}
	cancel()
	return <-reaper
}

// children counts our children, dead ones included.
func children() (int, error) {
	out, err := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
	if err == nil && len(strings.Fields(string(out))) > 0 {
		return len(strings.Fields(string(out))), nil
	}
	dirs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, d := range dirs {
		raw, err := os.ReadFile("/proc/" + d.Name() + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
		if len(f) > 1 && f[1] == strconv.Itoa(os.Getpid()) {
			n++
		}
	}
	return n, nil
}

func TestReapLeavesOwnChildrenAlone(t *testing.T) {
	t.Parallel()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), self, initFlag).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTerminateGivesTheGroupItsGrace(t *testing.T) {
	t.Parallel()
	table := &process.Table{}
	// The leader dies at once, its child needs a moment and must get it.
	p, err := sh(table, "sh -c 'trap \"sleep 0.3; echo clean; exit 0\" TERM; echo up; while :; do sleep 0.05; done' & wait")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	var out strings.Builder
	buf := make([]byte, 4096)
	err = p.Copy(p.Stdout, buf, func(n int) error {
		out.Write(buf[:n])
		p.Terminate(5 * time.Second)
		return nil
	})
	<-p.Done()
	if err != nil || out.String() != "up\nclean\n" || p.ExitCode() != 143 {
		t.Errorf("out %q code %d err %v", out.String(), p.ExitCode(), err)
	}
	if err := p.Signal(15); err == nil {
		t.Error("signal to an ended process succeeded")
	}
	if table.Len() != 0 {
		t.Errorf("table holds %d", table.Len())
	}
}

func TestShutdownKillsTheStubborn(t *testing.T) {
	t.Parallel()
	table := &process.Table{}
	var all []*process.Process
	for range 4 {
		p, err := sh(table, "trap '' TERM; echo up; while :; do sleep 0.05; done")
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if _, err := p.Stdout.Read(make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
	if err := table.Shutdown(t.Context(), 100*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if p.ExitCode() != 137 {
			t.Errorf("code = %d", p.ExitCode())
		}
	}
}

// What a process wrote before its end must arrive, however slowly it is read.
func TestCopyLosesNothingToASlowReader(t *testing.T) {
	t.Parallel()
	p, err := sh(&process.Table{}, "head -c 65536 /dev/zero")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	<-p.Done()
	total := 0
	slow := time.NewTimer(process.IdleAfterExit + 200*time.Millisecond)
	err = p.Copy(p.Stdout, make([]byte, 30000), func(n int) error {
		if total == 0 {
			<-slow.C
		}
		total += n
		return nil
	})
	if err != nil || total != 65536 {
		t.Errorf("%d bytes, %v", total, err)
	}
}
