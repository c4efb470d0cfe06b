package forward

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"sallyport.dev/sallyport/internal/fault"
	"sallyport.dev/sallyport/internal/privatefile"
)

const (
	entrySuffix = ".json"
	lockSuffix  = ".lock"
	// maxEntry bounds a file of the folder, in bytes, and maxEntries their number.
	maxEntry   = 16 << 10
	maxEntries = 1024
	// claimWait is how long a lock that is held is asked for again.
	claimWait = 400 * time.Millisecond
)

// Reasons of the errors of this package.
const (
	ReasonTaken = "FORWARD_EXISTS"
	ReasonState = "FORWARD_STATE"
)

// Entry is one forward.
type Entry struct {
	PID       int    `json:"pid"`
	Gateway   string `json:"gateway"`
	Workspace string `json:"workspace"`
	Sandbox   string `json:"sandbox"`
	SandboxID string `json:"sandbox_id"`
	// Bind and Port are where it listens on this machine.
	Bind string `json:"bind"`
	Port uint16 `json:"port"`
	// TargetHost and TargetPort are where it leads in the sandbox.
	TargetHost string `json:"target_host"`
	TargetPort uint16 `json:"target_port"`
	// Running is not stored: a forward runs as long as its process holds the lock beside the file.
	Running bool `json:"-"`
}

// State is the folder with the forwards of one user of this machine.
type State struct{ Dir string }

// name is an entry's file without suffix; two forwards of one port are one.
func name(bind string, port uint16) string {
	safe := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, strings.ToLower(bind))
	return safe + "-" + strconv.Itoa(int(port))
}

func (s State) path(bind string, port uint16, suffix string) string {
	return filepath.Join(s.Dir, name(bind, port)+suffix)
}

// LogPath is where a forward in the background writes what it has to say.
func (s State) LogPath(bind string, port uint16) string { return s.path(bind, port, ".log") }

// Claim keeps an entry as long as this process lives, or until release is called, and fails with AlreadyExists where
// another process has it.
func (s State) Claim(ctx context.Context, e Entry) (release func() error, err error) {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, broken(err)
	}
	lock := flock.New(s.path(e.Bind, e.Port, lockSuffix), flock.SetPermissions(0o600))
	// Who lists forwards holds the lock for a moment.
	ctx, cancel := context.WithTimeout(ctx, claimWait)
	defer cancel()
	held, err := lock.TryLockContext(ctx, claimWait/20)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return nil, broken(err)
	}
	if !held {
		return nil, fault.New(fault.AlreadyExists, ReasonTaken, "port %d is forwarded already", e.Port).
			WithNext("see `sallyport forward list`, or end it with `sallyport forward stop %d`", e.Port)
	}
	data, err := json.Marshal(e)
	if err == nil {
		err = privatefile.Replace(s.path(e.Bind, e.Port, entrySuffix), append(data, '\n'))
	}
	if err != nil {
		return nil, broken(errors.Join(err, lock.Close()))
	}
	return func() error {
		// The lock's file stays: who waits for it must find the same one.
		return errors.Join(remove(s.path(e.Bind, e.Port, entrySuffix)), lock.Close())
	}, nil
}

// List returns the forwards by port; those whose process is gone are not Running.
func (s State) List() ([]Entry, error) {
	files, err := os.ReadDir(s.Dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, broken(err)
	}
	var out []Entry
	for _, file := range files {
		if !strings.HasSuffix(file.Name(), entrySuffix) || strings.HasPrefix(file.Name(), ".") || len(out) == maxEntries {
			continue
		}
		e, err := s.read(file.Name())
		if errors.Is(err, os.ErrNotExist) {
			continue // It ended meanwhile.
		}
		if err != nil {
			return nil, broken(err)
		}
		if e.Running, err = s.running(e); err != nil {
			return nil, broken(err)
		}
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return int(a.Port) - int(b.Port)
	})
	return out, nil
}

func (s State) read(file string) (Entry, error) {
	f, err := os.Open(filepath.Join(s.Dir, file))
	if err != nil {
		return Entry{}, err
	}
	defer f.Close()
	var e Entry
	if err := json.NewDecoder(io.LimitReader(f, maxEntry)).Decode(&e); err != nil {
		return Entry{}, fmt.Errorf("%s holds no forward: %w", file, err)
	}
	if name(e.Bind, e.Port)+entrySuffix != file {
		return Entry{}, fmt.Errorf("%s holds the forward of another port", file)
	}
	return e, nil
}

// running tells whether a process holds an entry's lock.
func (s State) running(e Entry) (bool, error) {
	path := s.path(e.Bind, e.Port, lockSuffix)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	lock := flock.New(path, flock.SetPermissions(0o600))
	held, err := lock.TryLock()
	return !held, errors.Join(err, lock.Close())
}

// Forget removes what a forward left that does not run any more.
func (s State) Forget(e Entry) error {
	return errors.Join(remove(s.path(e.Bind, e.Port, entrySuffix)), remove(s.LogPath(e.Bind, e.Port)))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func broken(cause error) error {
	return fault.Wrap(cause, fault.Internal, ReasonState, "the list of forwards cannot be used: %v", cause).
		WithNext("look into the folder `forwards` of the client's state")
}
