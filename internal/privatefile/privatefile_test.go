package privatefile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"sallyport.dev/sallyport/internal/privatefile"
)

// holds checks the content and mode of path, and that nothing else is left in its directory.
func holds(t *testing.T, path, want string, mode fs.FileMode) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != want {
		t.Errorf("the file holds %q, want %q: %v", got, want, err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != mode {
		t.Errorf("the file has mode %v, want %v: %v", info.Mode(), mode, err)
	}
	alone(t, filepath.Dir(path), filepath.Base(path))
}

func alone(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != len(names) {
		t.Errorf("the directory holds %v, want %v", entries, names)
	}
}

func TestReplace(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	for _, content := range []string{"first", "second", ""} {
		if err := privatefile.Replace(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		holds(t, path, content, 0o600)
	}
	// A file that was open to others is so no longer.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := privatefile.Replace(path, []byte("third")); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "third", 0o600)
}

func TestReplaceTakesTheLinkNotWhereItLeads(t *testing.T) {
	t.Parallel()
	elsewhere := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(elsewhere, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.Symlink(elsewhere, path); err != nil {
		t.Fatal(err)
	}
	if err := privatefile.Replace(path, []byte("new")); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "new", 0o600)
	holds(t, elsewhere, "precious", 0o600)
}

func TestCreateReplacesNothing(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	if err := privatefile.Create(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := privatefile.Create(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one: got %v, want fs.ErrExist", err)
	}
	holds(t, path, "first", 0o600)
}

func TestCreateAtTheSameTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	var made atomic.Int32
	var work sync.WaitGroup
	for i := range 16 {
		work.Go(func() {
			switch err := privatefile.Create(path, []byte(strconv.Itoa(i))); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, fs.ErrExist):
				t.Error(err)
			}
		})
	}
	work.Wait()
	if made.Load() != 1 {
		t.Errorf("%d made the file, want one", made.Load())
	}
	alone(t, filepath.Dir(path), "key")
}

func TestReadersSeeWholeFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "token")
	contents := [][]byte{bytes.Repeat([]byte("a"), 100_000), bytes.Repeat([]byte("b"), 50_000)}
	if err := privatefile.Replace(path, contents[0]); err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	work.Go(func() {
		for i := range 50 {
			if err := privatefile.Replace(path, contents[i%2]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 200 {
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, contents[0]) && !bytes.Equal(got, contents[1]) {
			t.Errorf("read %d bytes of something else: %v", len(got), err)
			break
		}
	}
	work.Wait()
}

func TestPreparation(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key.pub")
	open := func(f *os.File) error {
		if info, err := f.Stat(); err != nil || info.Size() != 0 || info.Mode() != 0o600 {
			t.Errorf("prepared with %d bytes and mode %v: %v", info.Size(), info.Mode(), err)
		}
		return f.Chmod(0o644)
	}
	if err := privatefile.Replace(path, []byte("public"), open); err != nil {
		t.Fatal(err)
	}
	holds(t, path, "public", 0o644)
	refused := errors.New("refused")
	fail := func(*os.File) error { return refused }
	for _, write := range []func(string, []byte, ...func(*os.File) error) error{privatefile.Replace, privatefile.Create} {
		if err := write(path, []byte("changed"), fail, open); !errors.Is(err, refused) {
			t.Errorf("got %v, want the preparation's error", err)
		}
		holds(t, path, "public", 0o644)
	}
}

func TestFailuresLeaveNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "taken", "inside"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := privatefile.Replace(filepath.Join(dir, "taken"), []byte("x")); err == nil {
		t.Error("a directory was replaced")
	}
	if err := privatefile.Create(filepath.Join(dir, "taken"), []byte("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want fs.ErrExist", err)
	}
	if err := privatefile.Replace(filepath.Join(dir, "absent", "key"), []byte("x")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
	alone(t, dir, "taken")
	if err := privatefile.SyncDir(filepath.Join(dir, "absent")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}
