//go:build linux

package e2e_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"sallyport.dev/sallyport/gen/v00/openshellpb"
)

// TestExec runs commands in one sandbox of one system that nobody kills.
func TestExec(t *testing.T) {
	t.Parallel()
	s := start(t)
	id := s.createReady(t, "exec")
	t.Run("exit codes", func(t *testing.T) { s.testExitCodes(t, id) })
	t.Run("arguments", func(t *testing.T) { s.testArguments(t, id) })
	t.Run("working directory and environment", func(t *testing.T) { s.testPlace(t, id) })
	t.Run("standard input", func(t *testing.T) { s.testStdin(t, id) })
	t.Run("timeout", func(t *testing.T) { s.testTimeout(t, id) })
	t.Run("cancel", func(t *testing.T) { s.testCancel(t, id) })
	t.Run("parallel", func(t *testing.T) { s.testParallel(t, id) })
	t.Run("refused", func(t *testing.T) { s.testRefused(t, id) })
	s.remove(t, id, "exec")
}

func (s *system) testExitCodes(t *testing.T, id string) {
	tests := []struct {
		name    string
		command []string
		want    int32
	}{
		{"success", []string{"true"}, 0},
		{"failure", []string{"false"}, 1},
		{"seven", []string{"sh", "-c", "exit 7"}, 7},
		{"highest", []string{"sh", "-c", "exit 255"}, 255},
		{"killed", []string{"sh", "-c", "kill -KILL $$"}, 137},
		{"terminated", []string{"sh", "-c", "kill -TERM $$"}, 143},
		{"unknown program", []string{"no-such-program"}, 127},
		{"no program", []string{"/etc"}, 126},
		// The reference passes commands through a shell, where these are words of the shell itself.
		{"shell's exit", []string{"exit", "3"}, 3},
		{"shell's cd", []string{"cd", "/"}, 0},
		{"shell's cd nowhere", []string{"cd", "/nowhere"}, 1},
		{"shell's export", []string{"export", "A=b c"}, 0},
		{"shell's eval", []string{"eval", "exit 9"}, 9},
	}
	for _, tt := range tests {
		r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: tt.command})
		if err != nil || r.code != tt.want {
			t.Errorf("%s %q: exit code %d, want %d; error %v, stderr %q", tt.name, tt.command, r.code, tt.want, err, r.stderr)
		}
	}
}

func (s *system) testArguments(t *testing.T, id string) {
	for _, arg := range []string{
		"plain", "$(id)", "`id`", "$HOME", "it's", `"quoted"`, "", " ", "two words", "new\nline", "tab\t", "*", "~", "a;b", "a&b", "a|b",
		`back\slash`, "-n", "--", "ünï", "#", "!x", strings.Repeat("x", 32<<10),
	} {
		command := []string{"printf", "<%s>", arg, "end"}
		r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: command})
		if want := "<" + arg + "><end>"; err != nil || r.code != 0 || string(r.stdout) != want {
			t.Errorf("%.40q arrived as %.60q, exit code %d, error %v", arg, r.stdout, r.code, err)
		}
	}
}

func (s *system) testPlace(t *testing.T, id string) {
	s.sh(t, id, "mkdir -p 'with blanks and it'\"'\"'s $HOME'")
	home := strings.TrimSpace(s.sh(t, id, "pwd"))
	dir := home + "/with blanks and it's $HOME"
	r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"pwd"}, Workdir: dir})
	if err != nil || string(r.stdout) != dir+"\n" {
		t.Errorf("pwd printed %q, want %q; error %v", r.stdout, dir, err)
	}
	r, err = s.exec(t.Context(), &openshellpb.ExecSandboxRequest{
		SandboxId: id, Command: []string{"sh", "-c", `printf %s "$GREETING"`}, Environment: map[string]string{"GREETING": "$(id) it's"},
	})
	if err != nil || string(r.stdout) != "$(id) it's" {
		t.Errorf("variable arrived as %q, error %v", r.stdout, err)
	}
	r, err = s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}, Workdir: "/no/such/directory"})
	if err == nil && r.code == 0 {
		t.Error("a command ran in a directory that does not exist")
	}
}

