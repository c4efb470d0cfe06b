//go:build linux

package e2e_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// nobody is the user and group of the unprivileged run.
const nobody = 65534

func TestDemo(t *testing.T) {
	t.Parallel()
	bin := binDir(t)
	runDemo(t, bin, nil)
}

// TestDemoUnprivileged runs as a user who owns nothing; started by an ordinary user it is that user's run again.
func TestDemoUnprivileged(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		runDemo(t, binDir(t), nil)
		return
	}
	// The user must be able to read what it runs.
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // others have to run what is in it
		t.Fatal(err)
	}
	programs, err := filepath.Glob(filepath.Join(binDir(t), "sallyport*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range programs {
		copyProgram(t, from, filepath.Join(dir, filepath.Base(from)))
	}
	runDemo(t, dir, &syscall.Credential{Uid: nobody, Gid: nobody})
}

func copyProgram(t *testing.T, from, to string) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(dst, src)
	if err := errors.Join(err, dst.Close()); err != nil {
		t.Fatal(err)
	}
}

// runDemo walks through the demonstration and checks that every step tells of success and that nothing is left.
func runDemo(t *testing.T, bin string, as *syscall.Credential) {
	t.Helper()
	home, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(home) })
	if as != nil {
		if err := os.Chown(home, int(as.Uid), int(as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	marker := runMarker + rand.Text()
	var out, errOut bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(bin, "sallyport"), "dev", "--demo", "-o", "json")
	cmd.Env = append(cleanEnv(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_STATE_HOME="+home, "XDG_RUNTIME_DIR=", "TMPDIR="+home, marker)
	cmd.Dir, cmd.Stdout, cmd.Stderr = home, &out, &errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	if err := cmd.Run(); err != nil {
		t.Errorf("demo: %v", err)
	}
	steps := 0
	for line := range bytes.Lines(out.Bytes()) {
		var step struct {
			Name   string `json:"name"`
			OK     bool   `json:"ok"`
			Millis *int64 `json:"milliseconds"`
			Detail string `json:"detail"`
		}
		if err := json.Unmarshal(line, &step); err != nil || step.Name == "" || step.Millis == nil {
			t.Errorf("line %q: %v", line, err)
			continue
		}
		steps++
		if !step.OK {
			t.Errorf("step %q failed: %s", step.Name, step.Detail)
		}
		t.Logf("%s: %s", step.Name, step.Detail)
	}
	if steps < 12 || t.Failed() {
		t.Errorf("%d steps\n%s\n%s", steps, out.Bytes(), errOut.Bytes())
	}
	if pids := pidsWith(t, marker); len(pids) > 0 {
		t.Errorf("processes left behind: %v", pids)
	}
	left, err := os.ReadDir(home)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range left {
		t.Errorf("left behind in the home and temporary folder: %s", e.Name())
	}
}
