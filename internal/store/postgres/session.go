package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"sallyport.dev/sallyport/internal/store"
)

// minServer is the oldest server version, as server_version_num writes it.
const minServer = 130000

// maxApplicationName is PostgreSQL's bound on application_name.
const maxApplicationName = 63

// schemaName is the schema that the tables are in, and the name of the lock on them.
type schemaName struct {
	name string
	oid  uint32
}

// session is a connection that may hold the lease.
type session struct {
	conn *pgx.Conn
	pid  int32 // of the server's process, which must stay the same
	// backend is what a session found out about its server.
	backend struct {
		version  int32
		database string
		schema   string
		path     string
		encoding string
		standby  bool
	}
}

// application is the name by which the server's list of sessions shows this one.
func (d *DB) application() string {
	name := "sallyport " + d.instance[:8] + " " + d.opts.Name
	return strings.ToValidUTF8(name[:min(len(name), maxApplicationName)], "")
}

// connect makes a session and sees to its settings. It holds no lock yet.
func (d *DB) connect(ctx context.Context) (*session, error) {
	cfg := d.cfg.ConnConfig.Copy()
	cfg.RuntimeParams["application_name"] = d.application()
	if d.cfg.BeforeConnect != nil {
		if err := d.cfg.BeforeConnect(ctx, cfg); err != nil {
			return nil, err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, connectTimeout*2)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	s := &session{conn: conn}
	if err = s.setUp(ctx); err == nil && d.schema.name != "" {
		err = useSchema(ctx, conn, d.schema.name)
	}
	if err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// useSchema makes one schema the only one that names are looked up in.
func useSchema(ctx context.Context, conn *pgx.Conn, name string) error {
	_, err := conn.Exec(ctx, `SELECT set_config('search_path', quote_ident($1), false)`, name)
	if err != nil {
		return fmt.Errorf("choose the schema: %w", err)
	}
	return nil
}

// setUp reads what the server is and sets what a session that owns a database needs: that the server notices soon when
// this process is gone without a word, that nothing ends the session for being quiet, and that a commit is on disk.
func (s *session) setUp(ctx context.Context) error {
	if _, err := s.conn.Exec(ctx, `SELECT set_config(name, v, false) FROM pg_settings JOIN (VALUES
		('client_encoding', 'UTF8'), ('idle_session_timeout', '0'), ('idle_in_transaction_session_timeout', '60000'),
		('tcp_keepalives_idle', '15'), ('tcp_keepalives_interval', '5'), ('tcp_keepalives_count', '3'), ('tcp_user_timeout', '30000'),
		('synchronous_commit', CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END)
		) AS wanted (n, v) ON n = name`); err != nil {
		return fmt.Errorf("set up the session: %w", err)
	}
	b := &s.backend
	if err := s.conn.QueryRow(ctx, `SELECT pg_backend_pid(), current_setting('server_version_num')::int, current_database(),
		coalesce(current_schema(), ''), current_setting('search_path'), current_setting('server_encoding'), pg_is_in_recovery()`).
		Scan(&s.pid, &b.version, &b.database, &b.schema, &b.path, &b.encoding, &b.standby); err != nil {
		return fmt.Errorf("look at the server: %w", err)
	}
	switch {
	case b.standby:
		return fmt.Errorf("the server is a standby; connect to the primary: %w", store.ErrReadOnly)
	case b.version < minServer:
		return fmt.Errorf("the server has version %d, at least %d is needed; upgrade it", b.version/10000, minServer/10000)
	case b.encoding != "UTF8":
		return fmt.Errorf("the database has the encoding %s; create one with ENCODING 'UTF8'", b.encoding)
	}
	return nil
}

// pooled reports whether something between here and the server deals out its connections: the process that answers is
// not the one that greeted.
func (s *session) pooled() bool { return uint32(s.pid) != s.conn.PgConn().PID() }

// unlock gives the lock back, since the server may take a while to notice that a session has ended.
func (s *session) unlock() error {
	if s.conn.IsClosed() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if _, err := s.conn.Exec(ctx, `SELECT pg_advisory_unlock_all()`); err != nil {
		return fmt.Errorf("give the lock back: %w", err)
	}
	return nil
}

// close ends the session, and with it its lock.
func (s *session) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if s.conn.IsClosed() {
		return nil
	}
	return s.conn.Close(ctx)
}

// errPooler says that connections are dealt out for each transaction.
var errPooler = errors.New("a connection pooler stands between the gateway and the server and deals out connections for each " +
	"transaction, so that no session can hold the lock that keeps a second gateway out; connect to the server itself, or to a pool in session mode")

// checkPooler finds out whether a pooler keeps the session together. Where it deals out connections for each
// transaction, the session's connection goes to another client as soon as that one begins.
func (d *DB) checkPooler(ctx context.Context, s *session) error {
	if !s.pooled() {
		return nil
	}
	for range 3 {
		same, err := d.sharesServer(ctx, s)
		if err != nil {
			return fmt.Errorf("look at the connection pooler: %w", err)
		}
		if same {
			return errPooler
		}
	}
	d.opts.Logger.Warn("a connection pooler stands between the gateway and its database; it must be in session mode", "database", d.name)
	return nil
}

// sharesServer reports whether another client's transaction gets the session's process, or the session another one.
func (d *DB) sharesServer(ctx context.Context, s *session) (shares bool, err error) {
	other, err := d.connect(ctx)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, other.close()) }()
	tx, err := other.conn.Begin(ctx)
	if codeOf(err) != "" {
		return true, nil // It deals out connections for each statement, and refuses transactions.
	}
	if err != nil {
		return false, err
	}
	var theirs, ours int32
	if err := tx.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&theirs); err != nil {
		return false, err
	}
	if err := s.conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&ours); err != nil {
		return false, err
	}
	return theirs == s.pid || ours != s.pid, tx.Rollback(ctx)
}
