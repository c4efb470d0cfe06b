//go:build linux

package sandboxinit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
)

// boundedLog appends to a file and starts a new one when it is full, keeping the last full one.
type boundedLog struct {
	root  *os.Root
	limit int64

	mu   sync.Mutex
	file *os.File
	size int64
}

func openLog(root *os.Root, limit int64) (*boundedLog, error) {
	l := &boundedLog{root: root, limit: limit}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *boundedLog) open() error {
	f, err := l.root.OpenFile(LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("inspect log: %w", err), f.Close())
	}
	l.file, l.size = f, info.Size()
	return nil
}

// Write appends b. What cannot be written, as on a full disk, is dropped: a log must not stop the sandbox.
func (l *boundedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.size > 0 && l.size+int64(len(b)) > l.limit {
		if err := l.rotate(); err != nil {
			return len(b), nil
		}
	}
	n, err := l.file.Write(b)
	l.size += int64(n)
	if err != nil {
		return len(b), nil
	}
	return len(b), nil
}

func (l *boundedLog) rotate() error {
	if err := l.root.Rename(LogFile, LogFile+".1"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rotate log: %w", err)
	}
	old := l.file
	if err := l.open(); err != nil {
		return err
	}
	return old.Close()
}

func (l *boundedLog) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.file.Close()
}
