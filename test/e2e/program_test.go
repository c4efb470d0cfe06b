//go:build linux

package e2e_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// sandboxMarker is the variable by which the process driver marks every process of a sandbox.
const sandboxMarker = "SALLYPORT_SANDBOX_ID="

// stopGrace is how long a program may take to end after SIGTERM.
const stopGrace = 30 * time.Second

// program is one program of the system, with its process while it runs.
type program struct {
	name, path, log string
	args, env       []string

	cmd  *exec.Cmd
	done chan struct{}
	err  error // why it ended, once done is closed
}

func (p *program) start(t *testing.T) {
	t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(p.path, p.args...) // it ends when the test says how
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = append(cleanEnv(), p.env...)
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	p.done = make(chan struct{})
	started := make(chan error)
	go func(cmd *exec.Cmd, done chan struct{}) {
		// The kernel signals a child when the thread that started it ends, so this one has to live as long.
		runtime.LockOSThread()
		defer close(done)
		defer log.Close()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
		}
	}(p.cmd, p.done)
	if err := <-started; err != nil {
		t.Fatalf("start %s: %v", p.name, err)
	}
}

func (p *program) running() bool {
	if p.cmd == nil || p.cmd.Process == nil {
		return false
	}
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// kill is kill -9 of the program alone; what it started goes on.
func (p *program) kill(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatalf("kill %s: %v", p.name, err)
	}
	<-p.done
}

// terminate asks the program to end and returns how it did.
func (p *program) terminate() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	timer := time.NewTimer(stopGrace)
	defer timer.Stop()
	select {
	case <-p.done:
		return p.err
	case <-timer.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		return errors.New("no end within " + stopGrace.String())
	}
}

// restart starts the program again after a kill.
func (p *program) restart(t *testing.T) {
	t.Helper()
	if p.running() {
		t.Fatalf("%s still runs", p.name)
	}
	p.start(t)
}

// cleanEnv is this process's environment without settings of the programs.
func cleanEnv() []string {
	var out []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "OPENSHELL_") && !strings.HasPrefix(kv, "SALLYPORT_") && !strings.HasPrefix(kv, "XDG_CONFIG_HOME=") {
			out = append(out, kv)
		}
	}
	return append(out, "XDG_CONFIG_HOME=/nonexistent")
}

// pidsWith finds the processes whose environment has one of the settings. What has ended meanwhile is not counted.
func pidsWith(t *testing.T, settings ...string) []int {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		env, err := os.ReadFile(filepath.Join("/proc", e.Name(), "environ"))
		if err == nil && hasSetting(env, settings) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func hasSetting(environ []byte, settings []string) bool {
	for kv := range bytes.SplitSeq(environ, []byte{0}) {
		for _, s := range settings {
			if string(kv) == s {
				return true
			}
		}
	}
	return false
}

// pidsRunning finds those of a sandbox's processes whose command line has the text.
func pidsRunning(t *testing.T, id, text string) []int {
	t.Helper()
	var out []int
	for _, pid := range pidsWith(t, sandboxMarker+id) {
		line, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err == nil && strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			out = append(out, pid)
		}
	}
	return out
}

func tail(path string, lines int) string {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
