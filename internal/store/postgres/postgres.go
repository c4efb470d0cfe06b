// Package postgres keeps the store's rows in a PostgreSQL database: it owns the schema, the statements, the one
// connection that writes, and the lease that lets one process at a time write. It knows nothing of memory, queues or
// watchers.
//
// The connection that writes holds an advisory lock of its session, so that whoever else wants the database waits for
// that session to end. Each time such a connection is made the epoch in store_meta grows, and every write checks it:
// a process that lost its session without noticing, or a transaction of it that comes late, changes nothing.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"sallyport.dev/sallyport/internal/store"
)

// Defaults of Options.
const (
	DefaultLeaseWait     = 60 * time.Second
	DefaultCommitTimeout = 30 * time.Second
	DefaultOutageWait    = 10 * time.Second
	DefaultHeartbeat     = 3 * time.Second
)

// Times that nobody needs to choose.
const (
	connectTimeout = 5 * time.Second
	queryTimeout   = 5 * time.Second
	closeTimeout   = 5 * time.Second
	retryPause     = 200 * time.Millisecond
)

var (
	_ store.Backend  = (*DB)(nil)
	_ store.Settler  = (*DB)(nil)
	_ store.Leaser   = (*DB)(nil)
	_ store.Measured = (*DB)(nil)
)

// Options are what a database needs beside its URL. Zero values mean the defaults.
type Options struct {
	// Name tells people which process owns the database; empty is the name of the machine.
	Name string
	// PasswordFile holds the password and nothing else, but for a line end; it is read for every new connection. Empty
	// leaves the password to the URL, PGPASSWORD or PGPASSFILE.
	PasswordFile string
	// LeaseWait is how long Open waits for another owner to end; negative is not at all.
	LeaseWait time.Duration
	// CommitTimeout bounds one batch.
	CommitTimeout time.Duration
	// OutageWait is how long writes wait for a connection that was lost, before they fail until it is back.
	OutageWait time.Duration
	// Heartbeat is how often the connection that writes is looked after while nobody writes.
	Heartbeat time.Duration
	// Logger receives what no caller can be told; nil discards it.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	if o.Name == "" {
		o.Name, _ = os.Hostname() // Without a name it is the address that tells.
	}
	for _, d := range []struct {
		to     *time.Duration
		preset time.Duration
	}{
		{&o.LeaseWait, DefaultLeaseWait},
		{&o.CommitTimeout, DefaultCommitTimeout},
		{&o.OutageWait, DefaultOutageWait},
		{&o.Heartbeat, DefaultHeartbeat},
	} {
		if *d.to == 0 {
			*d.to = d.preset
		}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// DB is one open database.
type DB struct {
	opts     Options
	cfg      *pgxpool.Config
	pool     *pgxpool.Pool // for reading aside of the session
	instance string        // this owner, unlike any other and any earlier one
	name     string        // for people

	turn chan struct{} // holds one token while the session is free
	// What follows belongs to whoever has the turn.
	session *session // nil while there is none
	epoch   int64
	acked   uint64     // revision of the last commit that is known
	pending *pending   // batch whose outcome is not known, or was not asked for yet
	since   time.Time  // of the outage, while there is no session
	why     error      // why there is no session
	schema  schemaName // found by the first session

	connected  atomic.Bool
	reconnects atomic.Uint64
	lost       chan struct{}
	fatal      atomic.Pointer[error] // set before lost closes
	once       sync.Once

	stop   context.CancelFunc
	keeper sync.WaitGroup
}

// pending is a batch whose commit was cut off.
type pending struct {
	revision  uint64
	results   []error
	known     bool
	committed bool
}

// Open connects, becomes the owner of the database, waiting for an earlier one to end, and brings the schema up to date.
// Its error says what to do: who owns the database, which privilege is missing, which version the schema has.
func Open(ctx context.Context, rawURL string, opts Options) (*DB, error) {
	opts = opts.withDefaults()
	cfg, err := parseURL(rawURL, opts)
	if err != nil {
		return nil, err
	}
	d := &DB{
		opts: opts, cfg: cfg, instance: uuid.NewString(), name: describe(cfg),
		turn: make(chan struct{}, 1), lost: make(chan struct{}), stop: func() {},
	}
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return useSchema(ctx, conn, d.schema.name) }
	if d.pool, err = pgxpool.NewWithConfig(ctx, cfg); err == nil {
		err = d.acquireLease(ctx)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", d, classify(err)), d.Close())
	}
	d.turn <- struct{}{}
	var run context.Context
	run, d.stop = context.WithCancel(context.WithoutCancel(ctx))
	d.keeper.Go(func() { d.keep(run) })
	return d, nil
}

// String names the database for people: never with a password.
func (d *DB) String() string { return d.name }

// Ping implements store.Backend. It says that the database can be read, that this process still owns it, and that it
// has a connection to write with.
func (d *DB) Ping(ctx context.Context) error {
	if err := d.Err(); err != nil {
		return err
	}
	var (
		owner    string
		standby  bool
		revision int64
	)
	ctx, cancel := context.WithTimeout(ctx, queryTimeout)
	defer cancel()
	err := d.pool.QueryRow(ctx, `SELECT owner_id, pg_is_in_recovery(), revision FROM store_meta WHERE id = 1`).
		Scan(&owner, &standby, &revision)
	switch {
	case err != nil:
		return classify(err)
	case standby:
		return store.ErrReadOnly
	case !d.connected.Load():
		return fmt.Errorf("the connection that writes is being made again: %w", store.ErrUnreachable)
	}
	// That another one owns it is for the session to find out, which knows how to tell a replica that lags.
	return nil
}

// Lost implements store.Leaser.
func (d *DB) Lost() <-chan struct{} { return d.lost }

// Err implements store.Leaser.
func (d *DB) Err() error {
	if err := d.fatal.Load(); err != nil {
		return *err
	}
	return nil
}

// fail notes that nothing can be written any more.
func (d *DB) fail(err error) error {
	d.once.Do(func() {
		d.fatal.Store(&err)
		d.opts.Logger.Error("the gateway can write to its database no more and must start again", "database", d.name, "error", err)
		close(d.lost)
	})
	return *d.fatal.Load()
}

// Measure implements store.Measured.
func (d *DB) Measure() store.Measure {
	stat := d.pool.Stat()
	m := store.Measure{
		Connections: int(stat.TotalConns()), InUse: int(stat.AcquiredConns()), MaxConnections: int(stat.MaxConns()) + 1,
		Waited: uint64(stat.EmptyAcquireCount()),
	}
	if d.connected.Load() {
		m.Connections++
		m.InUse++
	}
	return m
}

// Reconnects counts how often the connection that writes was lost and made again.
func (d *DB) Reconnects() uint64 { return d.reconnects.Load() }

// Close implements store.Backend. The database is free for another owner when it returns.
func (d *DB) Close() error {
	d.stop()
	d.keeper.Wait()
	var err error
	if d.session != nil {
		err = errors.Join(d.session.unlock(), d.session.close())
		d.session = nil
		d.connected.Store(false)
	}
	if d.pool != nil {
		d.pool.Close()
	}
	return err
}

// acquire waits for the session's turn; the caller gives it back.
func (d *DB) acquire(ctx context.Context) error {
	select {
	case <-d.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *DB) release() { d.turn <- struct{}{} }
