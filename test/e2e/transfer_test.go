//go:build linux

package e2e_test

import (
	"crypto/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUploadAndDownload copies files into a sandbox and out of it, as its user does.
func TestUploadAndDownload(t *testing.T) {
	t.Parallel()
	s := start(t)
	c := s.client(t)
	id := s.createReady(t, "box")
	here := func(name string) string { return filepath.Join(c.home, name) }
	write := func(name, content string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(here(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(here(name), []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	content := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(here(name))
		if err != nil {
			t.Error(err)
		}
		return string(data)
	}
	large := make([]byte, 20<<20)
	_, _ = rand.Read(large)
	write("tree/large", string(large), 0o600)
	write("tree/sub/run me.sh", "echo ran", 0o755)
	write("tree/-dash", "dash", 0o644)
	if err := os.Symlink("sub/run me.sh", here("tree/link")); err != nil {
		t.Fatal(err)
	}

	code, _, said := c.run(t, "", "sandbox", "upload", "box", "tree", "work")
	if code != 0 || !strings.Contains(said, "Upload complete: 3 files, 20.0 MiB, checksums verified") {
		t.Fatalf("upload: exit code %d\n%s", code, said)
	}
	if got := s.sh(t, id, `cd work/tree && "./sub/run me.sh" 2>/dev/null || sh "./sub/run me.sh"; readlink link; cat ./-dash; stat -c %a large "sub/run me.sh"`); got != "ran\nsub/run me.sh\ndash600\n755\n" {
		t.Errorf("in the sandbox: %q", got)
	}
	// Standard input may be longer than a message.
	code, out, said := c.run(t, string(large), "sandbox", "exec", "-n", "box", "--", "sh", "-c", "cat > piped; cmp piped work/tree/large && echo same; exit 3")
	if code != 3 || out != "same\n" {
		t.Errorf("a long standard input: exit code %d, %q\n%s", code, out, said)
	}
	// A file takes the name it is given, unless that is a folder.
	write("one", "1", 0o644)
	c.must(t, "sandbox", "upload", "box", "one", "work/two")
	c.must(t, "sandbox", "upload", "box", "one", "work")
	c.must(t, "sandbox", "upload", "box", "one", "new/folder/")
	c.must(t, "sandbox", "upload", "box", "one")
	if got := s.sh(t, id, "cat work/two work/one new/folder/one one"); got != "1111" {
		t.Errorf("in the sandbox: %q", got)
	}

	code, _, said = c.run(t, "", "sandbox", "download", "box", "work/tree", "back")
	if code != 0 || !strings.Contains(said, "Download complete: 3 files, 20.0 MiB, checksums verified") {
		t.Fatalf("download: exit code %d\n%s", code, said)
	}
	if content("back/large") != string(large) || content("back/link") != "echo ran" {
		t.Error("what came back differs")
	}
	if info, err := os.Stat(here("back/sub/run me.sh")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	c.must(t, "sandbox", "download", "box", "work/two", "three")
	c.must(t, "sandbox", "download", "box", "work/two", "back")
	c.must(t, "sandbox", "download", "box", "work/tree/-dash")
	if got := content("three") + content("back/two") + content("-dash"); got != "11dash" {
		t.Errorf("downloaded %q", got)
	}
	// What leads out is left out, and said.
	s.sh(t, id, "mkdir evil && ln -s /etc/passwd evil/out && ln -s ../../up evil/up && echo fine > evil/fine && mkfifo evil/pipe")
	code, _, said = c.run(t, "", "sandbox", "download", "box", "evil", "got")
	if code != 0 || !strings.Contains(said, `left out "./out": it is a link that leads out of the folder`) {
		t.Errorf("exit code %d\n%s", code, said)
	}
	if left, err := os.ReadDir(here("got")); err != nil || len(left) != 1 {
		t.Errorf("%v, %v", left, err)
	}
	if said := c.fails(t, 1, "sandbox", "download", "box", "no/such"); !strings.Contains(said, "there is no no/such in the sandbox") {
		t.Errorf("no such file: %q", said)
	}
	c.fails(t, 1, "sandbox", "upload", "box", "no-such")
	if said := c.fails(t, 1, "sandbox", "upload", "box", "one", "/proc/no/"); !strings.Contains(said, "cannot be used") {
		t.Errorf("no such folder: %q", said)
	}
	c.testIgnored(t)
	if got := s.sh(t, id, "ls -A repo"); !strings.Contains(got, "kept") || strings.Contains(got, "secret") {
		t.Errorf("of the repository arrived %q", got)
	}
	s.remove(t, id, "box")
}

// testIgnored uploads a repository with a file that Git ignores.
func (c *cli) testIgnored(t *testing.T) {
	t.Helper()
	repo := filepath.Join(c.home, "repo")
	for name, text := range map[string]string{".gitignore": "secret\n", "secret": "s", "kept": "k"} {
		if err := os.MkdirAll(repo, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(repo, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "git", "-C", repo, "init", "-q").CombinedOutput(); err != nil {
		t.Fatalf("git: %v\n%s", err, out)
	}
	c.must(t, "sandbox", "upload", "box", "repo")
}
