// Package pgtest starts a real PostgreSQL server for tests: private, as a user without privileges, on a Unix socket in a
// folder of its own, gone when the tests end. It knows how servers are started, killed and replicated, and nothing of
// what is stored in them.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Variables that the tests heed: the first makes a missing server a failure, the second names the folder of its programs.
const (
	requireEnv = "SALLYPORT_REQUIRE_POSTGRES"
	binEnv     = "SALLYPORT_POSTGRES_BIN"
)

// ErrMissing says that there are no programs of PostgreSQL on this machine.
var ErrMissing = errors.New("no PostgreSQL server programs (initdb, postgres) found: install the package postgresql, or name their folder in " + binEnv)

const (
	port      = "5432" // part of the socket's name, nothing listens on TCP
	superuser = "postgres"
	startWait = 60 * time.Second
)

// Server is one running server.
type Server struct {
	root    string // holds data, socket and log
	bin     string
	uid     *syscall.Credential // nil when the tests run without privileges themselves
	options []string

	mu       sync.Mutex
	cmd      *exec.Cmd
	ended    chan struct{} // closed when cmd has ended
	template string
	made     int
}

// Require ends the test when err says that there is no server: with a failure where one is required, else by skipping.
func Require(tb testing.TB, s *Server, err error) {
	tb.Helper()
	switch {
	case err == nil && s != nil:
	case errors.Is(err, ErrMissing) && os.Getenv(requireEnv) != "1":
		tb.Skipf("NOT PROVEN against PostgreSQL: %v", err)
	default:
		tb.Fatalf("start PostgreSQL: %v", err)
	}
}

// Start makes and starts a server. Options are settings such as "fsync=on"; without that one nothing is synced, which no
// test that only kills processes can tell. The caller stops it.
func Start(options ...string) (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	root, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	s := &Server{root: root, bin: bin, options: options}
	if err := s.init(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	if err := s.Run(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	return s, nil
}

// programs finds the folder of initdb and postgres.
func programs() (string, error) {
	var folders []string
	if dir := os.Getenv(binEnv); dir != "" {
		folders = append(folders, dir)
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin", "/opt/homebrew/opt/postgresql*/bin"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		slices.Reverse(found) // the newest first
		folders = append(folders, found...)
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		folders = append(folders, filepath.Dir(path))
	}
	for _, dir := range folders {
		if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil { //nolint:gosec // reason: whoever runs the tests names the folder
			continue
		}
		if _, err := os.Stat(filepath.Join(dir, "postgres")); err == nil { //nolint:gosec // reason: as above
			return dir, nil
		}
	}
	return "", ErrMissing
}

// init makes the data folder. PostgreSQL refuses to run as root, so that root gives it away.
func (s *Server) init() error {
	if os.Getuid() == 0 {
		id, err := unprivileged()
		if err != nil {
			return err
		}
		s.uid = id
		if err := os.Chown(s.root, int(id.Uid), int(id.Gid)); err != nil {
			return err
		}
	}
	return s.tool("initdb", "--pgdata", s.data(), "--username", superuser, "--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync")
}

// unprivileged is the user that a server started by root runs as.
func unprivileged() (*syscall.Credential, error) {
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(u.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(u.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, errors.New("neither a user postgres nor nobody exists to run PostgreSQL as")
}

func (s *Server) data() string { return filepath.Join(s.root, "data") }

// tool runs one of PostgreSQL's programs to its end.
func (s *Server) tool(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.bin, name), args...)
	cmd.Dir = s.root
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.uid}
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", name, err, out)
	}
	return nil
}

// Run starts the server again after Kill or Stop, and returns when it takes connections.
func (s *Server) Run() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	deadline := time.Now().Add(startWait)
	for {
		err := s.launch()
		if err == nil {
			err = s.await(deadline)
		}
		if err == nil {
			return nil
		}
		// Children of a killed server may still hold its shared memory for a moment.
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.root, "log"))
			return fmt.Errorf("%w\n%s", err, log[max(0, len(log)-4000):])
		}
		pause(100 * time.Millisecond)
	}
}

func (s *Server) launch() error {
	log, err := os.OpenFile(filepath.Join(s.root, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{
		"-D", s.data(), "-k", s.root, "-c", "port=" + port, "-c", "listen_addresses=", "-c", "fsync=off",
		"-c", "shared_buffers=32MB", "-c", "max_connections=100", "-c", "log_min_messages=warning", "-c", "timezone=UTC",
	}
	for _, o := range s.options {
		args = append(args, "-c", o)
	}
	cmd := exec.Command(filepath.Join(s.bin, "postgres"), args...) //nolint:noctx // reason: Stop and Kill end it
	cmd.Dir, cmd.Stdout, cmd.Stderr = s.root, log, log
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C", "TZ=UTC"}
	// The server goes when a test process is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.uid, Pdeathsig: syscall.SIGQUIT, Setpgid: true}
	ended, started := make(chan struct{}), make(chan error)
	go func() {
		defer close(ended)
		// The kernel signals the server when the thread that started it ends, which happens where tests end threads.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // How it ended is in its log.
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	s.cmd, s.ended = cmd, ended
	return nil
}

// await returns when the server answers, or has ended.
func (s *Server) await(deadline time.Time) error {
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			err = conn.Close(ctx)
		}
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-s.ended:
			return fmt.Errorf("the server ended: %w", err)
		default:
		}
		if time.Now().After(deadline) {
			return err
		}
		pause(20 * time.Millisecond)
	}
}

