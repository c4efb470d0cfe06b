// Package seed fills a sandbox's workspace from what the image has in its place, once. It knows files and folders and
// nothing else: it runs in a container of its own, before the supervisor, in images that may have no shell.
package seed

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"
)

// Done is the file that tells that a workspace has been filled.
const Done = ".workspace-initialized"

// unfinished is where a file is written before it gets its name.
const unfinished = ".workspace-seed.tmp"

// Tree copies folders, regular files and symbolic links from one folder into another, unless that was done before.
// What is there already stays, so that a copy that was cut short goes on. What this user may not read is left out, and
// told; sockets, pipes and devices are left out. A missing source is an empty one.
func Tree(from, to string, told io.Writer) error {
	dest, err := os.OpenRoot(to)
	if err != nil {
		return fmt.Errorf("seed workspace: %w", err)
	}
	defer dest.Close()
	if _, err := dest.Lstat(Done); err == nil {
		return nil
	}
	source, err := os.OpenRoot(from)
	switch {
	case err == nil:
		defer source.Close()
		c := copier{source: source, dest: dest, told: told, modes: make(map[string]fs.FileMode)}
		if err := c.run(); err != nil {
			return fmt.Errorf("seed workspace: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("seed workspace: %w", err)
	}
	if err := dest.WriteFile(Done, []byte(time.Now().UTC().Format(time.RFC3339)+"\n"), 0o644); err != nil {
		return fmt.Errorf("seed workspace: %w", err)
	}
	return nil
}

type copier struct {
	source, dest *os.Root
	told         io.Writer
	// modes are those of folders, set when all is in them: they may shut us out.
	modes map[string]fs.FileMode
}

func (c *copier) run() error {
	err := fs.WalkDir(c.source.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrPermission) {
			fmt.Fprintf(c.told, "seed workspace: %s is not copied: it cannot be read\n", name)
			if e != nil && e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if err != nil || name == "." {
			return err
		}
		return c.one(name, e)
	})
	if err != nil {
		return err
	}
	for name, mode := range c.modes {
		if err := c.dest.Chmod(name, mode); err != nil {
			return err
		}
	}
	return nil
}

func (c *copier) one(name string, e fs.DirEntry) error {
	info, err := e.Info()
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		err := c.dest.Mkdir(name, 0o700)
		if err == nil {
			c.modes[name] = info.Mode().Perm()
		}
		return ignoreExisting(err)
	case fs.ModeSymlink:
		target, err := c.source.Readlink(name)
		if err != nil {
			return err
		}
		return ignoreExisting(c.dest.Symlink(target, name))
	case 0:
		return c.file(name, info)
	}
	return nil
}

func ignoreExisting(err error) error {
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	return err
}

// file copies one regular file, which has its name only once it is whole.
func (c *copier) file(name string, info fs.FileInfo) (err error) {
	if _, err := c.dest.Lstat(name); err == nil {
		return nil
	}
	in, err := c.source.Open(name)
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintf(c.told, "seed workspace: %s is not copied: it cannot be read\n", name)
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	temp := path.Join(path.Dir(name), unfinished)
	out, err := c.dest.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		err = out.Chmod(info.Mode().Perm())
	}
	if err := errors.Join(err, out.Close()); err != nil {
		return errors.Join(err, c.dest.Remove(temp))
	}
	if err := c.dest.Chtimes(temp, time.Now(), info.ModTime()); err != nil {
		return err
	}
	return c.dest.Rename(temp, name)
}
