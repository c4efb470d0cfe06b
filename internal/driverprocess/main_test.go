//go:build linux

package driverprocess_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sallyport.dev/sallyport/internal/driverprocess"
	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

// The test binary stands in for every process: a sandbox's first one, the supervisor when it is called by that
// name, and the driver itself.
func TestMain(m *testing.M) {
	switch {
	case sandboxinit.Requested(os.Args):
		leave(sandboxinit.Main())
	case filepath.Base(os.Args[0]) == "sallyport-supervisor":
		leave(fakeSupervisor())
	case len(os.Args) > 1 && os.Args[1] == "driver":
		cmd := driverprocess.Command("test")
		cmd.SetArgs(os.Args[2:])
		if err := cmd.ExecuteContext(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			leave(1)
		}
		leave(0)
	}
	dir, err := shareBinary()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		os.Exit(code)
	}))
}

// leave ends a process that stands in for another. Under the race detector os.Exit waits a second for reports of other
// threads, at the end of each of hundreds of processes.
func leave(code int) {
	if races() > 0 {
		code = 66 // as the race detector has it
	}
	syscall.Exit(code)
}

// binaryVariable names the copy of the test binary that fixtures link to: the directory of the original is
// closed to other users.
const binaryVariable = "SALLYPORT_TEST_BINARY"

func shareBinary() (dir string, err error) {
	dir, err = os.MkdirTemp("", "sdp-bin")
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return dir, err
	}
	b, err := os.ReadFile(self)
	if err != nil {
		return dir, err
	}
	path := filepath.Join(dir, "driver.test")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		return dir, err
	}
	return dir, os.Setenv(binaryVariable, path)
}

// report is what a fake supervisor tells of itself in its working directory.
type report struct {
	PID, UID int
	Session  int
	Dir      string
	Env      []string
	Token    string
	Roots    map[string][]string
	Hostname string
}

// fakeSupervisor reports, starts a process that hides as well as it can, and waits to be told to end.
func fakeSupervisor() int {
	code, err := func() (int, error) {
		terminated := make(chan os.Signal, 1)
		signal.Notify(terminated, syscall.SIGTERM)
		fmt.Println("fake supervisor started")
		if n, err := strconv.Atoi(os.Getenv("FAKE_EXIT")); err == nil {
			return n, nil
		}
		if mark := os.Getenv("FAKE_STRAY"); mark != "" {
			// Orphaned, in a session of its own, and without the environment it came from.
			cmd := exec.Command("/bin/sh", "-c", `(env -i setsid sleep "$0" >/dev/null 2>&1 &)`, mark)
			if out, err := cmd.CombinedOutput(); err != nil {
				return 1, fmt.Errorf("start stray: %w: %s", err, out)
			}
		}
		if n, err := strconv.Atoi(os.Getenv("FAKE_LOG_KIB")); err == nil {
			line := make([]byte, 1023)
			for i := range line {
				line[i] = 'x'
			}
			for range n {
				fmt.Println(string(line))
			}
		}
		if err := writeReport(); err != nil {
			return 1, err
		}
		if path := os.Getenv("OPENSHELL_SANDBOX_TOKEN_FILE"); path != "" && os.Getenv("FAKE_TOKEN") != "" {
			if err := touchToken(path, os.Getenv("FAKE_TOKEN")); err != nil {
				return 1, err
			}
			if err := os.WriteFile("touched", nil, 0o600); err != nil {
				return 1, err
			}
		}
		<-terminated
		return 0, nil
	}()
	if err != nil {
		fmt.Println("fake supervisor:", err)
	}
	return code
}

// touchToken does to the token's file what a supervisor does that renews its token, and what others in the sandbox
// may do.
func touchToken(path, how string) error {
	if how == "renewed" {
		if err := os.WriteFile(path+".next", []byte("renewed-token\n"), 0o600); err != nil {
			return err
		}
		return os.Rename(path+".next", path)
	}
	if how == "stale" {
		return errors.Join(os.WriteFile(path, []byte("stale-token"), 0o600), os.Chtimes(path, time.Time{}, time.Unix(1, 0)))
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	switch how {
	case "linked":
		elsewhere := filepath.Join(filepath.Dir(path), "elsewhere")
		return errors.Join(os.WriteFile(elsewhere, []byte("other-token"), 0o600), os.Symlink("elsewhere", path))
	case "pipe":
		return syscall.Mkfifo(path, 0o600)
	case "directory":
		return errors.Join(os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "token"), []byte("inner-token"), 0o600))
	case "largest":
		return os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10), 0o600)
	case "larger":
		return os.WriteFile(path, bytes.Repeat([]byte("x"), 64<<10+1), 0o600)
	case "empty":
		return os.WriteFile(path, []byte(" \n"), 0o600)
	case "words":
		return os.WriteFile(path, []byte("two words"), 0o600)
	}
	return nil // removed
}

func writeReport() error {
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	session, err := syscall.Getpgid(0)
	if err != nil {
		return err
	}
	r := report{PID: os.Getpid(), UID: os.Getuid(), Session: session, Dir: dir, Env: os.Environ(), Roots: map[string][]string{}}
	if path := os.Getenv("OPENSHELL_SANDBOX_TOKEN_FILE"); path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r.Token = string(b)
	}
	if r.Hostname, err = os.Hostname(); err != nil {
		return err
	}
	for _, d := range []string{"/tmp", "/run", "/home", os.Getenv("FAKE_LOOK")} {
		entries, err := os.ReadDir(d)
		if err != nil {
			r.Roots[d] = []string{"error: " + err.Error()}
		}
		for _, e := range entries {
			r.Roots[d] = append(r.Roots[d], e.Name())
		}
	}
	sock, err := net.Listen("unix", os.Getenv("OPENSHELL_SSH_SOCKET_PATH"))
	if err != nil {
		return fmt.Errorf("listen as the SSH server does: %w", err)
	}
	sock.Close()
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile("report.new", b, 0o600); err != nil {
		return err
	}
	return os.Rename("report.new", "report.json")
}