func (s *system) testStdin(t *testing.T, id string) {
	for _, n := range []int{0, 1, 900 << 10, 4 << 20} {
		data := make([]byte, n)
		rand.Read(data) // never fails
		sum := sha256.Sum256(data)
		r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"sha256sum"}, Stdin: data})
		if got, _, _ := strings.Cut(string(r.stdout), " "); err != nil || got != hex.EncodeToString(sum[:]) {
			t.Errorf("%d bytes arrived with checksum %q, error %v", n, got, err)
		}
		r, err = s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"cat"}, Stdin: data})
		if err != nil || !bytes.Equal(r.stdout, data) {
			t.Errorf("%d bytes came back as %d, error %v", n, len(r.stdout), err)
		}
	}
	// A command that does not read its input ends all the same.
	r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"true"}, Stdin: make([]byte, 4<<20)})
	if err != nil || r.code != 0 {
		t.Errorf("unread input: exit code %d, error %v", r.code, err)
	}
	_, err = s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"cat"}, Stdin: make([]byte, 4<<20+1)})
	wantFault(t, err, codes.InvalidArgument)
}

func (s *system) testTimeout(t *testing.T, id string) {
	began := time.Now()
	r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{
		SandboxId: id, Command: []string{"sh", "-c", "echo before; sleep 3601"}, TimeoutSeconds: 1,
	})
	if err != nil || r.code != 124 || string(r.stdout) != "before\n" {
		t.Errorf("exit code %d, want 124; output %q, error %v", r.code, r.stdout, err)
	}
	if took := time.Since(began); took < time.Second || took > 20*time.Second {
		t.Errorf("a timeout of one second took %s", took)
	}
	eventually(t, "the command's processes ended", func() error { return noProcess(t, id, "sleep 3601") })
}

func (s *system) testCancel(t *testing.T, id string) {
	for name, script := range map[string]string{
		"obedient": "sleep 3602 & echo running; wait",
		"stubborn": "trap '' TERM HUP INT; sleep 3602 & echo running; while :; do wait; done",
		"flooding": "echo running; exec yes 3602",
	} {
		ctx, cancel := context.WithCancel(t.Context())
		stream, err := s.user.ExecSandbox(ctx, &openshellpb.ExecSandboxRequest{SandboxId: id, Command: []string{"sh", "-c", script}})
		if err != nil {
			t.Fatal(err)
		}
		waitOutput(t, stream)
		cancel()
		if _, err := collect(stream); status.Code(err) != codes.Canceled {
			t.Errorf("%s command's call ended with %v", name, err)
		}
		eventually(t, name+" command's processes ended", func() error { return noProcess(t, id, "3602") })
	}
}

func (s *system) testParallel(t *testing.T, id string) {
	var group sync.WaitGroup
	for i := range 40 {
		group.Go(func() {
			r, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{
				SandboxId: id, Command: []string{"sh", "-c", `cat; echo "$1" >&2; exit "$1"`, "sh", fmt.Sprint(i)}, Stdin: fmt.Appendf(nil, "input %d", i),
			})
			if err != nil || r.code != int32(i) || string(r.stdout) != fmt.Sprintf("input %d", i) || string(r.stderr) != fmt.Sprintf("%d\n", i) {
				t.Errorf("command %d: exit code %d, output %q, errors %q, error %v", i, r.code, r.stdout, r.stderr, err)
			}
		})
	}
	group.Wait()
}

func (s *system) testRefused(t *testing.T, id string) {
	for name, req := range map[string]*openshellpb.ExecSandboxRequest{
		"no command":          {SandboxId: id},
		"NUL in an argument":  {SandboxId: id, Command: []string{"echo", "a\x00b"}},
		"argument too long":   {SandboxId: id, Command: []string{"echo", strings.Repeat("x", 32<<10+1)}},
		"reserved variable":   {SandboxId: id, Command: []string{"true"}, Environment: map[string]string{"OPENSHELL_X": "y"}},
		"line feed in a path": {SandboxId: id, Command: []string{"true"}, Workdir: "/a\nb"},
		"no sandbox":          {Command: []string{"true"}},
	} {
		_, err := s.exec(t.Context(), req)
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: %v, want INVALID_ARGUMENT", name, err)
		}
	}
	_, err := s.exec(t.Context(), &openshellpb.ExecSandboxRequest{SandboxId: "no-such-sandbox", Command: []string{"true"}})
	wantFault(t, err, codes.NotFound)
}
