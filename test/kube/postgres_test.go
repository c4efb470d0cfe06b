//go:build linux

package kube_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/sallyport/internal/store/postgres/pgtest"
)

const (
	// databaseRole is the gateway's role and the name of its database.
	databaseRole, databasePassword = "gateway", "it/is@only:a?test"
	databasePasswordInURL          = "it%2Fis%40only%3Aa%3Ftest"
)

// TestChartOnPostgreSQL installs the chart with the database of a real PostgreSQL server beside the cluster, which it takes
// away and gives back.
func TestChartOnPostgreSQL(t *testing.T) {
	t.Parallel()
	require(t)
	server := postgres(t)
	// Its pod runs as some user in the group 0, as OpenShift has it.
	r := install(t, fmt.Sprintf(`
server: {externalDbSecret: database}
podSecurityContext: {runAsUser: 1000680000, runAsGroup: 0, fsGroup: 1000680000}
extraObjects:
- {apiVersion: v1, kind: Secret, metadata: {name: database}, stringData: {uri: %q}}
`, fmt.Sprintf("postgres://%s:%s@%s:5432/%s", databaseRole, databasePasswordInURL, address("0.1"), databaseRole)))
	t.Run("ten cases", r.tenCases)
	admin := r.signedIn(t, "admin@test")
	t.Run("main job", func(t *testing.T) { r.mainJob(t, admin) })
	t.Run("it is used", func(t *testing.T) { wantTables(t, server) })
	t.Run("gateway killed", func(t *testing.T) { r.gatewayKilled(t, admin) })
	t.Run("server killed", func(t *testing.T) { r.serverKilled(t, admin, server) })
}

// postgres starts a server that serves the cluster's network, with a role and a database for the gateway.
func postgres(t *testing.T) *pgtest.Server {
	t.Helper()
	// Not t.TempDir, where the server's user may not read.
	dir, err := os.MkdirTemp("", "hba")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	hba := filepath.Join(dir, "pg_hba.conf")
	err = errors.Join(os.Chmod(dir, 0o755),
		os.WriteFile(hba, []byte("local all all trust\nhost all all 0.0.0.0/0 scram-sha-256\n"), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	server, err := pgtest.Start("listen_addresses="+address("0.1"), "hba_file="+hba, "fsync=on")
	pgtest.Require(t, server, err)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of PostgreSQL:\n%s", server.Log())
		}
		if err := server.Stop(); err != nil {
			t.Error(err)
		}
	})
	if err := server.Exec("postgres",
		fmt.Sprintf("CREATE ROLE %s LOGIN PASSWORD '%s'", databaseRole, databasePassword),
		fmt.Sprintf("CREATE DATABASE %s OWNER %[1]s", databaseRole)); err != nil {
		t.Fatal(err)
	}
	return server
}

// wantTables checks that the gateway made its tables there.
func wantTables(t *testing.T, server *pgtest.Server) {
	conn, err := pgx.Connect(t.Context(), server.URL(databaseRole))
	if err != nil {
		t.Fatal(err)
	}
	var tables int
	err = conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_tables WHERE tableowner = $1", databaseRole).Scan(&tables)
	if err := errors.Join(err, conn.Close(t.Context())); err != nil || tables == 0 {
		t.Errorf("the database has %d tables of the gateway; error %v", tables, err)
	}
}

// serverKilled crashes PostgreSQL while a sandbox lives, and starts it again.
func (r *release) serverKilled(t *testing.T, m *terminal, server *pgtest.Server) {
	r.create(t, m, "stored")
	mark := m.mark(t, "stored")
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if e := m.run(t, nil, "", "sandbox", "create", "--name", "never", "--no-tty", "--timeout", "5", "--", "true"); e.code == 0 {
		t.Error("a sandbox was made without a database")
	}
	// What is in memory serves on.
	m.wantMark(t, "stored", mark)
	if err := server.Run(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a sandbox is made", func() error {
		if e := m.run(t, nil, "", "sandbox", "create", "--name", "again", "--no-tty", "--timeout", "60", "--", "true"); e.code != 0 {
			return errors.New(e.errOut)
		}
		return nil
	})
	r.deleteWith(t, m, "again")
	m.wantMark(t, "stored", mark)
}
