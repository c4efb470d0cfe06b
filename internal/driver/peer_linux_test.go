package driver_test

import (
	"net"
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// TestServeSocketAsUser is the body of the process that serveAs starts, not a test of its own: it listens on a
// socket under the user it was started as and answers nothing.
func TestServeSocketAsUser(t *testing.T) {
	socket := os.Getenv("SALLYPORT_TEST_SERVE_SOCKET")
	if socket == "" {
		t.Skip("started by TestWrongPeer only")
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("listening\n")
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		// A server's HTTP/2 preface: an empty SETTINGS frame.
		if _, err := nc.Write([]byte{0, 0, 0, 4, 0, 0, 0, 0, 0}); err != nil {
			nc.Close()
		}
	}
}

// serveAs runs a process of another user that listens on socket until the test ends.
func serveAs(t *testing.T, uid uint32, socket string) {
	t.Helper()
	dir := socket[:len(socket)-len("/d.sock")]
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	exe := dir + "/serve"
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(exe, data, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe, "-test.run=^TestServeSocketAsUser$")
	cmd.Dir = dir
	cmd.Env = []string{"SALLYPORT_TEST_SERVE_SOCKET=" + socket, "TMPDIR=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := out.Read(make([]byte, 64)); err != nil {
		t.Fatalf("helper process did not start: %v", err)
	}
}
