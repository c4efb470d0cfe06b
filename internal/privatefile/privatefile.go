// Package privatefile writes small files that only their owner may read: keys, tokens, state. A file is there whole
// or not at all, also after a loss of power, and nobody can read it while it is written. The package knows nothing of
// what the files hold, and its errors name paths, never content.
package privatefile

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Replace writes path with mode 0600, in place of a file or link that is there. Each of with is given the new file
// before it has content, to change its owner or mode; an error of one is returned and leaves path as it was.
func Replace(path string, data []byte, with ...func(*os.File) error) error {
	return write(path, data, os.Rename, with)
}

// Create is Replace for a file that must not be there yet: the error is fs.ErrExist if it is, even if another process
// was only a moment earlier.
func Create(path string, data []byte, with ...func(*os.File) error) error {
	return write(path, data, os.Link, with)
}

// write puts the file together under another name in the same directory; put gives it the right one.
func write(path string, data []byte, put func(from, to string) error, with []func(*os.File) error) (err error) {
	dir := filepath.Dir(path)
	// os.CreateTemp opens with mode 0600. Readers of directories pass names with a dot over.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		// After a rename it is gone already.
		if removed := os.Remove(f.Name()); removed != nil && !errors.Is(removed, os.ErrNotExist) {
			err = errors.Join(err, removed)
		}
	}()
	for _, prepare := range with {
		if err == nil {
			err = prepare(f)
		}
	}
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := put(f.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir waits until the names in a directory would survive a loss of power.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}
