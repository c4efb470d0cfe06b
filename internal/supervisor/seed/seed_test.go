package seed_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sallyport.dev/sallyport/internal/supervisor/seed"
)

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(name, mode); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTree(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "sub", "run.sh"), "#!/bin/sh\n", 0o755)
	write(t, filepath.Join(from, "closed", "file"), "inside", 0o600)
	write(t, filepath.Join(from, "mine"), "image's", 0o644)
	old := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	for _, err := range []error{
		os.Symlink("../../etc/passwd", filepath.Join(from, "sub", "link")),
		syscall.Mkfifo(filepath.Join(from, "pipe"), 0o600),
		os.Chmod(filepath.Join(from, "closed"), 0o555),
		os.Chtimes(filepath.Join(from, "sub", "run.sh"), old, old),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{from, to} {
		t.Cleanup(func() { os.Chmod(filepath.Join(dir, "closed"), 0o755) })
	}
	write(t, filepath.Join(to, "mine"), "user's", 0o644)
	var told bytes.Buffer
	if err := seed.Tree(from, to, &told); err != nil {
		t.Fatal(err)
	}
	if got := read(t, filepath.Join(to, "mine")); got != "user's" {
		t.Errorf("what was there became %q", got)
	}
	info, err := os.Stat(filepath.Join(to, "sub", "run.sh"))
	if err != nil || info.Mode().Perm() != 0o755 || !info.ModTime().Equal(old) {
		t.Errorf("file: %v %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(to, "closed")); err != nil || info.Mode().Perm() != 0o555 || read(t, filepath.Join(to, "closed", "file")) != "inside" {
		t.Errorf("folder: %v %v", info, err)
	}
	if target, err := os.Readlink(filepath.Join(to, "sub", "link")); err != nil || target != "../../etc/passwd" {
		t.Errorf("link: %q %v", target, err)
	}
	if _, err := os.Lstat(filepath.Join(to, "pipe")); err == nil {
		t.Error("a pipe was copied")
	}
	// The second time nothing happens, whatever the image has by now.
	write(t, filepath.Join(from, "later"), "x", 0o644)
	if err := seed.Tree(from, to, &told); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(to, "later")); err == nil {
		t.Error("a filled workspace was filled again")
	}
	if told.Len() > 0 {
		t.Errorf("told %q", told.String())
	}
}

func TestTreeGoesOn(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	write(t, filepath.Join(from, "a"), "whole", 0o644)
	write(t, filepath.Join(from, "d", "b"), "whole", 0o644)
	// As a copy leaves it that was killed.
	write(t, filepath.Join(to, "d", ".workspace-seed.tmp"), "ha", 0o600)
	if err := seed.Tree(from, to, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if read(t, filepath.Join(to, "a")) != "whole" || read(t, filepath.Join(to, "d", "b")) != "whole" {
		t.Error("files are not whole")
	}
	if _, err := os.Lstat(filepath.Join(to, "d", ".workspace-seed.tmp")); err == nil {
		t.Error("half a file was left")
	}
}

func TestTreeWithoutSource(t *testing.T) {
	t.Parallel()
	to := t.TempDir()
	if err := seed.Tree(filepath.Join(to, "no such"), to, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(read(t, filepath.Join(to, seed.Done)), "T") {
		t.Error("not marked as filled")
	}
	if err := seed.Tree(to, filepath.Join(to, "no such"), &bytes.Buffer{}); err == nil {
		t.Error("a workspace that is not there was filled")
	}
}
