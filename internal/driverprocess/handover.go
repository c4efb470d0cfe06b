//go:build linux

package driverprocess

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"sallyport.dev/sallyport/internal/driverprocess/sandboxinit"
)

// maxTokenFile bounds, in bytes, what a supervisor is believed to have kept as its token.
const maxTokenFile = 64 << 10

// prepare puts the files in place that a supervisor reads, anew at each start: the gateway's authority may
// have changed, and the sandbox may have touched its own copies.
func (s *sandbox) prepare(iso isolation) error {
	owner := iso.owner(s.userRange)
	if err := makeDirs(s.dir, owner); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(s.dir, sandboxinit.StateFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove earlier state: %w", err)
	}
	// The directory is the sandbox's: a link it put there must lead nowhere else.
	run, err := os.OpenRoot(filepath.Join(s.dir, sandboxinit.RunDir))
	if err != nil {
		return fmt.Errorf("open sandbox directory: %w", err)
	}
	defer run.Close()
	if s.rec.Token {
		token, kept, err := s.token(run, owner)
		if err != nil {
			return err
		}
		if err := handOver(run, tokenFile, token, owner, kept); err != nil {
			return err
		}
	}
	if s.d.opts.GatewayCA == "" {
		return nil
	}
	authority, err := os.ReadFile(s.d.opts.GatewayCA)
	if err != nil {
		return fmt.Errorf("read %s: %w", caFile, err)
	}
	return handOver(run, caFile, authority, owner, false)
}

// token is what the supervisor starts with: the token that an earlier supervisor of the sandbox renewed and kept
// (then kept is true), or the one that the sandbox was created with. The first may be all that still opens the gateway, as the second
// expires; but any process of the sandbox could have made the file, so that what cannot be a token is left.
func (s *sandbox) token(run *os.Root, owner int) (token []byte, kept bool, err error) {
	path := filepath.Join(s.dir, tokenFile)
	first, err := os.ReadFile(path)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", tokenFile, err)
	}
	written, err := os.Stat(path)
	if err != nil {
		return nil, false, fmt.Errorf("read %s: %w", tokenFile, err)
	}
	renewed, err := keptToken(run, owner, written)
	switch {
	case err == nil:
		return renewed, true, nil
	case !errors.Is(err, fs.ErrNotExist):
		s.d.logger.Warn("the sandbox's own token file is not used; its supervisor starts with its first token",
			"sandbox", s.id, "reason", err)
	}
	return first, false, nil
}

// keptToken reads the token file in the sandbox's directory if it is the owner's regular file, not older than the
// one written at first, and holds one word. Its meaning is the gateway's business.
func keptToken(run *os.Root, owner int, written fs.FileInfo) ([]byte, error) {
	dir, err := run.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// An os.Root follows links that stay below it. Nor may a pipe make the driver wait.
	fd, err := unix.Openat(int(dir.Fd()), tokenFile, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: tokenFile, Err: err}
	}
	f := os.NewFile(uintptr(fd), tokenFile)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.Mode().IsRegular():
		return nil, errors.New("not a regular file")
	case !ok || int(st.Uid) != owner:
		return nil, errors.New("not the supervisor's")
	case info.ModTime().Before(written.ModTime()):
		return nil, errors.New("older than the first token")
	}
	token, err := io.ReadAll(io.LimitReader(f, maxTokenFile+1))
	if err != nil {
		return nil, err
	}
	if words := bytes.Fields(token); len(token) > maxTokenFile || len(words) != 1 || bytes.IndexByte(token, 0) >= 0 {
		return nil, errors.New("does not hold one token")
	}
	return token, nil
}

// handOver puts a file into the sandbox's directory, whole or not at all: a driver that is killed meanwhile must
// not lose a token that is nowhere else. durable also waits until the content would survive a loss of power.
func handOver(run *os.Root, name string, content []byte, owner int, durable bool) error {
	next := name + ".new"
	if err := run.RemoveAll(next); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	f, err := run.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, err = f.Write(content)
	if os.Geteuid() == 0 {
		err = errors.Join(err, f.Chown(owner, owner))
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	// A file takes the place of a file or link, not of a directory.
	if info, err := run.Lstat(name); err == nil && info.IsDir() {
		if err := run.RemoveAll(name); err != nil {
			return fmt.Errorf("replace %s: %w", name, err)
		}
	}
	if err := run.Rename(next, name); err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return nil
}
