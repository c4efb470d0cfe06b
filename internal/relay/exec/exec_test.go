package exec_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/relay"
	"sallyport.dev/sallyport/internal/relay/exec"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		workdir string
		env     map[string]string
		command []string
		want    string
	}{
		"plain":                {"", nil, []string{"ls", "-l", "/tmp/a_b.c"}, "ls -l /tmp/a_b.c"},
		"empty word":           {"", nil, []string{"echo", ""}, "echo ''"},
		"substitution":         {"", nil, []string{"echo", "$(id)"}, "echo '$(id)'"},
		"quote":                {"", nil, []string{"echo", "it's"}, `echo 'it'"'"'s'`},
		"newline":              {"", nil, []string{"echo", "a\nb"}, "echo 'a\nb'"},
		"directory":            {"/my dir", nil, []string{"pwd"}, "cd '/my dir' && pwd"},
		"sorted environment":   {"", map[string]string{"B": "2 3", "A": "1"}, []string{"env"}, "A=1 B='2 3' env"},
		"letters of elsewhere": {"", nil, []string{"écho"}, "'écho'"},
	} {
		got, err := exec.CommandLine(tc.workdir, tc.env, tc.command)
		if err != nil || got != tc.want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, tc.want)
		}
	}
	if _, err := exec.CommandLine("", nil, []string{strings.Repeat("a", exec.MaxCommandLine)}); err != nil {
		t.Errorf("a line of the greatest length: %v", err)
	}
	if _, err := exec.CommandLine("", nil, []string{strings.Repeat("a", exec.MaxCommandLine+1)}); !fault.Is(err, fault.InvalidArgument) {
		t.Errorf("one byte more: %v", err)
	}
}

// FuzzCommandLine checks that a POSIX shell's reading of a line gives the words back.
func FuzzCommandLine(f *testing.F) {
	f.Add("echo", "it's $(id) `x` \\ \"y\" \n")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) || a == "" {
			t.Skip()
		}
		line, err := exec.CommandLine("", nil, []string{a, b})
		if err != nil {
			return
		}
		if got := words(t, line); len(got) != 2 || got[0] != a || got[1] != b {
			t.Errorf("%q reads as %q, want %q and %q", line, got, a, b)
		}
	})
}

// words splits a line as a shell does that knows only quotes and blanks.
func words(t *testing.T, line string) []string {
	t.Helper()
	var out []string
	var word strings.Builder
	var quote byte
	in := false
	for i := range len(line) {
		c := line[i]
		switch {
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ':
			if in {
				out = append(out, word.String())
			}
			word.Reset()
			in = false
		default:
			if special(c) {
				t.Fatalf("unquoted %q in %q", c, line)
			}
			word.WriteByte(c)
			in = true
		}
	}
	return append(out, word.String())
}

func special(c byte) bool { return strings.IndexByte("\\$`;&|<>(){}*?[]~#!\n\t", c) >= 0 }

// observer ignores.
type observer struct{}

func (observer) Connected(context.Context, string, string, string)    {}
func (observer) Disconnected(context.Context, string, string, string) {}

// wire makes a relay's wire of a byte stream.
type wire struct{ net.Conn }

func (w wire) Send(b []byte) error {
	_, err := w.Write(b)
	return err
}

func (w wire) Recv() ([]byte, error) {
	b := make([]byte, 16<<10)
	n, err := w.Read(b)
	return b[:n], err
}

// sshSandbox is a registry with one sandbox whose supervisor speaks SSH only: commands print their line on both
// outputs, echo standard input and exit with 5; "sleep" waits for a signal.
func sshSandbox(t *testing.T) (*exec.Runner, *int) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := &ssh.ServerConfig{NoClientAuth: true}
	config.AddHostKey(signer)
	r := relay.NewRegistry(observer{})
	var running sync.WaitGroup
	opened := 0
	s, err := r.Connect(t.Context(), relay.Hello{SandboxID: "a", Takeover: true}, func(m relay.Message) error {
		if m.Open == nil {
			return nil
		}
		opened++
		gateway, box := socketPair(t)
		c, err := r.Claim(m.Open.ChannelID, "a", wire{gateway})
		if err != nil {
			return err
		}
		running.Go(func() { serveSSH(box, config) })
		running.Go(func() {
			<-c.Done()
			gateway.Close()
			box.Close()
		})
		return nil
	}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.End("test over")
		s.Wait()
		running.Wait()
	})
	return exec.NewRunner(r), &opened
}

