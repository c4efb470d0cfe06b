package pgtest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Pooler starts PgBouncer before a server, in one of its modes, and returns the URL of a database behind it. It ends
// with the test, which is skipped where there is no PgBouncer.
func Pooler(tb testing.TB, s *Server, database, mode string) string {
	tb.Helper()
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		tb.Skip("NOT PROVEN against PgBouncer: it is not installed (Debian: pgbouncer)")
	}
	dir, err := os.MkdirTemp("", "pgb")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	config := filepath.Join(dir, "pgbouncer.ini")
	// With auth_type=any everybody is the user of the database's line.
	text := fmt.Sprintf("[databases]\n* = host=%s port=%s user=%s\n[pgbouncer]\nlisten_addr=\nunix_socket_dir=%s\nlisten_port=6432\n"+
		"auth_type=any\npool_mode=%s\nmax_client_conn=50\ndefault_pool_size=10\n", s.root, port, superuser, dir, mode)
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil { //nolint:gosec // reason: the pooler runs as another user
		tb.Fatal(err)
	}
	if s.uid != nil {
		if err := os.Chown(dir, int(s.uid.Uid), int(s.uid.Gid)); err != nil {
			tb.Fatal(err)
		}
	}
	cmd := exec.Command(program, config) //nolint:noctx // the cleanup ends it
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.uid, Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = tb.Output()
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // It was killed.
	})
	url := fmt.Sprintf("postgres://%s@/%s?host=%s&port=6432&default_query_exec_mode=exec", superuser, database, dir)
	for deadline := time.Now().Add(startWait); ; pause(20 * time.Millisecond) {
		if c, err := (&net.Dialer{}).DialContext(tb.Context(), "unix", filepath.Join(dir, ".s.PGSQL.6432")); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			tb.Fatal("PgBouncer does not listen")
		}
	}
	ctx, cancel := context.WithTimeout(tb.Context(), startWait)
	defer cancel()
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		tb.Fatalf("reach the server through PgBouncer: %v", err)
	}
	if err := conn.Close(ctx); err != nil {
		tb.Fatal(err)
	}
	return url
}
