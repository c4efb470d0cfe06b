package supervisor_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
)

// sshClient connects through a relay whose target is the SSH server.
func sshClient(tb testing.TB, session *gatewaytest.Session, open *openshellpb.RelayOpen) *ssh.Client {
	tb.Helper()
	r, err := session.Open(open)
	if err != nil {
		tb.Fatalf("open relay: %v", err)
	}
	return handshake(tb, r)
}

func handshake(tb testing.TB, nc net.Conn) *ssh.Client {
	tb.Helper()
	conn, channels, requests, err := ssh.NewClientConn(nc, "sandbox", &ssh.ClientConfig{
		User: "sandbox", HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		tb.Fatalf("handshake: %v", err)
	}
	c := ssh.NewClient(conn, channels, requests)
	tb.Cleanup(func() { c.Close() })
	return c
}

func newSession(tb testing.TB, c *ssh.Client) *ssh.Session {
	tb.Helper()
	s, err := c.NewSession()
	if err != nil {
		tb.Fatalf("new session: %v", err)
	}
	return s
}

func exitCode(tb testing.TB, err error) int {
	tb.Helper()
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*ssh.ExitError](err)
	if !ok {
		tb.Fatalf("no exit status: %v", err)
	}
	return exit.ExitStatus()
}

func TestSSHCommands(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, true)
	s := start(t, g, nil)
	session := g.Session(t)
	for name, open := range map[string]*openshellpb.RelayOpen{
		"no target":  {},
		"ssh target": {Target: &openshellpb.RelayOpen_Ssh{Ssh: &openshellpb.SshRelayTarget{}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := sshClient(t, session, open)
			for line, want := range map[string]int{
				"true": 0, "exit 1": 1, "exit 7": 7, "exit 255": 255, "kill -TERM $$": 143, "no-such-program": 127,
			} {
				if got := exitCode(t, newSession(t, c).Run(line)); got != want {
					t.Errorf("%s: exit %d, want %d", line, got, want)
				}
			}
			ses := newSession(t, c)
			if err := ses.Setenv("LANG", "C"); err != nil {
				t.Errorf("env request: %v", err)
			}
			var out, errs bytes.Buffer
			ses.Stdin, ses.Stdout, ses.Stderr = strings.NewReader("in"), &out, &errs
			if err := ses.Run("cat; echo -n err >&2; echo $HOME"); err != nil {
				t.Fatal(err)
			}
			if out.String() != "in"+s.dir+"\n" || errs.String() != "err" {
				t.Errorf("out %q err %q", out.String(), errs.String())
			}
		})
	}
}

func TestSSHCarriesMuch(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	c := sshClient(t, g.Session(t), &openshellpb.RelayOpen{})
	data := []byte(randomText(t, 12<<20))
	ses := newSession(t, c)
	ses.Stdin = bytes.NewReader(data)
	out, err := ses.Output("cat")
	if err != nil || sha256.Sum256(out) != sha256.Sum256(data) {
		t.Errorf("%d bytes of %d: %v", len(out), len(data), err)
	}
}

func TestSSHShellAndTerminal(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	c := sshClient(t, g.Session(t), &openshellpb.RelayOpen{})
	ses := newSession(t, c)
	ses.Stdin = strings.NewReader("echo plain; exit 6\n")
	var out bytes.Buffer
	ses.Stdout = &out
	if err := ses.Shell(); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, ses.Wait()); code != 6 || out.String() != "plain\n" {
		t.Errorf("code %d out %q", code, out.String())
	}
	ses = newSession(t, c)
	if err := ses.RequestPty("vt100", 30, 100, ssh.TerminalModes{}); err != nil {
		t.Fatal(err)
	}
	in, err := ses.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var screen lockedBuffer
	ses.Stdout = &screen
	if err := ses.Shell(); err != nil {
		t.Fatal(err)
	}
	say := func(line string) {
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Error(err)
		}
	}
	say("echo $TERM:$(stty size)")
	eventually(t, "size", func() bool { return strings.Contains(screen.String(), "vt100:30 100") })
	if err := ses.WindowChange(33, 99); err != nil {
		t.Fatal(err)
	}
	// The change and what is typed reach the terminal in ways of their own, so that one question may come too early.
	eventually(t, "new size", func() bool {
		say("stty size")
		return strings.Contains(screen.String(), "33 99")
	})
	say("exit 3")
	if code := exitCode(t, ses.Wait()); code != 3 {
		t.Errorf("code = %d", code)
	}
}

func TestSSHSignalAndDisconnect(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, nil)
	c := sshClient(t, g.Session(t), &openshellpb.RelayOpen{})
	ses := newSession(t, c)
	if err := ses.Start("echo $$ > one; exec sleep 300"); err != nil {
		t.Fatal(err)
	}
	readPID(t, filepath.Join(s.dir, "one"))
	if err := ses.Signal(ssh.SIGINT); err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, ses.Wait()); code != 130 {
		t.Errorf("code = %d", code)
	}
	ses = newSession(t, c)
	if err := ses.Start("echo $$ > two; exec sleep 300"); err != nil {
		t.Fatal(err)
	}
	pid := readPID(t, filepath.Join(s.dir, "two"))
	c.Close()
	eventually(t, "command ends with its connection", func() bool { return gone(pid) })
}

func TestSSHForwardsToLoopbackOnly(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	start(t, g, nil)
	c := sshClient(t, g.Session(t), &openshellpb.RelayOpen{})
	port := listenEcho(t)
	conn, err := c.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte("ping")); err != nil {
		t.Fatal(err)
	}
	if err := conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(conn); err != nil || string(all) != "ping" {
		t.Errorf("%q %v", all, err)
	}
	conn.Close()
	for _, address := range []string{"10.0.0.1:80", "example.com:80", "0.0.0.0:80"} {
		_, err := c.Dial("tcp", address)
		open, ok := errors.AsType[*ssh.OpenChannelError](err)
		if !ok || open.Reason != ssh.Prohibited {
			t.Errorf("%s: %v", address, err)
		}
	}
	if _, _, err := c.OpenChannel("x11", nil); err == nil {
		t.Error("unknown channel accepted")
	}
}

func TestSSHFileTransfer(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	s := start(t, g, nil)
	c := sshClient(t, g.Session(t), &openshellpb.RelayOpen{})
	f, err := sftp.NewClient(c)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if wd, err := f.Getwd(); err != nil || wd != s.dir {
		t.Errorf("working directory %q %v", wd, err)
	}
	w, err := f.Create("file")
	if err != nil {
		t.Fatal(err)
	}
	data := []byte(randomText(t, 1<<20))
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(s.dir, "file")); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes %v", len(got), err)
	}
}

func TestSSHSocket(t *testing.T) {
	t.Parallel()
	g := gatewaytest.New(t, false)
	path := filepath.Join(t.TempDir(), "run", "ssh.sock")
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	s := start(t, g, map[string]string{"OPENSHELL_SSH_SOCKET_PATH": path})
	g.Session(t)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("socket: %v %v", info, err)
	}
	nc, err := net.DialTimeout("unix", path, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if code := exitCode(t, newSession(t, handshake(t, nc)).Run("exit 4")); code != 4 {
		t.Errorf("code = %d", code)
	}
	s.stop(t)
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket is still there: %v", err)
	}
}