// socketPair returns two connected ends with buffers, as a relay has; SSH needs them to begin.
func socketPair(t *testing.T) (a, b net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Error(err)
		return net.Pipe()
	}
	defer l.Close()
	a, err = net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Error(err)
		return net.Pipe()
	}
	b, err = l.Accept()
	if err != nil {
		t.Error(err)
	}
	return a, b
}

func serveSSH(c net.Conn, config *ssh.ServerConfig) {
	conn, channels, requests, err := ssh.NewServerConn(c, config)
	if err != nil {
		return
	}
	defer conn.Close()
	go ssh.DiscardRequests(requests)
	for ch := range channels {
		session, reqs, err := ch.Accept()
		if err != nil {
			return
		}
		go command(session, reqs)
	}
}

func command(session ssh.Channel, reqs <-chan *ssh.Request) {
	for req := range reqs {
		_ = req.Reply(true, nil)
		switch req.Type {
		case "exec":
			var line struct{ Command string }
			if ssh.Unmarshal(req.Payload, &line) != nil || line.Command == "sleep" {
				continue
			}
			go func() {
				_, _ = io.WriteString(session, line.Command+"|")
				_, _ = io.WriteString(session.Stderr(), line.Command)
				_, _ = io.Copy(session, session)
				_, _ = session.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{5}))
				_ = session.Close()
			}()
		case "signal":
			_ = session.Close()
		}
	}
}

type sink struct {
	mu       sync.Mutex
	out, err bytes.Buffer
	fail     error
}

func (s *sink) Stdout(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.out.Write(b)
	return s.fail
}

func (s *sink) Stderr(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err.Write(b)
	return nil
}

func TestSSHFallback(t *testing.T) {
	t.Parallel()
	runner, opened := sshSandbox(t)
	for range 3 {
		var got sink
		code, err := runner.Run(t.Context(), exec.Request{SandboxID: "a", Command: []string{"say", "it's"}, Stdin: []byte("input"), TTY: true}, &got)
		if err != nil || code != 5 {
			t.Fatalf("Run = %d, %v", code, err)
		}
		line := `say 'it'"'"'s'`
		if got.out.String() != line+"|input" || got.err.String() != line {
			t.Errorf("stdout %q, stderr %q", got.out.String(), got.err.String())
		}
	}
	if *opened != 1 {
		t.Errorf("%d relays for three commands, want one SSH connection kept", *opened)
	}
}

func TestSSHTimeoutAndCancel(t *testing.T) {
	t.Parallel()
	runner, _ := sshSandbox(t)
	code, err := runner.Run(t.Context(), exec.Request{SandboxID: "a", Command: []string{"sleep"}, Timeout: 50 * time.Millisecond}, &sink{})
	if err != nil || code != exec.TimeoutExitCode {
		t.Errorf("timeout: %d, %v; want %d", code, err, exec.TimeoutExitCode)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := runner.Run(ctx, exec.Request{SandboxID: "a", Command: []string{"sleep"}}, &sink{}); err == nil {
		t.Error("a cancelled command succeeded")
	}
}

func TestNoSupervisor(t *testing.T) {
	t.Parallel()
	runner := exec.NewRunner(relay.NewRegistry(observer{}))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := runner.Run(ctx, exec.Request{SandboxID: "a", Command: []string{"x"}}, &sink{})
	if !fault.Is(err, fault.Unavailable) || !strings.Contains(err.Error(), "supervisor session not connected") {
		t.Errorf("Run = %v", err)
	}
	if errors.Is(err, io.EOF) {
		t.Error("an EOF leaked")
	}
}
