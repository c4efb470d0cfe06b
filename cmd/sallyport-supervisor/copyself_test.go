package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"sallyport.dev/sallyport/internal/supervisor/gatewaytest"
)

// plays is the variable that makes the test binary be the supervisor.
const plays = "SUPERVISOR_UNDER_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(plays) != "" {
		os.Unsetenv(plays)
		main()
	}
	os.Exit(m.Run())
}

// user is who a container runs as: any user, in the group 0, as platforms choose it. Nil where the tests cannot
// become another.
func user(t *testing.T, uid uint32) *syscall.SysProcAttr {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Log("NOT PROVEN with another user: the tests do not run as root")
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: 0}}
}

// command starts a program that is a copy of this test binary.
func command(ctx context.Context, who *syscall.SysProcAttr, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env, cmd.SysProcAttr = []string{plays + "=1", "PATH=" + os.Getenv("PATH")}, who
	return cmd
}

// volume is an empty folder that any container of a pod may write.
func volume(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	// The folders of tests are closed to others.
	for up := dir; up != os.TempDir() && len(up) > 1; up = filepath.Dir(up) {
		if err := os.Chmod(up, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	// Tests make it read-only, and whoever is not root cannot empty it then.
	t.Cleanup(func() {
		if err := os.Chmod(dir, 0o700); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// asImage is a copy of the test binary as the supervisor lies in its image.
func asImage(t *testing.T) string {
	t.Helper()
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(own)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(volume(t), "openshell-sandbox")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(file, 0o555); err != nil {
		t.Fatal(err)
	}
	return file
}

func sum(t *testing.T, file string) [32]byte {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return sha256.Sum256(data)
}

func TestCopySelf(t *testing.T) {
	t.Parallel()
	program := asImage(t)
	for name, to := range map[string]struct{ dest, want string }{
		"file": {"supervisor", "supervisor"}, "folder": {".", "openshell-sandbox"}, "new folder": {"a/b/", "a/b/openshell-sandbox"},
		"file in a new folder": {"c/d/box", "c/d/box"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := volume(t)
			dest := dir + "/" + to.dest
			// The second time it replaces what is there.
			for range 2 {
				out, err := command(t.Context(), user(t, 12345), program, "copy-self", dest).CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				made := filepath.Join(dir, to.want)
				info, err := os.Lstat(made)
				if err != nil || info.Mode() != 0o755 || strings.TrimSpace(string(out)) == "" {
					t.Fatalf("%v, %v: %s", info, err, out)
				}
				if sum(t, made) != sum(t, program) {
					t.Error("the copy is another program")
				}
				entries, err := os.ReadDir(filepath.Dir(made))
				if err != nil || len(entries) != 1 {
					t.Errorf("beside the copy lies %v: %v", entries, err)
				}
			}
		})
	}
}

func TestCopySelfRefuses(t *testing.T) {
	t.Parallel()
	closed := filepath.Join(volume(t), "closed")
	if err := os.Mkdir(closed, 0o555); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{"copy-self"}, "needs a file or a folder"},
		{[]string{"copy-self", ""}, "needs a file or a folder"},
		{[]string{"copy-self", closed}, "permission denied"},
		{[]string{"copy-self", "/proc/self/no"}, "copy the supervisor"},
		{[]string{"copy-self", "a", "b"}, "copy-self DEST"},
		{[]string{"--workdir"}, "copy-self DEST"},
		{[]string{"--workdir", "/no/such/folder"}, "/no/such/folder"},
	} {
		who := user(t, 12345)
		if who == nil && tc.want == "permission denied" {
			continue
		}
		out, err := command(t.Context(), who, asImage(t), tc.args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), tc.want) {
			t.Errorf("%q: %v: %s", tc.args, err, out)
		}
	}
	if left, err := os.ReadDir(closed); err != nil || len(left) > 0 {
		t.Errorf("%v, %v", left, err)
	}
}

// TestRestrictedPod brings the supervisor to a pod as the first container does, and runs it there as pods of the
// restricted level do: another user, no capability, files it may read only, one folder for what is passing.
func TestRestrictedPod(t *testing.T) {
	t.Parallel()
	for name, variables := range map[string][]string{
		"named socket": {"OPENSHELL_SSH_SOCKET_PATH=/SCRATCH/ssh/ssh.sock"}, "own socket": nil, "abstract socket": {"OPENSHELL_SSH_SOCKET_PATH=@sallyport-test"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bin, scratch, work := volume(t), volume(t), volume(t)
			if out, err := command(t.Context(), user(t, 12345), asImage(t), "copy-self", bin).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			if err := os.Chmod(bin, 0o555); err != nil {
				t.Fatal(err)
			}
			g := gatewaytest.New(t, true)
			g.Set(func(g *gatewaytest.Gateway) { g.NextToken = "from-the-gateway" })
			secrets := volume(t)
			ca, err := os.ReadFile(g.CAFile())
			if err != nil {
				t.Fatal(err)
			}
			for file, data := range map[string][]byte{"ca.crt": ca, "token": []byte("e30.e30.e30")} {
				err := os.WriteFile(filepath.Join(secrets, file), data, 0o400)
				if err == nil {
					err = os.Chmod(filepath.Join(secrets, file), 0o440)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Chmod(secrets, 0o555); err != nil {
				t.Fatal(err)
			}
			var log bytes.Buffer
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			cmd := command(ctx, user(t, 23456), filepath.Join(bin, "openshell-sandbox"), "--workdir", work)
			cmd.Dir, cmd.Stdout, cmd.Stderr = "/", &log, &log
			cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
			cmd.Env = append(cmd.Env, "OPENSHELL_SANDBOX_ID=box-id", "OPENSHELL_SANDBOX=box", "OPENSHELL_ENDPOINT="+g.Endpoint(),
				"OPENSHELL_TLS_CA="+filepath.Join(secrets, "ca.crt"), "OPENSHELL_K8S_SA_TOKEN_FILE="+filepath.Join(secrets, "token"), "TMPDIR="+scratch, "HOME=/")
			for _, v := range variables {
				cmd.Env = append(cmd.Env, strings.ReplaceAll(v, "/SCRATCH", scratch))
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			session := g.Session(t)
			if session.Hello.GetSandboxId() != "box-id" || g.Calls("IssueSandboxToken") != 1 {
				t.Errorf("hello %v, %d exchanges", session.Hello, g.Calls("IssueSandboxToken"))
			}
			cancel()
			if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 0 {
				t.Errorf("%v:\n%s", err, log.String())
			}
			left := 0
			if err := filepath.WalkDir(scratch, func(_ string, d fs.DirEntry, err error) error {
				if err == nil && !d.IsDir() {
					left++
				}
				return err
			}); err != nil || left > 0 {
				t.Errorf("%d files left: %v", left, err)
			}
		})
	}
}