func pause(d time.Duration) { <-time.After(d) }

// Kill ends the server like a crash and waits until it is gone; its files stay as they are.
func (s *Server) Kill() error { return s.signal(syscall.SIGKILL) }

// Halt ends the server like a fast shutdown, which throws everybody out.
func (s *Server) Halt() error { return s.signal(syscall.SIGINT) }

func (s *Server) signal(sig syscall.Signal) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-s.ended
	return nil
}

// Stop ends the server and removes its files.
func (s *Server) Stop() error {
	return errors.Join(s.signal(syscall.SIGQUIT), os.RemoveAll(s.root))
}

// Socket is the path of the server's Unix socket, for a proxy to dial.
func (s *Server) Socket() string { return filepath.Join(s.root, ".s.PGSQL."+port) }

// Folder makes a folder beside the server's data, which is the server's own.
func (s *Server) Folder(name string) string {
	dir := filepath.Join(s.root, name)
	_ = os.Mkdir(dir, 0o700) // What comes next fails if it is not there.
	return dir
}

// Own gives a file or folder to the user that the server runs as.
func (s *Server) Own(path string) error {
	if s.uid == nil {
		return nil
	}
	return os.Chown(path, int(s.uid.Uid), int(s.uid.Gid))
}

// Log returns what the server wrote.
func (s *Server) Log() string {
	b, err := os.ReadFile(filepath.Join(s.root, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// URL names a database of the server, for its superuser. Parameters such as "search_path=a" are added.
func (s *Server) URL(database string, parameters ...string) string {
	return s.UserURL(superuser, database, parameters...)
}

// UserURL is URL for another role.
func (s *Server) UserURL(role, database string, parameters ...string) string {
	return fmt.Sprintf("postgres://%s@/%s?%s", role, database,
		strings.Join(append([]string{"host=" + s.root, "port=" + port}, parameters...), "&"))
}

// Prepare makes the template that later databases are copies of, and lets fill bring it to its state.
func (s *Server) Prepare(fill func(url string) error) error {
	const name = "template_of_tests"
	if err := s.Exec("postgres", "CREATE DATABASE "+name); err != nil {
		return err
	}
	if err := fill(s.URL(name)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.template = name
	return nil
}

// Database makes a database, from the template if there is one, and returns its name. It goes with the server.
func (s *Server) Database(tb testing.TB) string {
	tb.Helper()
	s.mu.Lock()
	s.made++
	name := fmt.Sprintf("test%d", s.made)
	statement := "CREATE DATABASE " + name
	if s.template != "" {
		statement += " TEMPLATE " + s.template
	}
	s.mu.Unlock()
	if err := s.Exec("postgres", statement); err != nil {
		tb.Fatal(err)
	}
	return name
}

// Exec runs statements in a database as superuser.
func (s *Server) Exec(database string, statements ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), startWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	for _, statement := range statements {
		if _, err = conn.Exec(ctx, statement); err != nil {
			err = fmt.Errorf("%s: %w", statement, err)
			break
		}
	}
	return errors.Join(err, conn.Close(ctx))
}

// RequirePasswords lets nobody but the superuser in without a password from now on.
func (s *Server) RequirePasswords() error {
	rules := "local all " + superuser + " trust\nlocal all all scram-sha-256\n"
	if err := os.WriteFile(filepath.Join(s.data(), "pg_hba.conf"), []byte(rules), 0o600); err != nil {
		return err
	}
	return s.Exec("postgres", "SELECT pg_reload_conf()")
}

// Query calls row for each row of a query as superuser, with a function that scans it.
func (s *Server) Query(ctx context.Context, database, query string, row func(scan func(...any) error) error) error {
	conn, err := pgx.Connect(ctx, s.URL(database))
	if err != nil {
		return err
	}
	rows, err := conn.Query(ctx, query)
	if err == nil {
		for err == nil && rows.Next() {
			err = row(rows.Scan)
		}
		rows.Close()
		err = errors.Join(err, rows.Err())
	}
	return errors.Join(err, conn.Close(ctx))
}

// Standby starts a server that follows this one. The caller stops it.
func (s *Server) Standby(options ...string) (*Server, error) {
	root, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	standby := &Server{root: root, bin: s.bin, uid: s.uid, options: options}
	if s.uid != nil {
		if err := os.Chown(root, int(s.uid.Uid), int(s.uid.Gid)); err != nil {
			return nil, err
		}
	}
	if err := s.tool("pg_basebackup", "--pgdata", standby.data(), "--host", s.root, "--port", port, "--username", superuser,
		"--checkpoint", "fast", "--wal-method", "stream", "--write-recovery-conf", "--no-sync"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	if err := standby.Run(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(root))
	}
	return standby, nil
}

// Promote makes a standby a primary and returns when it is one.
func (s *Server) Promote() error { return s.Exec("postgres", "SELECT pg_promote(true, 60)") }
