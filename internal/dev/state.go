package dev

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/gofrs/flock"

	"sallyport.dev/sallyport/internal/privatefile"
)

// maxSocketPath is the longest path a Unix socket can be bound to, without its final NUL.
const maxSocketPath = 107

// layout is where everything of one development system lies.
type layout struct {
	dir string
	// sockets is dir/run, or a short directory elsewhere when dir is too long for a socket path.
	sockets string
}

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.dir}, elem...)...)
}

func (l layout) computeSocket() string     { return filepath.Join(l.sockets, "compute.sock") }
func (l layout) credentialsSocket() string { return filepath.Join(l.sockets, "credentials.sock") }
func (l layout) logFile(name string) string {
	return l.path("logs", name+".log")
}

// defaultStateDir is $XDG_STATE_HOME/sallyport/dev or ~/.local/state/sallyport/dev.
func defaultStateDir(getenv func(string) string) (string, error) {
	base := getenv("XDG_STATE_HOME")
	if base == "" {
		home := getenv("HOME")
		if home == "" {
			return "", errors.New("neither XDG_STATE_HOME nor HOME is set: name a directory with --state-dir")
		}
		base = filepath.Join(home, ".local", "state")
	}
	return filepath.Join(base, "sallyport", "dev"), nil
}

// openLayout makes the directories, all of them private.
func openLayout(dir string, getenv func(string) string) (layout, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return layout{}, fmt.Errorf("resolve state directory: %w", err)
	}
	l := layout{dir: abs, sockets: filepath.Join(abs, "run")}
	for _, sub := range []string{"", "logs", "idp", "gateway", "gateway/sandbox-keys", "process", "oauth2", "oauth2/secrets", "tls"} {
		if err := privateDir(l.path(sub)); err != nil {
			return layout{}, err
		}
	}
	if len(l.credentialsSocket()) > maxSocketPath {
		sum := sha256.Sum256([]byte(abs))
		short := hex.EncodeToString(sum[:6])
		if base := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(base) {
			l.sockets = filepath.Join(base, "sallyport-"+short)
		} else {
			base := "/tmp/sallyport-" + strconv.Itoa(os.Getuid())
			if err := privateDir(base); err != nil {
				return layout{}, err
			}
			l.sockets = filepath.Join(base, short)
		}
	}
	return l, privateDir(l.sockets)
}

// privateDir makes dir with mode 0700, or checks that an existing one belongs to this user and nobody else may
// write to it.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("create state: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("inspect state: %w", err)
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !info.IsDir() || !ok || int(st.Uid) != os.Getuid() || info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s is not a directory that only you can write to: choose another with --state-dir", dir)
	}
	return nil
}

// lock keeps a second system out of the same state.
func (l layout) lock() (*flock.Flock, error) {
	lock := flock.New(l.path("lock"), flock.SetPermissions(0o600))
	ok, err := lock.TryLock()
	if err != nil {
		return nil, fmt.Errorf("lock state: %w", err)
	}
	if !ok {
		return nil, fmt.Errorf("another `sallyport dev` uses %s: stop it or choose another directory with --state-dir", l.dir)
	}
	return lock, nil
}

// ports are kept over restarts, because registered clients and issued tokens name them.
type ports struct {
	Gateway  int `json:"gateway"`
	Identity int `json:"identity"`
	Health   int `json:"health"`
	Metrics  int `json:"metrics"`
}

// preferredPorts are those of the reference's gateway and of its development identity provider.
func preferredPorts() ports {
	return ports{Gateway: 17670, Identity: 8180, Health: 17671, Metrics: 17672}
}

// loadPorts returns the ports of the last run, or first where there was none.
func (l layout) loadPorts(first ports) (ports, error) {
	raw, err := os.ReadFile(l.path("ports.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return first, nil
	}
	if err != nil {
		return ports{}, fmt.Errorf("read ports: %w", err)
	}
	var p ports
	if err := json.Unmarshal(raw, &p); err != nil {
		return ports{}, fmt.Errorf("read ports: %s is damaged, remove it: %w", l.path("ports.json"), err)
	}
	return p, nil
}

func (l layout) savePorts(p ports) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("encode ports: %w", err)
	}
	return replaceFile(l.path("ports.json"), raw)
}

// listen takes the port on the loopback address, or any free one if it is taken.
func listen(ctx context.Context, port int) (net.Listener, int, error) {
	var lc net.ListenConfig
	lis, err := lc.Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil && port != 0 {
		lis, err = lc.Listen(ctx, "tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, 0, fmt.Errorf("find a free port: %w", err)
	}
	addr, ok := lis.Addr().(*net.TCPAddr)
	if !ok {
		return nil, 0, errors.Join(errors.New("find a free port: no TCP address"), lis.Close())
	}
	return lis, addr.Port, nil
}

// freePorts settles the ports of the child processes. All are held at once, so that they differ, and released
// for the children to take.
func freePorts(ctx context.Context, want ...*int) error {
	var held []net.Listener
	var err error
	for _, p := range want {
		var lis net.Listener
		if lis, *p, err = listen(ctx, *p); err != nil {
			break
		}
		held = append(held, lis)
	}
	for _, lis := range held {
		err = errors.Join(err, lis.Close())
	}
	return err
}

// replaceFile writes a private file whole or not at all.
func replaceFile(path string, content []byte) error {
	if err := privatefile.Replace(path, content); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}
